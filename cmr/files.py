"""Files are written whole or not at all, and known by their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, uint8


@contextlib.contextmanager
def atomic_write(
    path: str | Path,  # where the finished file shall stand
) -> Iterator[Path]:   # a temporary name beside it, to write to
    "Write under another name, then rename: the file at `path` is the old one or the new one, never half of one. OSError names it."
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file: os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as problem:
        if problem.errno is None or problem.filename not in (None, str(path), str(partial)): raise  # another file's problem
        raise OSError(problem.errno, f"writing {path}: {problem.strerror or problem}; what was there before is still whole") from problem
    finally:
        with contextlib.suppress(OSError): partial.unlink(missing_ok=True)


def remove_partial_files(
    folder: str | Path,
) -> None:
    "Delete what a process that was killed left of `atomic_write` in a folder."
    for left in Path(folder).glob(".*.part"): left.unlink(missing_ok=True)


def tensor_bytes(
    x: Tensor,  # any dtype, on any device
) -> memoryview:
    "A tensor's numbers as they lie in memory."
    return x.detach().cpu().contiguous().flatten().view(uint8).numpy().data


def digest(
    *parts: bytes | str | Tensor,  # in this order
) -> str:                          # 64 hexadecimal digits
    "SHA-256 of some bytes, strings and tensors."
    found = hashlib.sha256()
    for part in parts: found.update(part.encode() if isinstance(part, str) else tensor_bytes(part) if isinstance(part, Tensor) else part)
    return found.hexdigest()
