"Typical wrong answers to the exercises of the workshop notebook on regions."

WRONG = {
    "receptive_field": ["""def receptive_field(layers):
    field, step = 1, 1
    for kernel, stride in layers:
        step *= stride
        field += (kernel - 1) * step
    return field, step""",  # the stride counts too early
                        """def receptive_field(layers):
    field, step = 1, 1
    for kernel, stride in layers: field, step = field + kernel - 1, step * stride
    return field, step""",  # steps of one pixel throughout
                        """def receptive_field(layers):
    field, step = 0, 1
    for kernel, stride in layers: field, step = field + kernel * step, step * stride
    return field, step"""],  # k, not k - 1
    "union_box": ["def union_box(a, b): return torch.maximum(a, b)",
                  """def union_box(a, b):
    return torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1)""",  # what they share
                  """def union_box(a, b):
    return torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])])"""],  # along the first axis
    "soft_keep": ["""def soft_keep(scores, overlaps, count):
    left, kept = scores, []
    for _ in range(count):
        kept.append(left.argmax())
        left = scores * (1 - overlaps[kept[-1]])
    return torch.stack(kept)""",  # forgets the windows before
                  "def soft_keep(scores, overlaps, count): return scores.argsort(descending=True)[:count]",
                  """def soft_keep(scores, overlaps, count):
    kept = []
    for _ in range(count):
        kept.append(scores.argmax())
        scores *= 1 - overlaps[kept[-1]]
    return torch.stack(kept)""",  # changes the caller's scores
                  """def soft_keep(scores, overlaps, count):
    left, kept = scores.clone(), []
    for _ in range(count):
        kept.append(left.argmax())
        left[overlaps[kept[-1]] > .4] = 0
    return torch.stack(kept)"""],  # strikes out after all
}
