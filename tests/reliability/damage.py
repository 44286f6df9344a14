"""Ways to damage a file: in its bytes, and in what it holds. Each is a name and a function that damages the file at a path."""

import copy
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.torch
import torch

Damage = Callable[[Path], None]
ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\nError: a second line"
DEEP = 100_000


class Runs:
    "What a malicious pickle holds: a command that leaves a file behind."
    def __reduce__(self): return os.system, ("echo run > PICKLE_WAS_RUN",)


# --- bytes -----------------------------------------------------------------------------------------------------------------------

def remove(path: Path) -> None: path.unlink()
def empty(path: Path) -> None: path.write_bytes(b"")
def put(content: bytes, path: Path) -> None: path.write_bytes(content)
def cut(share: float, path: Path) -> None: path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
def cut_to(size: int, path: Path) -> None: path.write_bytes(path.read_bytes()[:size])
def add(content: bytes, path: Path) -> None: path.write_bytes(path.read_bytes() + content)
def no_permission(path: Path) -> None: path.chmod(0)


def flip(seed: int, path: Path) -> None:
    "Turn one bit at a place drawn by the seed."
    content, dice = bytearray(path.read_bytes()), random.Random(seed)
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(to: str, path: Path) -> None:
    path.unlink()
    path.symlink_to(to)


def zipped() -> bytes:
    "An archive that is no array and no checkpoint."
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive: archive.writestr("a.txt", "hello")
    return content.getvalue()


def checkpoint(content: Any) -> bytes:
    "What torch.save writes."
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


OTHER_FILES = {
    "a pickle that runs a command": pickle.dumps(Runs()),
    "an old pickle that runs a command": pickle.dumps(Runs(), protocol=0),
    "a pickle": pickle.dumps({"a": [1, 2]}),
    "a PyTorch checkpoint": checkpoint({"model": torch.zeros(2)}),
    "a checkpoint that runs a command": checkpoint({"model": Runs()}),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "a gzip file": b"\x1f\x8b\x08" + bytes(100),
    "a zip archive": zipped(),
    "random bytes": random.Random(0).randbytes(500),
    "zero bytes": bytes(500),
    "text": b"a man on a horse\n" * 20,
}


def in_bytes(flips: int = 6) -> Iterator[tuple[str, Damage]]:
    "What can happen to any file."
    yield from {"missing": remove, "empty": empty, "a folder": as_folder, "no permission": no_permission, "a pipe": as_pipe,
                "a link to itself": lambda path: as_link(path.name, path), "a link to nothing": partial(as_link, "nowhere/at/all")}.items()
    for share in (.1, .5, .9): yield f"cut to {share:.0%}", partial(cut, share)
    for size in (1, 8): yield f"cut to {size} bytes", partial(cut_to, size)
    yield "last byte cut", lambda path: cut_to(path.stat().st_size - 1, path)
    for seed in range(flips): yield f"bit flipped ({seed})", partial(flip, seed)
    for name, content in OTHER_FILES.items(): yield f"{name} instead", partial(put, content)


def few_in_bytes() -> Iterator[tuple[str, Damage]]:
    "A short selection of these, for further commands that read the same file."
    kept = "missing", "empty", "a folder", "no permission", "cut to 50%", "a pickle that runs a command instead", "random bytes instead"
    return ((name, damage) for name, damage in in_bytes() if name in kept)


# --- lines -----------------------------------------------------------------------------------------------------------------------

def change_lines(change: Callable[[list[str]], list[str]], path: Path) -> None:
    path.write_text("".join(line + "\n" for line in change(path.read_text(encoding="utf-8").splitlines())), encoding="utf-8")


