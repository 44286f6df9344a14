"""A recipe holds everything that decides how a training comes out, besides the data."""

from __future__ import annotations

import ast
import inspect
import json
import math
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import torch

from cmr.files import atomic_write
from cmr.losses import LOSSES, Loss, make_loss
from cmr.matcher import Matcher
from cmr.saving import create_model, model_class


@dataclass(frozen=True)
class Recipe:
    "Everything that decides how a run comes out, besides the data. None: the model's own. ValueError names the setting that cannot be."
    name: str                           # what the run is called
    matcher: str = "imram"              # which model: vse, scan, imram, ...
    args: dict = field(default_factory=dict) # the model's arguments besides region_dim and vocab_size
    epochs: int = 30                    # passes over the training captions
    batch_size: int = 128               # pairs in a batch, 2 or more
    lr: float = 2e-4                    # step size at the start
    decay_every: int = 15               # schedule "step": epochs between two decays
    decay: float = 0.1                  # what the step size is multiplied by then
    decays: int | None = None           # how often that happens at most; None: as often as it comes round
    clip: float = 2.0                   # longest gradient let through; 0: no limit
    margin: float | None = None         # of the loss, where it has one
    negatives: str | None = None        # "hardest" or "all", where the loss has a choice
    warmup_steps: int | None = None     # steps with all negatives first
    min_count: int = 4                  # words seen less often are unknown
    marks: bool = False                 # <start> and <end> count as words
    max_words: int | None = None        # longer captions are cut
    standardise: bool = False           # give regions mean 0 and standard deviation 1 first
    patience: int | None = None         # stop after so many epochs without a better R@sum
    seed: int = 0                       # decides first weights and the order of batches
    save_every: float = 10.0            # minutes between two checkpoints inside an epoch
    frozen: list = field(default_factory=list) # parts of the model that don't learn, such as "text_encoder"
    after: Recipe | None = None         # trained first; this one begins with its best weights
    loss: str | None = None             # "triplet", "matching_bce", or one of your own (cmr.losses.register_loss)
    loss_args: dict = field(default_factory=dict) # the loss's settings besides margin and negatives
    optimiser: str = "adam"             # "adam" or "adamw"
    weight_decay: float = 0.0           # of the optimiser
    schedule: str = "step"              # of the step size: "step", "cosine" or "constant"
    accumulate: int = 1                 # batches whose gradients are added up for one step

    def __post_init__(self):
        if isinstance(self.after, dict): object.__setattr__(self, "after", Recipe(**from_older(self.after))) # as it stands in json
        check_recipe(self)


OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("step", "cosine", "constant")


def check_recipe(
    recipe: Recipe,
) -> None:
    "ValueError naming the first setting that cannot be."
    def need(fine, message):
        if not fine: raise ValueError(f"recipe {recipe.name!r}: {message}")
    need(recipe.batch_size >= 2, f"batch_size={recipe.batch_size}: a batch of one has no negatives; use 2 or more")
    for key, known in (("negatives", ("hardest", "all", None)), ("optimiser", tuple(OPTIMISERS)), ("schedule", SCHEDULES)):
        words = " or ".join(f'"{word}"' for word in known if word)
        need(getattr(recipe, key) in known, f"{key}={getattr(recipe, key)!r}: choose {words}")
    for key in ("epochs", "lr", "decay_every", "decay", "margin", "min_count", "accumulate"):
        need(getattr(recipe, key) is None or getattr(recipe, key) > 0, f"{key}={getattr(recipe, key)} must be above 0")
    for key in ("clip", "warmup_steps", "save_every", "seed", "weight_decay"):
        need(getattr(recipe, key) is None or getattr(recipe, key) >= 0, f"{key}={getattr(recipe, key)} must not be negative")
    need(recipe.decays is None or recipe.decays >= 0, f"decays={recipe.decays}: use 0 or more, or None")
    need(recipe.patience is None or recipe.patience > 0, f"patience={recipe.patience}: use 1 or more, or None")


def learning_rate(
    recipe: Recipe,
    done: float,    # epochs done, with the part of the one that is running
) -> float:
    "The step size: `decay` every `decay_every` epochs, `decays` times at most; or half a cosine down to zero; or always the same."
    if recipe.schedule == "constant": return recipe.lr
    if recipe.schedule == "cosine": return recipe.lr * (1 + math.cos(math.pi * min(done / recipe.epochs, 1))) / 2
    times = int(done) // recipe.decay_every
    return recipe.lr * recipe.decay ** (times if recipe.decays is None else min(times, recipe.decays))


