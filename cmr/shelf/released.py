"""The authors' weights, by their own names, with the authors' scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from torch import Tensor

from cmr.attention import SCAN, one_of
from cmr.camp import CAMP
from cmr.imram import DIRECTIONS, IMRAM
from cmr.matcher import Matcher

State = dict[str, Tensor] # a state dict: a weight's name, and the weight


def rename(
    name: str,               # a weight, "module.leaf"
    modules: dict[str, str], # module's old name: new name
) -> str | None:             # the weight's new name; None where its module is not listed
    "Put a weight's name into another module."
    module, _, leaf = name.rpartition(".")
    return f"{modules[module]}.{leaf}" if module in modules else None


def released_weights(
    state_dict: State,          # the authors' weights
    modules: dict[str, str],    # our module: the authors' name for it
    ignore: Sequence[str] = (), # the authors' modules that may be there and are not needed
) -> State:                     # the same tensors under our names
    "Rename the authors' weights; ValueError lists names that nobody knows, or says what the sizes can't be read from."
    ours = {theirs: our for our, theirs in modules.items()}
    plain = {name.removeprefix("module."): value for name, value in state_dict.items()}
    unknown = [name for name in plain if name.rpartition(".")[0] not in {*ours, *ignore}]
    if unknown:
        raise ValueError(f"state dict has weights of unknown name: {', '.join(unknown)}; known: {', '.join([*ours, *ignore])}")
    sizes = [f"{modules['image_encoder.project']}.weight", f"{modules['text_encoder.embed']}.weight"]
    missing = [name for name in sizes if name not in plain]
    if missing: raise ValueError(f"state dict lacks {', '.join(missing)}, from which the model's sizes are read")
    return {new: value for name, value in plain.items() if (new := rename(name, ours))}


def check_weights(
    state: State,            # under our names
    own: State,              # the model's parameters
    modules: dict[str, str], # our module: the authors' name for it
) -> None:
    "ValueError, by the authors' names, for weights that are missing, superfluous, or of another shape than the model's."
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    wrong += [name for name in state if name not in own]
    names = ", ".join(rename(name, modules) or name for name in wrong)
    if wrong: raise ValueError(f"these weights are missing, unknown or of a wrong shape in the state dict: {names}")


def build_released(
    cls: type[Matcher],         # SCAN, IMRAM or CAMP
    state_dict: State,          # the authors' weights
    modules: dict[str, str],    # our module: the authors' name for it
    ignore: Sequence[str] = (), # the authors' modules that are not needed
    **options,                  # the model's other arguments
) -> Matcher:                   # variant "released", in the dtype of the weights, in eval mode
    "Build a model whose sizes are read off the authors' weights; ValueError lists weights that are missing, unknown or misshapen."
    state = released_weights(state_dict, modules, ignore)
    project, embed = state["image_encoder.project.weight"], state["text_encoder.embed.weight"]
    both = any(name.endswith("_reverse") for name in state)
    sizes = project.shape[1], len(embed), len(project), embed.shape[1]
    model = cls(*sizes, variant="released", bidirectional=both, **options).to(project.dtype)
    check_weights(state, dict(model.named_parameters()), modules)
    model.load_state_dict(state, strict=False)
    return model.eval()


TEXT = {"text_encoder.embed": "txt_enc.embed", "text_encoder.gru": "txt_enc.rnn"}  # our module: the authors' name
SCAN_MODULES = {**TEXT, "image_encoder.project": "img_enc.fc"}

def one_state(
    states: State | Sequence[State], # SCAN saves two: of its image encoder, and of its text encoder
) -> State:                          # one, with "img_enc." and "txt_enc." before the names
    "SCAN's checkpoint as one state dict. ValueError for another number of them."
    if isinstance(states, dict): return states
    if len(states) != 2: raise ValueError(f"got {len(states)} state dicts: SCAN saves two, of its image encoder and of its text encoder")
    return {f"{part}.{name.removeprefix('module.')}": x for part, state in zip(("img_enc", "txt_enc"), states) for name, x in state.items()}


def imram_modules(
    steps: int,     # K
    direction: str, # "full", "image" or "text"
) -> tuple[dict[str, str], list[str]]: # our module: the authors' name for it; and the authors' modules that are not needed
    "The names in the authors' checkpoints of IMRAM."
    modules, ignore = {**TEXT, "image_encoder.project": "img_enc.fc_local"}, list[str]()
    for asks, suffix in (("text", "t2i"), ("image", "i2t")):
        parts = {f"ram.{asks}.memory.{part}": f"{part}_{suffix}" for part in ("linear", "gate")}
        if steps > 1 and asks in DIRECTIONS.get(direction, ()): modules |= parts
        else: ignore += parts.values()
    return modules, ignore


CAMP_MODULES = {  # our module: the authors' name
    "text_encoder.embed": "embed", "text_encoder.gru": "rnn", "image_encoder.project": "fc",
    "aggregation.project_regions": "img_key_fc", "aggregation.project_words": "txt_key_fc",
    "fuse_regions.linear": "fc_1.0", "fuse_words.linear": "fc_2.0", "matching.layers.0": "fc_out.0", "matching.layers.2": "fc_out.3",
    **{f"pool_{side}.scorer.{k}": f"reduce_layer_{n}.linear.{k}" for n, side in ((1, "regions"), (2, "words")) for k in (0, 2)}}


@singledispatch
def family(cls, *args, **settings) -> Matcher:
    "How the weights of one family of models are read: a function for each, found by its class."
    raise ValueError(f"no released weights are known for {cls.__name__}: from_released is for SCAN, IMRAM and CAMP")


@family.register(SCAN)
def scan_from_released(
    cls: type[SCAN],
    state_dict: State | Sequence[State], # img_enc.fc.*, txt_enc.embed.*, txt_enc.rnn.*; or the list of two that SCAN saves
    direction: str = "text",             # "text" (t-i) or "image" (i-t)
    pooling: str = "mean",               # "mean", "sum", "max" or "lse"
    inverse_temperature: float = 9.0,    # lambda in IMRAM's Eq. 5
    lse_temperature: float = 6.0,        # only for "lse"
) -> Matcher:
    "The authors' SCAN, in the dtype of the weights. ValueError as `build_released`."
    return build_released(cls, one_state(state_dict), SCAN_MODULES, direction=direction, pooling=pooling,
                          inverse_temperature=inverse_temperature, lse_temperature=lse_temperature)


@family.register(IMRAM)
def imram_from_released(
    cls: type[IMRAM],
    state_dict: State,                # img_enc.fc_local.*, txt_enc.*, linear_t2i.*, gate_t2i.*, ...
    steps: int = 3,                   # K
    direction: str = "full",          # "full", "image" or "text"
    inverse_temperature: float = 9.0, # lambda in Eq. 5
    renormalise: bool = False,        # scale x_k to unit length after each memory update
) -> Matcher:
    "The authors' IMRAM, in the dtype of the weights. ValueError as `build_released`."
    return build_released(cls, state_dict, *imram_modules(steps, direction), steps=steps, direction=direction,
                          inverse_temperature=inverse_temperature, renormalise=renormalise)


@family.register(CAMP)
def camp_from_released(
    cls: type[CAMP],
    states: Sequence[State],      # of its image encoder (fc), its text encoder (embed, rnn), its fusion (img_key_fc, ...)
    fusion: str = "concat",       # "concat" or "sum"
    branches: int = 4,            # attention heads of the pooling
    output: str = "probability",  # what `score` gives: "probability", as the released code, or "logit"
) -> Matcher:
    "The authors' CAMP, in the dtype of the weights. ValueError as `build_released`, and for another number of state dicts."
    if len(states) != 3 or not all(isinstance(state, dict) for state in states):
        raise ValueError("expected three state dicts in a list: image encoder (fc), text encoder (embed, rnn), fusion (img_key_fc, ...)")
    one_of("fusion", fusion, ("concat", "sum"))
    merged = {name: weight for state in states for name, weight in state.items()}
    return build_released(cls, merged, CAMP_MODULES, fusion=fusion, branches=branches, output=output)


def from_released(
    cls: type[Matcher], # SCAN, IMRAM, CAMP, or a class made from one of them
    *args,              # the authors' state dict, or dicts, and the family's settings
    **settings,
) -> Matcher:           # variant "released", in the dtype of the weights, in eval mode
    "The authors' weights as a model: `IMRAM.from_released(...)` and its like call this. ValueError for a family without such weights."
    return family.dispatch(cls)(cls, *args, **settings)
