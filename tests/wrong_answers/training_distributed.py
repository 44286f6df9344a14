"Typical wrong answers to the exercises of the workshop notebook on several processes."

WRONG = {
    "slopes_of_columns": ["""def slopes_of_columns(parts):
    parts = [part.detach().clone().requires_grad_() for part in parts]
    return [slope / len(parts) for slope in torch.autograd.grad(triplet(torch.cat(parts, 1)), parts)]""",  # averaged
                          """def slopes_of_columns(parts):
    parts, b = [part.detach().clone().requires_grad_() for part in parts], parts[0].shape[1]
    own = sum(triplet(part[n * b:(n + 1) * b]) for n, part in enumerate(parts))
    return list(torch.autograd.grad(own, parts))"""],  # each with its own rivals only
}
