"""Which command reads which file, and all cases of damage that follow."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from . import damage as d
from .judge import Case
from .samples import QUICK, SCORES, has

CPU = ("--device", "cpu")
TRAIN = ("--out", "out/run", *QUICK)


def train(data: str, *more: str) -> tuple[str, ...]: return ("train", "--data", data, *TRAIN, *more)
def evaluate(data: str, model: str = "run", *more: str) -> tuple[str, ...]: return ("evaluate", model, "--data", data, *CPU, *more)
def search(data: str, model: str = "run", *more: str) -> tuple[str, ...]: return ("search", model, "a red dog", "--data", data, *CPU, *more)
def compare(data: str, out: str = "out/table") -> tuple[str, ...]:
    return ("compare", "vse", "--data", data, "--epochs", "1", "--embed-dim", "8", *CPU, "--out", out)
def ablate(data: str) -> tuple[str, ...]:
    return ("ablate", "camp", "--rows", "joint-embedding", "--data", data, "--epochs", "1", "--embed-dim", "8", *CPU, "--out", "out/table")


CONVERT_KARPATHY = ("data", "convert", "karpathy/dataset.json", "out/h5", "--features", "karpathy/regions.npy", "--ids", "karpathy/names.txt")
RESUME = ("train", "--out", "part", "--resume", *CPU)


def some(kind: str, file: str, damages: Iterable[tuple[str, d.Damage]], words: tuple[str, ...], needs: tuple[str, ...], own: tuple[str, ...] = (),
         named: tuple[str, ...] = ()) -> Iterator[Case]:
    "The undamaged case first, then each damage."
    yield Case(kind, file, "none", None, words, needs, own, named)
    for name, do in damages: yield Case(kind, file, name, do, words, needs, own, named)


def some_of(damages: Iterable[tuple[str, d.Damage]], step: int, start: int = 0) -> list[tuple[str, d.Damage]]:
    "Every second, third ... of them: for further commands that read the same file through the same door."
    return list(damages)[start::step]


def arrays() -> Iterator[Case]:
    "Features, masks and boxes in .npy files."
    beside = ("train_caps.txt", "no split 'train'", "train_ids.txt", "train_mask.npy")
    both = [*d.in_bytes(), *d.in_array()]
    yield from some("npy features", "scan/train_ims.npy", both, train("scan"), ("scan",), named=beside)
    yield from some("npy features", "scan/test_ims.npy", [*d.few_in_bytes(), *some_of(d.in_array(), 2)], evaluate("scan"), ("scan", "run"), named=("test_caps.txt", "'test'", "test_mask.npy"))
    yield from some("npy features", "scan/train_ims.npy", [*d.few_in_bytes(), *some_of(d.in_array(), 2, 1)], ("data", "convert", "scan", "out/h5"), ("scan",), named=beside)
    if has("check"): yield from some("npy features", "scan/train_ims.npy", [*d.few_in_bytes(), *some_of(d.in_array(), 2)], ("check", "scan"), ("scan",), named=(*beside, "'train'"))
    for words in (search("scan"), compare("scan"), ablate("scan")):
        name = "scan/test_ims.npy" if words[0] == "search" else "scan/train_ims.npy"
        yield from some("npy features", name, d.few_in_bytes(), words, ("scan", "run"), named=("'train'", "'test'"))
    yield from some("npy mask", "scan/train_mask.npy", [*d.few_in_bytes(), *d.in_array()], train("scan"), ("scan",), named=("train_ims.npy",))
    yield from some("npy boxes", "scan/train_boxes.npy", [*d.few_in_bytes(), *d.in_array()], ("data", "convert", "scan", "out/h5"), ("scan",))
    yield from some("npy features", "karpathy/regions.npy", [*d.few_in_bytes(), *some_of(d.in_array(), 2)], CONVERT_KARPATHY, ("karpathy",), named=("names.txt",))
    yield from some("npy pictures", "world/test_pictures.npy", [*d.few_in_bytes(), *some_of(d.in_array(), 2)],
                    search("world", "scene-run", "--figure", "out/hits.png"), ("world", "scene-run"))


def texts() -> Iterator[Case]:
    "Captions and ids, one a line."
    caps, both = ("train_ims.npy", "train_ids.txt"), [*d.in_bytes(3), *d.in_lines()]
    few = [*d.few_in_bytes(), *d.in_lines()]
    yield from some("captions, a line each", "scan/train_caps.txt", both, train("scan"), ("scan",), named=caps)
    yield from some("captions, a line each", "scan/test_caps.txt", few, evaluate("scan"), ("scan", "run"), named=("test_ims.npy",))
    yield from some("captions, a line each", "scan/train_caps.txt", few, ("data", "convert", "scan", "out/h5"), ("scan",), named=caps)
    yield from some("captions, a line each", "scan/test_caps.txt", few, search("scan"), ("scan", "run"), named=("test_ims.npy",))
    if has("check"): yield from some("captions, a line each", "scan/train_caps.txt", few, ("check", "scan"), ("scan",), named=caps)
    yield from some("ids, a line each", "scan/train_ids.txt", both, train("scan"), ("scan",), named=("train_ims.npy",))
    yield from some("ids, a line each", "scan/test_ids.txt", few, search("scan"), ("scan", "run"), named=("test_ims.npy",))
    yield from some("ids, a line each", "karpathy/names.txt", both, CONVERT_KARPATHY, ("karpathy",), named=("regions.npy",))


def hdf5(base: Path) -> Iterator[Case]:
    "Splits in HDF5."
    inside = list(d.in_h5(base / "h5" / "train.h5"))
    yield from some("HDF5", "h5/train.h5", [*d.in_bytes(12), *inside], train("h5"), ("h5",), named=("'train'",))
    yield from some("HDF5", "h5/test.h5", [*d.few_in_bytes(), *some_of(d.in_h5(base / "h5" / "test.h5"), 3)], evaluate("h5"), ("h5", "run"), named=("'test'",))
    yield from some("HDF5", "h5/train.h5", inside[1::3], ("data", "convert", "h5", "out/h5"), ("h5",))
    if has("check"): yield from some("HDF5", "h5/train.h5", inside[2::3], ("check", "h5"), ("h5",))
    yield from some("HDF5", "h5/test.h5", [*d.few_in_bytes(), *inside[::8]], search("h5"), ("h5", "run"), named=("'test'",))
    for words in (compare("h5"), ablate("h5")): yield from some("HDF5", "h5/dev.h5", [*d.few_in_bytes(), *inside[4::20]], words, ("h5",), named=("'dev'",))
    yield from some("HDF5", "h5/train.h5", [*d.few_in_bytes(), *inside[5::12]], RESUME, ("h5", "part"), own=("part",), named=("'train'", "train features"))


def jsons(base: Path) -> Iterator[Case]:
    "Documents: Karpathy's, a vocabulary, a model's settings, a recipe, scenes, results."
    def text(name: str) -> str: return (base / name).read_text(encoding="utf-8")
    def all_of(name: str, most: int = 40) -> list: return [*d.in_bytes(4), *d.in_json(text(name), most)]
    yield from some("Karpathy's json", "karpathy/dataset.json", all_of("karpathy/dataset.json", 80), CONVERT_KARPATHY, ("karpathy",), named=("regions.npy", "names.txt"))
    yield from some("vocabulary", "run/best/vocab.json", all_of("run/best/vocab.json"), evaluate("h5"), ("h5", "run"))
    yield from some("vocabulary", "run/best/vocab.json", d.few_in_bytes(), search("h5"), ("h5", "run"))
    yield from some("model's settings", "run/best/config.json", all_of("run/best/config.json", 60), evaluate("h5"), ("h5", "run"), named=("model.safetensors", "run"))
    yield from some("model's settings", "run/best/config.json", d.few_in_bytes(), search("h5"), ("h5", "run"), named=("run",))
    yield from some("recipe", "part/recipe.json", all_of("part/recipe.json", 100), RESUME, ("h5", "part"), own=("part",), named=("part", "training.pt"))
    yield from some("scenes", "world/test_scenes.json", all_of("world/test_scenes.json", 60), evaluate("world", "scene-run"), ("world", "scene-run"))
    yield from some("results of a comparison", "table/vse-seed0/result.json", all_of("table/vse-seed0/result.json"), compare("h5", "table"), ("h5", "table"), own=("table",))
    for path in sorted((base / "world").glob("*.json")):
        if not path.name.endswith("_scenes.json"):  # what says whose the folder is
            yield from some("scenes' manifest", f"world/{path.name}", all_of(f"world/{path.name}"), evaluate("world", "scene-run"), ("world", "scene-run"))
    if "--vocabulary" in _help("train"):
        yield from some("vocabulary", "run/best/vocab.json", all_of("run/best/vocab.json"), train("h5", "--vocabulary", "run/best/vocab.json"), ("h5", "run"))


def _help(*words: str) -> str:
    from .samples import command
    return command(*words, "--help")


def brought(base: Path) -> Iterator[Case]:
    "Captions in the formats that others publish, and a checkpoint."
    if not has("import", "captions"): return
    for path in sorted((base / "bring").iterdir()):
        name = f"bring/{path.name}"
        inside = d.in_json(path.read_text(), 30) if path.suffix == ".json" else d.in_lines()
        yield from some(f"captions as {path.name}", name, [*d.in_bytes(3), *inside], ("import", "captions", name, "out/data"), ("bring",))
    yield from some("Karpathy's json", "karpathy/dataset.json", [*d.few_in_bytes(), *d.in_json((base / "karpathy/dataset.json").read_text(), 30)],
                    ("import", "captions", "karpathy/dataset.json", "out/data"), ("karpathy",))
    if not has("import", "checkpoint"): return
    path = base / "released/model_best.pth.tar"
    words = ("import", "checkpoint", "released/model_best.pth.tar", "out/model", "--family", "scan", "--vocabulary", "released/vocab.json")
    yield from some("released checkpoint", "released/model_best.pth.tar", [*d.in_bytes(8), *d.in_checkpoint(path)], words, ("released",))


def weights(base: Path) -> Iterator[Case]:
    "Weights, the state of a training, galleries, cut-off scores."
    model = base / "run/best/model.safetensors"
    yield from some("weights", "run/best/model.safetensors", [*d.in_bytes(12), *d.in_tensors(model)], evaluate("h5"), ("h5", "run"), named=("vocab.json",))
    yield from some("weights", "run/best/model.safetensors", [*d.few_in_bytes(), *list(d.in_tensors(model))[::3]], search("h5"), ("h5", "run"), named=("vocab.json",))
    state = base / "part/last/training.pt"
    yield from some("state of a training", "part/last/training.pt", [*d.in_bytes(20), *d.in_checkpoint(state, 100)], RESUME, ("h5", "part"), own=("part",))
    index = base / "index/gallery.safetensors"
    yield from some("gallery", "index/gallery.safetensors", [*d.in_bytes(8), *d.in_tensors(index)],
                    search("h5", "run", "--index", "index/gallery.safetensors"), ("h5", "run", "index"), own=("index",))
    words = ("evaluate", "run", *SCORES)
    for path in sorted((base / "scores").iterdir()):
        if path.name.startswith("."): continue
        inside = d.in_array() if d_kind(path) == "npy" else d.in_json(path.read_text(), 60)
        yield from some("cut-off scores", f"scores/{path.name}", [*d.in_bytes(8), *inside], words, ("big", "run", "scores"), own=("scores",), named=("all.npy",))


def d_kind(path: Path) -> str: return "npy" if path.read_bytes()[:6] == b"\x93NUMPY" else "json"


def out_as_file(path: Path) -> None: path.write_text("a file where a folder should be")
def out_no_room(path: Path) -> None: path.mkdir(mode=0o500)
def out_loop(path: Path) -> None: path.symlink_to(path.name)
def out_folder(path: Path) -> None: (path / "inside").mkdir(parents=True)


def places() -> Iterator[Case]:
    "Where the results shall go: something else is there, or nothing may be written."
    outs = {
        train("h5"): "out", ("data", "convert", "scan", "out/h5"): "out", ("data", "scenes", "--train", "2", "--dev", "2", "--test", "2", "--out", "out/w"): "out",
        compare("h5"): "out", ablate("h5"): "out", CONVERT_KARPATHY: "out",
        evaluate("h5", "run", "--scores", "out/s.npy"): "out", search("h5", "run", "--index", "out/g.safetensors"): "out",
        search("world", "scene-run", "--figure", "out/f.png"): "out",
    }
    if has("import", "captions"): outs["import", "captions", "bring/captions.csv", "out/data"] = "out"
    needs = ("h5", "scan", "run", "world", "scene-run", "karpathy", "bring")
    for words, out in outs.items():
        for name, do in (("a file", out_as_file), ("may not be written", out_no_room), ("a link to itself", out_loop)):
            yield Case("place for results", out, name, do, words, needs)
    for words, out in ((evaluate("h5", "run", "--scores", "out/s.npy"), "out/s.npy"), (search("h5", "run", "--index", "out/g.safetensors"), "out/g.safetensors"),
                       (search("world", "scene-run", "--figure", "out/f.png"), "out/f.png"), (("data", "convert", "scan", "out/h5"), "out/h5/train.h5"),
                       (("data", "scenes", "--train", "2", "--dev", "2", "--test", "2", "--out", "out/w"), "out/w/train.h5")):
        yield Case("place for results", out, "a folder", out_folder, words, needs)
        yield Case("place for results", out, "a pipe", lambda path: (path.parent.mkdir(parents=True), os.mkfifo(path)), words, needs)
    for out in ("scores.txt/", "s.txt", "."): 
        yield Case("place for results", "run", f"scores to {out}", None, evaluate("h5", "run", "--scores", out), needs, named=(out, "s.txt"))


def folders() -> Iterator[Case]:
    "Folders for the data, a model or a run that are none."
    ways = {"missing": d.remove_folder, "empty": d.empty_folder, "a file": d.folder_to_file, "no permission": d.no_permission, "a link to itself": d.folder_to_loop}
    for words, folder, named in ((train("h5"), "h5", ()), (evaluate("h5"), "h5", ("'test'",)), (evaluate("h5"), "run", ()), (search("h5"), "run", ()), (search("h5"), "h5", ("'test'",)),
                                 (("data", "convert", "scan", "out/h5"), "scan", ()), (RESUME, "part", ()), (compare("h5"), "h5", ()),
                                 (("data", "scenes", "--train", "2", "--dev", "2", "--test", "2", "--out", "scan"), "scan", ())):
        for name, do in ways.items():
            if words[:2] == ("data", "scenes") and name in ("missing", "empty"): continue
            yield Case("folder", folder, name, do, words, (*dict.fromkeys((folder, "h5", "run")),), own=(folder,), named=named)
    if has("check"):
        for name, do in ways.items(): yield Case("folder", "h5", name, do, ("check", "h5"), ("h5",))


MODULES = {"raises": "raise ValueError('no\\nway')", "a syntax error": "def (", "exits": "raise SystemExit(7)", "no module": None, "zero bytes": "\0\0",
           "a model without methods": "from cmr.matcher import register\n@register\nclass Mine: pass",
           "a name that is taken": "from cmr.matcher import register, Matcher\n@register\nclass VSE(Matcher): pass", "a division": "1/0",
           "needs what is not there": "import nowhere_at_all", "latin-1": b"x = 'caf\xe9'"}


def put_module(content: str | bytes | None, path: Path) -> None:
    if content is None: path.unlink()
    else: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def modules() -> Iterator[Case]:
    "Modules with models of one's own that are none."
    for words in (("models", "--import", "mine"), evaluate("h5", "run", "--import", "mine")):
        damages = [(name, partial(put_module, content)) for name, content in MODULES.items()]
        yield from some("module", "mine.py", damages, words, ("h5", "run", "mine.py"), named=("mine", "nowhere_at_all", "Mine"))


def all_cases(base: Path, every: int) -> list[Case]:
    "The catalogue: every case, or one of so many; and all undamaged ones."
    found = [*arrays(), *texts(), *hdf5(base), *jsons(base), *brought(base), *weights(base), *places(), *folders(), *modules()]
    return [case for i, case in enumerate(found) if case.do is None or i % every == 0]
