"""Any bytes, and any value of any kind in any member, of every format that is read: status 0 or 2, one line, nothing half-written."""

import ast
import json
import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cmr.cli import app

CPU = ["--device", "cpu"]
QUICK = ["--model", "vse", "--epochs", "1", "--batch-size", "8", "--embed-dim", "4", "--set", "word_dim=3", *CPU]
FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large])


# --- what is tried ---------------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=20)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6)
dtypes = st.sampled_from(["f4", "f8", "f2", "i8", "u1", "?", "c8", "U4", "S4", "V8", "M8[s]", "g", ">f4"])
shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@st.composite
def arrays(draw):
    "An array of any kind and shape, with what is no number in it now and then."
    array = np.zeros(draw(shapes), draw(dtypes))
    if array.dtype.kind in "fc" and array.size:
        with np.errstate(over="ignore"): array.reshape(-1)[draw(st.integers(0, array.size - 1))] = draw(st.floats(allow_nan=True))
    return array


@st.composite
def broken(draw, content: bytes):
    "Bytes of a file: any, or the good ones cut, or with some of them changed."
    way = draw(st.integers(0, 2))
    if way == 0: return draw(st.binary(max_size=200))
    if way == 1: return content[:draw(st.integers(0, len(content) - 1))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))): changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def places(content, at=()):
    "Every place in nested lists and dicts."
    if at: yield at
    if isinstance(content, dict): keys = list(content)
    else: keys = range(len(content)) if isinstance(content, list) else ()
    for key in keys: yield from places(content[key], (*at, key))


@st.composite
def changed(draw, text: str):
    "A json document with any value at any place, or another document, as text."
    content = json.loads(text)
    if draw(st.booleans()):
        place = draw(st.sampled_from(list(places(content))))
        holder = content
        for key in place[:-1]: holder = holder[key]
        holder[place[-1]] = draw(values)
    else: content = draw(values)
    return json.dumps(content)


# --- how it is judged ------------------------------------------------------------------------------------------------------------

def judged(*words, leave: Path | None = None) -> int:
    "Run a command that may end with 0 or 2 (check: 1, too), with one line of error and no unfinished file; its status."
    result = CliRunner().invoke(app, [str(word) for word in words])
    said = result.output
    assert result.exit_code in ((0, 1, 2) if words[0] == "check" else (0, 2)), (words, result.exception, said[-500:])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in said and "an error of the package" not in said, said[-500:]
    if result.exit_code == 2: assert sum(line.startswith("Error:") for line in said.replace("\r", "\n").splitlines()) == 1, said[-500:]
    if leave: assert not [path for path in leave.rglob("*.part*")], said
    return result.exit_code


def has(*words) -> bool: return CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    "Small valid files of every kind. Nobody writes into it."
    folder = tmp_path_factory.mktemp("good")
    scan = folder / "scan"
    scan.mkdir()
    for n, split in ((6, "train"), (3, "dev"), (3, "test")):
        np.save(scan / f"{split}_ims.npy", np.random.default_rng(n).normal(size=(n, 2, 4)).astype(np.float32))
        np.save(scan / f"{split}_mask.npy", np.ones((n, 2), bool))
        (scan / f"{split}_caps.txt").write_text("".join(f"a {c} dog runs {i % 2}\n" for i, c in enumerate(["red", "blue"] * n)))
        (scan / f"{split}_ids.txt").write_text("".join(f"{split}-{i}\n" for i in range(n)))
    def done(*words): assert judged(*words) == 0, words
    done("data", "convert", scan, folder / "h5")
    done("train", "--data", folder / "h5", "--out", folder / "run", *QUICK)
    done("train", "--data", folder / "h5", "--out", folder / "part", *QUICK, "--epochs", 2, "--max-steps", 1)
    done("search", folder / "run", "a red dog", "--data", folder / "h5", *CPU, "--index", folder / "g.safetensors")
    done("data", "scenes", "--train", 2, "--dev", 2, "--test", 2, "--out", folder / "world")
    done("train", "--data", folder / "world", "--out", folder / "scene-run", *QUICK)
    done("compare", "vse", "--data", folder / "h5", "--epochs", 1, "--embed-dim", 4, *CPU, "--out", folder / "table")
    done("evaluate", folder / "run", "--data", folder / "h5", *CPU, "--scores", folder / "s.npy")
    return folder


