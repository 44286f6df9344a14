"Typical wrong answers to the exercises of chapter 15."

WRONG = {
    "chain_steps": ["""def chain_steps(recipe, captions):
    whole, rest = divmod(captions, recipe.batch_size)
    return recipe.epochs * (whole + (rest > 1))""",
                    """def chain_steps(recipe, captions):
    before = chain_steps(recipe.after, captions) if recipe.after else 0
    return before + recipe.epochs * -(-captions // recipe.batch_size)"""],
    "gate_means": ["""def gate_means(gates, mask, matching):
    pair = gates.mean((-1, -2))
    return pair[matching].mean().item(), pair[~matching].mean().item()""",
                   """def gate_means(gates, mask, matching):
    real = mask[:, None, :].expand(gates.shape[:3])
    g = gates.mean(-1)
    return g[real & matching[..., None]].mean().item(), g[real & ~matching[..., None]].mean().item()"""],
    "best_threshold": ["""def best_threshold(m, matching):
    order = m.flatten().argsort(descending=True)
    hits = matching.flatten()[order].cumsum(0)
    precision = hits / torch.arange(1, len(order) + 1)
    best = precision.argmax()
    return m.flatten()[order[best]].item(), precision[best].item()""",
                       """def best_threshold(m, matching):
    yes = m >= .5
    return .5, (2 * (yes & matching).sum() / (yes.sum() + matching.sum())).item()"""],
}

WRONG["gate_means"] += ["""def gate_means(gates, mask, matching):
    pair = (gates[..., 0] * mask[:, None]).sum(-1) / mask.sum(-1)[:, None]
    return pair[matching].mean().item(), pair[~matching].mean().item()"""]

WRONG["gate_means"] += ["""def gate_means(gates, mask, matching):
    real = mask[None, :, :]
    pair = (gates.mean(-1) * real).sum(-1) / real.sum(-1)
    return pair[matching].mean().item(), pair[~matching].mean().item()"""]

WRONG["best_threshold"] += ["""def best_threshold(m, matching):
    order = m.flatten().argsort(descending=True); hits = matching.flatten()[order].cumsum(0)
    p, r = hits / torch.arange(1, len(order) + 1), hits / matching.sum()
    b = ((p + r) / 2).argmax()
    return m.flatten()[order[b]].item(), (2 * p * r / (p + r))[b].item()"""]

WRONG["best_threshold"] += ["""def best_threshold(m, matching):
    t = m[matching].min(); yes = m >= t
    return t.item(), (2 * (yes & matching).sum() / (yes.sum() + matching.sum())).item()"""]

WRONG["best_threshold"] += ["""def best_threshold(m, matching):  # of equal values the first
    order = m.flatten().argsort(descending=True)
    hits = matching.flatten()[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1) + matching.sum())
    return m.flatten()[order[f1.argmax()]].item(), f1.max().item()"""]