def in_lines() -> Iterator[tuple[str, Damage]]:
    "What can happen to a text with one entry a line."
    changes = {
        "last line missing": lambda x: x[:-1], "one line more": lambda x: [*x, x[-1] + " more"], "two lines swapped": lambda x: [x[1], x[0], *x[2:]],
        "an empty line": lambda x: [*x[:3], "", *x[4:]], "a line of blanks": lambda x: [*x[:3], " \t ", *x[4:]],
        "a line twice": lambda x: [x[0], x[0], *x[2:]], "only empty lines": lambda x: [""] * len(x),
        "a line of a million characters": lambda x: ["a " * 500_000, *x[1:]], "a NUL character": lambda x: ["a\0b", *x[1:]],
        "terminal escapes": lambda x: [x[0] + " \x1b[31mred\x1b]0;t\x07", *x[1:]], "a line separator": lambda x: [x[0] + "\u2028more", *x[1:]],
        "../victim as name": lambda x: ["../victim", *x[1:]], "an absolute path as name": lambda x: ["/etc/passwd", *x[1:]],
        "other letters": lambda x: ["\u4e00\u4e8c \u202e\u0301", *x[1:]],
    }
    for name, change in changes.items(): yield name, partial(change_lines, change)
    yield "byte order mark", lambda path: put(b"\xef\xbb\xbf" + path.read_bytes(), path)
    yield "line ends of Windows", lambda path: put(path.read_bytes().replace(b"\n", b"\r\n"), path)
    yield "line ends of old Macs", lambda path: put(path.read_bytes().replace(b"\n", b"\r"), path)
    yield "latin-1", lambda path: put("café\n".encode("latin-1") + path.read_bytes().split(b"\n", 1)[1], path)
    yield "UTF-16", lambda path: put(path.read_text().encode("utf-16"), path)
    yield "no line end at the end", lambda path: put(path.read_bytes().rstrip(b"\n"), path)


# --- json ------------------------------------------------------------------------------------------------------------------------

WRONG = {"null": None, "true": True, "-1": -1, "2^70": 2**70, "1.5": 1.5, "a text": "wrong", "an empty text": "", "a list": [], "a dict": {},
         "NaN": float("nan"), "infinity": float("inf"), "escapes": ESCAPES, "../victim": "../victim", "0": 0,
         "a list in a list": [[[1]]], "a dict in a dict": {"a": {"b": 1}}, "half a surrogate": "\ud800", "a long text": "a" * 200_000}
WHOLE = {"null": "null", "a number": "7", "a text": '"a"', "a list": "[]", "a dict": "{}", "a list of numbers": "[1, 2]", "NaN": "NaN",
         "deep lists": "[" * DEEP, "deep lists, closed": "[" * DEEP + "]" * DEEP, "deep dicts": '{"a":' * DEEP, "no end": '{"a": "b',
         "two documents": "{} {}", "python": "{'a': None}", "a comment": "// hello\n{}"}


def places(content: Any, at: tuple = ()) -> Iterator[tuple]:
    "Where something stands in nested lists and dicts; of a list the first entry only, of a dict the first eight."
    if at: yield at
    if isinstance(content, dict):
        for key in list(content)[:40]: yield from places(content[key], (*at, key))
    elif isinstance(content, list | tuple) and content: yield from places(content[0], (*at, 0))


def at_place(content: Any, place: tuple) -> tuple[Any, Any]:
    "What holds the place, and the key in it."
    for key in place[:-1]: content = content[key]
    return content, place[-1]


def changed(content: Any, place: tuple, value: Any) -> Any:
    "A copy with another value at a place."
    content = copy.deepcopy(content)
    if isinstance(at_place(content, place)[0], tuple): return content
    holder, key = at_place(content, place)
    holder[key] = value
    return content


def without(content: Any, place: tuple) -> Any:
    "A copy with nothing at a place."
    content = copy.deepcopy(content)
    holder, key = at_place(content, place)
    if not isinstance(holder, tuple): del holder[key]
    return content


def put_json(content: Any, path: Path) -> None: path.write_text(json.dumps(content), encoding="utf-8")


