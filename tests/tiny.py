"""A tiny world to train on, a recipe for it, and ways to compare what trainings leave: functions that other processes can import, too."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from cmr.data import write_split
from cmr.training import Recipe, read_checkpoint

SMALL = {"embed_dim": 8, "word_dim": 6}
RECIPE = Recipe("tiny", "vse", SMALL, epochs=3, batch_size=7, lr=0.01, decay_every=2, warmup_steps=8, min_count=1, standardise=True)


def write_world(folder: Path, train: int = 20, dev: int = 6, width: int = 6, seed: int = 0) -> Path:
    "A data folder with random regions and captions of four words, two an image."
    rng = np.random.default_rng(seed)
    for split, n in (("train", train), ("dev", dev), ("test", dev)):
        captions = [
            f"a {a} {b} {c}"
            for a, b, c in zip(
                rng.choice(["red", "blue", "green"], 2 * n), rng.choice(["dog", "cat", "bird"], 2 * n), rng.choice(["runs", "sits"], 2 * n)
            )
        ]
        write_split(folder / f"{split}.h5", rng.normal(1, 3, (n, 4, width)).astype("float32"), captions, np.arange(n).repeat(2))
    return folder


def digests(folder: Path) -> dict:
    "What every file of a folder holds."
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def equal(a: dict, b: dict) -> bool:
    "Whether two state dicts are the same to the bit."
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def weights(out: Path) -> dict:
    "The weights of a run's last checkpoint."
    return read_checkpoint(out / "last" / "training.pt")["weights"]
