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


def ranks_of_several(scores, right):
    "The same where a caption has several right images: `right` is a set of images for each caption; the best of them counts."
    scores = scores.tolist()
    text = []
    for image, row in enumerate(scores):
        own = [c for c in range(len(row)) if image in right[c]]
        text.append(min(sum(row[wrong] >= row[c] for wrong in range(len(row)) if wrong not in own) for c in own))
    image = []
    for caption, own in enumerate(right):
        column = [row[caption] for row in scores]
        image.append(min(sum(column[wrong] >= column[i] for wrong in range(len(column)) if wrong not in own) for i in own))
    return text, image


def recalls(ranks, owners, taken):
    "The six recalls and their sum where images are taken so many times, each with its captions."
    found = []
    for k in (1, 5, 10): found.append(100 * sum(taken[i] * (rank < k) for i, rank in enumerate(ranks[0])) / sum(taken))
    for k in (1, 5, 10):
        hits = sum(taken[owner] * (rank < k) for owner, rank in zip(owners, ranks[1], strict=True))
        found.append(100 * hits / sum(taken[owner] for owner in owners))
    return [*found, sum(found)]


def p_of_every_swap(first, second, owners):
    "Two-sided p of each recall's difference: all 2^I ways of swapping the two models' ranks, image by image."
    images, reached = len(first[0]), [0] * 7

    def apart(a, b):
        each = [1] * images
        return [x - y for x, y in zip(recalls(a, owners, each), recalls(b, owners, each), strict=True)]
    seen = apart(first, second)
    for code in range(2**images):
        swap = [code >> i & 1 for i in range(images)]
        mixed = [([(b if swap[i] else a)[0][i] for i in range(images)], [(b if swap[o] else a)[1][c] for c, o in enumerate(owners)])
                 for a, b in ((first, second), (second, first))]
        for m, x in enumerate(apart(*mixed)): reached[m] += abs(x) >= abs(seen[m]) - 1e-7
    return [count / 2**images for count in reached]
