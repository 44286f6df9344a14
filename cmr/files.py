"""Files: written whole or not at all, known by their digests, and opened with care: every file from outside comes in by a function here.

What cannot be read is refused in one line that names the file, the part of it, what was found, and what to do."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import h5py
import numpy as np
import psutil
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from numpy import ndarray
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, uint8

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

HOST = "".join(c for c in socket.gethostname() if c.isalnum() or c == "-") or "host"
LONGEST_LINE = 10_000  # characters: a caption has some sixty; one as long as this is another kind of file, or eats memory as tokens
COPY_AGAIN = "copy the file again"
Content = TypeVar("Content")


# --- what is printed -------------------------------------------------------------------------------------------------------------

def printable(
    value: object,            # text from a file, an error, anything
    most: int | None = None,  # keep at most so many characters
) -> str:
    "On one line, without what steers a terminal: control, format and other invisible characters become spaces."
    text = "".join(" " if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c for c in str(value))
    text = " ".join(text.split())
    return text if most is None or len(text) <= most else text[:most - 3] + "..."


# --- what is written -------------------------------------------------------------------------------------------------------------

def _partial_name(path: Path) -> str: return f".{path.name}.{HOST}.{os.getpid()}.part"


def remove_partial_files(folder: str | Path, name: str = "*") -> None:  # name: of the finished file
    "Delete what killed processes of this machine left of `atomic_write` in a folder; files of those that still run stay."
    for left in Path(folder).glob(f".{name}.{HOST}.*.part"):
        pid = left.name.split(".")[-2]
        if pid.isdigit() and not (int(pid) == os.getpid() or psutil.pid_exists(int(pid))):
            with contextlib.suppress(OSError): shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:  # where the finished file shall stand -> a temporary name beside it, to write to
    "Write under another name, then rename: the file at `path` is the old one or the new one, never half of one. OSError names it."
    path = Path(path)
    partial = path.with_name(_partial_name(path))
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is a {'folder' if path.is_dir() else 'pipe or device'}: choose another name for the file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_files(path.parent, path.name.translate({ord(c): "?" for c in "*?["}))
        yield partial
        with open(partial, "rb+") as file: os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as problem:
        if problem.filename not in (None, str(path), str(partial)): raise                                 # another file's problem
        if problem.errno is None and any(str(name) in str(problem) for name in (path, partial)): raise    # worded already
        said = f"writing {path}: {problem.strerror or problem}; what was there before is still whole"
        raise OSError(*[problem.errno] * (problem.errno is not None), said) from problem
    finally:
        with contextlib.suppress(OSError): partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:  # text: in UTF-8 on the disk
    "Write a text whole or not at all."
    with atomic_write(path) as partial: partial.write_text(text, encoding="utf-8", newline="\n")


def check_room(path: str | Path, size: int) -> None:  # size: bytes of a file that is going to be written
    "OSError (no space left) before anything is written, where the disk has not so much room."
    folder = next(part for part in (Path(path).absolute().parent, *Path(path).absolute().parents) if part.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{path} needs {size / 1e6:,.1f} MB, the disk has {free / 1e6:,.1f} MB left: "
                                    "make room, or write elsewhere")


def reserve(path: str | Path, size: int) -> None:  # path: a file that is there and is going to be filled
    "Take room on the disk now, so that what is written next does not end halfway. OSError names the file; nothing where a system can't."
    check_room(path, size)
    if not hasattr(os, "posix_fallocate"): return
    with open(path, "rb+") as file:
        try: os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as problem:
            raise OSError(problem.errno, f"{path}: no room for {size / 1e6:,.1f} MB ({problem.strerror})") from problem


@contextlib.contextmanager
def alone_with(
    path: str | Path,   # of a file that is going to be written, or gone on with
    remedy: str,        # what else to do, for the message
) -> Iterator[None]:
    "Inside, no other process that asks here writes this file. ValueError where one does."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try: lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{printable(path)} is being written by another process: wait until it has ended, or {remedy}") from None
    except NotImplementedError: warnings.warn(f"{path} is on a file system without locks: write it from one process only", stacklevel=3)
    try: yield
    finally:
        with contextlib.suppress(OSError): Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: filelock sees that it is gone
        lock.release()


def check_memory(size: int, what: object) -> None:  # size: bytes that are going to be allocated
    "ValueError where so much does not fit into the memory that is free."
    free = psutil.virtual_memory().available
    if size > free: raise ValueError(f"{what} asks for {size / 1e6:,.0f} MB of memory, {free / 1e6:,.0f} MB are free: "
                                     "the file is damaged, or too large for this machine")


# --- digests ---------------------------------------------------------------------------------------------------------------------

def tensor_bytes(x: Tensor) -> memoryview:  # any dtype, on any device
    "A tensor's numbers as they lie in memory."
    return x.detach().cpu().contiguous().flatten().view(uint8).numpy().data


def digest(*parts: bytes | str | Tensor) -> str:  # in this order -> 64 hexadecimal digits
    "SHA-256 of some bytes, strings and tensors."
    found = hashlib.sha256()
    for part in parts: found.update(part.encode() if isinstance(part, str) else tensor_bytes(part) if isinstance(part, Tensor) else part)
    return found.hexdigest()


def file_digest(path: str | Path, kind: str = "sha256") -> str:  # hexadecimal digits
    "A digest of a file, read piece by piece."
    found = hashlib.new(kind)
    with open(path, "rb") as file:
        while piece := file.read(2**20): found.update(piece)
    return found.hexdigest()


# --- what kind of file it is -----------------------------------------------------------------------------------------------------

def need_file(
    path: str | Path,
    what: str,          # "a vocabulary", "features": for the message
    remedy: str = "",   # what to do where it is missing
) -> Path:
    "The path. FileNotFoundError where nothing is there, ValueError for a folder, a pipe or a device."
    path, then = Path(path), f": {remedy}" if remedy else ""
    if not path.exists(): raise FileNotFoundError(f"no {what.removeprefix('a ').removeprefix('an ')} at {printable(path)}{then}")
    if not path.is_file():
        raise ValueError(f"{printable(path)} is a {'folder' if path.is_dir() else 'pipe or device'}, no file with {what}{then}")
    return path


STARTS = {b"\x93NUMPY": "npy", b"\x89HDF\r\n\x1a\n": "hdf5", b"\x1f\x8b": "gzip", b"\x89PNG": "image", b"\xff\xd8\xff": "image",
          b"GIF8": "image", b"\xff\xfe": "utf16", b"\xfe\xff": "utf16", **{bytes([0x80, version]): "pickle" for version in (2, 3, 4, 5)}}
CALLED = {"npy": "an .npy array", "hdf5": "an HDF5 file", "npz": "an archive of arrays (.npz)", "torch": "a PyTorch checkpoint",
          "zip": "a zip archive", "pickle": "a pickle (refused: a pickle can run code)", "safetensors": "a safetensors file",
          "gzip": "packed with gzip", "image": "a picture", "json": "a json file", "text": "a text file", "empty": "empty",
          "bytes": "a binary file of unknown kind", "utf16": "text in UTF-16"}
INSTEAD = {"pickle": "save arrays with np.save(path, array, allow_pickle=False), weights with safetensors; "
                     "a .pth.tar of a published model is read by `cmr import checkpoint`",
           "torch": "the checkpoint of a published model is read by `cmr import checkpoint`", "gzip": "unpack it first",
           "utf16": "save it as UTF-8 (in Excel: CSV UTF-8)", "npz": "save the one array of features with np.save", "empty": COPY_AGAIN}


def kind_of(path: str | Path) -> str:  # a file that is there -> a key of `CALLED`
    "What a file is by its first bytes, whatever it is called."
    with open(path, "rb") as file: head = file.read(64)
    if not head: return "empty"
    # first, since it begins with the length of its header, which may be any two bytes, those of a pickle too
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < Path(path).stat().st_size: return "safetensors"
    for start, kind in STARTS.items():
        if head.startswith(start): return kind
    if head.startswith(b"PK\x03\x04"): return _kind_of_zip(Path(path))
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["): return "json"
    return "bytes" if b"\0" in head else "text"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive: names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError): return "zip"
    if any(Path(name).name == "data.pkl" for name in names): return "torch"
    return "npz" if any(name.endswith(".npy") for name in names) else "zip"


def check_kind(
    path: str | Path, kind: str, # as `kind_of` names it
    what: str,           # what was expected, for the message
    remedy: str = "",    # what to do instead, where `INSTEAD` has nothing
) -> Path:
    "The path. FileNotFoundError, or ValueError that calls the file what it is."
    path, found = need_file(path, what, remedy), kind_of(path)
    if found == kind: return path
    todo = INSTEAD.get(found) or remedy or COPY_AGAIN
    raise ValueError(f"{printable(path)} is {CALLED[found]}, expected {what} ({CALLED[kind]}): {todo}")


def need_folder(path: str | Path, what: str, remedy: str) -> Path:
    "The path. FileNotFoundError where no folder is there; a file in its place is called what it is."
    path = Path(path)
    if path.is_dir(): return path
    if not path.is_file(): raise FileNotFoundError(f"no {what} at {printable(path)}: {remedy}")
    kind = kind_of(path)
    todo = INSTEAD[kind] if kind in ("torch", "pickle") else remedy
    raise FileNotFoundError(f"{printable(path)} is a file ({CALLED[kind]}), no {what}: {todo}")


# --- text and json ---------------------------------------------------------------------------------------------------------------

def read_text(path: str | Path, what: str = "a text", remedy: str = "") -> str:  # remedy: what to do where it is missing
    "A file in UTF-8, with or without a byte order mark. ValueError naming file and line where it is in another encoding."
    path = need_file(path, what, remedy)
    check_memory(4 * path.stat().st_size, printable(path))
    content = path.read_bytes()
    try: return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line, found = content[:problem.start].count(b"\n") + 1, kind_of(path)
        text = found in ("text", "json", "bytes") and b"\0" not in content[:4096]
        said = f"line {line} is not UTF-8" if text else f"it is {CALLED[found]}"
        raise ValueError(f"{printable(path)}: {said}, expected {what}: {INSTEAD.get(found, 'save the file as UTF-8')}") from problem


def read_lines(
    path: str | Path,
    what: str = "a text",       # for messages
    remedy: str = "",           # what to do where it is missing
    longest: int = LONGEST_LINE,# characters of a line
) -> list[str]:                 # without line ends
    "The lines of a file, as `read_text`; ValueError naming the line that is too long, or has a NUL in it."
    lines = read_text(path, what, remedy).replace("\r\n", "\n").split("\n")
    if lines[-1] == "": lines.pop()
    for number, line in enumerate(lines, 1):
        if len(line) > longest:
            raise ValueError(f"{printable(path)}, line {number}: {len(line):,} characters, at most {longest:,} are read: is it {what}?")
        if "\0" in line: raise ValueError(f"{printable(path)}, line {number} has a NUL character in it, expected {what}: {COPY_AGAIN}")
    return lines


class LineFile:
    "A file of long lines that are read when they are asked for, from the file as it was when it was opened."

    def __init__(self,
        path: str | Path, what: str, # for messages
        longest: int = 2**26,   # bytes of a line
    ):
        self.path, self.what, self.longest = check_kind(path, "text", what), what, longest
        self._file = open(self.path, "rb")  # noqa: SIM115  stays open as long as the lines are read
        about = os.fstat(self._file.fileno())
        self.size, self._changed = about.st_size, about.st_mtime_ns

    def line(self, offset: int) -> str:
        "The line that begins at a place of the file, without its end. ValueError where it is too long, no text, or was changed."
        self._file.seek(offset)
        found, about = self._file.readline(self.longest), os.fstat(self._file.fileno())
        if (about.st_size, about.st_mtime_ns) != (self.size, self._changed):
            raise ValueError(f"{printable(self.path)} was changed while it was read: {COPY_AGAIN}, then start again")
        if len(found) == self.longest:
            raise ValueError(f"{printable(self.path)} has a line of {self.longest:,} bytes or more: is it {self.what}?")
        try: return found.decode("utf-8-sig" if not offset else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as problem:
            said = f"{printable(self.path)}: the line at byte {offset:,} is not UTF-8, expected {self.what}: {COPY_AGAIN}"
            raise ValueError(said) from problem

    def lines(self) -> Iterator[tuple[int, str]]:
        "Where each line begins, and the line."
        offset = 0
        while offset < self.size:
            found, begin = self.line(offset), offset
            offset = self._file.tell()
            yield begin, found

    def close(self) -> None:
        "Let go of the file."
        self._file.close()


class FromFile(BaseModel):
    "What a json file has to hold: a number is no text, NaN is no number, keys that are not named here are ignored."
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, arbitrary_types_allowed=True)


def _as_text(value: Any) -> Any: return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

Id = Annotated[str, BeforeValidator(_as_text)]  # of an image: a number is taken as its text


def describe(problem: ValidationError) -> str:
    "The first thing that a schema found wrong, and how many more there are, on one line."
    errors = problem.errors(include_url=False, include_context=False)
    first = errors[0]
    where = ".".join(printable(part, 60) for part in first["loc"])
    found = "" if first["type"] in ("missing", "json_invalid") else f", found {printable(repr(first['input']), 60)}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where + ': ' if where else ''}{printable(first['msg'], 200)}{found}{more}"


def parse_json(
    text: str | bytes, kind: type[Content], # a pydantic model, or any type that pydantic knows
    source: object,       # the file, for messages
    what: str,            # what it should be, for messages
    remedy: str = COPY_AGAIN,
) -> Content:
    "Json as the kind says. ValueError naming the source, the place in it, what was found, and what to do."
    try: return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as problem: raise ValueError(f"{printable(source)} is not {what}: {describe(problem)}; {remedy}") from problem
    except (RecursionError, UnicodeError, MemoryError) as problem:
        raise ValueError(f"{printable(source)} is not {what}: {type(problem).__name__}; {remedy}") from problem


def read_json(
    path: str | Path, kind: type[Content], # a pydantic model, or any type that pydantic knows
    what: str,            # what it should be, for messages: "a vocabulary"
    remedy: str = COPY_AGAIN,
) -> Content:
    "A json file as the kind says. FileNotFoundError, or ValueError naming the file, the place in it, what was found, and what to do."
    path = need_file(path, what, remedy)
    check_memory(10 * path.stat().st_size, printable(path))
    return parse_json(read_text(path, what, remedy), kind, path, what, remedy)


def read_toml(
    path: str | Path, kind: type[Content], # as for `read_json`
    what: str, remedy: str = COPY_AGAIN,
) -> Content:
    "A toml file as the kind says; raises as `read_json`."
    try: content = tomllib.loads(read_text(path, what, remedy))
    except tomllib.TOMLDecodeError as problem:
        raise ValueError(f"{printable(path)} is no toml: {printable(problem, 200)}; {remedy}") from problem
    return parse_json(json.dumps(content, default=str), kind, path, what, remedy)


# --- arrays in .npy files ----------------------------------------------------------------------------------------------------------

NUMBERS = {"f": "floating point numbers", "i": "whole numbers", "u": "whole numbers", "b": "true and false", "c": "complex numbers",
           "O": "Python objects", "U": "text", "S": "bytes", "V": "records", "m": "times", "M": "dates"}


def _one_of_kinds(kinds: str) -> str: return " or ".join(dict.fromkeys(NUMBERS[kind] for kind in kinds))


def check_array(
    shape: tuple[int, ...], dtype: Any, # a NumPy dtype
    kinds: str,              # of dtypes that are taken, such as "fiu"
    ndim: tuple[int, ...],   # numbers of axes that are taken
    source: object,          # the file, and the part of it
    expected: str = "",      # such as "(images, regions, numbers)"
) -> None:
    "ValueError where an array has another kind or another number of axes than expected, or is empty."
    then = f", expected {expected}" if expected else ""
    if dtype.kind not in kinds or dtype.kind == "f" and dtype.itemsize > 8:
        found = f"{NUMBERS.get(dtype.kind, 'something')} ({printable(dtype, 60)})"
        raise ValueError(f"{source} holds {found}, not {_one_of_kinds(kinds)}{then}")
    if len(shape) not in ndim:
        wanted = " or ".join(map(str, ndim))
        raise ValueError(f"{source} has {len(shape)} axes, shape {shape}, not {wanted}{then or ': save another array'}")
    if 0 in shape: raise ValueError(f"{source} is empty, shape {shape}{then}: save it again with something in it")


class NpyFile:
    """The array of an .npy file, whose rows are read when they are asked for, from the file as it was when it was opened.

    A file that was renamed over it meanwhile changes nothing; one that was written to or cut short raises ValueError, where a
    mapped one would end the process (SIGBUS)."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any, offset: int):
        self.path, self.shape, self.dtype, self.ndim, self.offset = path, shape, dtype, len(shape), offset
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  stays open as long as the rows are read
        self._stamp = self.stamp()
        self._row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self.nbytes = shape[0] * self._row if shape else dtype.itemsize

    def stamp(self) -> tuple[int, int]:
        "Size and time of the last change of the file that is open."
        about = os.fstat(self._file.fileno())
        return about.st_size, about.st_mtime_ns

    def __len__(self) -> int: return self.shape[0]

    def read(self, start: int, stop: int) -> ndarray:  # (stop - start, ...)
        "Consecutive rows. ValueError where the file was changed since it was opened."
        found = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        left = found.reshape(-1).view(np.uint8)
        at = self.offset + start * self._row
        while len(left):
            got = self._read_at(left[:2**30].data, at)
            if not got or self.stamp() != self._stamp:
                raise ValueError(f"{printable(self.path)} was changed or cut short while it was read: {COPY_AGAIN}, then start again")
            left, at = left[got:], at + got
        return found

    def _read_at(self, into: memoryview, at: int) -> int:
        "Fill some memory from a place in the file; where a system can, without moving the place that other threads read from."
        if hasattr(os, "preadv"): return os.preadv(self._file.fileno(), [into], at)
        self._file.seek(at)
        return self._file.readinto(into) or 0

    def __getitem__(self, index: int | slice) -> ndarray:
        "One row, or the rows of a slice; others than these are not kept in memory."
        if not isinstance(index, slice):
            i = range(len(self))[index]
            return self.read(i, i + 1)[0]
        rows = range(len(self))[index]
        if not len(rows): return np.empty((0, *self.shape[1:]), self.dtype)
        if rows.step == 1: return self.read(rows.start, rows.stop)
        return np.stack([self.read(i, i + 1)[0] for i in rows])

    def __array__(self, dtype=None, copy=None) -> ndarray:
        "The whole array in memory."
        check_memory(len(self) * self._row, printable(self.path))
        return self.read(0, len(self)).astype(dtype or self.dtype, copy=False)

    def close(self) -> None:
        "Let go of the file."
        self._file.close()