def in_json(text: str, most: int = 70, seed: int = 0) -> Iterator[tuple[str, Damage]]:
    "What can happen to a json document: something missing or of a wrong kind at each place, or another document."
    content, dice, found = json.loads(text), random.Random(seed), []
    for place in places(content):
        where = ".".join(map(str, place))[:60]
        found.append((f"{where} missing", partial(put_json, without(content, place))))
        found += [(f"{where} is {name}", partial(put_json, changed(content, place, value))) for name, value in WRONG.items()]
    yield from dice.sample(found, min(most, len(found)))
    for name, whole in WHOLE.items(): yield f"the whole is {name}", partial(put, whole.encode())
    yield "byte order mark", lambda path: put(b"\xef\xbb\xbf" + path.read_bytes(), path)
    yield "latin-1 in it", lambda path: put(path.read_bytes() + b"\xe9", path)
    if isinstance(content, dict):
        yield "a key too many", partial(put_json, {**content, "nobody_knows": 1})
        key = next(iter(content))
        yield "a key twice", partial(put, text.rstrip().removesuffix("}").encode() + f", {json.dumps(key)}: 0}}".encode())


# --- arrays ----------------------------------------------------------------------------------------------------------------------

def header(shape: str, dtype: str = "'<f4'", order: str = "False", end: str = "\n") -> bytes:
    "The beginning of an .npy file that declares anything."
    text = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (len(text) + 11) % 64) + end.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def put_array(make: Callable[[np.ndarray], Any], path: Path) -> None:
    made = make(np.load(path))
    with open(path, "wb") as file: np.save(file, made, allow_pickle=True)


def with_value(value: float, array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float64) if array.dtype.kind != "f" else array.copy()
    array.reshape(-1)[0] = value
    return array


def objects(x: np.ndarray) -> np.ndarray:
    "Rows of different lengths."
    rows = np.empty(len(x), object)
    for i in range(len(x)): rows[i] = x[i][:1 + i % max(1, x.shape[1] if x.ndim > 1 else 1)] if x.ndim > 1 else [1] * (i + 1)
    return rows


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN in it": partial(with_value, np.nan), "infinity in it": partial(with_value, np.inf), "minus infinity in it": partial(with_value, -np.inf),
    "float64 beyond float32": lambda x: with_value(1e300, x.astype(np.float64)), "float16": lambda x: x.astype(np.float16),
    "float16 that overflowed": lambda x: (x.astype(np.float32) * 1e9).astype(np.float16),
    "no axis": lambda x: np.float32(1), "one axis": lambda x: x.reshape(-1), "one axis more": lambda x: x[None], "transposed": lambda x: x.T,
    "no rows": lambda x: x[:0], "a row less": lambda x: x[:-1], "a row more": lambda x: np.concatenate([x, x[-1:]]),
    "rows swapped": lambda x: x[::-1].copy(), "one row": lambda x: x[:1], "width 0": lambda x: x[..., :0], "a narrower width": lambda x: x[..., :-1],
    "whole numbers": lambda x: x.astype(np.int64), "bytes as numbers": lambda x: np.abs(x).astype(np.uint8), "true and false": lambda x: x > 0,
    "complex": lambda x: x.astype(np.complex64), "texts": lambda x: x.astype("U8"), "byte texts": lambda x: x.astype("S8"),
    "records": lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "i4")]), "long double": lambda x: x.astype(np.longdouble),
    "dates": lambda x: np.zeros(x.shape, "M8[s]"), "big endian": lambda x: x.astype(x.dtype.newbyteorder(">")), "columns first": np.asfortranarray,
    "rows of different lengths": objects, "a dict": lambda x: np.array({"a": 1}, object),
    "objects that run a command": lambda x: np.array([Runs()] * len(x), object), "constant": lambda x: np.ones_like(x),
    "all zero": lambda x: np.zeros_like(x), "all one value, huge": lambda x: np.full(x.shape, 1e38, np.float32),
    "negative": lambda x: -np.abs(x.astype(np.float32)) - 1,
}


def put_npz(path: Path) -> None:
    x, made = np.load(path), io.BytesIO()
    np.savez(made, x=x)
    path.write_bytes(made.getvalue())


