"The triplet loss read literally (IMRAM Eq. 13), one triplet at a time, on plain numbers."


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