@pytest.fixture
def copied(good, tmp_path):
    "copied(names): these of the good files, fresh, in a folder of one's own."
    def copy(*names) -> Path:
        for name in names:
            to = tmp_path / name
            if to.is_dir(): shutil.rmtree(to)
            if (good / name).is_dir(): shutil.copytree(good / name, to, symlinks=True)
            elif (good / name).is_file(): shutil.copy(good / name, to)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return tmp_path
    return copy


def evaluate(at: Path, data: str = "h5") -> int: return judged("evaluate", at / "run", "--data", at / data, *CPU, leave=at)


# --- arrays and lines ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["test_ims.npy", "test_mask.npy"])
@FEW
@given(data=st.data())
def test_npy(name, copied, data):
    at = copied("scan", "run")
    path = at / "scan" / name
    if data.draw(st.booleans()):
        with open(path, "wb") as file: np.save(file, data.draw(arrays()), allow_pickle=False)
    else: path.write_bytes(data.draw(broken(path.read_bytes())))
    evaluate(at, "scan")


@pytest.mark.parametrize("name", ["test_caps.txt", "test_ids.txt"])
@FEW
@given(data=st.data())
def test_lines(name, copied, data):
    at = copied("scan", "run")
    path = at / "scan" / name
    if data.draw(st.booleans()): path.write_bytes(data.draw(broken(path.read_bytes())))
    else: path.write_text("\n".join(data.draw(st.lists(st.text(max_size=30), max_size=8))), encoding="utf-8", errors="replace", newline="")
    evaluate(at, "scan")
    judged("data", "convert", at / "scan", at / "out", leave=at)


# --- HDF5 ------------------------------------------------------------------------------------------------------------------------

@FEW
@given(data=st.data())
def test_hdf5(copied, data):
    at = copied("h5", "run")
    path = at / "h5" / "test.h5"
    with h5py.File(path, "r+") as file:
        name = data.draw(st.sampled_from(sorted(file)))
        del file[name]
        way = data.draw(st.integers(0, 3))
        array = data.draw(arrays())
        if way == 1: file.create_group(name)
        elif way == 2: file.create_dataset(name, data=data.draw(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), max_size=8)),
                                           dtype=h5py.string_dtype())
        elif way == 3 and array.dtype.kind not in "UM": file[name] = array
    evaluate(at)
    judged("data", "convert", at / "h5", at / "out", leave=at)


@FEW
@given(data=st.data())
def test_hdf5_cut_short(copied, data):
    at = copied("h5", "run")
    path = at / "h5" / "test.h5"
    content = path.read_bytes()
    path.write_bytes(data.draw(st.binary(max_size=50)) if data.draw(st.booleans()) else content[:data.draw(st.integers(0, len(content) - 1))])
    assert evaluate(at) == 2


# --- a model ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["config.json", "vocab.json"])
@FEW
@given(data=st.data())
def test_json_of_a_model(name, copied, data):
    at = copied("h5", "run")
    path = at / "run" / "best" / name
    if data.draw(st.booleans()): path.write_bytes(data.draw(broken(path.read_bytes())))
    else: path.write_text(data.draw(changed(path.read_text())))
    evaluate(at)


def put_tensors(path: Path, data) -> None:
    "Any array as one of the tensors, any text about the file, any header, any bytes."
    way = data.draw(st.integers(0, 3))
    if way == 0: path.write_bytes(data.draw(broken(path.read_bytes())))
    elif way == 1:
        header = data.draw(values.map(json.dumps)).encode()
        path.write_bytes(struct.pack("<Q", data.draw(st.sampled_from([len(header), 2**40, 0]))) + header + bytes(64))
    else:
        with safetensors.safe_open(path, "pt") as file: tensors, about = {k: file.get_tensor(k).clone() for k in file.keys()}, file.metadata()  # noqa: SIM118
        array = data.draw(arrays().filter(lambda x: x.dtype.kind in "fiub" and x.dtype.itemsize < 16 and x.dtype.isnative))
        if way == 2: tensors[data.draw(st.sampled_from([*tensors, "nobody"]))] = torch.from_numpy(np.array(array))
        else: about = {key: data.draw(st.text(max_size=20) | values.map(json.dumps)) for key in about or {"about": ""}}
        safetensors.torch.save_file(tensors, path, about)


@FEW
@given(data=st.data())
def test_weights(copied, data):
    at = copied("h5", "run")
    put_tensors(at / "run" / "best" / "model.safetensors", data)
    evaluate(at)


@FEW
@given(data=st.data())
def test_gallery(copied, data):
    at = copied("h5", "run", "g.safetensors")
    put_tensors(at / "g.safetensors", data)
    judged("search", at / "run", "a red dog", "--data", at / "h5", *CPU, "--index", at / "g.safetensors", leave=at)