def in_array() -> Iterator[tuple[str, Damage]]:
    "What can happen to an .npy file."
    for name, make in ARRAYS.items(): yield name, partial(put_array, make)
    yield "an .npz archive instead", put_npz
    heads = {"10^9 rows": header("(1000000000, 3, 6)"), "2^70 rows": header(f"({2**70}, 3, 6)"), "-1 rows": header("(-1, 3, 6)"),
             "a shape of texts": header("('a', 'b')"), "a shape of floats": header("(1.5, 3, 6)"), "no shape": header("None"),
             "a dtype of nothing": header("(2, 3, 6)", "'<q9'"), "deep brackets": header("(" * 30_000), "a call": header("__import__('os')"),
             "no end": b"\x93NUMPY\x01\x00\xff\xff{'descr'", "version 9": b"\x93NUMPY\x09\x00" + header("(1, 3, 6)")[8:],
             "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'", "a million axes": header("(" + "1," * 30_000 + ")")}
    for name, head in heads.items(): yield f"header: {name}", partial(put, head + bytes(2000))


# --- HDF5 ------------------------------------------------------------------------------------------------------------------------

def in_member(name: str, make: Callable[[h5py.File, Any], None], path: Path) -> None:
    "Take a member out of an HDF5 file and let `make` put something else there."
    with h5py.File(path, "r+") as file:
        old = file[name][()]
        del file[name]
        make(file, old)


def _texts(x: Any) -> bool: return x.dtype.kind == "O"


