"Typical wrong answers to the exercises of chapter 13."

WRONG = {
    "regions_needed": ["def regions_needed(weights): return (weights.cumsum(-1) < .8).sum(-1) + 1", "def regions_needed(weights): return (weights > .2).sum(-1)"],
    "weight_inside": ["""def weight_inside(weights, boxes, target):
    x0, y0, x1, y1 = target
    inside = (boxes[:, 0] >= x0) & (boxes[:, 1] >= y0) & (boxes[:, 2] <= x1) & (boxes[:, 3] <= y1)
    return (weights * inside).sum(1)"""],
    "look_hard": ["""def look_hard(image, caption):
    z = caption.values[0] @ image.values[0].T
    return Look(z.softmax(1)[None], z.amax(1)[None])""",
                  """def look_hard(image, caption):
    z = image.values[0] @ caption.values[0].T
    return Look(torch.nn.functional.one_hot(z.argmax(1), z.shape[1]).to(z.dtype)[None], z.amax(1)[None])"""],
}

WRONG["weight_inside"] += ["""def weight_inside(weights, boxes, target):
    x = (boxes[:, 0] + boxes[:, 2]) / 2
    return (weights * ((x >= target[0]) & (x <= target[2]))).sum(1)"""]

WRONG["weight_inside"] += ["""def weight_inside(weights, boxes, target):
    x0, y0, x1, y1 = target
    b = boxes; over = (b[:, 0] < x1) & (b[:, 2] > x0) & (b[:, 1] < y1) & (b[:, 3] > y0)
    return (weights * over).sum(1)"""]

WRONG["weight_inside"] += ["""def weight_inside(weights, boxes, target):
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    x0, y0, x1, y1 = target
    return (weights * ((x >= x0) & (x <= x1) & (y <= y1))).sum(1)"""]

WRONG["weight_inside"] += ["""def weight_inside(weights, boxes, target):
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 0] + boxes[:, 3]) / 2
    x0, y0, x1, y1 = target
    return (weights * ((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))).sum(1)"""]

WRONG["weight_inside"] += ["""def weight_inside(weights, boxes, target):
    x0, y0, w, h = target
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return (weights * ((x >= x0) & (x <= x0 + w) & (y >= y0) & (y <= y0 + h))).sum(1)"""]

WRONG["regions_needed"] += ["""def regions_needed(weights):
    sums = weights.sort(-1, descending=True).values.cumsum(-1)
    return (sums <= .8 + 1e-6).sum(-1) + 1"""]

WRONG["regions_needed"] += ["""def regions_needed(weights):
    sums = weights.sort(-1, descending=True).values.cumsum(-1)
    return (sums < .88).sum(-1) + 1"""]

WRONG["regions_needed"] += ["""def regions_needed(weights):
    sums = weights.sort(-1, descending=True).values.cumsum(-1)
    return (sums < .76).sum(-1) + 1"""]

WRONG["regions_needed"] += ["""def regions_needed(weights): return (weights >= .8 / weights.shape[-1] * weights.max(-1, keepdim=True).values).sum(-1)"""]
