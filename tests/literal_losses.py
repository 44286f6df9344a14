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
