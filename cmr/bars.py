"""Bars where a terminal or a notebook shows them, elsewhere a line every half minute: a log is read, not watched."""

from __future__ import annotations

import io
import re
import time
from threading import RLock

from tqdm.auto import tqdm as usual

QUIET, EVERY = [False], 30.0  # is --quiet given; seconds between two lines of a bar that no terminal shows


class Nowhere(io.TextIOBase):  # gets the moves of a cursor that nobody sees
    def write(self, text: str) -> int: return len(text)


def as_lines(bar, file):
    "What a bar of tqdm's is printed by where no terminal shows it: its numbers, a line every half minute; with --quiet nothing."
    said, bar.fp = time.monotonic(), Nowhere()
    def show(line: str) -> None:
        nonlocal said
        if QUIET[0] or not line.strip() or time.monotonic() - said < EVERY: return
        said = time.monotonic()
        print(re.sub(r"\|.*\|", "", line), file=file, flush=True)
    return show


class tqdm(usual):  # noqa: N801  as everybody knows it
    "The bar of the package's own loops."
    _lock = RLock()  # its own is shared with forked processes: one that is killed while it holds it would stop the others
    def status_printer(self, file, *more):
        "A terminal's, or a notebook's, which asks with more words; or lines."
        return super().status_printer(file, *more) if more or file.isatty() and not QUIET[0] else as_lines(self, file)
