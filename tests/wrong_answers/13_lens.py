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
