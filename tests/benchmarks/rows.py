"""What is measured: rows of a table, and the work that each of them stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache

import torch
from torch import Tensor

from benchmarks.literal import literal, literal_camp
from cmr.camp import CAMP
from cmr.encoders import Fragments
from cmr.fast import engine, training_scores
from cmr.imram import DIRECTIONS, IMRAM
from cmr.matcher import Matcher
from cmr.similarity import l2_normalize


@cache
def compiled_scores() -> Callable:
    "The engine's steps through torch.compile, sizes left open."
    return torch.compile(engine.recurrent_scores, dynamic=True)


def compiled(model: Matcher, images: Fragments, captions: Fragments) -> Tensor:
    "The engine with its steps compiled; for scoring only."
    plain, engine.recurrent_scores = engine.recurrent_scores, compiled_scores()
    try: return training_scores(model, images, captions)
    finally: engine.recurrent_scores = plain


SCORES = {"literal": lambda model, *sides: (literal_camp if isinstance(model, CAMP) else literal)(model, *sides),
          "plain": lambda model, *sides: training_scores(model, *sides, engine=False),
          "engine": lambda model, *sides: training_scores(model, *sides), "compiled": compiled}
# what a row may be about, and how it differs
MODELS: dict[str, dict] = {"imram": {}, "camp": {}, "camp-scalar": {"gates": "scalar"}, "camp-released": {"variant": "released"}}
REGIONS, REGION_DIM, VOCABULARY, WORD_DIM, CLIP = 36, 2048, 10000, 300, 2.0


@dataclass(frozen=True)
class Row:
    "One line of the table: what is computed, and at which size."
    what: str                                    # "forward"; "both": forward and backward; "step": a whole training step
    images: int
    captions: int
    width: int                                   # d
    steps: int = 3                               # IMRAM's K
    direction: str = "full"                      # IMRAM's: "full", "image" or "text"
    precision: str = "float32"                   # "float32", "tf32" or "bf16"
    variants: tuple[str, ...] = ("literal", "engine")
    memory: bool = False                         # measure memory too
    seconds: float = 4.0                         # about how long it may be repeated; one call of the literal form may take six times that
    model: str = "imram"                         # one of MODELS: the paper's CAMP is "camp"

    @property
    def name(self) -> str:
        precision = "" if self.precision == "float32" else f"-{self.precision}"
        model = f"{self.direction}-{self.steps}" if self.model == "imram" else self.model
        return f"{self.what}-{model}-{self.images}x{self.captions}-{self.width}{precision}"

    @property
    def pairs(self) -> int: return self.images * self.captions


# What there is to measure

def all_rows(device: str = "cpu") -> list[Row]:
    "Every row, the most important first: where time runs out, the literal form is left out of the later ones."
    square = [(16, 1024), (48, 256), (64, 256), (128, 1024)]
    rows = [replace(row, variants=("literal", "plain", "engine")) if row.width == 256 else row for row in bar_rows()]
    rows += [row for model in MODELS if model != "imram" for row in camp_rows(model)]
    rows += [Row("both", b, b, 256, variants=("literal", "plain", "engine"), memory=b == 64) for b in (4, 8, 16, 32, 48, 64, 128)]
    rows += [Row("forward", 200, 1000, 256, seconds=25)]
    rows += [Row(what, b, b, d, steps, direction)
             for b, d in square for steps in (3, 2, 1) for direction in DIRECTIONS for what in ("forward", "both")]
    if device == "cuda":
        rows += [Row(what, 128, 128, 1024, precision=p, memory=what == "both") for what in ("forward", "both") for p in ("tf32", "bf16")]
        rows += [Row("forward", 1000, 5000, 1024, seconds=25), Row("step", 128, 128, 1024, memory=True, seconds=30, model="camp")]
    named: dict[str, Row] = {}
    for row in rows: named.setdefault(row.name, row)                                                     # of two of one name, the first
    return list(named.values())


def camp_rows(model: str) -> list[Row]:
    "One form of CAMP, forward, and forward and backward."
    variants = ("literal", "plain", "engine")
    return [Row(what, 12, 12, 1024, variants=variants, memory=what == "both", seconds=12, model=model) for what in ("forward", "both")]


def bar_rows() -> list[Row]:
    "The rows that have a bar."
    return [Row("forward", 16, 16, 1024, seconds=12), Row("both", 16, 16, 1024, memory=True, seconds=25),
            Row("both", 48, 48, 256, memory=True, seconds=25), Row("both", 16, 16, 1024, 1, seconds=12),
            Row("forward", 32, 32, 64, direction="text"), Row("both", 128, 128, 64, seconds=25),
            Row("step", 128, 128, 1024, memory=True, seconds=30), *camp_rows("camp")]


def with_compiled(rows: Sequence[Row]) -> list[Row]:
    "The engine compiled, too, wherever all three steps of IMRAM are only scored."
    def wanted(row): return (row.what, row.model, row.direction, row.steps) == ("forward", "imram", "full", 3)
    return [replace(row, variants=(*row.variants, "compiled")) if wanted(row) else row for row in rows]


def chosen(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    "Rows whose name fits one of the patterns; all where there are none. ValueError for a pattern that fits nothing."
    example = ", ".join(row.name for row in rows[:4])
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in rows):
            raise ValueError(f"no row fits {pattern!r}; a row is called what-direction-K-IMAGESxCAPTIONS-width, "
                             f"or what-camp-IMAGESxCAPTIONS-width; for example {example}; * stands for anything")
    return [row for row in rows if not patterns or any(fnmatch(row.name, pattern) for pattern in patterns)]


def word_counts(captions: int) -> Tensor:
    "Words of each caption, 8 to 16, 12 on average; seeded."
    return torch.randint(8, 17, (captions,), generator=torch.Generator().manual_seed(0))


def make_fragments(images: int, captions: int, width: int, device: str = "cpu", dtype=torch.float32) -> tuple[Fragments, Fragments]:
    "Unit vectors of random direction, 36 regions an image: no pair stands out, so every row and column has its rival."
    generator, n = torch.Generator().manual_seed(1), word_counts(captions)
    mask = torch.arange(int(n.max())) < n[:, None]
    regions = l2_normalize(torch.randn(images, REGIONS, width, generator=generator, dtype=dtype))
    words = l2_normalize(torch.randn(*mask.shape, width, generator=generator, dtype=dtype)) * mask[..., None]
    real = torch.ones(images, REGIONS, dtype=torch.bool)
    return tuple(Fragments(x.to(device).requires_grad_(), m.to(device)) for x, m in ((regions, real), (words, mask)))


def make_model(row: Row, device: str = "cpu") -> Matcher:
    "The row's model, of its size. IMRAM has a memory for K = 1 too: the published way updates it."
    torch.manual_seed(0)
    sizes = (REGION_DIM, VOCABULARY, row.width, WORD_DIM) if row.what == "step" else (1, 4, row.width, 1)
    if row.model != "imram": return CAMP(*sizes, **MODELS[row.model]).to(device)
    model = IMRAM(*sizes, steps=max(row.steps, 2), direction=row.direction).to(device)
    model.steps = row.steps
    return model


@contextmanager
def products_in(precision: str):
    "How precisely matrices are multiplied; what autocast needs comes in `scored`."
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try: yield
    finally: torch.set_float32_matmul_precision(before)


def work(row: Row, variant: str, device: str = "cpu", world=None) -> Callable[[int | None], None]:
    "What a row does, as a function of how many images and captions it takes (None: all). `world`: model and both sides, where they exist."
    model, images, captions = world or (make_model(row, device), *make_fragments(row.images, row.captions, row.width, device))
    if row.what == "step": return training_step(row, variant, model, device)
    leaves = [images.values, captions.values, *(p for name, p in model.named_parameters() if "_encoder." not in name)]

    def run(size=None):
        with products_in(row.precision), torch.set_grad_enabled(row.what == "both"):
            with torch.autocast(device, torch.bfloat16, enabled=row.precision == "bf16"):
                scores = SCORES[variant](model, images[:size], captions[:size])
            if row.what == "both": torch.autograd.grad(model.default_loss()(scores), leaves, allow_unused=True)
    return run


def training_step(row: Row, variant: str, model: Matcher, device: str) -> Callable[[int | None], None]:
    "Encoders, scores, loss, backward, clip, Adam; on random features and words."
    generator, lengths = torch.Generator().manual_seed(1), word_counts(row.captions)
    features = torch.randn(row.images, REGIONS, REGION_DIM, generator=generator).to(device)
    tokens = torch.randint(4, VOCABULARY, (row.captions, int(lengths.max())), generator=generator).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-4)

    def run(size=None):
        with products_in(row.precision):
            with torch.autocast(device, torch.bfloat16, enabled=row.precision == "bf16"):
                images, captions = model.encode_images(features[:size]), model.encode_captions(tokens[:size], lengths[:size])
                scores = SCORES[variant](model, images, captions)
            optimiser.zero_grad()
            model.default_loss()(scores).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
    return run
