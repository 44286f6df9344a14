"""Chapter 17's trainings: twins in one batch, hard against soft assignment, and regions that see each other.

    python tests/benchmarks/from_here.py --data data/scenes --out runs/from-here --seeds 0,1,2 [ROW ...]
    python tests/benchmarks/from_here.py --out runs/from-here --seeds 0,1,2 --table

Each run is kept as a folder with result.json and hits.npy; what is there is not trained again. Rows are those of `ROWS`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cmr.attention import SCAN
from cmr.data import open_split
from cmr.encoders import Fragments
from cmr.imram import IMRAM
from cmr.matcher import register
from cmr.recall import compare, hits
from cmr.saving import load
from cmr.shelf.assignment import RegionMessages
from cmr.similarity import l2_normalize
from cmr.training.compare import Entry, train_entry
from cmr.training.loop import evaluate
from cmr.training.recipes import RECIPES, change, for_model


def see(model: nn.Module, regions: Fragments) -> Fragments:
    "Regions that heard of each other, as unit vectors."
    return Fragments(l2_normalize(model.messages(regions).values), regions.mask)


@register
class SeeingSCAN(SCAN):
    "Soft assignment (SCAN t-i) over regions that see each other."
    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 1024, word_dim: int = 300, heads: int = 4):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.image_encoder.normalise, self.messages = False, RegionMessages(embed_dim, heads)

    def encode_images(self, features, mask=None): return see(self, super().encode_images(features, mask))


@register
class SeeingIMRAM(IMRAM):
    "IMRAM over regions that see each other."
    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 1024, word_dim: int = 300, steps: int = 3, direction: str = "full",
                 heads: int = 4):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim, steps, direction)
        self.image_encoder.normalise, self.messages = False, RegionMessages(embed_dim, heads)

    def encode_images(self, features, mask=None): return see(self, super().encode_images(features, mask))


TWINS, DROP = {"twins": True}, {"word_dropout": 0.05, "region_dropout": 0.1}
ALONE, TEXT = {"context": False}, {"direction": "text"}
MODELS = {"vse": ("vse", {}), "scan": ("scan", {}), **{f"imram-{k}": ("imram", {"steps": k, **TEXT}) for k in (1, 2, 3)},
          "imram-full": ("imram", {"steps": 3, "direction": "full"}), "camp": ("camp", {}), "hard": ("hardassignment", ALONE),
          "seeing-soft": ("seeingscan", {}), "seeing-hard": ("hardassignment", {}), "seeing-imram": ("seeingimram", {"steps": 3, **TEXT})}
LONG = {"embed_dim": 128, "word_dim": 128, "epochs": 12, "decay_every": 9}
ROWS = {**MODELS, **{f"{name}+twins": (model, {**args, **TWINS}) for name, (model, args) in MODELS.items()},
        **{f"{name}+drop": (model, {**args, **DROP}) for name, (model, args) in MODELS.items()},
        "seeing-hard+twins+long": ("hardassignment", {**TWINS, **LONG}), "seeing-hard+twins+drop+long": ("hardassignment", {**TWINS, **DROP, **LONG})}


def entry(row: str) -> Entry:
    "A row of `ROWS` by the recipe `scenes`."
    model, settings = ROWS[row]
    return Entry(row, change(for_model(RECIPES["scenes"], model), settings))


def run(row: str, seed: int, data: Path, out: Path) -> None:
    "Train and evaluate, or find what was trained before; and what each image adds to the recalls, for paired comparisons."
    folder = out / row / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = train_entry(entry(row), seed, data, folder, "test", progress=False)
    print(f"{row} seed {seed}: R@sum {found['report']['rsum']:.1f}, {found['seconds_per_epoch']:.0f} s an epoch", flush=True)
    if (folder / "hits.npy").exists(): return
    (model, vocabulary), split = load(folder / "best"), open_split(data, "test")
    _, scores = evaluate(model, split, vocabulary, progress=False)
    np.save(folder / "hits.npy", hits(scores, split.image_of_caption))


def mean(many: list, *keys: str) -> float:
    "The mean over seeds of one number of their results."
    values = []
    for found in many:
        for key in keys: found = found[key]
        values.append(found)
    return float(np.mean(values))


def together(out: Path, row: str, seeds: list[int]) -> tuple[list[dict], list[np.ndarray]]:
    "Results and hits of a row's seeds, as far as they are there."
    there = [out / row / str(seed) for seed in seeds if (out / row / str(seed) / "hits.npy").exists()]
    return [json.loads((folder / "result.json").read_text()) for folder in there], [np.load(folder / "hits.npy") for folder in there]


def versus(a: list[np.ndarray], b: list[np.ndarray]) -> str:
    "R@sum of a minus b: the mean of the seeds, and a 95% interval over images of that mean."
    k = min(len(a), len(b))
    if not k: return ""
    found = compare(*(np.mean(x[:k], axis=0) for x in (a, b)))["rsum"]
    return f"{found.difference:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"


def table(out: Path, seeds: list[int]) -> str:
    "All rows that were trained, in markdown."
    base = together(out, "imram-full", seeds)[1]
    lines = ["| row | seeds | R@sum (lowest to highest) | minus Full-IMRAM, K = 3 | R@1 text / image | twins: colours / relations | s an epoch |",
             "|---|---|---|---|---|---|---|"]
    for row in ROWS:
        many, counts = together(out, row, seeds)
        if not many: continue
        sums = [found["report"]["rsum"] for found in many]
        lines.append(f"| {row} | {len(many)} | {np.mean(sums):.1f} ({min(sums):.1f} to {max(sums):.1f}) | {versus(counts, base)} "
                     f"| {mean(many, 'report', 'text_r1'):.1f} / {mean(many, 'report', 'image_r1'):.1f} "
                     f"| {mean(many, 'world', 'colour_twin'):.1f} / {mean(many, 'world', 'relation_twin'):.1f} "
                     f"| {mean(many, 'seconds_per_epoch'):.0f} |")
    return "\n".join(lines)


def main() -> None:
    "The command above."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--data", type=Path, default=Path("data/scenes"))
    parser.add_argument("--out", type=Path, default=Path("runs/from-here"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--table", action="store_true", help="print what there is, train nothing")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    torch.set_num_threads(1)
    if not args.table:
        for seed in seeds:
            for row in args.rows: run(row, seed, args.data, args.out)
    print(table(args.out, seeds))


if __name__ == "__main__": main()