def make_optimiser(
    model: Matcher,
    recipe: Recipe,
) -> torch.optim.Optimizer:
    "The recipe's optimiser for all weights that learn."
    learning = [p for p in model.parameters() if p.requires_grad]
    return OPTIMISERS[recipe.optimiser](learning, lr=recipe.lr, weight_decay=recipe.weight_decay)


def model_arguments(
    name: str,    # of a model
) -> list[str]:   # names of its arguments besides region_dim and vocab_size
    "What can stand in a recipe's `args`. ValueError for an unknown model."
    return [name for name in inspect.signature(model_class(name)).parameters if name not in ("region_dim", "vocab_size")]


def freeze(
    model: Matcher,
    parts: list[str],  # names of its parts
) -> None:
    "Let some parts of a model not learn. ValueError for a part it does not have."
    there = dict(model.named_children())
    for part in parts:
        if part not in there: raise ValueError(f"{type(model).__name__} has no part {part!r} to freeze: it has {', '.join(there)}")
        there[part].requires_grad_(False)


def build(
    recipe: Recipe,
    region_dim: int,   # width of the data's features
    vocab_size: int,   # words of its vocabulary
) -> Matcher:
    "The recipe's model with its first weights, which the seed decides. ValueError for an argument or a part it does not have."
    for key in ("embed_dim", "word_dim"):
        if recipe.args.get(key, 1) < 1: raise ValueError(f"{key}={recipe.args[key]}: a width must be 1 or more")
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.matcher, region_dim, vocab_size, **recipe.args)
    freeze(model, recipe.frozen)
    return model


def loss_settings(
    loss: Loss | type[Loss],
) -> list[str]:  # names
    "What can be set of a loss."
    return [setting.name for setting in fields(loss)] if is_dataclass(loss) else []


def loss_for(
    model: Matcher,
    recipe: Recipe,
) -> Loss:
    "The loss that the recipe names, else the model's own, with the recipe's settings; a Note where a setting changes nothing."
    asked = {key: getattr(recipe, key) for key in ("margin", "negatives") if getattr(recipe, key) is not None}
    loss = make_loss(recipe.loss, **recipe.loss_args) if recipe.loss else model.default_loss()
    known, name = loss_settings(loss), recipe.loss or type(loss).__name__
    for key in sorted(asked.keys() - set(known)):
        warnings.warn(f"{key}={asked.pop(key)} changes nothing: the loss {name} has no {key}", stacklevel=2)
    wrong = sorted(recipe.loss_args.keys() - set(known))
    if wrong: raise ValueError(f"the loss {name} has no {', '.join(wrong)}: it has {', '.join(known)}")
    return replace(loss, **({} if recipe.loss else recipe.loss_args), **asked) if known else loss  # type: ignore[type-var]


def resolve(
    recipe: Recipe,
    model: Matcher,  # made by it
) -> Recipe:
    "The recipe with what it leaves to the model filled in: two recipes that resolve to the same train the same."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = loss_for(model, recipe)
    name = next((name for name, cls in LOSSES.items() if cls is type(loss)), type(loss).__name__)
    settings = {key: getattr(loss, key) for key in loss_settings(loss)}
    return replace(recipe, loss=name, margin=settings.pop("margin", None), negatives=settings.pop("negatives", None), loss_args=settings,
                   warmup_steps=model.warmup_steps if recipe.warmup_steps is None else recipe.warmup_steps,
                   max_words=model.max_words if recipe.max_words is None else recipe.max_words)


# Recipes of the package

FULL = {"embed_dim": 1024, "word_dim": 300, "steps": 3, "direction": "full"}
CAMP_FULL = Recipe("camp-f30k", "camp", {"embed_dim": 1024, "word_dim": 300}, epochs=40, lr=2e-4, decay_every=15, decays=1,
                   warmup_steps=2000, max_words=50, patience=10)
CAMP_SMALL = Recipe("camp-f8k-small", "camp", {"embed_dim": 128, "word_dim": 100}, epochs=5, batch_size=32, lr=2e-3, decay_every=3,
                    decays=1, warmup_steps=2800, max_words=50, standardise=True)


