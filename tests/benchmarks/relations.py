"""Which relations a trained model tells apart: captions of test twins that differ in a relation, by the relations they name.

    python tests/benchmarks/relations.py RUN DATA
"""

import sys
from pathlib import Path

import numpy as np

from cmr.data.datasets import open_split
from cmr.fast import encode_all, score_all
from cmr.training.checkpoints import load
from cmr.world.scenes import load_entries, recoloured


def kind(names: set[str]) -> str:
    "What a caption names."
    one = " and ".join(sorted(names))
    if len(names) == 1: return f"{one}, alone"
    return "covers, and another" if "covers" in names else "two relations, none of them covers"


def told_apart(scores: np.ndarray, entries: list, own: np.ndarray) -> list[tuple[int, str, bool]]:
    "For each caption of a relation twin: the pair of scenes (its first), what it names, and whether its picture scored it above the twin's."
    found = []
    for i, entry in enumerate(entries):
        if entry.twin < 0 or recoloured(entry.scene, entries[entry.twin].scene): continue
        for caption, a, b in zip(entry.captions, np.flatnonzero(own == i), np.flatnonzero(own == entry.twin)):
            names = {fact[0] for fact in caption.meaning.relations}
            found.append((min(i, entry.twin), kind(names), bool(scores[i, a] > scores[i, b])))
    return found


def main(run: str, data: str) -> None:
    "Print the table, and the 95% interval of all over pairs of scenes."
    model, vocabulary = load(Path(run) / "best")
    split = open_split(data, "test")
    scores = score_all(model, *encode_all(model, split, vocabulary)).numpy()
    pairs, kinds, right = map(np.array, zip(*told_apart(scores, load_entries(Path(data) / "test_scenes.json"), np.asarray(split.image_of_caption))))
    print("| names | captions | told apart |\n|---|---|---|")
    for name in sorted(set(kinds), key=lambda name: -(kinds == name).sum()):
        print(f"| {name} | {(kinds == name).sum()} | {100 * right[kinds == name].mean():.1f}% |")
    at = np.unique(pairs, return_inverse=True)[1]
    hits, counts = np.bincount(at, right), np.bincount(at)
    draws = np.random.default_rng(0).integers(0, len(hits), (2000, len(hits)))
    low, high = np.percentile(100 * hits[draws].sum(1) / counts[draws].sum(1), (2.5, 97.5))
    print(f"\nall: {right.sum()} of {len(right)}, {100 * right.mean():.1f}% [{low:.1f}, {high:.1f}] over {len(hits)} pairs of scenes")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] in ("-h", "--help"): sys.exit(__doc__)
    main(*sys.argv[1:])
