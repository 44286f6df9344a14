"""How many operations a row takes: what the engine's formula needs is the floor that every time is held against."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.rows import REGION_DIM, REGIONS, WORD_DIM, Row, word_counts
from cmr.imram import DIRECTIONS


def pair_operations(m: int, n: int, d: int, steps: int, direction: str, variant: str = "engine") -> int:
    "Operations of one pair of m regions and n words (a multiplication and an addition are two)."
    sizes, total = [{"text": (n, m), "image": (m, n)}[asks] for asks in DIRECTIONS[direction]], 0
    for q, r in sizes:
        if variant == "engine": 
            total += 2 * q * r * d * steps + 4 * q * r * d * (steps - 1) + 2 * q * r * r * steps + 4 * q * d * d * max(steps - 2, 0)
        else: total += steps * (4 * q * r * d + 8 * q * d * d)
    return total - (2 * m * n * d if variant == "engine" and len(sizes) == 2 else 0)                      # the first products serve both


def side_operations(k: int, d: int, steps: int, asks: bool, answers: bool) -> int:
    "What the engine does once for an image or a caption of k fragments."
    return (4 * k * d * d * (steps > 1)) * (asks + answers) + 2 * k * k * d * answers


def camp_pair_operations(m: int, n: int, d: int, model: str = "camp", variant: str = "engine") -> int:
    "Operations of one pair of m regions and n words in a form of CAMP."
    both, released, branches = m + n, model == "camp-released", 4 if model == "camp-released" else 1
    # affinities and messages; the scorer; the MLP
    total = 6 * m * n * d + 2 * both * d * (branches + d * released) + 2 * d * (d * (1 + released) + 1)
    if variant != "engine": return total + 2 * both * d * d * (2 + released) + 2 * both * d * branches  # projections, F; sums
    return total + 4 * both * d + (2 * both * d * d if model == "camp" else 2 * m * n * d)      # two sums; F, or scalar gates


def camp_side_operations(k: int, d: int, model: str, words: bool) -> int:
    "What the engine does once for k fragments: both projections as one, both halves of F, the scorer's first layer."
    return 4 * k * d * d * (words + (model != "camp")) + 2 * k * d * (d if model == "camp-released" else 1)


def row_operations(row: Row, n: int, variant: str = "engine") -> int:
    "Operations of one pair with n words, whatever the row is about."
    if row.model != "imram": return camp_pair_operations(REGIONS, n, row.width, row.model, variant)
    return pair_operations(REGIONS, n, row.width, row.steps, row.direction, variant)


def row_side_operations(row: Row, k: int, words: bool) -> int:
    "Operations of one image or caption of k fragments, whatever the row is about."
    if row.model != "imram": return camp_side_operations(k, row.width, row.model, words)
    asks = [side in DIRECTIONS[row.direction] for side in ("image", "text")]
    return side_operations(k, row.width, row.steps, asks[words], asks[not words])


def encoder_operations(row: Row, words: int) -> int:
    "Projecting regions, and a GRU read in both directions."
    return 2 * row.images * REGIONS * REGION_DIM * row.width + 2 * words * 2 * 3 * row.width * (WORD_DIM + row.width)


def operations(row: Row, variant: str = "engine", size: int | None = None) -> int:
    "Operations of a row; a backward pass counts twice the forward, and where the engine scores again (3 B pairs at most), three times."
    row = replace(row, images=min(row.images, size or row.images), captions=min(row.captions, size or row.captions))
    counts = word_counts(row.captions).tolist()
    pairs = row.images * sum(row_operations(row, n, variant) for n in counts)
    sides = row.images * row_side_operations(row, REGIONS, False) + sum(row_side_operations(row, n, True) for n in counts)
    encoders = 3 * encoder_operations(row, sum(counts)) if row.what == "step" else 0
    if variant != "engine": return pairs * (1 if row.what == "forward" else 3) + encoders
    if row.what == "forward": return pairs + sides
    again = min(3 * row.images, row.pairs) / row.pairs
    return int(pairs * (1 + 3 * again) + 4 * sides + encoders)
