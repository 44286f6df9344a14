"Typical wrong answers to the exercises of the workshop notebook on the sparse backward pass."

SLOPE = """def triplet_slope(scores, margin=.2):
    slope, rivals = torch.zeros_like(scores), scores.clone().fill_diagonal_(-torch.inf)
    for b in range(len(scores)):
        for i, c in {rivals}:
            if {active}:
                slope[b, b] {minus}= 1
                slope[i, c] += 1
    return slope"""
BOTH = "((b, rivals[b].argmax()), (rivals[:, b].argmax(), b))"
HINGE = "margin - scores[b, b] + scores[i, c] > 0"

WRONG = {
    "triplet_slope": [SLOPE.format(rivals=BOTH, active="True", minus="-"),                           # satisfied hinges, too
                      SLOPE.format(rivals="((b, rivals[b].argmax()),)", active=HINGE, minus="-"),    # captions as rivals only
                      SLOPE.format(rivals=BOTH, active="scores[b, b] < scores[i, c]", minus="-"),    # no margin
                      SLOPE.format(rivals=BOTH, active=HINGE, minus="+")],
    "padding": ["""def padding(lengths, b):
    blocks = [lengths[i:i + b] for i in range(0, len(lengths), b)]
    return 1 - sum(lengths) / sum(max(block) * b for block in blocks)""",                            # the last block is shorter
                """def padding(lengths, b):
    return 1 - sum(lengths) / (max(lengths) * len(lengths))""",                                      # all to the longest of all
                """def padding(lengths, b):
    lengths = sorted(lengths)
    blocks = [lengths[i:i + b] for i in range(0, len(lengths), b)]
    return 1 - sum(lengths) / sum(max(block) * len(block) for block in blocks)"""],                  # not the order given
    "sliced": ["""def sliced(score, images, captions, loss, b):
    leaf, total = images.values.detach().requires_grad_(), 0
    for c in range(0, len(captions), b):
        part = score(Fragments(leaf, images.mask), captions[c:c + b])
        total = total + torch.autograd.grad(part.logsumexp(1).sum() + part.logsumexp(0).sum(), leaf)[0]
    return total""",                                                                                 # a loss of each slice
               """def sliced(score, images, captions, loss, b):
    leaf = images.values.detach().requires_grad_()
    parts = [score(Fragments(leaf, images.mask), captions[c:c + b]) for c in range(0, len(captions), b)]
    return torch.autograd.grad(loss(torch.cat(parts, 1)), leaf)[0] * 2""",                           # and all graphs at once
               """def sliced(score, images, captions, loss, b):
    leaf = images.values.detach().requires_grad_()
    return torch.autograd.grad(loss(score(Fragments(leaf, images.mask), captions)), leaf)[0]"""],    # all captions with a graph
}
