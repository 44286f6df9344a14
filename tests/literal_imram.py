"""IMRAM, SCAN and the authors' released computation, read literally: one pair and one fragment at a time, in float64. Slow on purpose.

Everything here takes plain lists of real vectors (no padding, no masks, no batch), so it shares nothing with the package but the equations.
"""

import torch


def dot(x, y): return sum(x[k] * y[k] for k in range(len(x)))


def cos(x, y): return dot(x, y) / (torch.sqrt(dot(x, x)) * torch.sqrt(dot(y, y)))


def attention(X, Y, lam, similarity=cos):
    "Eq. 3-5 for one pair: X is a list of m' queries, Y a list of n' responses. Returns contexts and weights."
    z = [[similarity(x, y) for y in Y] for x in X]                                                     # Eq. 3
    relu = [[torch.clamp(value, min=0) for value in row] for row in z]
    contexts, weights = [], []
    columns = [torch.sqrt(sum(relu[i][j] ** 2 for i in range(len(X)))) for j in range(len(Y))]
    for i in range(len(X)):
        zbar = [relu[i][j] / columns[j] if columns[j] > 0 else relu[i][j] for j in range(len(Y))]      # Eq. 4
        powers = [torch.exp(lam * value) for value in zbar]
        alpha = [power / sum(powers) for power in powers]                                              # Eq. 5
        contexts.append(sum(alpha[j] * Y[j] for j in range(len(Y))))
        weights.append(torch.stack(alpha))
    return contexts, weights


def affine(weight, bias, x): return torch.stack([dot(weight[k], x) + bias[k] for k in range(len(weight))])


def aggregate(name, p, x, c):
    "Eq. 6: the five f(x, c); p maps parameter names to tensors."
    both = torch.cat([x, c])
    if name == "add": return x + c
    if name == "mlp": return x + torch.tanh(affine(p["linear.weight"], p["linear.bias"], c))
    g = torch.sigmoid(affine(p["gate.weight"], p["gate.bias"], both))
    if name in ("att", "gate"): return g * x + (1 - g) * c
    o = torch.tanh(affine(p["linear.weight"], p["linear.bias"], both))
    return g * x + (1 - g) * o                                                                         # Eq. 7


def steps_of(X, Y, K, name, p, lam):
    "Eq. 8-11 for one pair and one direction: the K scores of the pair."
    original, scores = list(X), []
    for _ in range(K):
        C, _ = attention(X, Y, lam)
        scores.append(sum(cos(original[i], C[i]) for i in range(len(C))) / len(C))                     # Eq. 10-11
        X = [aggregate(name, p, X[i], C[i]) for i in range(len(C))]                                    # also after the last step
    return torch.stack(scores)


def imram(images, captions, K, direction, name, p, lam):
    "Eq. 9-12 over lists of images (m_i, d) and captions (n_j, d): step scores (K, I, C). p maps direction to parameters."
    def pair(V, T):
        total = 0
        if direction in ("full", "image"): total = total + steps_of(list(V), list(T), K, name, p["image"], lam)
        if direction in ("full", "text"): total = total + steps_of(list(T), list(V), K, name, p["text"], lam)
        return total
    return torch.stack([torch.stack([pair(V, T) for T in captions], 1) for V in images], 1)


def scan(images, captions, direction, pooling, lam, lam2=6.0):
    "Stacked cross attention, Lee et al. 2018: scores (I, C)."
    def pair(V, T):
        X, Y = (T, V) if direction == "text" else (V, T)
        C, _ = attention(list(X), list(Y), lam)
        R = [cos(x, c) for x, c in zip(X, C)]
        if pooling == "lse": return torch.log(sum(torch.exp(lam2 * r) for r in R)) / lam2
        return {"mean": sum(R) / len(R), "sum": sum(R), "max": max(R)}[pooling]
    return torch.stack([torch.stack([pair(V, T) for T in captions]) for V in images])


# The authors' released code, caption by caption, with their own weight names.

def l2norm(x, dim): return x / (x.pow(2).sum(dim, keepdim=True).sqrt() + 1e-8)


def released_attention(query, context, lam):
    "query (B, q, d), context (B, s, d): weighted context (B, q, d)."
    attn = context @ query.transpose(1, 2)                                       # (B, s, q)
    attn = torch.where(attn > 0, attn, 0.1 * attn)
    attn = torch.softmax(lam * l2norm(attn, 2), dim=1)
    return attn.transpose(1, 2) @ context