# --- runs and results ------------------------------------------------------------------------------------------------------------

def resume(at: Path) -> int: return judged("train", "--out", at / "part", "--data", at / "h5", "--resume", *CPU, "--max-steps", 2, leave=at)


@FEW
@given(data=st.data())
def test_recipe(copied, data):
    at = copied("h5", "part")
    path = at / "part" / "recipe.json"
    if data.draw(st.booleans()): path.write_bytes(data.draw(broken(path.read_bytes())))
    else:
        text = data.draw(changed(path.read_text()))
        path.write_text(text)
    resume(at)


@FEW
@given(data=st.data())
def test_state_of_a_training(copied, data):
    at = copied("h5", "part")
    path = at / "part" / "last" / "training.pt"
    if data.draw(st.booleans()): path.write_bytes(data.draw(broken(path.read_bytes())))
    else:
        state = torch.load(path, weights_only=True)
        place = data.draw(st.sampled_from([place for place in places(state) if len(place) < 4]))
        holder = state
        for key in place[:-1]: holder = holder[key]
        holder[place[-1]] = data.draw(values | st.just(torch.zeros(3)))
        torch.save(state, path)
    resume(at)


@FEW
@given(data=st.data())
def test_results_of_a_comparison(copied, data):
    at = copied("h5", "table")
    path = at / "table" / "vse-seed0" / "result.json"
    if data.draw(st.booleans()): path.write_bytes(data.draw(broken(path.read_bytes())))
    else: path.write_text(data.draw(changed(path.read_text())))
    judged("compare", "vse", "--data", at / "h5", "--epochs", 1, "--embed-dim", 4, *CPU, "--out", at / "table", leave=at)


def notes_of_scores(folder: Path) -> list[Path]: return [path for path in folder.glob("*s.npy*") if path.name != "s.npy" and not path.name.endswith(".part")]


@FEW
@given(data=st.data())
def test_scores_and_their_notes(good, copied, data):
    at = copied("h5", "run", "s.npy", *(path.name for path in notes_of_scores(good)))
    for path in (at / "s.npy", *notes_of_scores(at)):
        if data.draw(st.booleans()): continue
        content = path.read_bytes()
        if path.suffix == ".npy" or data.draw(st.booleans()): path.write_bytes(data.draw(broken(content)))
        else: path.write_text(data.draw(changed(content.decode())))
    judged("evaluate", at / "run", "--data", at / "h5", *CPU, "--scores", at / "s.npy")


@FEW
@given(data=st.data())
def test_what_a_world_says_about_itself(copied, data):
    at = copied("world", "scene-run")
    path = data.draw(st.sampled_from(sorted((at / "world").glob("*.json"))))
    if data.draw(st.booleans()): path.write_bytes(data.draw(broken(path.read_bytes())))
    else: path.write_text(data.draw(changed(path.read_text())))
    judged("evaluate", at / "scene-run", "--data", at / "world", *CPU, leave=at)


# --- captions of others ----------------------------------------------------------------------------------------------------------

IMAGES = [{"filename": f"{i}.jpg", "split": split, "sentences": [{"raw": f"a dog {i} {k}", "tokens": ["a", "dog"], "sentid": k} for k in range(2)]}
          for i, split in enumerate(["train"] * 6 + ["val"] * 3 + ["test"] * 3)]