def open_npy(
    path: str | Path,
    what: str = "features",          # for messages
    kinds: str = "fiu",              # of dtypes that are taken
    ndim: tuple[int, ...] = (2, 3),  # numbers of axes that are taken
    expected: str = "",              # such as "(images, regions, numbers)"
    remedy: str = "",                # what to do where it is missing
) -> NpyFile:
    "An .npy file whose header was held against its size. FileNotFoundError, or ValueError naming file, shape and what was expected."
    path = check_kind(path, "npy", what, remedy or "save it with np.save(path, array)")
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(file)
            offset = file.tell()
    except Exception as problem:  # the header is Python's own syntax, and anything may stand in it
        raise ValueError(f"{printable(path)}: the header of the array is damaged; {COPY_AGAIN}") from problem
    if dtype.hasobject:
        raise ValueError(f"{printable(path)} holds Python objects, which only a pickle can: refused, since a pickle can run code. Rows of "
                         "different lengths go into HDF5 with a mask (cmr.data.write_split), or are padded with zeros to one length and "
                         "saved as numbers")
    check_array(shape, dtype, kinds, ndim, printable(path), expected)
    declared, there = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize, path.stat().st_size - offset
    if any(n < 0 for n in shape) or declared > there:
        raise ValueError(f"{printable(path)} is cut short: its header declares {shape} of {dtype}, {declared:,} bytes, "
                         f"the file has {there:,}; {COPY_AGAIN}")
    if by_columns and len(shape) > 1:
        raise ValueError(f"{printable(path)} is stored column by column (Fortran order): "
                         "save it with np.save(path, np.ascontiguousarray(array))")
    return NpyFile(path, shape, dtype, offset)


