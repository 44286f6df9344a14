"Typical wrong answers to the exercises of the workshop notebook on the training loop."

WRONG = {
    "clipped": ["def clipped(gradients, limit): return [g * min(1., limit / g.norm()) for g in gradients]",  # each by its own length
                """def clipped(gradients, limit):
    length = sum(g.pow(2).sum() for g in gradients).sqrt()
    return [g * limit / length for g in gradients]""",  # short ones are made longer
                "def clipped(gradients, limit): return [g.clamp(-limit, limit) for g in gradients]"],
    "stops_after": ["""def stops_after(rsums, patience):
    best, when = -1., 0
    for epoch, rsum in enumerate(rsums, 1):
        if rsum >= best: best, when = rsum, epoch
        if epoch - when >= patience: return epoch
    return len(rsums)""",  # an equal one counts as better
                    """def stops_after(rsums, patience):
    for epoch in range(patience, len(rsums)):
        if rsums[epoch] <= rsums[epoch - 1]: return epoch + 1
    return len(rsums)"""],  # compared with the epoch before only
}
