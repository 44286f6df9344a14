"Typical wrong answers to the exercises of chapter 14."

WRONG = {
    "plan": ["""def plan(recipe, captions):
    return recipe.epochs * -(-captions // recipe.batch_size), recipe.lr * recipe.decay ** ((recipe.epochs - 1) // recipe.decay_every)""",
             """def plan(recipe, captions):
    full, rest = divmod(captions, recipe.batch_size)
    return recipe.epochs * (full + (rest > 1)), recipe.lr * recipe.decay ** recipe.epochs""",
             # the epoch after the last one
             """def plan(recipe, captions):
    full, rest = divmod(captions, recipe.batch_size)
    return recipe.epochs * (full + (rest > 1)), recipe.lr * recipe.decay ** (recipe.epochs // recipe.decay_every)"""],
    "taken_for_twin": ["""def taken_for_twin(scores, image_of_caption, twin):
    first, other = scores.argmax(0), twin[image_of_caption]
    return float((first == other).mean())""",
                       """def taken_for_twin(scores, image_of_caption, twin):
    first, other = scores.argmax(0), twin[image_of_caption]
    wrong = first != image_of_caption
    return float((first == other)[wrong].mean()) if wrong.any() else 0.0""",
                       # of all captions whose image has a twin
                       """def taken_for_twin(scores, image_of_caption, twin):
    first, other = scores.argmax(0), twin[image_of_caption]
    return float((first == other)[other >= 0].mean())"""],
    "shortlist": ["def shortlist(steps, n): return steps.sum(0).topk(n, dim=0).indices", "def shortlist(steps, n): return steps[0].topk(n, dim=0).indices"],
}

WRONG["plan"] += ["""def plan(recipe, captions):
    full, rest = divmod(captions, recipe.batch_size)
    return recipe.epochs * (full + (rest > 1)), recipe.lr * (recipe.decay if recipe.epochs > recipe.decay_every else 1)"""]

WRONG["plan"] += ["""def plan(recipe, captions):
    full, rest = divmod(captions, recipe.batch_size)
    return recipe.epochs * (full + (rest > 1)), recipe.lr * recipe.decay ** max(recipe.epochs - recipe.decay_every, 0)"""]
