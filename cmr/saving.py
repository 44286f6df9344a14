"""Models by name; saved, loaded, sent to a hub and fetched from one."""

from __future__ import annotations

import importlib
import json
import re
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path

import huggingface_hub
import safetensors.torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors import SafetensorError, safe_open

from cmr import MODEL_HOMES
from cmr.data.vocabulary import Vocabulary
from cmr.files import atomic_write, digest, remove_partial_files
from cmr.matcher import MODELS, Matcher

RETIRED = ("engine", "max_words")  # arguments of earlier versions that changed no score: a config.json may still have them
FILES = ("config.json", "model.safetensors", "vocab.json")


def import_models(
    modules: tuple[str, ...] | list[str] = (),  # names of modules that register models, such as "my_module"
) -> None:
    "Import the package's models, those of installed packages (entry points of the group cmr.models), and one's own. ImportError names it."
    for home in {*MODEL_HOMES.values()}: importlib.import_module(home)
    for entry in entry_points(group="cmr.models"): entry.load()
    for name in modules:
        try: importlib.import_module(name)
        except ModuleNotFoundError as problem:
            if problem.name != name.split(".")[0] and problem.name != name: raise
            raise ImportError(f"no module {name!r}: it is looked for in the current folder and among the installed packages") from problem


def model_class(
    name: str,          # VSE, SCAN, IMRAM, ..., in any case
) -> type[Matcher]:     # the class of that name
    "Find a model by name. ValueError lists the known ones."
    if str(name).lower() not in MODELS: import_models()
    if str(name).lower() not in MODELS: raise ValueError(f"unknown model {name!r}: choose one of {', '.join(sorted(MODELS))}; "
                                                      "one of your own has to be imported first (--import MODULE)")
    return MODELS[str(name).lower()]


def list_models() -> list[str]:
    "Names of all models that can be made: the package's, those of installed packages, and those registered here."
    import_models()
    return sorted(MODELS)


def create_model(
    name: str,        # as `list_models` gives it, in any case
    region_dim: int,  # width of a region's feature
    vocab_size: int,  # words in the vocabulary
    **arguments,      # the model's own
) -> Matcher:
    "Make a model by name. ValueError for an unknown name, or an argument that it does not take."
    cls = model_class(name)
    known = [key for key in cls._hub_mixin_init_parameters if key not in ("self", "region_dim", "vocab_size")]
    unknown = sorted(set(arguments) - set(known))
    if unknown: raise ValueError(f"{name} takes no argument {', '.join(unknown)}: it knows {', '.join(known)}")
    return cls(region_dim=region_dim, vocab_size=vocab_size, **arguments)  # type: ignore[call-arg]


def vocabulary_digest(vocabulary: Vocabulary) -> str:
    "A short digest of the words and their order."
    return digest(json.dumps(vocabulary.words))[:16]


def write_model(
    model: Matcher,
    folder: str | Path,
    vocabulary: Vocabulary | None = None,  # None: the model's own, if it has one
) -> None:
    "Write config.json, model.safetensors and, where there is a vocabulary, vocab.json: all or none."
    folder, vocabulary = Path(folder), vocabulary or model.vocabulary
    config = {"matcher": type(model).__name__, **model.config}
    state = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    metadata = {"format": "pt", **({"vocabulary": vocabulary_digest(vocabulary)} if vocabulary else {})}
    with ExitStack() as files:
        about, weights = (files.enter_context(atomic_write(folder / name)) for name in FILES[:2])
        about.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        weights.write_bytes(safetensors.torch.save(state, metadata=metadata))
        if vocabulary: vocabulary.save(files.enter_context(atomic_write(folder / FILES[2])))


def save(
    model: Matcher,
    vocabulary: Vocabulary, # what it was trained with
    folder: str | Path,     # made where it is not there; an earlier model in it is replaced
) -> None:
    "Write config.json, vocab.json and model.safetensors, all or none. ValueError for another vocabulary, OSError naming the folder."
    if len(vocabulary) != model.vocab_size:
        raise ValueError(f"the vocabulary has {len(vocabulary)} words, this model was built for {model.vocab_size}: "
                         "save the one it was trained with")
    remove_partial_files(folder)
    try: write_model(model, folder, vocabulary)
    except OSError as problem:
        raise OSError(problem.errno, f"saving the model in {folder}: {problem.strerror or problem}") from problem


