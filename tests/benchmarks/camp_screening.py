"""What helps CAMP to learn: each departure from the paper alone, then together, one epoch each.

    python tests/benchmarks/camp_screening.py --data f8k --out runs/camp-screening --seeds 0,1,2 [ROW ...]
    python tests/benchmarks/camp_screening.py --out runs/camp-screening --seeds 0,1,2 --table

Each run is kept as a folder with result.json (test split) and, where the model has gates, gates.json; what is there is not trained again.
Rows are those of `ROWS`; --table trains nothing and prints what there is as markdown.
"""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from from_here import asking, together, versus
from torch.nn.functional import softplus

from cmr.camp import CAMP, Matching, mean_gates
from cmr.data.datasets import open_split
from cmr.fast import encode_all
from cmr.losses import Loss, positives, register_loss
from cmr.matcher import register
from cmr.training.checkpoints import first_images, load
from cmr.training.compare import Entry, train_entry
from cmr.training.recipes import RECIPES, Recipe


@register
class StartedCAMP(CAMP):
    "CAMP with the two halves of `start='base'` apart: F's first weights by a tenth, and the MLP that begins with ten cosines."
    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 1024, word_dim: int = 300, small: bool = False, rising: bool = False,
                 normalise: str | None = None):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim, normalise=normalise)
        unit = normalise in ("vectors", "both")
        if rising: self.matching = Matching(embed_dim, "mlp", "sum", unit, True)
        for fusion in (self.fuse_regions, self.fuse_words) if small else ():
            with torch.no_grad(): fusion.linear.weight.mul_(.1)


@register_loss("gradual")
@dataclass(frozen=True)
class Gradual(Loss):
    "Eq. 14 with softmax weights over the rivals; what their logits are multiplied by grows from 0 to `sharpest` in `steps` calls."
    sharpest: float = 4.0
    steps: int = 938

    def __post_init__(self): object.__setattr__(self, "calls", 0)

    def __call__(self, scores, same_image=None):
        same = positives(scores, same_image)
        wrong = softplus(scores).masked_fill(same, 0)
        weights = scores.detach().masked_fill(same, -torch.inf) * (self.sharpest * min(1, self.calls / self.steps))
        weights = weights.masked_fill(same, -torch.inf)                              # 0 times infinity is no number
        object.__setattr__(self, "calls", self.calls + 1)
        return 2 * softplus(-scores.diag()).sum() + sum((wrong * weights.softmax(axis)).sum() for axis in (1, 0))


SIZES = {"embed_dim": 64, "word_dim": 64}
PAPER = replace(RECIPES["camp-f8k-small-nce"], args=SIZES, epochs=1, loss="matching_bce", warmup_steps=600, dev_images=200)  # Eq. 1-14
INFONCE, GRADUAL = {"loss": "info_nce", "warmup_steps": 0}, {"loss": "gradual", "warmup_steps": 0}
BASE = {**SIZES, "interaction": False, "matching": "cosine"}
WHOLE = {**SIZES, "normalise": "both", "start": "base"}


def changed(args: dict | None = None, matcher: str = "camp", **settings) -> Recipe:
    "The paper's recipe with other arguments and settings."
    return replace(PAPER, matcher=matcher, args={**SIZES, **(args or {})}, **settings)


def joint_first() -> Recipe:
    "One epoch with cosine in the place of the MLP, then one of the whole by a quarter of the step size."
    first = replace(PAPER, name="joint", args={**WHOLE, "start": None, "matching": "cosine"}, **INFONCE, loss_args={"temperature": .1})
    return replace(PAPER, args=WHOLE, lr=PAPER.lr / 4, after=first, **INFONCE)


