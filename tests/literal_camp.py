"""CAMP and the authors' released computation, read literally: one pair and one fragment at a time, in float64. Slow on purpose.

Everything here takes plain lists of real vectors (no padding, no masks, no batch), so it shares nothing with the package but the equations.
"""

import math

import torch
from literal_imram import affine, dot, released_gru


def times(weight, x): return torch.stack([dot(row, x) for row in weight])


def sigmoid(x): return 1 / (1 + torch.exp(-x))


def shares(logits):
    "A softmax over a list of numbers."
    powers = [torch.exp(x - max(logits)) for x in logits]
    return [power / sum(powers) for power in powers]


def mixture(weights, fragments): return sum(w * f for w, f in zip(weights, fragments))


def mean(fragments): return sum(fragments) / len(fragments)


def messages(V, T, p, attention=True):
    "Eq. 1-4 for one pair: V a list of m regions, T of n words. Messages to words (n) and to regions (m), and both weights."
    if not attention:
        over_regions, over_words = [[1 / len(V)] * len(V)] * len(T), [[1 / len(T)] * len(T)] * len(V)
        return [mean(V)] * len(T), [mean(T)] * len(V), over_regions, over_words
    a, b = [times(p["project_regions.weight"], v) for v in V], [times(p["project_words.weight"], t) for t in T]
    A = [[dot(x, y) for y in b] for x in a]                                                                        # Eq. 1
    root = math.sqrt(len(a[0]))
    over_regions = [shares([A[i][j] / root for i in range(len(V))]) for j in range(len(T))]                        # Eq. 2
    over_words = [shares([A[i][j] / root for j in range(len(T))]) for i in range(len(V))]                          # Eq. 4
    return [mixture(w, V) for w in over_regions], [mixture(w, T) for w in over_words], over_regions, over_words    # Eq. 3, 4


def gate(x, message, gates="element"):
    "Eq. 5 and 7 for one fragment: d numbers, one number, or none at all."
    if gates is None: return torch.ones(len(x), dtype=x.dtype)
    if gates == "scalar": return sigmoid(dot(x, message)) * torch.ones(len(x), dtype=x.dtype)
    return torch.stack([sigmoid(x[k] * message[k]) for k in range(len(x))])


def fused(x, message, p, gates="element", operation="sum", residual=True, fuse=True):
    "Eq. 6 and 9 for one fragment and its message."
    if not fuse: return message
    g = gate(x, message, gates)
    if operation == "sum": met = [g[k] * (x[k] + message[k]) for k in range(len(x))]
    if operation == "product": met = [g[k] * (x[k] * message[k]) for k in range(len(x))]
    if operation == "concat": met = [g[k] * x[k] for k in range(len(x))] + [g[k] * message[k] for k in range(len(x))]
    y = torch.clamp(affine(p["linear.weight"], p["linear.bias"], torch.stack(met)), min=0)
    return y + x if residual else y


def pooled(F, branches):
    "Eq. 10-11: each branch weighs the fragments by one vector w (d,); the branches' results are averaged."
    found = []
    for w in branches:
        found.append(mixture(shares([dot(w, f) / math.sqrt(len(f)) for f in F]), F))
    return mean(found)


def matching_logit(v, t, p, join="sum", unit=False):
    "Eq. 13 before its sigmoid: two layers on v* + t*; or on the two side by side; or of vectors of length 1."
    if unit: v, t = v / torch.sqrt(dot(v, v)), t / torch.sqrt(dot(t, t))
    hidden = torch.clamp(affine(p["0.weight"], p["0.bias"], torch.cat([v, t]) if join == "concat" else v + t), min=0)
    return affine(p["2.weight"], p["2.bias"], hidden)[0]


def hardest_bce(m):
    "Eq. 14 with the sign that can be minimised, from probabilities m (B, B), pair b on the diagonal; summed over the batch."
    B, total = len(m), 0
    for b in range(B):
        rivals = [k for k in range(B) if k != b]
        total = total - 2 * torch.log(m[b][b]) - min(torch.log(1 - m[b][k]) for k in rivals) - min(torch.log(1 - m[k][b]) for k in rivals)
    return total


def camp_pair(V, T, p, **options):
    "Eq. 1-13 for one pair: the logit. p maps part to parameters: aggregation, image, text (F), image_pool, text_pool (lists of w), match."
    reading = {key: options.pop(key) for key in ("join", "unit") if key in options}
    to_words, to_regions, _, _ = messages(V, T, p["aggregation"], options.pop("attention", True))
    V = [fused(v, message, p["image"], **options) for v, message in zip(V, to_regions)]
    T = [fused(t, message, p["text"], **options) for t, message in zip(T, to_words)]
    return matching_logit(pooled(V, p["image_pool"]), pooled(T, p["text_pool"]), p["match"], **reading)


