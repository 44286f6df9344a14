"Ranks and recall read literally: every query sorts its answers, one comparison at a time."


def ranks(scores, owners):
    "Text ranks and image ranks, counted from 0: for each query, the wrong answers that reach its right one."
    scores, owners = scores.tolist(), list(map(int, owners))
    text = []
    for image, row in enumerate(scores):
        right = [score for score, owner in zip(row, owners, strict=True) if owner == image]
        text.append(min(sum(wrong >= score for wrong, owner in zip(row, owners, strict=True) if owner != image) for score in right))
    image = []
    for caption, owner in enumerate(owners):
        column = [row[caption] for row in scores]
        image.append(sum(score >= column[owner] for other, score in enumerate(column) if other != owner))
    return text, image


def median(values):
    "The middle one, or the mean of the two in the middle."
    values, n = sorted(values), len(values)
    return values[n // 2] if n % 2 else (values[n // 2 - 1] + values[n // 2]) / 2


def report(scores, owners):
    "All numbers of a report over one fold, as a dictionary."
    found = {}
    for name, r in zip(("text", "image"), ranks(scores, owners), strict=True):
        for k in (1, 5, 10): found[f"{name}_r{k}"] = 100 * sum(rank < k for rank in r) / len(r)
        found[f"{name}_median"], found[f"{name}_mean"] = median(r) + 1, sum(r) / len(r) + 1
    found["rsum"] = sum(found[f"{name}_r{k}"] for name in ("text", "image") for k in (1, 5, 10))
    return found
