"Typical wrong answers to the exercises of chapter 16."

WRONG = {
    "window": ["def window(k, cells=9, windows=6): return k / windows, (k + 1) / windows",
               "def window(k, cells=9, windows=6): return k * cells // windows / cells, (k + 1) * cells // windows / cells"],
    "alike": ['def alike(rows): return torch.einsum("pid,qjd->pqij", rows, rows).amax(2).mean(2)',
              'def alike(rows): return torch.einsum("pid,qjd->pqij", rows, rows).mean((2, 3))'],
    "say_none_below": ["def say_none_below(having, lacking): return float((having.mean() + lacking.mean()) / 2)",
                       """def say_none_below(having, lacking):
    def right(t): return (having >= t).sum() + (lacking < t).sum()
    return float(max(sorted([*having, *lacking]), key=right))""",
                       # not the lowest of those that are equally good
                       """def say_none_below(having, lacking):
    def right(t): return (having >= t).mean() + (lacking < t).mean()
    return float(max([*having, *lacking], key=right))"""],
}

WRONG["window"] += ["""def window(k, cells=9, windows=6): return k * cells // windows / cells, k * cells // windows / cells + 2 / cells"""]
