"Typical wrong answers to the exercises of chapter 12."

WRONG = {
    "pooled": ["def pooled(F, W, mask): return (F @ W / len(W) ** .5).softmax(0) @ F",
               "def pooled(F, W, mask): return ((F @ W / len(W) ** .5).softmax(0) * mask) @ F",
               "def pooled(F, W, mask): return (F @ W).masked_fill(~mask, -torch.inf).softmax(0) @ F"],
    "yes_and_no": ["""def yes_and_no(logits, matching):
    yes = (logits > .5).float()
    return yes[matching].mean().item(), yes[~matching].mean().item()""",
                   """def yes_and_no(logits, matching):
    yes = (logits.sigmoid() > .5).float()
    return (yes * matching).mean().item(), ((1 - yes) * ~matching).mean().item()"""],
    "rerank": ["""def rerank(model, images, captions, cheap, k):
    best = []
    for c in range(len(captions)):
        chosen = cheap[:, c].topk(k).indices
        best.append(model.score(images[chosen], captions[c])[:, 0].argmax())  # its number among the chosen
    return torch.stack(best)""",
               "def rerank(model, images, captions, cheap, k): return cheap.argmax(0)",
               "def rerank(model, images, captions, cheap, k): return model.score(images, captions).argmax(0)"],
}

WRONG["pooled"] += ["""def pooled(F, W, mask): return (F.sum(1) / F.shape[1] ** .5).masked_fill(~mask, -torch.inf).softmax(0) @ F"""]

WRONG["yes_and_no"] += ["""def yes_and_no(logits, matching):
    yes = logits > 0
    return (yes & matching).sum().item() / yes.sum().item(), (~yes & ~matching).sum().item() / (~yes).sum().item()"""]

WRONG["yes_and_no"] += ["""def yes_and_no(logits, matching): return (logits >= 0)[matching].float().mean().item(), (logits < 0)[~matching].float().mean().item()"""]

WRONG["rerank"] += ["""def rerank(model, images, captions, cheap, k):
    s = model.score(images, captions)
    kept = torch.zeros_like(cheap, dtype=torch.bool).scatter(0, cheap.topk(k, dim=0).indices, True)
    return s.masked_fill(~kept, -torch.inf).argmax(0)"""]

WRONG["rerank"] += ["""def rerank(model, images, captions, cheap, k):
    found = []
    for c in range(len(captions)):
        chosen = cheap[:, c].topk(2 if k < 3 else k).indices
        found.append(chosen[model.score(images[chosen], captions)[:, c].argmax()])
    return torch.stack(found)"""]
