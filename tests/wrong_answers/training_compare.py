"Typical wrong answers to the exercises of the workshop notebook on comparing models."

WRONG = {
    "better_row": ["""def better_row(first, second):
    a, b = sum(first) / len(first), sum(second) / len(second)
    return "first" if a > b else "second" if b > a else "neither\"""",  # by the mean alone
                   """def better_row(first, second):
    return "first" if min(first) > min(second) else "second" if min(second) > min(first) else "neither\""""],  # worst against worst
}
