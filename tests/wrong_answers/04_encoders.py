"Typical wrong answers to the exercises of chapter 04."

WRONG = {
    "encode_regions": [
        # the first leak stays open: the bias makes a vector of nothing
        """def encode_regions(features, mask, W, b):
    return l2_normalize(features.masked_fill(~mask[:, :, None], 0) @ W.T + b)""",
        # the second: the value is right, the gradient is nan
        """def encode_regions(features, mask, W, b):
    return l2_normalize(features @ W.T + b).masked_fill(~mask[:, :, None], 0)""",
        # times the mask: nan stays nan
        """def encode_regions(features, mask, W, b):
    return l2_normalize((features * mask[:, :, None]) @ W.T + b) * mask[:, :, None]""",
        # no norm
        """def encode_regions(features, mask, W, b):
    absent = ~mask[:, :, None]
    return (features.masked_fill(absent, 0) @ W.T + b).masked_fill(absent, 0)"""],
    "turn_round": [
        "def turn_round(tokens, lengths): return tokens.flip(1)",
        "def turn_round(tokens, lengths): return [row[:n].flip(0) for row, n in zip(tokens, lengths)]"],
    "count_weights": [
        # one direction only
        """def count_weights(region_dim, vocab_size, embed_dim, word_dim):
    gru = 3 * embed_dim * (word_dim + embed_dim + 2)
    return embed_dim * (region_dim + 1) + vocab_size * word_dim + gru""",
        # one bias per gate, as the equations of most books have it
        """def count_weights(region_dim, vocab_size, embed_dim, word_dim):
    gru = 6 * embed_dim * (word_dim + embed_dim + 1)
    return embed_dim * (region_dim + 1) + vocab_size * word_dim + gru"""],
}

WRONG["encode_regions"] += ["""def encode_regions(features, mask, W, b):
    absent = ~mask[:, :, None]
    v = features.masked_fill(absent, 0) @ W.T + b
    return (v / v[0, 0].norm()).masked_fill(absent, 0)"""]

WRONG["encode_regions"] += ["""def encode_regions(features, mask, W, b):
    absent = ~mask[1][None, :, None]
    return l2_normalize(features.masked_fill(absent, 0) @ W.T + b).masked_fill(absent, 0)"""]

WRONG["encode_regions"] += ["""def encode_regions(features, mask, W, b):
    absent = features.isnan().any(-1, keepdim=True)
    return l2_normalize(features.masked_fill(absent, 0) @ W.T + b).masked_fill(absent, 0)"""]
