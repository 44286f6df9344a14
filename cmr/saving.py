"""Models by name; saved, loaded, sent to a hub and fetched from one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

import huggingface_hub
import pydantic
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from cmr import MODEL_HOMES
from cmr.data.extractors import ExtractorInfo
from cmr.data.vocabulary import Vocabulary
from cmr.files import (FromFile, atomic_write, check_memory, digest, need_folder, parse_json, printable, read_json, read_tensors,
                       remove_partial_files, write_tensors)
from cmr.matcher import MODELS, Matcher

RETIRED = ("engine", "max_words")  # arguments of earlier versions that changed no score: a config.json may still have them
FILES = ("config.json", "model.safetensors", "vocab.json")
HUB_OPTIONS = ("revision", "cache_dir", "token", "force_download", "local_files_only")
OURS = ("runs", "data", "best", "last", "dev", "test")  # parts of the paths that `cmr` writes: no owner and no name on a hub
ENDINGS = (".safetensors", ".json", ".pt", ".pth", ".tar", ".h5", ".npy")
PRECISIONS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MOST_STEPS = 100  # of a model that looks K times; papers use 3, and time grows with K
AGAIN = "copy the whole folder again"


# --- by name -----------------------------------------------------------------------------------------------------------------------

@contextmanager
def importing(name: str) -> Iterator[None]:
    "ImportError that names a module for whatever importing it raises: it is a program of one's own, and may do anything, also end."
    shown = printable(repr(name), 60)
    try: yield
    except (Exception, SystemExit) as problem:
        if isinstance(problem, ModuleNotFoundError) and problem.name in (name, name.split(".")[0]):
            raise ImportError(f"no module {shown}: it is looked for in the current folder and among the installed packages") from problem
        said = f"{type(problem).__name__}: {printable(problem, 200)}".removesuffix(": ")
        raise ImportError(f"importing the module {shown} ended in {said}: mend it, or leave it out") from problem


def import_models(modules: tuple[str, ...] | list[str] = ()) -> None:  # names of modules that register models, such as "my_module"
    "Import the package's models, those of installed packages (entry points of the group cmr.models), and one's own. ImportError names it."
    for home in {*MODEL_HOMES.values()}: importlib.import_module(home)
    for entry in entry_points(group="cmr.models"):
        with importing(entry.module): entry.load()
    for name in modules:
        with importing(name): importlib.import_module(name)


def model_class(name: str) -> type[Matcher]:  # VSE, SCAN, IMRAM, ..., in any case -> the class of that name
    "Find a model by name. ValueError lists the known ones."
    if str(name).lower() not in MODELS: import_models()
    if str(name).lower() not in MODELS:
        raise ValueError(f"unknown model {printable(repr(name), 60)}: choose one of {', '.join(sorted(MODELS))}; "
                         "one of your own has to be imported first (--import MODULE)")
    return MODELS[str(name).lower()]


def list_models() -> list[str]:
    "Names of all models that can be made: the package's, those of installed packages, and those registered here."
    import_models()
    return sorted(MODELS)


def check_arguments(
    name: str,                     # for the message
    cls: type[Matcher], arguments: Mapping[str, Any], # by name; region_dim and vocab_size may be among them
) -> None:
    "ValueError for an argument that a model does not take, and for more steps than make sense."
    taken = inspect.signature(cls.__init__).parameters
    known = [key for key in cls._hub_mixin_init_parameters if key not in ("self", "region_dim", "vocab_size")]
    unknown = [] if any(p.kind is p.VAR_KEYWORD for p in taken.values()) else sorted(set(arguments) - {*known, "region_dim", "vocab_size"})
    if unknown:
        named = ", ".join(printable(key, 60) for key in unknown[:5])
        raise ValueError(f"{name} takes no argument {named}: it knows {', '.join(known)}")
    steps = arguments.get("steps")
    if isinstance(steps, int) and steps > MOST_STEPS: raise ValueError(f"steps={printable(steps, 30)}: at most {MOST_STEPS} are taken")


def create_model(
    name: str,        # as `list_models` gives it, in any case
    region_dim: int,  # width of a region's feature
    vocab_size: int,  # words in the vocabulary
    **arguments,      # the model's own
) -> Matcher:
    "Make a model by name. ValueError for an unknown name, or an argument that it does not take."
    cls = model_class(name)
    check_arguments(name, cls, arguments)
    return cls(region_dim=region_dim, vocab_size=vocab_size, **arguments)  # type: ignore[call-arg]


# --- saved -------------------------------------------------------------------------------------------------------------------------

def vocabulary_digest(vocabulary: Vocabulary) -> str:
    "A short digest of the words and their order."
    return digest(json.dumps(vocabulary.words))[:16]


def config_digest(config: Mapping[str, Any]) -> str:
    "A short digest of what config.json says, whatever its layout and without what earlier versions wrote into it."
    return digest(json.dumps({key: value for key, value in config.items() if key not in RETIRED}, sort_keys=True))[:16]


def weights_digest(state: Mapping[str, Tensor]) -> str:
    "A short digest of weights, their names, types and shapes."
    return digest(*(part for name, x in sorted(state.items()) for part in (f"{name} {x.dtype} {tuple(x.shape)}", x)))[:16]


def write_model(
    model: Matcher, folder: str | Path, vocabulary: Vocabulary | None = None, # None: the model's own, if it has one
) -> None:
    """Write config.json, model.safetensors and, where there is a vocabulary, vocab.json: all, or none where that fails; a compiled
    model (`torch.compile`) as the one that it was made of.

    The weights hold digests of the other two, so that files of two models are never taken for one. While a model trains
    only its weights change, and they are one file: killed at any moment, the folder holds the old model or the new one."""
    folder, vocabulary, model = Path(folder), vocabulary or model.vocabulary, getattr(model, "_orig_mod", model)
    learned_from = {"extractor": model.extractor.model_dump()} if isinstance(model.extractor, ExtractorInfo) else {}
    config = {"matcher": type(model).__name__, **learned_from, **model.config}
    state = model.state_dict()
    words = {"vocabulary": vocabulary_digest(vocabulary)} if vocabulary else {}
    about = {"config": config_digest(config), "weights": weights_digest(state), **words}
    with ExitStack() as files:
        described = files.enter_context(atomic_write(folder / FILES[0]))  # its name appears last: where it is, the others are
        described.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        if vocabulary: vocabulary.save(files.enter_context(atomic_write(folder / FILES[2])))
        write_tensors(folder / FILES[1], state, about)
    if not vocabulary: (folder / FILES[2]).unlink(missing_ok=True)        # of an earlier model


def save(
    model: Matcher, vocabulary: Vocabulary, # what it was trained with
    folder: str | Path,     # made where it is not there; an earlier model in it is replaced
) -> None:
    "Write config.json, vocab.json and model.safetensors, all or none. ValueError for another vocabulary, OSError naming the folder."
    if len(vocabulary) != model.vocab_size:
        raise ValueError(f"the vocabulary has {len(vocabulary)} words, this model was built for {model.vocab_size}: "
                         "save the one it was trained with")
    remove_partial_files(folder)
    try: write_model(model, folder, vocabulary)
    except OSError as problem: raise OSError(problem.errno, f"saving the model in {folder}: {problem.strerror or problem}") from problem


def hub_card(
    model: Matcher, recipe: Mapping[str, Any] = {}, # settings that it was trained by
    data: str = "",                   # that it learned from, in words
    report: Any = None,               # a `cmr.recall.Report`
    tested: str = "",                 # what that was measured on, in words
    licence: str = "other",           # of the weights, as the hub names licences
    name: str = "OWNER/NAME",         # its own there
) -> huggingface_hub.ModelCard:
    "README.md for the hub: what the model is, learned from and reaches, how it was trained, and three lines that use it."
    kind = type(model).__name__
    found = [] if report is None else [
        huggingface_hub.EvalResult(task_type="image-text-retrieval", dataset_type="image-text", dataset_name=tested or "test",
                                   metric_type="recall", metric_name=key, metric_value=round(float(getattr(report, key)), 1))
        for key in ("text_r1", "image_r1", "rsum")]
    about = huggingface_hub.ModelCardData(license=licence, library_name="cmr", tags=["image-text-retrieval", kind.lower()],
                                          model_name=kind if found else None, eval_results=found or None)
    extractor = f"by `{model.extractor}`" if model.extractor else "by an extractor that it doesn't name: ask whoever trained it"
    settings = "".join(f"| {key} | `{json.dumps(value)}` |\n" for key, value in recipe.items())
    reached = f"On {tested or 'the test split'}, in percent, with 95% intervals over images:\n\n```text\n{report and report.table()}\n```"
    parts = [f"---\n{about.to_yaml()}\n---\n\n# {kind}\n\nAn image-text matcher of the package cmr: "
             "it scores every picture against every sentence.",
             f"**Learned from** {data or 'data that its author does not name'}. **Region features** {extractor}.",
             f"## What it reaches\n\n{reached}" if found else "",
             f"## How it was trained\n\n| setting | |\n|---|---|\n{settings}".rstrip() if settings else "",
             f"## Use\n\n```python\nimport cmr\nmodel, vocabulary = cmr.load(\"{name}\")\nmodel.encode(\"a sentence\")\n```\n\n"
             f"{sum(p.numel() for p in model.parameters()):,} weights. Licence of the weights: {licence}."]
    return huggingface_hub.ModelCard("\n\n".join(part for part in parts if part) + "\n")


# --- found -------------------------------------------------------------------------------------------------------------------------

def near_folders(path: Path) -> list[Path]:  # that is not there -> at most three
    "Folders that a mistyped path may mean: with a like name beside it, or of its name in a folder of a like name."
    def like(wanted: Path) -> list[Path]:
        try: beside = {there.name: there for there in wanted.parent.iterdir() if there.is_dir()}
        except OSError: return []
        return [beside[name] for name in difflib.get_close_matches(wanted.name, beside, 3, 0.7)]
    if path.parent.is_dir(): return like(path)
    return [folder / path.name for folder in like(path.parent) if (folder / path.name).is_dir()]


def is_hub_name(where: str | Path) -> bool:
    "Whether something can only be owner/name on the hub: one slash, and nothing about it that looks like a folder of this machine."
    found = re.fullmatch(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)", str(where))
    if not found or {*found.groups()} & {*OURS} or Path(str(where)).suffix in ENDINGS: return False
    return not (Path(found[1]).exists() or near_folders(Path(str(where))))


def fetch(
    where: str | Path, # a folder of a model or of a run, or owner/name on the hub
    **options,         # revision, cache_dir, token, force_download, local_files_only
) -> Path:             # a folder
    "The folder of a saved model: the one named, or what the hub has under that name. FileNotFoundError says where was looked."
    if unknown := sorted(set(options) - {*HUB_OPTIONS}):
        raise ValueError(f"a saved model is loaded as it is: no option {', '.join(unknown)}, only {', '.join(HUB_OPTIONS)} for the hub")
    path, shown = Path(where).expanduser(), printable(where, 300)
    if path.is_dir(): return model_folder(path)
    if path.exists(): need_folder(path, "saved model", f"give its folder, which has {FILES[0]} and {FILES[1]}")
    if not is_hub_name(where):
        near = " or ".join(printable(folder) for folder in near_folders(path))
        raise FileNotFoundError(f"no folder {shown}{f' (did you mean {near}?)' if near else ''}: give the folder of a saved model, "
                                "or owner/name of one on the hub")
    try: found = [Path(huggingface_hub.hf_hub_download(str(where), name, **options)) for name in FILES[:2]]
    except (HfHubHTTPError, EntryNotFoundError, OSError, ValueError) as problem:
        raise FileNotFoundError(f"there is no folder {shown}, and the hub gave no model of that name ({type(problem).__name__}: "
                                f"{printable(problem, 200) or 'no reason given'})") from problem
    try: huggingface_hub.hf_hub_download(str(where), FILES[2], **options)
    except (HfHubHTTPError, EntryNotFoundError): pass  # a model may be there without its vocabulary
    return found[0].parent


def model_folder(path: Path) -> Path:
    "The folder of a model: the one given, or the best (else the last) of a run. One that is there but not whole is not passed over."
    if os.path.lexists(path / FILES[0]): return path
    return next((path / name for name in ("best", "last") if any(os.path.lexists(path / name / file) for file in FILES)), path)


# --- config.json -------------------------------------------------------------------------------------------------------------------

class Config(FromFile):
    "config.json of a saved model: its name, and beside it the arguments that its class was made with."
    model_config = ConfigDict(extra="allow")
    matcher: str
    extractor: ExtractorInfo | None = None  # who made the features that it learned from


class Arguments(FromFile):
    "The arguments of a class, as its constructor describes them."


def arguments_of(cls: type[Matcher]) -> type[Arguments]:
    "What a constructor's own annotations say about its arguments; one without an annotation takes anything."
    try: kinds = get_type_hints(cls.__init__)
    except Exception: kinds = {}  # a name that only its author's type checker knows
    fields: dict[str, Any] = {f"argument{i}": (kinds.get(key, Any), Field(... if p.default is p.empty else p.default, alias=key))
                              for i, (key, p) in enumerate(inspect.signature(cls.__init__).parameters.items())
                              if key != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return pydantic.create_model(cls.__name__, __base__=Arguments, **fields)


def read_config(folder: Path) -> dict:
    "config.json of a saved model. FileNotFoundError says what belongs into the folder, ValueError names the file where it is damaged."
    missing = [name for name in FILES[:2] if not (folder / name).is_file()]
    if missing: raise FileNotFoundError(f"no saved model in {printable(folder)}: {' and '.join(missing)} not there. Expected config.json, "
                                        "model.safetensors and vocab.json, as `cmr train` and cmr.save write them")
    found = read_json(folder / FILES[0], Config, 'the config.json of a saved model, with "matcher": "VSE" or another name', AGAIN)
    return {key: value for key, value in found.model_dump(exclude_unset=True).items() if key not in RETIRED}


def read_arguments(cls: type[Matcher], config: dict[str, Any], path: Path) -> dict[str, Any]:  # config: without its name
    "The arguments of a class, of the kinds that its constructor names. ValueError names the file, the argument and what was found."
    fits = f"{printable(path)} does not fit {cls.__name__}"
    try: check_arguments(cls.__name__, cls, config)
    except ValueError as problem: raise ValueError(f"{fits}: {problem}") from problem
    try: checked = parse_json(json.dumps(config), arguments_of(cls), path, f"a config.json of {cls.__name__}", AGAIN)
    except pydantic.PydanticUserError: return config  # annotations of a class of one's own that say nothing about json
    return {**config, **checked.model_dump(by_alias=True, exclude_unset=True)}


# --- model.safetensors -------------------------------------------------------------------------------------------------------------

@contextmanager
def at_most_parameters(count: int) -> Iterator[None]:
    "ValueError as soon as a model that is made registers more parameters."
    left = [count]
    def counted(module, name, parameter):
        left[0] -= parameter is not None
        if left[0] < 0: raise ValueError(f"it describes more than {count} arrays of weights")
    hook = register_module_parameter_registration_hook(counted)
    try: yield
    finally: hook.remove()


class Unfilled(TorchFunctionMode):
    "Inside, nothing is drawn. On the meta device there is nothing to draw for, and PyTorch would import its compiler first: a second."
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (kwargs or {}).get("tensor", *args[:1]) if func in (nn.init.normal_, Tensor.normal_) else func(*args, **(kwargs or {}))


def make_checked(
    cls: type[Matcher], arguments: dict[str, Any], tensors: dict[str, Tensor], # what model.safetensors holds
    folder: Path,                # for messages
) -> Matcher:
    "Make a model, without its numbers first: what config.json declares is held against the weights before memory is taken for it."
    try:
        try:
            with torch.device("meta"), Unfilled(), at_most_parameters(4 * len(tensors) + 100): outline = cls(**arguments)
            check_weights(outline, tensors, folder / FILES[1])
        except (RuntimeError, TypeError): pass  # a class of one's own that computes when it is made
        check_memory(sum(x.numel() * x.element_size() for x in tensors.values()), printable(folder / FILES[1]))
        model = cls(**arguments)
    except WrongWeights: raise
    except Exception as problem:          # whatever a constructor does with what stood in a file
        raise ValueError(f"{printable(folder / FILES[0])} does not fit {cls.__name__}: {printable(problem, 200)}") from problem
    check_weights(model, tensors, folder / FILES[1])
    return model


class WrongWeights(ValueError): "What model.safetensors holds is not what config.json describes."


def check_weights(model: Matcher, tensors: dict[str, Tensor], path: Path) -> None:  # model: also one on the meta device
    "WrongWeights, a ValueError, where some are missing, too many, of other shapes or kinds than the model's, NaN or infinite."
    wanted, source = model.state_dict(), printable(path)
    other = f"{source} holds weights of another model than config.json beside it describes"
    missing, more = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing: raise WrongWeights(f"{other}: {missing[0]} is missing{f', and {len(missing) - 1} more' if missing[1:] else ''}; {AGAIN}")
    if more:
        others = f", nor are {len(more) - 1} more" if more[1:] else ""
        raise WrongWeights(f"{other}: {printable(more[0], 80)} is none of {type(model).__name__}'s{others}; {AGAIN}")
    for name, x in sorted(tensors.items()):
        if x.shape != wanted[name].shape:
            raise WrongWeights(f"{other}: {name} has shape {tuple(x.shape)}, expected {tuple(wanted[name].shape)}; {AGAIN}")
        fine = x.dtype in PRECISIONS if wanted[name].is_floating_point() else x.dtype == wanted[name].dtype
        if not fine: raise WrongWeights(f"{source}: {name} holds {_kind(x)}, expected {_kind(wanted[name])}; {AGAIN}")
        if x.is_floating_point() and not x.isfinite().all():
            raise WrongWeights(f"{source}: NaN or infinity in {name}: the model was damaged by its training, take an earlier checkpoint; "
                               "a mask that is so on purpose is registered with persistent=False")


def _kind(x: Tensor) -> str: return str(x.dtype).removeprefix("torch.")


def fill(
    model: Matcher,              # as config.json describes it
    tensors: dict[str, Tensor],  # checked by `check_weights`
    path: Path,                  # for the message
) -> Matcher:                    # the same model, in the precision of the weights
    "Put weights into a model. ValueError where they are of several precisions."
    own = model.state_dict()
    precisions = {x.dtype for name, x in tensors.items() if own[name].is_floating_point()}
    if all(x.dtype == own[name].dtype for name, x in tensors.items()): precisions = set()
    if len(precisions) > 1:
        named = " and ".join(sorted(str(x).removeprefix("torch.") for x in precisions))
        raise ValueError(f"{printable(path)} holds weights in {named}: save them in one precision")
    if precisions: model = model.to(precisions.pop())  # first, or double precision would pass through single
    model.load_state_dict(tensors)
    return model


# --- loaded ------------------------------------------------------------------------------------------------------------------------

def read_vocabulary(
    folder: Path, model: Matcher, expected: str | None = None, # its digest, where model.safetensors says it
) -> Vocabulary:
    "vocab.json of a saved model. FileNotFoundError, or ValueError where it is not the one that the model was saved with."
    path = folder / FILES[2]
    if not path.is_file(): raise FileNotFoundError(f"no {printable(path)}: without its vocabulary the model cannot read captions; "
                                                   "copy the vocab.json it was saved with")
    vocabulary = model.vocabulary_class.load(path)
    if len(vocabulary) != model.vocab_size or expected not in (None, vocabulary_digest(vocabulary)):
        raise ValueError(f"{printable(path)} ({len(vocabulary)} words) is not the vocabulary that the model ({model.vocab_size} words) "
                         "was trained with: copy the vocab.json that was saved with model.safetensors")
    return vocabulary


def from_pretrained(
    cls: type[Matcher],        # the class that is expected; Matcher itself: any
    where: str | Path,         # a folder, or owner/name on the hub
    map_location: str = "cpu", # where its weights go
    **options,                 # as for `fetch`
) -> Matcher:                  # in evaluation mode; with its vocabulary, if that is there
    """A saved model, every weight of it from its file.

    FileNotFoundError or ValueError says which file is missing, damaged or of another model."""
    folder = fetch(where, **options)
    config = read_config(folder)
    tensors, about = read_tensors(folder / FILES[1], "the weights of a model", "copy it again or take another checkpoint")
    if about.get("weights") not in (None, weights_digest(tensors)):
        raise ValueError(f"{printable(folder / FILES[1])} is damaged: its numbers are not those that were written; {AGAIN}")
    if about.get("config") not in (None, config_digest(config)):
        raise ValueError(f"{printable(folder / FILES[0])} is not the one that model.safetensors was saved with (changed by hand, of "
                         f"another model, or saving was cut off): {AGAIN}, or save the model again")
    name, extractor = config.pop("matcher"), config.pop("extractor", None)
    if cls is not Matcher and name.lower() != cls.__name__.lower():
        raise ValueError(f"{printable(where, 300)} holds a {printable(name, 60)}, not a {cls.__name__}: "
                         "use the from_pretrained of that class, or cmr.load")
    try: kind = model_class(name) if cls is Matcher else cls
    except ValueError as problem: raise ValueError(f"{printable(folder / FILES[0])}: {problem}") from problem
    model = make_checked(kind, read_arguments(kind, config, folder / FILES[0]), tensors, folder)
    model = fill(model, tensors, folder / FILES[1]).to(map_location).eval()
    model.extractor = None if extractor is None else ExtractorInfo(**extractor)
    if (folder / FILES[2]).is_file(): model.vocabulary = read_vocabulary(folder, model, about.get("vocabulary"))
    return model


def from_mixin(
    cls: type[Matcher], model_id: str | Path,
    map_location: str = "cpu",
    **options,  # huggingface's, and all that it found in config.json
) -> Matcher:
    "The same, for those who come by the `from_pretrained` of huggingface's mixin."
    return from_pretrained(cls, model_id, map_location, **{key: options[key] for key in HUB_OPTIONS if key in options})


def load(
    where: str | Path, # as `fetch` takes it
    **options,         # as for `fetch`
) -> tuple[Matcher, Vocabulary]: # in evaluation mode, on the CPU
    "A model and its vocabulary. FileNotFoundError or ValueError says which file is missing, damaged or of another model."
    folder = fetch(where, **options)
    model = from_pretrained(Matcher, folder)
    return model, model.vocabulary or read_vocabulary(folder, model)