def in_stages(
    recipe: Recipe,
    *epochs: int,  # of each of the three stages
) -> Recipe:
    "CAMP's released schedule: cross-attention alone; then fusion, with frozen encoders; then everything, by a tenth of the step size."
    form = replace(recipe, args={**recipe.args, "variant": "released"}, decays=0)
    cosine = {**form.args, "fusion": False, "matching": "cosine"}
    first = replace(form, name=f"{recipe.name}-attention", args=cosine, epochs=epochs[0], warmup_steps=0)
    second = replace(form, name=f"{recipe.name}-fusion", epochs=epochs[1], frozen=["image_encoder", "text_encoder"], after=first)
    return replace(form, name=f"{recipe.name}-released", epochs=epochs[2], lr=recipe.lr / 10, warmup_steps=0, after=second)


RECIPES = {recipe.name: recipe for recipe in (
    Recipe("imram-f30k", args={**FULL, "inverse_temperature": 9.0}),
    Recipe("imram-coco", args={**FULL, "inverse_temperature": 11.0}, epochs=20, lr=5e-4, decay_every=10),
    Recipe("imram-f8k", args={**FULL, "inverse_temperature": 9.0}),
    Recipe("f8k-small", args={"embed_dim": 128, "word_dim": 100, "steps": 2, "direction": "text", "inverse_temperature": 9.0},
           epochs=8, batch_size=64, lr=1e-3, decay_every=6, warmup_steps=200, standardise=True),
    Recipe("scenes", args={"embed_dim": 64, "word_dim": 64, "steps": 3, "direction": "text", "inverse_temperature": 9.0},
           epochs=5, batch_size=32, lr=2e-3, decay_every=4, min_count=1, standardise=True, save_every=1.0),
    CAMP_FULL, CAMP_SMALL, replace(CAMP_FULL, name="camp-f8k"), replace(CAMP_FULL, name="camp-coco"),
    in_stages(CAMP_FULL, 15, 15, 25), in_stages(CAMP_SMALL, 3, 1, 2),
)}


# A recipe for another model, and with other settings

SHARED = {"embed_dim", "word_dim", "inverse_temperature"}  # arguments that mean the same for every model that has them


def in_one_stage(
    recipe: Recipe,
) -> Recipe:
    "A recipe without what it comes after: step size, schedule and warm-up of the first stage, for the epochs of all stages."
    if recipe.after is None: return recipe
    first = in_one_stage(recipe.after)
    begun = {key: getattr(first, key) for key in ("lr", "schedule", "decay_every", "decay", "decays", "warmup_steps")}
    return replace(recipe, epochs=recipe.epochs + first.epochs, after=None, **begun)


def for_model(
    recipe: Recipe,
    name: str,      # of another model
) -> Recipe:        # the same settings for it
    "A recipe's counterpart for another model: sizes and temperature stay where it has them; loss, margin, longest caption are its own."
    if name.lower() == recipe.matcher.lower(): return recipe
    args = {key: value for key, value in recipe.args.items() if key in SHARED & set(model_arguments(name))}
    whole, needed = in_one_stage(recipe), model_class(name).warmup_steps
    warmup = whole.warmup_steps if (whole.warmup_steps or 0) > needed else None  # a longer warm-up is the data's need, not the model's
    return replace(whole, matcher=name.lower(), args=args, frozen=[], margin=None, negatives=None, max_words=None, warmup_steps=warmup,
                   loss=None, loss_args={})


def read_value(
    text: str,   # as it was typed
) -> object:     # 5, 0.5, True, None, [1, 2], ... or the text itself
    "A value in the words of JSON or of Python."
    for read in (json.loads, ast.literal_eval):
        try: return read(text)
        except (ValueError, SyntaxError): pass
    return text


