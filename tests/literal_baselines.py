"""The baselines' equations, read literally: one image, one caption, one number at a time, float64, plain Python.

`features` is a list of an image's real regions, `ids` a list of a caption's real words, both lists of numbers; every function returns a number."""

import math
from types import SimpleNamespace

import literal_encoders as encoders


def dot(a, b): return sum(x * y for x, y in zip(a, b))


def linear(layer, x):
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return encoders.matvec(layer.weight.tolist(), x, bias)


def cosine(a, b): return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def image(model, features): return encoders.mean(encoders.regions(model.image_encoder, features))


def caption(model, ids): return encoders.words(model.text_encoder, ids)[1]


def devise(model, features, ids):
    "Frome et al. 2013: a linear map for the mean region, one for the mean word."
    table = model.text_encoder.embed.weight.tolist()
    return cosine(image(model, features), linear(model.text_encoder.project, encoders.mean([table[i] for i in ids])))


def order(model, features, ids):
    "Vendrov et al. 2016, Eq. 2: what the caption has more of than the image costs its square."
    v, c = image(model, features), caption(model, ids)
    if model.unit: v, c = encoders.unit(v), encoders.unit(c)
    return -sum(max(0.0, abs(b) - abs(a)) ** 2 for a, b in zip(v, c))


def dvsa(model, features, ids):
    "Karpathy and Fei-Fei 2015, Eq. 8."
    states, _ = encoders.words(model.text_encoder, ids)
    words = [[max(0.0, x) for x in linear(model.word_layer, h)] for h in states]
    regions = encoders.regions(model.image_encoder, features)
    return sum(max(dot(v, s) for v in regions) for s in words)


def vse(model, features, ids):
    "What CMPM retrieves by."
    return cosine(image(model, features), caption(model, ids))


def projection(model, features, ids):
    "Zhang and Lu 2018, inside Eq. 1: image onto caption, caption onto image."
    x, z = image(model, features), caption(model, ids)
    return dot(x, z) / math.sqrt(dot(z, z)), dot(x, z) / math.sqrt(dot(x, x))


def projection_matching(projections, match, eps=1e-8):
    "Zhang and Lu 2018, Eq. 1-3, both directions, summed over the batch. projections[b][c] is a pair, match[b][c] is 0 or 1."
    size, total = range(len(match)), 0.0
    for way in (0, 1):
        for asks in size:
            row = [projections[asks][j][0] if way == 0 else projections[j][asks][1] for j in size]
            true = [match[asks][j] if way == 0 else match[j][asks] for j in size]
            power = [math.exp(s) for s in row]
            for a, y in zip(power, true):
                p = a / sum(power)
                total += p * math.log(p / (y / sum(true) + eps))
    return total


def views(pie, whole, local):
    "Song and Soleymani 2019: K vectors of one item, of length one."
    found = []
    for head in pie.head.weight.tolist():
        power = [math.exp(dot(head, [math.tanh(h) for h in linear(pie.hidden, row)])) for row in local]
        seen = [sum(a * row[k] for a, row in zip(power, local)) / sum(power) for k in range(len(local[0]))]
        y = [a + encoders.sigmoid(b) for a, b in zip(whole, linear(pie.project, seen))]
        middle = sum(y) / len(y)
        spread = math.sqrt(sum((a - middle) ** 2 for a in y) / len(y) + pie.norm.eps)
        found.append(encoders.unit([(a - middle) / spread * w + b for a, w, b in zip(y, pie.norm.weight.tolist(), pie.norm.bias.tolist())]))
    return found


def pvse(model, features, ids):
    "The best of the K x K cosines."
    regions, table = encoders.regions(model.image_encoder, features), model.text_encoder.embed.weight.tolist()
    V = views(model.image_heads, encoders.mean(regions), regions)
    T = views(model.text_heads, caption(model, ids), [table[i] for i in ids])
    return max(dot(v, t) for v in V for t in T)


def vsrn(model, features, ids):
    "Li et al. 2019, Eq. 2-3 for each round, then a GRU over the regions; R is divided by their number."
    V = encoders.regions(model.image_encoder, features)
    for layer in model.graph:
        queries, keys, messages = ([linear(part, v) for v in V] for part in (layer.query, layer.key, layer.message))
        collected = [[sum(dot(q, k) / len(V) * m[d] for k, m in zip(keys, messages)) for d in range(len(V[0]))] for q in queries]
        V = [[a + b for a, b in zip(v, linear(layer.back, c))] for v, c in zip(V, collected)]
    last = encoders.gru(SimpleNamespace(gru=model.walker), [encoders.unit(v) for v in V], "")[-1]
    return cosine(last, caption(model, ids))
