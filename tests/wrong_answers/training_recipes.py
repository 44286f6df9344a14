"Typical wrong answers to the exercises of the workshop notebook on recipes."

WRONG = {
    "rise_and_fall": ["""def rise_and_fall(lr, done, rise, epochs):
    if done < rise: return lr * done / rise
    return lr * (1 + math.cos(math.pi * done / epochs)) / 2""",  # the way down as if it had begun at 0
                      "def rise_and_fall(lr, done, rise, epochs): return lr * (1 + math.cos(math.pi * (done - rise) / (epochs - rise))) / 2"],
    "what_changed": ["""def what_changed(a, b):
    a, b = asdict(a), asdict(b)
    return {key: (a[key], b[key]) for key in a if a[key] != b[key]}""",  # all of args as one setting
                     """def what_changed(a, b):
    def flat(recipe):
        content = asdict(recipe)
        return {**{f"args.{key}": value for key, value in content.pop("args").items()}, **content}
    a, b = flat(a), flat(b)
    return {key: (a[key], b.get(key)) for key in a if a[key] != b.get(key)}"""],  # what only the second one has is left out
}