def read_npy(path: str | Path, what: str, kinds: str, ndim: tuple[int, ...], expected: str = "") -> ndarray:
    "The whole array of an .npy file in memory; raises as `open_npy`."
    array = open_npy(path, what, kinds, ndim, expected)
    try: return np.asarray(array)
    finally: array.close()


def load_npy(path: str | Path, what: str, kinds: str, ndim: tuple[int, ...], expected: str = "") -> ndarray:
    "The same, mapped where it would take more than half of the memory that is free; what is written to it does not reach the file."
    array = open_npy(path, what, kinds, ndim, expected)
    try: return np.asarray(array) if 2 * array.nbytes <= psutil.virtual_memory().available else np.load(path, "c", allow_pickle=False)
    finally: array.close()


def change_npy(path: str | Path, what: str, kinds: str, ndim: tuple[int, ...], expected: str = "") -> np.memmap:
    "The array of a file of one's own, mapped, to be changed in place; raises as `open_npy`."
    open_npy(path, what, kinds, ndim, expected).close()
    return np.load(path, "r+", allow_pickle=False)


def new_npy(path: str | Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    "A new .npy file of zeros, mapped, its room on the disk taken at once. OSError names it."
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    check_room(path, size)
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    reserve(path, Path(path).stat().st_size)
    return array


def write_npy(path: str | Path, array: ndarray) -> None:
    "Write an array whole or not at all. OSError names the file, and where there is no room."
    check_room(path, array.nbytes)
    with atomic_write(path) as partial, open(partial, "wb") as file: np.save(file, array, allow_pickle=False)


def new_numbers(path: str | Path, count: int, dtype: torch.dtype) -> Tensor:
    "A new file of nothing but numbers, for scratch, mapped, its room on the disk taken at once: a mapped file on a full disk is SIGBUS."
    Path(path).touch()
    reserve(path, count * dtype.itemsize)
    return torch.from_file(str(path), True, count, dtype=dtype)


def read_npz(
    path: str | Path, kinds: dict[str, str], # of each array that is needed: the kinds of its dtype
    what: str,              # for messages
) -> dict[str, ndarray]:
    "Some arrays of an .npz archive. ValueError where one is missing, holds objects, or unpacks to more than fits into memory."
    path = check_kind(path, "npz", what)
    try:
        with zipfile.ZipFile(path) as archive:
            there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name in kinds:
                if name not in there: raise ValueError(f"it has no array {name!r} (it has {printable(', '.join(there), 100)})")
                check_memory(there[name].file_size, f"{printable(path)}, array {name}")
        with np.load(path, allow_pickle=False) as arrays: found = {name: arrays[name] for name in kinds}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as problem:
        said = printable(problem, 160) if "pickle" not in str(problem) else "it holds Python objects, which only a pickle can"
        raise ValueError(f"{printable(path)} cannot be read as {what}: {said}") from problem
    except Exception as problem: raise ValueError(f"{printable(path)} cannot be read as {what}: it is damaged; {COPY_AGAIN}") from problem
    for name, array in found.items():
        if not isinstance(array, ndarray): raise ValueError(f"{printable(path)}, member {name} is no array; {COPY_AGAIN}")
        check_array(array.shape, array.dtype, kinds[name], (0, 1, 2, 3), f"{printable(path)}, array {name}")
    return found


# --- HDF5 --------------------------------------------------------------------------------------------------------------------------

def open_h5(path: str | Path, what: str = "a split") -> h5py.File:
    "Open an HDF5 file for reading. FileNotFoundError, or ValueError naming it where it is cut short or no such file."
    path = check_kind(path, "hdf5", what)
    try: return h5py.File(path, "r")
    except (OSError, RuntimeError, KeyError, ValueError) as problem:
        raise ValueError(f"{printable(path)} cannot be opened as HDF5: it is cut short, damaged, or written to at the moment "
                         f"({printable(problem, 120)}); {COPY_AGAIN}") from problem


def h5_member(
    file: h5py.File, name: str, # of an array in it
    kinds: str,              # of dtypes that are taken; "T" for text
    ndim: tuple[int, ...],   # numbers of axes that are taken
    expected: str = "",      # such as "(images, regions, numbers)"
) -> h5py.Dataset:
    "An array of an HDF5 file: in this file, all of it, of these kinds. ValueError names file, member, what was found and expected."
    source = f"{printable(file.filename)}, member {name}"
    try:
        link = file.get(name, getlink=True)
        if link is None: raise ValueError(f"{printable(file.filename)} has no member {name}{f', expected {expected}' if expected else ''}")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{source} points elsewhere (a link): refused; write the array itself into the file")
        data = file[name]
        if not isinstance(data, h5py.Dataset): raise ValueError(f"{source} is a group, not an array")
        if data.external or data.is_virtual:
            how = "virtual dataset" if data.is_virtual else "external storage"
            raise ValueError(f"{source} keeps its numbers in other files ({how}): refused; copy them into this file")
        if data.shape is None: raise ValueError(f"{source} is empty: it has no shape")
        _check_h5_type(data, kinds, ndim, source, expected)
        _check_allocated(data, source)
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{source} cannot be read ({printable(problem, 120)}): the file is damaged; {COPY_AGAIN}") from problem
    return data


def _check_h5_type(data: h5py.Dataset, kinds: str, ndim: tuple[int, ...], source: str, expected: str) -> None:
    text = h5py.check_string_dtype(data.dtype) is not None
    if text != (kinds == "T"):
        raise ValueError(f"{source} holds {'text' if text else NUMBERS.get(data.dtype.kind, 'something')} ({printable(data.dtype, 40)}), "
                         f"not {'text' if kinds == 'T' else _one_of_kinds(kinds)}{f', expected {expected}' if expected else ''}")
    if text: check_array(data.shape, np.dtype("U1"), "U", ndim, source, expected)
    else: check_array(data.shape, data.dtype, kinds, ndim, source, expected)


def _check_allocated(data: h5py.Dataset, source: str) -> None:
    "Are all of the declared numbers in the file? HDF5 gives zeros for those that are not."
    declared = int(np.prod([int(n) for n in data.shape], dtype=object)) * data.dtype.itemsize
    if data.chunks is None: whole = data.id.get_storage_size() >= declared
    else:
        chunks = int(np.prod([-(-int(n) // c) for n, c in zip(data.shape, data.chunks)], dtype=object))
        whole = chunks <= Path(data.file.filename).stat().st_size and data.id.get_num_chunks() >= chunks  # a chunk has a byte at least
    if not whole: raise ValueError(f"{source} declares {data.shape}, {declared:,} bytes, but the file holds only a part of them: "
                                   f"it was not written to its end; {COPY_AGAIN}")


def h5_array(file: h5py.File, name: str, kinds: str, ndim: tuple[int, ...], expected: str = "") -> ndarray:
    "A whole array of an HDF5 file in memory; raises as `h5_member`, and where it does not fit."
    data = h5_member(file, name, kinds, ndim, expected)
    source = f"{printable(file.filename)}, member {name}"
    check_memory(data.size * data.dtype.itemsize, source)
    try: return data[()]
    except (OSError, RuntimeError, ValueError, MemoryError) as problem:
        raise ValueError(f"{source} cannot be read ({printable(problem, 120)}): the file is damaged; {COPY_AGAIN}") from problem


def h5_text(file: h5py.File, name: str, longest: int = LONGEST_LINE) -> list[str]:
    "An array of texts; raises as `h5_array`, and naming the text that is no UTF-8 or too long."
    source = f"{printable(file.filename)}, member {name}"
    found = []
    for i, value in enumerate(h5_array(file, name, "T", (1,), "a text for each")):
        try: text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as problem: raise ValueError(f"{source}[{i}] is not UTF-8: write it again as UTF-8") from problem
        if len(text) > longest: raise ValueError(f"{source}[{i}]: {len(text):,} characters, at most {longest:,} are read")
        found.append(text)
    return found


# --- weights -----------------------------------------------------------------------------------------------------------------------

def read_tensors(
    path: str | Path,     # a .safetensors file
    what: str,            # for messages
    remedy: str = COPY_AGAIN,
) -> tuple[dict[str, Tensor], dict[str, str]]:  # by name, on the CPU, mapped; and what the file says about itself
    "The tensors of a safetensors file. FileNotFoundError, or ValueError naming it where it is cut short or another file."
    path = check_kind(path, "safetensors", what, remedy)
    try:
        with safe_open(path, "pt") as file: tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError) as problem:
        raise ValueError(f"{printable(path)} is damaged or cut short ({printable(problem, 120)}): {remedy}") from problem
    if set(about) == {"about"}: about = parse_json(about["about"], dict[str, str], path, what, remedy)
    return tensors, about


def write_tensors(
    path: str | Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None, # what the file says about itself
) -> None:
    "Write a safetensors file whole or not at all; the same tensors and texts give the same bytes."
    state = {name: x.detach().cpu().contiguous() for name, x in sorted(tensors.items())}
    held = Counter(x.untyped_storage().data_ptr() for x in state.values())
    state = {name: x.clone() if held[x.untyped_storage().data_ptr()] > 1 else x for name, x in state.items()}  # none may share
    check_room(path, sum(x.numel() * x.element_size() for x in state.values()))
    if about and len(about) > 1: about = {"about": json.dumps(about, sort_keys=True)}  # the library leaves the order of several to chance
    path = Path(path)
    with atomic_write(path) as partial, own_folder(path) as folder:  # a kill leaves temporary files of the library's own
        try: safetensors.torch.save_file(state, folder / path.name, about)
        except SafetensorError as problem:
            found = re.search(r"os error (\d+)", str(problem))
            raise OSError(int(found[1]) if found else errno.EIO, os.strerror(int(found[1])) if found else printable(problem)) from problem
        os.replace(folder / path.name, partial)


@contextlib.contextmanager
def own_folder(path: Path) -> Iterator[Path]:  # of a finished file, or any name beside which there is room -> a new folder beside it
    "A folder to write to that is removed at the end, also after a kill: by the next one of the same name on this machine."
    name = f"{path.name}.folder"
    remove_partial_files(path.parent, name.translate({ord(c): "?" for c in "*?["}))
    folder = path.with_name(_partial_name(path.with_name(name)))
    folder.mkdir(exist_ok=True)
    try: yield folder
    finally: shutil.rmtree(folder, ignore_errors=True)


def read_torch(
    path: str | Path,            # written by torch.save
    what: str,                   # for messages
    remedy: str, allowed: tuple[Any, ...] = (), # classes that may stand in it besides tensors, numbers, texts, lists and dicts
    encoding: str = "utf-8",     # of texts in it; files from Python 2 need "latin1"
) -> Any:                        # on the CPU
    "A checkpoint, without running code of its: weights only, the sums of its archive checked. ValueError where that can't be."
    path = need_file(path, what, remedy)
    found = kind_of(path)
    if found not in ("torch", "pickle", "bytes"): raise ValueError(f"{printable(path)} is {CALLED[found]}, expected {what}: {remedy}")
    try:
        if found == "torch":
            with zipfile.ZipFile(path) as archive: broken = archive.testzip()
            if broken: raise ValueError(f"its part {printable(broken, 60)} is damaged")
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old formats are told of
            return torch.load(path, map_location="cpu", weights_only=True, encoding=encoding)
    except Exception as problem:  # whatever is in the file
        code = "eights_only" in str(problem) or "WeightsUnpickler" in str(problem)
        said = ("it holds more than tensors, numbers, texts, lists and dicts, which could run code" if code
                else printable(problem, 160) or type(problem).__name__)
        raise ValueError(f"{printable(path)} cannot be read as {what}: {said}. {remedy}") from problem
