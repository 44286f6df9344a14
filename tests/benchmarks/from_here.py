"""Chapter 17's trainings: twins in one batch, hard against soft assignment, and regions that see each other.

    python tests/benchmarks/from_here.py --data data/scenes --out runs/from-here --seeds 0,1,2 [ROW ...]
    python tests/benchmarks/from_here.py --out runs/from-here --seeds 0,1,2 --table docs/from_here.json

Other data: --data f8k-2000 --recipe f8k-small --set embed_dim=64 --set lr=2e-3 (twins, which only the world knows, are left out of the table).
Each run is kept as a folder with result.json; what is there is not trained again. Rows are those of `ROWS`.
--table trains nothing, prints what there is as markdown, and writes the numbers into a file, which the chapter draws.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cmr.attention import SCAN
from cmr.cli.app import read_settings
from cmr.encoders import Fragments
from cmr.imram import IMRAM
from cmr.matcher import register
from cmr.recall import compare
from cmr.shelf.assignment import RegionMessages
from cmr.similarity import l2_normalize
from cmr.training.compare import Entry, train_entry
from cmr.training.recipes import RECIPES, Recipe, change, for_model
from cmr.training.reproduce import read_numbers


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


def entry(row: str, recipe: Recipe, settings: dict) -> Entry:
    "A row of `ROWS` by a recipe."
    model, own = ROWS[row]
    return Entry(row, change(for_model(recipe, model), {**settings, **own}))


def run(one: Entry, seed: int, data: Path, out: Path) -> None:
    "Train and evaluate, or find what was trained before."
    row, folder = one.label, out / one.label / str(seed)
    found = train_entry(one, seed, data, folder, "test", progress=False)
    print(f"{row} seed {seed}: R@sum {found['report']['rsum']:.1f}, {found['seconds_per_epoch']:.0f} s an epoch", flush=True)


def together(out: Path, row: str, seeds: list[int]) -> tuple[list[dict], list[np.ndarray]]:
    "Results and hits of a row's seeds, as far as they are there."
    files = [out / row / str(seed) / "result.json" for seed in seeds]
    many = [json.loads(file.read_text()) for file in files if file.is_file()]
    return many, [read_numbers(found["hits"], 7)[None] for found in many]


def versus(a: list[np.ndarray], b: list[np.ndarray]) -> list[float]:
    "R@sum of a minus b over their common seeds, and the ends of its 95% interval over images (each image's mean over the seeds)."
    k = min(len(a), len(b))
    found = compare(*(np.mean(x[:k], axis=0) for x in (a, b)))["rsum"]
    return [round(x, 2) for x in (found.difference, found.low, found.high)]


def collect(out: Path, seeds: list[int]) -> dict[str, dict]:
    "For each row that was trained: a number a seed of everything, the difference to Full-IMRAM, and to the same row without twins or dropping."
    rows, counts = {}, {row: together(out, row, seeds)[1] for row in ROWS}
    for row in ROWS:
        many = together(out, row, seeds)[0]
        if not many: continue
        keys = {key: "report" for key in ("rsum", "text_r1", "image_r1")}
        if many[0].get("world"): keys.update(colour_twin="world", relation_twin="world")
        rows[row] = {"seeds": [found["seed"] for found in many], "seconds_per_epoch": [round(found["seconds_per_epoch"], 1) for found in many],
                     **{key: [round(found[place][key], 2) for found in many] for key, place in keys.items()},
                     "minus_imram_full": versus(counts[row], counts["imram-full"]) if counts["imram-full"] else None}
        plain = row.split("+")[0]
        if plain != row and counts[plain] and not row.endswith("long"): rows[row]["minus_plain"] = versus(counts[row], counts[plain])
    return {"machine": many_machines(out), "rows": rows}


def many_machines(out: Path) -> list[str]:
    "Processor, torch and date of all runs, each once."
    found = [json.loads(file.read_text())["machine"] for file in sorted(out.glob("*/*/result.json"))]
    return sorted({f"{m['processor']}, {m['cores']} cores, {m['threads']} thread, torch {m['torch']}, {m['date']}" for m in found})


def table(rows: dict[str, dict]) -> str:
    "All rows that were trained, in markdown."
    lines = ["| row | seeds | R@sum (lowest to highest) | minus Full-IMRAM, K = 3 | minus the same without + | R@1 text / image "
             "| twins: colours / relations | s an epoch |", "|---|---|---|---|---|---|---|---|"]
    def apart(ends): return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*ends) if ends else ""
    def mean(values): return f"{np.mean(values):.1f}" if values else ""
    for row, x in rows.items():
        lines.append(f"| {row} | {len(x['seeds'])} | {mean(x['rsum'])} ({min(x['rsum']):.1f} to {max(x['rsum']):.1f}) "
                     f"| {apart(x['minus_imram_full'])} | {apart(x.get('minus_plain'))} | {mean(x['text_r1'])} / {mean(x['image_r1'])} "
                     f"| {mean(x.get('colour_twin'))} / {mean(x.get('relation_twin'))} | {np.mean(x['seconds_per_epoch']):.0f} |")
    return "\n".join(lines)


def asking(about: str, data: str, out: str) -> argparse.ArgumentParser:
    "What every table of trainings is asked: which rows, on which data, with which seeds."
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="default: all")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seeds", type=lambda said: [int(seed) for seed in said.split(",")], default=[0, 1, 2])
    return parser


def main() -> None:
    "The command above."
    parser = asking(__doc__, "data/scenes", "runs/from-here")
    parser.add_argument("--recipe", default="scenes", choices=RECIPES)
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    parser.add_argument("--table", type=Path, help="train nothing, print what there is, and write the numbers here")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS): parser.error(f"no row {', '.join(unknown)}: there are {', '.join(ROWS)}")
    torch.set_num_threads(1)
    if not args.table:
        entries = [entry(row, RECIPES[args.recipe], read_settings(args.set)) for row in args.rows or ROWS]
        for seed in args.seeds:
            for one in entries: run(one, seed, args.data, args.out)
    found = collect(args.out, args.seeds)
    if args.table: args.table.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found["rows"]))


if __name__ == "__main__": main()
