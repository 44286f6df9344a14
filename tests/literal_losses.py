"Both losses read literally (IMRAM Eq. 13, CAMP Eq. 14), one pair at a time, on plain numbers."

import math


def triplet(scores, margin, negatives, same_image=None):
    "The batch's sum over both directions; `same_image` a nested list of bools or None."
    scores, batch = scores.tolist(), range(len(scores))
    together = [[b == c or bool(same_image is not None and same_image[b][c]) for c in batch] for b in batch]
    total = 0.0
    for b in batch:
        asks_captions = [max(0.0, margin - scores[b][b] + scores[b][c]) for c in batch if not together[b][c]]
        asks_images = [max(0.0, margin - scores[b][b] + scores[i][b]) for i in batch if not together[i][b]]
        for costs in (asks_captions, asks_images):
            if costs: total += max(costs) if negatives == "hardest" else sum(costs)
    return total


def rivals(scores, b, same_image):
    "The other captions of row b, and the other images of column b."
    others = [k for k in range(len(scores)) if k != b]
    return [scores[b][k] for k in others if not same_image[b][k]], [scores[k][b] for k in others if not same_image[k][b]]


def info_nce(scores, temperature, same_image):
    "-log of the right one's share of the row, and of the column."
    s = (scores / temperature).tolist()
    return sum(-math.log(math.exp(s[b][b]) / (math.exp(s[b][b]) + sum(map(math.exp, line))))
               for b in range(len(s)) for line in rivals(s, b, same_image))


def matching_bce(logits, negatives, same_image):
    "CAMP Eq. 14 with its minus sign, in probabilities; `same_image` a nested list of bools."
    m, batch, total = logits.sigmoid().tolist(), range(len(logits)), 0.0
    for b in batch:
        total -= 2 * math.log(m[b][b])
        row = [m[b][c] for c in batch if c != b and not same_image[b][c]]
        column = [m[i][b] for i in batch if i != b and not same_image[i][b]]
        for rivals in (row, column):
            costs = [-math.log(1 - r) for r in rivals]
            if costs: total += max(costs) if negatives == "hardest" else sum(costs) / len(costs)
    return total
