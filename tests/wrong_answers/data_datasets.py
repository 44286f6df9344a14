"Typical wrong answers to the exercises of the workshop notebook on data sets."

WRONG = {
    "captions_of_image": ["""def captions_of_image(image_of_caption, n):
    return [list(range(5 * i, 5 * i + 5)) for i in range(n)]""",  # five an image
                          """def captions_of_image(image_of_caption, n):
    ends = np.cumsum(np.bincount(image_of_caption, minlength=n))
    return [list(range(e - k, e)) for e, k in zip(ends, np.bincount(image_of_caption, minlength=n))]""",  # as if they stood in order
                          """def captions_of_image(image_of_caption, n):
    return [np.flatnonzero(image_of_caption == i).tolist() for i in np.unique(image_of_caption)]"""],  # images without captions left out
    "by_length": ["""def by_length(lengths, size):
    return [list(range(i, min(i + size, len(lengths)))) for i in range(0, len(lengths), size)]""",  # in the split's order
                  """def by_length(lengths, size):
    ranked = np.argsort(lengths, kind="stable")[::-1]
    return [ranked[i:i + size].tolist() for i in range(0, len(ranked), size)]""",  # longest first
                  """def by_length(lengths, size):
    ranked = np.argsort(lengths, kind="stable")
    return [ranked[i:i + size].tolist() for i in range(0, len(ranked) - size + 1, size)]"""],  # the last batch is lost
    "expected_positives": ["def expected_positives(n, k, b): return b * (k - 1)",  # as if all siblings were in the batch
                           "def expected_positives(n, k, b): return b * (b - 1) * (k - 1) / (n * k - 1) / 2",  # unordered pairs
                           "def expected_positives(n, k, b): return b * b * k / (n * k)"],  # with replacement, and with itself
}