def fetch(
    where: str | Path, # a folder, or owner/name on the hub
    **options,         # revision, cache_dir, token, force_download, local_files_only
) -> Path:             # a folder
    "The folder of a saved model: the one named, or what the hub has under that name. FileNotFoundError says where was looked."
    path = Path(where)
    if path.is_dir(): return path
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", str(where)) and not path.is_absolute() and not path.parent.is_dir()
    if not named: raise FileNotFoundError(f"no folder {path}: give the folder of a saved model, or owner/name of one on the hub")
    try: found = [Path(huggingface_hub.hf_hub_download(str(where), name, **options)) for name in FILES[:2]]
    except (HfHubHTTPError, EntryNotFoundError, OSError, ValueError) as problem:
        raise FileNotFoundError(f"there is no folder {where}, and the hub gave no model of that name ({type(problem).__name__}: "
                                f"{str(problem).splitlines()[0] if str(problem) else 'no reason given'})") from problem
    try: huggingface_hub.hf_hub_download(str(where), FILES[2], **options)
    except (HfHubHTTPError, EntryNotFoundError): pass  # a model may be there without its vocabulary
    return found[0].parent


def read_config(folder: Path) -> dict:
    "config.json of a saved model. FileNotFoundError says what belongs into the folder, ValueError names the file where it is damaged."
    missing = [name for name in FILES[:2] if not (folder / name).is_file()]
    if missing: raise FileNotFoundError(f"no saved model in {folder}: {' and '.join(missing)} not there. Expected config.json, "
                                        "model.safetensors and vocab.json, as `cmr train` and cmr.save write them")
    try: config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as problem: raise ValueError(f"{folder / 'config.json'} is damaged ({problem}): copy the folder again") from problem
    if not isinstance(config, dict) or "matcher" not in config:
        raise ValueError(f'{folder / "config.json"} does not say which model it is of: it needs "matcher": "VSE" or another name')
    return {key: value for key, value in config.items() if key not in RETIRED}


def read_weights(
    model: Matcher, # as config.json describes it
    path: Path,     # model.safetensors
) -> Matcher:       # the same model, in the dtype of the weights
    "Load weights. ValueError names the file where it is cut short or holds another model's weights."
    try: state = safetensors.torch.load_file(path)
    except SafetensorError as problem:
        raise ValueError(f"{path} is damaged or cut short ({problem}): copy it again or take another checkpoint") from problem
    try: model.load_state_dict(state)
    except RuntimeError as problem:
        raise ValueError(f"{path} holds weights of another model than config.json beside it describes: {problem}") from problem
    return model.to(next(x.dtype for x in state.values() if x.is_floating_point()))


def read_vocabulary(folder: Path, model: Matcher) -> Vocabulary:
    "vocab.json of a saved model. FileNotFoundError, or ValueError where it is not the one that the model was saved with."
    path = folder / "vocab.json"
    if not path.is_file(): raise FileNotFoundError(f"no {path}: without its vocabulary the model cannot read captions; "
                                                   "copy the vocab.json it was saved with")
    vocabulary = model.vocabulary_class.load(path)
    with safe_open(folder / "model.safetensors", "pt") as weights: expected = (weights.metadata() or {}).get("vocabulary")
    if len(vocabulary) != model.vocab_size or expected not in (None, vocabulary_digest(vocabulary)):
        raise ValueError(f"{path} ({len(vocabulary)} words) is not the vocabulary that the model ({model.vocab_size} words) "
                         "was trained with: copy the vocab.json that was saved with model.safetensors")
    return vocabulary


def from_pretrained(
    cls: type[Matcher],        # the class that is expected; Matcher itself: any
    where: str | Path,         # a folder, or owner/name on the hub
    map_location: str = "cpu", # where its weights go
    **options,                 # as for `fetch`
) -> Matcher:                  # in evaluation mode; with its vocabulary, if that is there
    "A saved model. FileNotFoundError or ValueError says which file is missing, damaged or of another model."
    folder = fetch(where, **options)
    config = read_config(folder)
    name = config.pop("matcher")
    if cls is not Matcher and name.lower() != cls.__name__.lower():
        raise ValueError(f"{where} holds a {name}, not a {cls.__name__}: use {name}.from_pretrained or cmr.load")
    try: model = (model_class(name) if cls is Matcher else cls)(**config)
    except (TypeError, ValueError) as problem: raise ValueError(f"{folder / 'config.json'} does not fit {name}: {problem}") from problem
    model = read_weights(model, folder / "model.safetensors").to(map_location).eval()
    if (folder / "vocab.json").is_file(): model.vocabulary = read_vocabulary(folder, model)
    return model


def load(
    where: str | Path, # a folder as `save` wrote it, or owner/name on the hub
    **options,         # as for `fetch`
) -> tuple[Matcher, Vocabulary]: # in evaluation mode, on the CPU
    "A model and its vocabulary. FileNotFoundError or ValueError says which file is missing, damaged or of another model."
    folder = fetch(where, **options)
    model = from_pretrained(Matcher, folder)
    return model, model.vocabulary or read_vocabulary(folder, model)
