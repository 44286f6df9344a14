"""The encoders' equations, read literally: one image or sentence, one number at a time, float64, plain Python."""

import math


def matvec(matrix, vector, bias):
    return [sum(w * x for w, x in zip(row, vector)) + b for row, b in zip(matrix, bias)]


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def regions(encoder, features):
    "IMRAM Eq. 1 for the real regions of one image, a list of lists; CAMP Eq. 15 where the encoder does not normalise."
    weight, bias = encoder.project.weight.tolist(), encoder.project.bias.tolist()
    shift, scale = encoder.shift.tolist(), encoder.scale.tolist()
    rows = [matvec(weight, [(x - a) / b for x, a, b in zip(f, shift, scale)], bias) for f in features]
    return [unit(v) for v in rows] if encoder.normalise else rows


def gru(encoder, xs, suffix):
    "All states of one reader over one sentence (Cho et al. 2014, in PyTorch's form), in the order of reading."
    d = encoder.gru.hidden_size
    w_i, w_h, b_i, b_h = (getattr(encoder.gru, f"{name}_l0{suffix}").tolist() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h, states = [0.0] * d, []
    for x in xs:
        i, g = matvec(w_i, x, b_i), matvec(w_h, h, b_h)
        r = [sigmoid(i[k] + g[k]) for k in range(d)]
        z = [sigmoid(i[d + k] + g[d + k]) for k in range(d)]
        n = [math.tanh(i[2 * d + k] + r[k] * g[2 * d + k]) for k in range(d)]
        h = [(1 - z[k]) * n[k] + z[k] * h[k] for k in range(d)]
        states.append(h)
    return states


def words(encoder, ids):
    "IMRAM Eq. 2 for one sentence without padding: (its words, its last states averaged), the words normalised if the encoder does."
    table = encoder.embed.weight.tolist()
    xs = [table[i] for i in ids]
    readers = [gru(encoder, xs, "")]
    if encoder.gru.bidirectional: readers.append(gru(encoder, xs[::-1], "_reverse"))
    last = mean([states[-1] for states in readers])
    in_place = [readers[0]] + [states[::-1] for states in readers[1:]]
    states = [mean(at_word) for at_word in zip(*in_place)]
    return ([unit(t) for t in states] if encoder.normalise else states), last


def mean(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors)]
