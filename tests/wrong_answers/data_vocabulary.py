"Typical wrong answers to the exercises of the workshop notebook on the vocabulary."

WRONG = {
    "coverage": ["""def coverage(captions, min_count):
    n = Counter(token for caption in captions for token in tokenize(caption))
    return 100 * sum(k >= min_count for k in n.values()) / len(n)""",  # words, not tokens
                 """def coverage(captions, min_count):
    n = Counter(token for caption in captions for token in tokenize(caption))
    return sum(k for k in n.values() if k >= min_count) / sum(n.values())""",  # a share, not percent
                 """def coverage(captions, min_count):
    n = Counter(token for caption in captions for token in tokenize(caption))
    return 100 * sum(k for k in n.values() if k > min_count) / sum(n.values())"""],
    "padded_block": ["""def padded_block(captions, vocabulary):
    rows = [vocabulary.encode(caption) for caption in captions]
    lengths = np.array([len(row) for row in rows])
    filled = np.full((len(rows), lengths.max()), PAD)
    for i, row in enumerate(rows): filled[i, -len(row):] = row
    return filled, lengths""",  # padded in front
                     """def padded_block(captions, vocabulary):
    rows = [vocabulary.encode(caption) for caption in captions]
    lengths = np.array([len(row) for row in rows])
    filled = np.full((len(rows), lengths.max()), UNK)
    for i, row in enumerate(rows): filled[i, :len(row)] = row
    return filled, lengths""",  # padded with the unknown word
                     """def padded_block(captions, vocabulary):
    rows = [vocabulary.encode(caption) for caption in captions]
    lengths = np.array([len(row) for row in rows])
    filled = np.full((len(rows), 50), PAD)
    for i, row in enumerate(rows): filled[i, :len(row)] = row
    return filled, lengths"""],  # wider than needed
    "most_missed": ["""def most_missed(captions, vocabulary, k):
    n = Counter(token for caption in captions for token in tokenize(caption) if token not in vocabulary)
    return [token for token, _ in n.most_common(k)]""",  # equals in the order of appearance
                    """def most_missed(captions, vocabulary, k):
    n = Counter(token for caption in captions for token in tokenize(caption))
    return sorted(n, key=lambda token: (-n[token], token))[:k]""",  # known words too
                    """def most_missed(captions, vocabulary, k):
    n = Counter(token for caption in captions for token in tokenize(caption) if token not in vocabulary)
    return sorted(n)[:k]"""],  # by the alphabet alone
    "tokenize_sentences": ["def tokenize_sentences(caption): return tokenize(caption)",
                           """def tokenize_sentences(caption):
    return [token for part in caption.split(".") if part.strip() for token in [*tokenize(part), "."]]""",  # full stops only
                           """import re
def tokenize_sentences(caption):
    return [token for part in re.split(r"[.!?]\\s+", caption.strip()) for token in tokenize(part)]"""],  # the marks are lost
}