KARPATHY = json.dumps({"images": IMAGES, "dataset": "x"})
BROUGHT = {
    "dataset.json": KARPATHY,
    "coco.json": json.dumps({"images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)],
                             "annotations": [{"id": i, "image_id": i // 2, "caption": f"a dog {i}"} for i in range(8)]}),
    "lavis.json": json.dumps([{"image": f"{i}.jpg", "caption": ["a dog", "a cat"]} for i in range(6)]),
    "lines.jsonl": "".join(json.dumps({"image": f"{i}.jpg", "caption": "a dog"}) + "\n" for i in range(6)),
    "captions.csv": "image,caption\n" + "".join(f"{i}.jpg,a dog\n" for i in range(6)),
    "results.csv": "image_name| comment_number| comment\n" + "".join(f"{i}.jpg| 0| a dog\n" for i in range(6)),
    "results.token": "".join(f"{i}.jpg#0\ta dog\n" for i in range(6)),
}


@FEW
@given(data=st.data())
def test_karpathys_json(tmp_path, data):
    path = tmp_path / "dataset.json"
    np.save(tmp_path / "regions.npy", np.ones((12, 2, 4), np.float32))
    if data.draw(st.booleans()): path.write_bytes(data.draw(broken(KARPATHY.encode())))
    else: path.write_text(data.draw(changed(KARPATHY)))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    judged("data", "convert", path, tmp_path / "out", "--features", tmp_path / "regions.npy", leave=tmp_path)
    assert {found.name for found in tmp_path.iterdir()} <= {"dataset.json", "regions.npy", "out"}


@pytest.mark.parametrize("name", BROUGHT)
@FEW
@given(data=st.data())
def test_captions_in_formats_that_people_bring(name, tmp_path, data):
    if not has("import", "captions"): pytest.skip("no such command")
    path, text = tmp_path / name, BROUGHT[name]
    if name.endswith(".json") and data.draw(st.booleans()): path.write_text(data.draw(changed(text)))
    elif data.draw(st.booleans()): path.write_bytes(data.draw(broken(text.encode())))
    else: path.write_text(text.replace("a dog", data.draw(st.text(max_size=12)), 1), encoding="utf-8", errors="replace", newline="")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    judged("import", "captions", path, tmp_path / "out", leave=tmp_path)
    assert {found.name for found in tmp_path.iterdir()} <= {name, "out"}


# --- one door --------------------------------------------------------------------------------------------------------------------

METHODS = {"open", "read_text", "read_bytes", "memmap", "open_memmap", "File", "load_file", "safe_open", "from_file", "fromfile", "genfromtxt", "loadtxt",
           "reader", "DictReader", "validate_json", "model_validate_json", "read_csv", "imread", "ZipFile", "TarFile"}
LOADERS = {f"{module}.{name}" for module in ("np", "numpy", "torch", "json", "pickle", "yaml") for name in ("load", "loads")}
NAMES = METHODS - {"read_text", "read_bytes"}  # cmr.files has functions of these two names
ALLOWED = {  # (module, what is called): why it opens nothing from outside
    ("cli/app.py", "os.open"): "the null device, where a closed pipe's output goes",
    ("data/captions.py", "csv.reader"): "parses a text that read_text let in",
    ("data/datasets.py", "h5py.File"): "writes a split",
    ("data/datasets.py", "h5py.h5d.open"): "a member that h5_member let in, opened again without a cache",
    ("data/download.py", "open"): "writes what comes from a server, and reads it again for its digest",
    ("data/download.py", "tarfile.open"): "a downloaded archive, held against its digest; its members are picked by name and unpacked with care",
    ("data/download.py", "zipfile.ZipFile"): "a downloaded archive, as above",
    ("data/download.py", "member.open"): "a member of it",
    ("data/photos.py", "h5py.File"): "writes features",
    ("data/photos.py", "Image.open"): "bytes of a picture, in the formats that are listed there",
    ("data/photos.py", "path.read_bytes"): "a picture's bytes, for Image.open and for a digest",
    ("fast/sparse.py", "info.read_text"): "the system's description of the processor",
    ("training/compare.py", "info.read_text"): "the same",
    ("training/compare.py", "json.loads"): "a recipe that was just turned into text",
}


def opened(code: str) -> set[str]:
    "What a module calls that opens or parses a file: np.load, open, json.loads, path.read_text, ... but for the doors themselves."
    found = set()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call): continue
        called = ast.unparse(node.func)
        method = isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and not called.startswith("files.")
        if method or called in LOADERS or isinstance(node.func, ast.Name) and called in NAMES: found.add(called)
    return found


def test_nothing_but_the_doors_opens_a_file_from_outside():
    root = Path(__file__).parent.parent / "cmr"
    found = {(str(path.relative_to(root)), call) for path in sorted(root.rglob("*.py")) if path.name != "files.py" for call in opened(path.read_text(encoding="utf-8"))}
    assert found <= ALLOWED.keys(), sorted(found - ALLOWED.keys())
    assert ALLOWED.keys() <= found, f"no longer there: {sorted(ALLOWED.keys() - found)}"
    assert all(ALLOWED.values())


@pytest.mark.parametrize("code", ["open(p)", "np.load(p)", "h5py.File(p)", "p.read_text()", "p.open()", "json.loads(t)", "torch.load(p)", "csv.reader(f)",
                                  "np.lib.format.open_memmap(p)", "safetensors.torch.load_file(p)", "safe_open(p)", "Image.open(p)"])
def test_the_search_for_openers_finds_them(code):
    assert opened(f"def f(p):\n    return [{code}]") == {code.split("(")[0]}
    assert not opened("files.read_text(p); read_text(p); read_json(p, dict, 'x'); open_npy(p); saving.load(p)")
