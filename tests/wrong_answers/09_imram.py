"Typical wrong answers to the exercises of chapter 09."

WRONG = {
    "match_steps": ["""def match_steps(ram, query, response, steps=3):  # the planted bug: scores of the moved query
    x = query.values[None]
    for k in range(steps):
        context, weights = ram.look(x, response.values, query.mask, response.mask)
        yield Step(x, context, weights, fragment_scores(x, context))
        if k + 1 < steps: x = ram.update(x, context)""",
                    """def match_steps(ram, query, response, steps=3):  # an update after the last step
    x = original = query.values[None]
    for k in range(steps):
        context, weights = ram.look(x, response.values, query.mask, response.mask)
        yield Step(x, context, weights, fragment_scores(original, context))
        x = ram.update(x, context)""",
                    """def match_steps(ram, query, response, steps=3):  # every step asks with the original words
    x = query.values[None]
    for k in range(steps):
        context, weights = ram.look(x, response.values, query.mask, response.mask)
        yield Step(x, context, weights, fragment_scores(x, context))
        if k + 1 < steps: ram.update(x, context)"""],
    "salient": ["""def salient(step, mask, r=0, q=0):  # a mean over padding
    scores = step.scores[r, q]
    return ((scores > scores.mean()) & mask[q]).nonzero().flatten().tolist()""",
                """def salient(step, mask, r=0, q=0):  # always the first response
    scores = step.scores[0, q][mask[q]]
    return (scores > scores.mean()).nonzero().flatten().tolist()""",
                """def salient(step, mask, r=0, q=0):  # the mean over all captions
    scores = step.scores[r][mask]
    return (step.scores[r, q] > scores.mean()).nonzero().flatten().tolist()"""],
    "score_after": ["def score_after(model, images, captions, k): return model.step_scores(images, captions)[:k].sum(0)",     # computes all
                    """def score_after(model, images, captions, k):
    return direction_scores(model.ram['text'], images, captions, 'text', k).sum(0)""",
                    "def score_after(model, images, captions, k): return model.step_scores(images, captions)[k - 1]"],
}

WRONG["salient"] += ["""def salient(step, mask, r=0, q=0): return [int(step.scores[r, q].masked_fill(~mask[q], -9).argmax())]"""]

WRONG["salient"] += ["""def salient(step, mask, r=0, q=0):
    scores = step.scores[r, q][mask[q]]
    return (scores >= scores.mean()).nonzero()[:, 0].tolist()"""]

WRONG["salient"] += ["""def salient(step, mask, r=0, q=0):
    scores = step.scores[r, q][mask[q]]
    return (scores > (scores.max() + scores.min()) / 2).nonzero()[:, 0].tolist()"""]

WRONG["score_after"] += ["""def score_after(model, images, captions, k):
    return model.step_scores(images, captions)[:k].sum(0)"""]
