"""Data of COCO's size, and long runs: how soon a training makes its first step, and whether its memory grows.

Examples:
  python tests/benchmarks/at_size.py --start         seconds until the first step on 113,287 images in a sparse file
  python tests/benchmarks/at_size.py --steps 2000    resident memory at steps 200 and 2,000 on tiny data
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__": sys.path[0] = str(Path(__file__).resolve().parent.parent)  # where `tiny` is found

import h5py
import numpy as np
import psutil

COCO = (113_287, 36, 2048)  # images, regions, numbers
BOUND = 32                  # MiB that memory may grow by between step 200 and the last one: PyTorch's and Python's allocators keep some


def sentences(count: int, seed: int = 0) -> list[str]:
    "Different sentences of about ten words, most of them frequent, as captions are; every seed takes them from the same words."
    words = np.array(["".join(letters) for letters in np.random.default_rng(0).choice(list("abcdefghijklmnoprstuvwyz"), (20_000, 6))])
    rng = np.random.default_rng(seed)
    rows, lengths = rng.zipf(1.3, (count, 14)) % len(words), rng.integers(7, 14, count)
    return [" ".join(words[row[:n]]).capitalize() + " ." for row, n in zip(rows, lengths)]


def write_sparse(path: Path, images: int, regions: int, width: int, filled: int = 512) -> Path:
    "A split of zeros that take no room on the disk: one number in each image's last region, some images whole; five captions an image."
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    shape, rng = (images, regions, width), np.random.default_rng(images)
    with h5py.File(path, "w") as file:
        offset = h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape), early).get_offset()
        file["captions"] = np.array(sentences(5 * images, images), dtype=h5py.string_dtype())
        file["image_of_caption"] = np.arange(images).repeat(5)
    data = np.memmap(path, "f4", "r+", offset, shape)
    data[:, -1, 0] = 1
    for i in np.unique(np.linspace(0, images - 1, min(filled, images)).astype(int)): data[i] = rng.normal(size=shape[1:])
    data.flush()
    return path


@contextmanager
def noting(seen: dict) -> Iterator[None]:
    "Inside, the clock at the first step of a training stands in `seen`, and the training ends there."
    from cmr.training import loop
    true = loop.train_step

    def step(run, group):
        seen["first"] = time.monotonic()
        raise KeyboardInterrupt
    loop.train_step = step
    try: yield
    except KeyboardInterrupt: pass
    finally: loop.train_step = true


def first_step(folder: Path) -> float:
    "Seconds from `cmr train` to its first step; Python and PyTorch come on top."
    from cmr.cli.train import start
    seen: dict = {}
    clock = time.monotonic()
    with noting(seen), tempfile.TemporaryDirectory() as out: start(folder, None, None, Path(out) / "run", False, ({}, {}, {}), "cpu")
    return seen["first"] - clock


class Watch:
    "A callback that notes the resident memory of this process at some steps, in MiB."
    def __init__(self, *steps: int): self.seen: dict[int, float | None] = dict.fromkeys(steps)

    def on_step(self, run, loss: float) -> None:
        "After a step."
        if run.at.step in self.seen: self.seen[run.at.step] = psutil.Process().memory_info().rss / 2**20


def soak(steps: int, first: int = 200, images: int = 400) -> tuple[float, float]:
    "Resident memory at the first step that counts and at the last one, MiB, of a small IMRAM that trains, evaluates and saves meanwhile."
    from cmr.training import train
    from tiny import RECIPE, write_world
    watch, recipe = Watch(first, steps), replace(RECIPE, matcher="imram", epochs=10_000, patience=None)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, write_world(Path(folder) / "data", images), Path(folder) / "run", device="cpu", progress=False, max_steps=steps,
              callbacks=[watch])
    return tuple(watch.seen.values())


def main(given: list[str] | None = None) -> None:
    "Measure what was asked for. SystemExit where memory grew beyond the bound."
    parser = argparse.ArgumentParser("python tests/benchmarks/at_size.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", action="store_true", help="time until the first step; a sparse file takes 0.6 GB of the disk")
    parser.add_argument("--steps", type=int, help="train for so many steps, more than 200, and look at memory")
    asked = parser.parse_args(given)
    if asked.start:
        with tempfile.TemporaryDirectory() as folder:
            for name, images in (("train", COCO[0]), ("dev", 1000)): write_sparse(Path(folder) / f"{name}.h5", images, *COCO[1:])
            print(f"first step after {first_step(Path(folder)):.1f} s")
    if not asked.steps: return
    before, after = soak(asked.steps)
    print(f"resident memory: {before:.1f} MiB at step 200, {after:.1f} MiB at step {asked.steps:,} (it may grow by {BOUND})")
    if after - before > BOUND: raise SystemExit(f"memory grew by {after - before:.1f} MiB")


if __name__ == "__main__": main()