def released_cosine(x, y):
    below = (x.norm(dim=-1) * y.norm(dim=-1)).clamp(min=1e-8)
    return (x * y).sum(-1) / below


def released_images(state, features, layer="img_enc.fc_local"):
    return l2norm(features @ state[f"{layer}.weight"].T + state[f"{layer}.bias"], -1)


def released_gru(state, x, suffix=""):
    "One direction of a GRU over one caption, word by word (Cho et al. 2014, PyTorch's gate order r, z, n)."
    w_i, w_h, b_i, b_h = (state[f"txt_enc.rnn.{name}_l0{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h, states = x.new_zeros(w_h.shape[1]), []
    for word in x:
        (ri, zi, ni), (rh, zh, nh) = (w_i @ word + b_i).chunk(3), (w_h @ h + b_h).chunk(3)
        r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
        h = (1 - z) * torch.tanh(ni + r * nh) + z * h
        states.append(h)
    return torch.stack(states)


def released_caption(state, tokens):
    x = state["txt_enc.embed.weight"][tokens]
    words = released_gru(state, x)
    if "txt_enc.rnn.weight_ih_l0_reverse" in state: words = (words + released_gru(state, x.flip(0), "_reverse").flip(0)) / 2
    return l2norm(words, -1)


def released_update(state, name, query, context, renormalise):
    both = torch.cat([query, context], -1)
    gate = torch.sigmoid(both @ state[f"gate_{name}.weight"].T + state[f"gate_{name}.bias"])
    fused = torch.tanh(both @ state[f"linear_{name}.weight"].T + state[f"linear_{name}.bias"])
    query = gate * query + (1 - gate) * fused
    return l2norm(query, -1) if renormalise else query


def released_imram(state, features, captions, steps, direction, lam, renormalise):
    "Scores (I, C) and each step's; features (I, m, f), captions a list of lists of word ids."
    images, columns = released_images(state, features), []
    for tokens in captions:
        words = released_caption(state, tokens)[None].expand(len(images), -1, -1)
        total = 0
        for name, asks in (("t2i", "text"), ("i2t", "image")):
            if direction not in (asks, "full"): continue
            query, context = (words, images) if asks == "text" else (images, words)
            original, scores = query, []
            for _ in range(steps):
                found = released_attention(query, context, lam)
                scores.append(released_cosine(original, found).mean(1))
                query = released_update(state, name, query, found, renormalise)
            total = total + torch.stack(scores)
        columns.append(total)
    return torch.stack(columns, 2)


def released_scan(state, features, captions, direction, pooling, lam, lam2=6.0):
    "SCAN's released scores (I, C)."
    images, columns = released_images(state, features, "img_enc.fc"), []
    for tokens in captions:
        words = released_caption(state, tokens)[None].expand(len(images), -1, -1)
        query, context = (words, images) if direction == "text" else (images, words)
        row = released_cosine(query, released_attention(query, context, lam))
        if pooling == "lse": columns.append((lam2 * row).exp().sum(1).log() / lam2)
        else: columns.append({"mean": row.mean(1), "sum": row.sum(1), "max": row.max(1)[0]}[pooling])
    return torch.stack(columns, 1)


def released_state(layer="fc_local", f=5, vocab=12, d=4, w=3, bidirectional=True, gates=True, seed=0, scale=0.8):
    "A synthetic state dict under the authors' names, float64."
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape): return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    state = {f"img_enc.{layer}.weight": rand(d, f), f"img_enc.{layer}.bias": rand(d), "txt_enc.embed.weight": rand(vocab, w)}
    for suffix in ("", "_reverse")[:1 + bidirectional]:
        state |= {f"txt_enc.rnn.weight_ih_l0{suffix}": rand(3 * d, w), f"txt_enc.rnn.weight_hh_l0{suffix}": rand(3 * d, d),
                  f"txt_enc.rnn.bias_ih_l0{suffix}": rand(3 * d), f"txt_enc.rnn.bias_hh_l0{suffix}": rand(3 * d)}
    for name in ("linear_t2i", "gate_t2i", "linear_i2t", "gate_i2t") if gates else ():
        state |= {f"{name}.weight": rand(d, 2 * d), f"{name}.bias": rand(d)}
    return state