def external(name: str, file: h5py.File, x: np.ndarray) -> None:
    "Numbers that stand in another file: here a system's."
    file.create_dataset(name, x.shape if not _texts(x) else (len(x),), "f4" if not _texts(x) else "S8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(name: str, file: h5py.File, x: np.ndarray) -> None:
    "Numbers of a file that is not there."
    layout = h5py.VirtualLayout(x.shape, "f4" if _texts(x) else x.dtype)
    layout[:] = h5py.VirtualSource("not_there.h5", "features", x.shape)
    file.create_virtual_dataset(name, layout)


def in_h5_member(name: str, x: np.ndarray) -> Iterator[tuple[str, Damage]]:
    "What can happen to one array of an HDF5 file."
    ways: dict[str, Callable[[h5py.File, Any], None]] = {
        "missing": lambda f, x: None, "a group": lambda f, x: f.create_group(name), "external storage": partial(external, name),
        "virtual, of a missing file": partial(virtual, name),
        "a link into the file": lambda f, x: f.__setitem__(name, h5py.SoftLink("/captions")),
        "a link to itself": lambda f, x: f.__setitem__(name, h5py.SoftLink(f"/{name}")),
        "a link to another file": lambda f, x: f.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/")),
        "without a shape": lambda f, x: f.create_dataset(name, data=h5py.Empty("f4")),
        "10^9 rows, none written": lambda f, x: f.create_dataset(name, (10**9, *x.shape[1:]), "f4", chunks=True),
        "2^60 rows, none written": lambda f, x: f.create_dataset(name, (2**60, *x.shape[1:]), "i1", chunks=True),
        "records": lambda f, x: f.create_dataset(name, x.shape, [("a", "f4"), ("b", "i4")]),
        "rows of different lengths": lambda f, x: f.create_dataset(name, (len(x),), h5py.vlen_dtype(np.dtype("f4"))),
        "references": lambda f, x: f.create_dataset(name, (len(x),), h5py.ref_dtype),
        "a datatype": lambda f, x: f.__setitem__(name, np.dtype("f4")),
        "an enumeration": lambda f, x: f.create_dataset(name, x.shape, h5py.enum_dtype({"a": 0, "b": 1}, "i1")),
    }
    for way, make in ways.items(): yield f"{name}: {way}", partial(in_member, name, make)
    kept = {k: v for k, v in ARRAYS.items() if k not in ("rows of different lengths", "a dict", "objects that run a command", "dates",
                                                          "long double", "columns first", "texts")}
    numbers = kept if not _texts(x) else {k: v for k, v in kept.items() if k in ("no rows", "a row less", "a row more", "one axis more")}
    for way, change in numbers.items():
        yield f"{name}: {way}", partial(in_member, name, lambda f, x, change=change: f.__setitem__(name, change(x)))
    if x.dtype.kind in "iu":
        more = {"1.9 for 1": lambda x: x + .9, "2^62": lambda x: x * 0 + 2**62, "-1": lambda x: x * 0 - 1, "as float": lambda x: x.astype("f8"),
                "all 0": lambda x: x * 0, "half the images unnamed": lambda x: x // 2, "NaN": lambda x: x * np.nan, "as uint64": lambda x: x.astype("u8")}
        for way, change in more.items():
            yield f"{name}: {way}", partial(in_member, name, lambda f, x, change=change: f.__setitem__(name, change(x)))
    if _texts(x): yield from _in_h5_texts(name)
    else: yield f"{name}: texts", partial(in_member, name, lambda f, x: f.create_dataset(name, data=["a"] * len(x), dtype=h5py.string_dtype()))


def _in_h5_texts(name: str) -> Iterator[tuple[str, Damage]]:
    def first(value: Any, x: np.ndarray) -> list: return [value, *x[1:]]
    values = {"latin-1": "café".encode("latin-1"), "empty": b"", "blanks": b"  ", "escapes": ESCAPES.encode(), "another": b"a", "long": b"a " * 500_000,
              "../victim": b"../victim"}
    for way, value in values.items():
        yield f"{name}: {way}", partial(in_member, name, lambda f, x, value=value: f.create_dataset(name, data=first(value, x), dtype=h5py.string_dtype()))
    yield f"{name}: numbers", partial(in_member, name, lambda f, x: f.__setitem__(name, np.arange(len(x))))
    yield f"{name}: one text twice", partial(in_member, name, lambda f, x: f.create_dataset(name, data=[x[0], x[0], *x[2:]], dtype=h5py.string_dtype()))
    yield f"{name}: fixed width", partial(in_member, name, lambda f, x: f.__setitem__(name, np.array([bytes(i) for i in x], "S40")))


def in_h5(path: Path) -> Iterator[tuple[str, Damage]]:
    "What can happen to a split in HDF5."
    with h5py.File(path) as file: members = {name: file[name][()] for name in file}
    for name, x in members.items(): yield from in_h5_member(name, x)
    yield "a member too many", lambda path: _add_member(path)
    yield "no members", lambda path: h5py.File(path, "w").close()


def _add_member(path: Path) -> None:
    with h5py.File(path, "r+") as file: file["nobody_knows"] = 1


# --- weights ---------------------------------------------------------------------------------------------------------------------

def put_tensors(make: Callable[[dict, dict], tuple[dict, dict | None]], path: Path) -> None:
    with safetensors.safe_open(path, "pt") as file: tensors, about = {k: file.get_tensor(k).clone() for k in file.keys()}, file.metadata()  # noqa: SIM118
    tensors, about = make(tensors, about or {})
    safetensors.torch.save_file(tensors, path, about)


def in_tensors(path: Path) -> Iterator[tuple[str, Damage]]:
    "What can happen to a safetensors file."
    with safetensors.safe_open(path, "pt") as file: tensors, about = {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    for name in list(tensors)[:8]:
        changes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "NaN": lambda x: x.float() * float("nan"), "another shape": lambda x: x.reshape(-1)[:-1].clone(), "one axis more": lambda x: x[None].clone(),
            "float64": lambda x: x.double(), "float16": lambda x: x.half(), "whole numbers": lambda x: x.long(), "true and false": lambda x: x > 0,
            "complex": lambda x: x.to(torch.complex64), "empty": lambda x: x.reshape(-1)[:0].clone(), "float8": lambda x: x.float().to(torch.float8_e4m3fn)}
        yield f"{name} missing", partial(put_tensors, lambda t, a, name=name: ({k: x for k, x in t.items() if k != name}, a))
        yield f"{name} renamed", partial(put_tensors, lambda t, a, name=name: ({(k + "x" if k == name else k): x for k, x in t.items()}, a))
        for way, change in changes.items():
            yield f"{name}: {way}", partial(put_tensors, lambda t, a, name=name, change=change: ({**t, name: change(t[name])}, a))
    yield "no tensors", partial(put_tensors, lambda t, a: ({}, a))
    yield "a tensor too many", partial(put_tensors, lambda t, a: ({**t, "nobody.knows": torch.zeros(2)}, a))
    yield "a tensor with escapes in its name", partial(put_tensors, lambda t, a: ({**t, ESCAPES: torch.zeros(2)}, a))
    yield "nothing said about itself", partial(put_tensors, lambda t, a: (t, None))
    for key, text in about.items():
        yield f"about {key}: other text", partial(put_tensors, lambda t, a, key=key: (t, {**a, key: "wrong"}))
        yield f"about {key}: deep json", partial(put_tensors, lambda t, a, key=key: (t, {**a, key: "[" * DEEP}))
        yield f"about {key}: missing", partial(put_tensors, lambda t, a, key=key: (t, {k: v for k, v in a.items() if k != key} or {"a": "b"}))
        if not text.startswith("{"): continue
        for inner in json.loads(text):
            for way, value in (("wrong", "wrong"), ("empty", ""), ("escapes", ESCAPES), ("deep", "[" * DEEP), ("a number", 7), ("null", None)):
                changed_text = json.dumps({**json.loads(text), inner: value})
                yield f"about {inner}: {way}", partial(put_tensors, lambda t, a, key=key, changed_text=changed_text: (t, {**a, key: changed_text}))
    raw = {"header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{" * 50, "header of 10 GB": struct.pack("<Q", 10**10) + b"{}" * 50,
           "header cut": struct.pack("<Q", 40) + b'{"a": {"dtype": "F32", "shape": [2], "dat', "header no dict": struct.pack("<Q", 4) + b"[12]" + bytes(9),
           "deep header": struct.pack("<Q", DEEP) + b'{"a":' + b"[" * (DEEP - 5) + bytes(9)}
    for name, content in raw.items(): yield name, partial(put, content)


def put_checkpoint(content: Any, path: Path) -> None: torch.save(content, path)


def in_checkpoint(path: Path, most: int = 90, seed: int = 0) -> Iterator[tuple[str, Damage]]:
    "What can happen to a file of torch.save: each place missing or of a wrong kind, and code in it."
    from argparse import Namespace
    with torch.serialization.safe_globals([Namespace]): content = torch.load(path, weights_only=True)
    wrong = {**{k: v for k, v in WRONG.items() if k not in ("half a surrogate",)}, "a tensor": torch.zeros(3), "a NaN tensor": torch.full((2, 2), torch.nan)}
    found = []
    for place in places(content):
        where = ".".join(map(str, place))[:60]
        found.append((f"{where} missing", partial(put_checkpoint, without(content, place))))
        found += [(f"{where} is {name}", partial(put_checkpoint, changed(content, place, value))) for name, value in wrong.items()]
    yield from random.Random(seed).sample(found, min(most, len(found)))
    for name, value in {"null": None, "a list": [], "a dict": {}, "a tensor": torch.zeros(2), "a text": "a", "a number": 3}.items():
        yield f"the whole is {name}", partial(put_checkpoint, value)
    yield "a command to run in it", partial(put_checkpoint, {**content, "more": Runs()} if isinstance(content, dict) else [Runs()])
    yield "a command to run in it, old format", lambda path: torch.save({"model": Runs()}, path, _use_new_zipfile_serialization=False)
    yield "a tensor's bytes changed in the archive", rewrite_archive
    yield "a class of nobody's", partial(put_checkpoint, {**content, "more": np.random.default_rng(0)} if isinstance(content, dict) else [])


def rewrite_archive(path: Path) -> None:
    "Change bytes of the largest tensor inside the archive, not its sums."
    with zipfile.ZipFile(path) as archive:
        largest = max((info for info in archive.infolist() if "/data/" in info.filename), key=lambda info: info.file_size)
        content = archive.read(largest)
    raw = bytearray(path.read_bytes())
    at = raw.find(content)
    raw[at + len(content) // 2] ^= 0x40
    path.write_bytes(raw)


# --- folders ---------------------------------------------------------------------------------------------------------------------

def remove_folder(path: Path) -> None: shutil.rmtree(path)


def empty_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def folder_to_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


def folder_to_loop(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path.name)
