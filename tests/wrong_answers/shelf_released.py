"Typical wrong answers to the exercises of the workshop notebook on the authors' weights."

WRONG = {
    "strangers": ["""def strangers(state_dict, modules):
    found = {name.rpartition(".")[0] for name in state_dict}  # with its prefix, every name is strange
    return sorted(found - set(modules.values()))""",
                  """def strangers(state_dict, modules):
    found = {name.removeprefix("module.").rpartition(".")[0] for name in state_dict}
    return sorted(found - set(modules))  # our names instead of theirs""",
                  """def strangers(state_dict, modules):
    found = [name.removeprefix("module.").rpartition(".")[0] for name in state_dict]
    return sorted(name for name in found if name not in modules.values())  # one for each leaf"""],
    "published": ["""def published(model, modules):
    return {rename(name, modules): p.detach() for name, p in model.named_parameters() if rename(name, modules)}  # lost in silence""",
                  "def published(model, modules): return {rename(name, modules): p.detach() for name, p in model.named_parameters()}",
                  "def published(model, modules): return dict(model.named_parameters())"],
}