def camp(images, captions, p, **options):
    "Logits (I, C) over lists of images (m_i, d) and captions (n_j, d)."
    return torch.stack([torch.stack([camp_pair(list(V), list(T), p, **options) for T in captions]) for V in images])


# The authors' released code (class GatedFusion), pair by pair, with their own weight names.

def layer(state, name, x): return affine(state[f"{name}.weight"], state[f"{name}.bias"], x)


def released_pool(state, name, F):
    "Linear, ReLU, Linear to one number a branch; a softmax over the fragments for each branch; the branches' mixtures averaged."
    scores = [layer(state, f"{name}.linear.2", torch.clamp(layer(state, f"{name}.linear.0", f), min=0)) for f in F]
    return mean([mixture(shares([s[k] for s in scores]), F) for k in range(len(scores[0]))])


def released_fused(state, name, x, message, fusion):
    g = sigmoid(dot(x, message))
    met = g * (x + message) if fusion == "sum" else g * torch.cat([x, message])
    return torch.clamp(layer(state, name, met), min=0) + x


def released_pair(state, V, T, fusion):
    "One image's regions and one caption's words to the authors' score, a probability."
    keys = {"project_regions.weight": state["img_key_fc.weight"], "project_words.weight": state["txt_key_fc.weight"]}
    to_words, to_regions, _, _ = messages(V, T, keys)
    v = released_pool(state, "reduce_layer_1", [released_fused(state, "fc_1.0", x, message, fusion) for x, message in zip(V, to_regions)])
    t = released_pool(state, "reduce_layer_2", [released_fused(state, "fc_2.0", x, message, fusion) for x, message in zip(T, to_words)])
    met = v + t if fusion == "sum" else torch.cat([v, t])
    return sigmoid(layer(state, "fc_out.3", torch.clamp(layer(state, "fc_out.0", met), min=0))[0])


def released_words(state, tokens):
    "One caption, a list of word ids, to its words: the mean of both directions, not normalised."
    x, prefixed = state["embed.weight"][tokens], {f"txt_enc.{name}": value for name, value in state.items()}
    words = released_gru(prefixed, x)
    if "rnn.weight_ih_l0_reverse" in state: words = (words + released_gru(prefixed, x.flip(0), "_reverse").flip(0)) / 2
    return list(words)


def released_camp(states, features, captions, fusion="concat"):
    "Scores (I, C); states: image encoder, text encoder, fusion; features (I, m, f), captions a list of lists of word ids."
    image, text, rest = states
    pictures = [[layer(image, "fc", f) for f in regions] for regions in features]
    sentences = [released_words(text, tokens) for tokens in captions]
    return torch.stack([torch.stack([released_pair(rest, V, T, fusion) for T in sentences]) for V in pictures])


def released_states(f=5, vocab=12, d=4, w=3, fusion="concat", branches=4, seed=0, scale=0.6):
    "Synthetic state dicts under the authors' names, float64: image encoder, text encoder, fusion."
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape): return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def linear(name, n_out, n_in): return {f"{name}.weight": rand(n_out, n_in), f"{name}.bias": rand(n_out)}
    text, wide = {"embed.weight": rand(vocab, w)}, 2 * d if fusion == "concat" else d
    for suffix in ("", "_reverse"):
        text |= {f"rnn.weight_ih_l0{suffix}": rand(3 * d, w), f"rnn.weight_hh_l0{suffix}": rand(3 * d, d),
                 f"rnn.bias_ih_l0{suffix}": rand(3 * d), f"rnn.bias_hh_l0{suffix}": rand(3 * d)}
    rest = {"img_key_fc.weight": rand(d, d), "txt_key_fc.weight": rand(d, d)}
    rest |= linear("fc_1.0", d, wide) | linear("fc_2.0", d, wide) | linear("fc_out.0", d, wide) | linear("fc_out.3", 1, d)
    for name in ("reduce_layer_1", "reduce_layer_2"): rest |= linear(f"{name}.linear.0", d, d) | linear(f"{name}.linear.2", branches, d)
    return [linear("fc", d, f), text, rest]


# What is compared: a small batch with padding, the same as lists of real fragments.

def batch(I=3, C=4, m=4, n=5, d=6, seed=0):
    "Values and masks of I images and C captions of different lengths, with junk where nothing is real, and the same as lists of real vectors."
    generator = torch.Generator().manual_seed(seed)

    def side(rows, k):
        values = torch.randn(rows, k, d, generator=generator, dtype=torch.float64)
        mask = torch.arange(k) < torch.tensor([k - r % (k - 1) for r in range(rows)])[:, None]
        return values, mask, [list(x[real]) for x, real in zip(values, mask)]
    return side(I, m), side(C, n)