def has_kind(
    value: object,
    kind: object,  # a type, a union of types, or nothing that can be told
) -> bool:
    "Whether a value is of the type that a setting is annotated with; True where the annotation doesn't tell."
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return any(has_kind(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal: return value in typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    if not isinstance(kind, type): return True
    if isinstance(value, bool): return kind in (bool, object)
    return isinstance(value, (int, float) if kind is float else kind)


def fitted(
    key: str,
    value: object,  # as typed, or ready
    owner: type,    # the class that has the setting
) -> object:
    "The value of a setting, in the type it is annotated with. ValueError where it is of another."
    try: kind = typing.get_type_hints(owner if is_dataclass(owner) else owner.__init__).get(key)  # type: ignore[misc]
    except (NameError, TypeError): kind = None  # annotations that cannot be read tell nothing
    found = read_value(value) if isinstance(value, str) else value
    if has_kind(found, kind): return found
    if has_kind(value, kind): return value      # a name that reads as a number
    raise ValueError(f"{key}={value}: {kind.__name__ if isinstance(kind, type) else kind} is expected")


FIXED = ("matcher", "args", "after", "loss_args")  # fields that have other words on the command line


def default_loss(
    recipe: Recipe,
) -> Loss:
    "The loss of the model that a recipe describes, made small for the purpose."
    small = {key: min(recipe.args.get(key, 8), 8) for key in ("embed_dim", "word_dim") if key in model_arguments(recipe.matcher)}
    return build(replace(recipe, args={**recipe.args, **small}), 8, 8).default_loss()


OWN = [setting.name for setting in fields(Recipe) if setting.name not in ("matcher", "args", "after", "loss_args")]


def owner_of(
    key: str,
    recipe: Recipe,
) -> tuple[str, type] | None:  # the field it goes to ("" for the recipe's own), and the class that has it; None: nobody's
    "Whose setting it is: the recipe's, else its loss's, else its model's."
    if key in OWN: return "", Recipe
    if recipe.loss in LOSSES and key in loss_settings(LOSSES[recipe.loss]): return "loss_args", LOSSES[recipe.loss]
    if key in model_arguments(recipe.matcher): return "args", model_class(recipe.matcher)
    if recipe.loss is None and key in loss_settings(loss := default_loss(recipe)): return "loss_args", type(loss)
    return None


def unknown_settings(
    recipe: Recipe,
    settings: Mapping[str, object], # by name
) -> list[str]:
    "Those that neither the recipe nor its loss nor its model has."
    if "loss" in settings: recipe = replace(recipe, loss=str(settings["loss"]))  # which loss it is decides what can be set
    return [key for key in settings if owner_of(key, recipe) is None]


def change(
    recipe: Recipe,
    settings: Mapping[str, object], # by name: a field of the recipe, else a setting of its loss, else an argument of its model
) -> Recipe:
    "The recipe with other settings, and what it comes after with those that it has. ValueError lists what there is for an unknown one."
    if unknown := unknown_settings(recipe, settings):
        loss = LOSSES[recipe.loss] if recipe.loss in LOSSES else type(default_loss(recipe))
        raise ValueError(f"no setting {', '.join(unknown)}: the recipe has {', '.join(OWN)}; the loss {loss.__name__} has "
                         f"{', '.join(loss_settings(loss))}; {recipe.matcher} has {', '.join(model_arguments(recipe.matcher))}")
    for key in sorted(settings, key=lambda key: key != "loss"):
        place, owner = owner_of(key, recipe) or ("", Recipe)
        value = fitted(key, settings[key], owner)
        recipe = replace(recipe, **({place: {**getattr(recipe, place), key: value}} if place else {key: value}))
    if recipe.after is None: return recipe
    odd = {"name", *unknown_settings(recipe.after, settings)}
    return replace(recipe, after=change(recipe.after, {key: value for key, value in settings.items() if key not in odd}))


# Recipes as files

OWN_MARGIN = ("devise", "order", "dvsa", "pvse")  # models whose own margin is not 0.2


def from_older(
    content: dict,  # a recipe as json or a checkpoint has it
) -> dict:
    "A recipe in today's words: before it could name a loss, it said itself what is the model's own now (margin 0.2, hardest negatives)."
    if "loss" in content: return content
    args = dict(content.get("args", {}))
    args.pop("engine", None)
    found = {**content, "args": args}
    if "max_words" in args: found["max_words"] = min(filter(None, (args.pop("max_words"), content.get("max_words"))), default=10**6)
    if found.get("negatives") == "hardest": found["negatives"] = None
    if found.get("margin") == 0.2 and found.get("matcher") not in OWN_MARGIN: found["margin"] = None
    return found


def write_recipe(
    recipe: Recipe,
    data_folder: str | Path,
    out: Path,      # folder of the run
) -> None:
    "recipe.json: the recipe, and which data it was used on."
    content = json.dumps({**asdict(recipe), "data": str(data_folder)}, indent=2)
    with atomic_write(out / "recipe.json") as partial: partial.write_text(content + "\n", encoding="utf-8")


def read_recipe(
    out: str | Path,           # folder of a run
) -> tuple[Recipe, Path]:      # and the data folder it was used on
    "What `write_recipe` wrote; FileNotFoundError or ValueError names the file."
    path = Path(out) / "recipe.json"
    if not path.is_file(): raise FileNotFoundError(f"no run in {out}: {path} is missing; start the run without resume")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        data = Path(content.pop("data"))
        return Recipe(**from_older(content)), data
    except (TypeError, KeyError, ValueError, AttributeError) as problem: raise ValueError(f"{path} is no recipe ({problem})") from problem