ROWS = {
    "base": changed(BASE, loss="triplet", warmup_steps=300),
    "base, LayerNorm": changed({**BASE, "normalise": "fragments"}, loss="triplet", warmup_steps=300),
    "base, LayerNorm, InfoNCE": changed({**BASE, "normalise": "fragments"}, **INFONCE, loss_args={"temperature": .1}),
    "paper": changed(),
    "LayerNorm": changed({"normalise": "fragments"}),
    "unit vectors": changed({"normalise": "vectors"}),
    "MLP's start": changed({"rising": True}, "startedcamp"),
    "unit vectors, MLP's start": changed({"rising": True, "normalise": "vectors"}, "startedcamp"),
    "small F": changed({"small": True}, "startedcamp"),
    "LayerNorm, small F": changed({"small": True, "normalise": "fragments"}, "startedcamp"),
    "concat": changed({"join": "concat"}),
    "scalar gates": changed({"gates": "scalar"}),
    "InfoNCE": changed(**INFONCE),
    "gradual": changed(**GRADUAL),
    "together, Eq. 14": changed(WHOLE),
    "together, InfoNCE": changed(WHOLE, **INFONCE),
    "together, gradual": changed(WHOLE, **GRADUAL),
    "together, InfoNCE, without MLP's start": changed({"small": True, "normalise": "both"}, "startedcamp", **INFONCE),
    "together, InfoNCE, concat": changed({**WHOLE, "join": "concat"}, **INFONCE),
    "together, InfoNCE, scalar gates": changed({**WHOLE, "gates": "scalar"}, **INFONCE),
    "joint embedding first": joint_first(),
}


def run(row: str, seed: int, data: Path, out: Path) -> None:
    "Train and evaluate, or find what was trained before; then look at the gates of 100 dev pairs."
    folder = out / row / str(seed)
    found = train_entry(Entry(row, ROWS[row]), seed, data, folder, "test", progress=False)
    model, vocabulary = load(folder / "best")
    if isinstance(model, CAMP) and model.gated and not (folder / "gates.json").exists():
        dev = first_images(open_split(data, "dev"), 100)
        images, captions = encode_all(model, dev, vocabulary, progress=False)
        gates = mean_gates(model, images, captions[::5], torch.arange(100))
        (folder / "gates.json").write_text(json.dumps(gates._asdict()) + "\n")
    print(f"{row} seed {seed}: test R@sum {found['report']['rsum']:.1f}, {found['seconds_per_epoch']:.0f} s an epoch", flush=True)


def table(out: Path, seeds: list[int]) -> str:
    "All rows that were trained."
    lines = ["| | seeds | test R@sum (by seed) | minus the base model | hit rate | pair's share | gates: matching / other | s an epoch |",
             "|---|---|---|---|---|---|---|---|"]
    for row in ROWS:
        many, hits = together(out, row, seeds)
        if not many: continue
        folders = [out / row / str(found["seed"]) for found in many]
        noted = [list(csv.DictReader((folder / "metrics.csv").open()))[-1] for folder in folders]
        gates = [json.loads((folder / "gates.json").read_text()) for folder in folders if (folder / "gates.json").exists()]
        base = together(out, "base", [found["seed"] for found in many])[1]
        apart = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*versus(hits, base)) if row != "base" and len(base) == len(hits) else ""
        def mean(key, rows): return np.mean([float(one[key]) for one in rows]) if rows and rows[0].get(key) else np.nan
        rsum = [found["report"]["rsum"] for found in many]
        lines.append(f"| {row} | {len(many)} | {np.mean(rsum):.1f} ({', '.join(f'{x:.1f}' for x in rsum)}) | {apart} "
                     f"| {100 * mean('hit_rate', noted):.0f}% | {100 * mean('interaction', noted):.1f}% "
                     f"| {mean('matching', gates):.3f} / {mean('other', gates):.3f} | {np.mean([x['seconds_per_epoch'] for x in many]):.0f} |")
    return "\n".join(lines)


def main() -> None:
    "The command above."
    parser = asking(__doc__, "f8k", "runs/camp-screening")
    parser.add_argument("--table", action="store_true", help="train nothing, print what there is")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS): parser.error(f"no row {', '.join(unknown)}: there are {', '.join(ROWS)}")
    torch.set_num_threads(1)
    for seed in args.seeds if not args.table else ():
        for row in args.rows or ROWS: run(row, seed, args.data, args.out)
    print(table(args.out, args.seeds))


if __name__ == "__main__": main()
