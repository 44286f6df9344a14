"""How fast IMRAM and CAMP are scored, and in how much memory: the published way of computing (`literal`), the plain form, and the engine. `cmr bench`."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import median

import psutil
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .camp import CAMP
from .captions import whole_file
from .encoders import Fragments
from .engine import Recurrence
from .imram import DIRECTIONS, IMRAM
from .matcher import Matcher
from .memory import Distill
from .similarity import l2_normalize

# The published way of computing IMRAM: a loop over captions, the words of one expanded over all images, every context and [x, c] written
# down, the memory updated after every step (also after the last, which nobody reads), a graph of everything for the backward pass.

def lengthened(x: Tensor, variant: str) -> Tensor:
    "Vectors along the last axis, scaled to length one as the paper or as the released code does."
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) if variant == "paper" else x / (x.pow(2).sum(-1, keepdim=True).sqrt() + 1e-8)


def attention(query: Tensor, context: Tensor, inverse_temperature: float, variant: str) -> Tensor:
    "IMRAM Eq. 3-5: queries (I, q, d) and responses (I, r, d) to contexts (I, q, d)."
    if variant == "paper": z = torch.bmm(lengthened(context, variant), lengthened(query, variant).transpose(1, 2)).relu()
    else: z = torch.nn.functional.leaky_relu(torch.bmm(context, query.transpose(1, 2)), 0.1)
    weights = torch.softmax(inverse_temperature * lengthened(z, variant), 1)
    return torch.bmm(weights.transpose(1, 2), context)


def updated(ram, query: Tensor, context: Tensor) -> Tensor:
    "IMRAM Eq. 6-7, with [x, c] written down: (I, q, d)."
    both = torch.cat([query, context], -1)
    gate, fused = torch.sigmoid(ram.memory.gate(both)), torch.tanh(ram.memory.linear(both))
    query = gate * query + (1 - gate) * fused
    return lengthened(query, "released") if ram.renormalise else query


def direction_score(ram, query: Tensor, response: Tensor, steps: int) -> Tensor:
    "One direction's terms of IMRAM Eq. 10-12 for a caption and all images: (I,)."
    original, total = query, 0
    for _ in range(steps):
        context = attention(query, response, ram.inverse_temperature, ram.variant)
        lengths = original.norm(dim=-1) * context.norm(dim=-1)
        total = total + ((original * context).sum(-1) / lengths.clamp(min=1e-8)).mean(1)                 # Eq. 11
        if ram.memory is not None: query = updated(ram, query, context)
    return total


def captions_expanded(images: Fragments, captions: Fragments) -> Iterator[Tensor]:
    "The real words of one caption after the other, once for every image: (I, n, d). ValueError for images with missing regions."
    if not images.mask.all(): raise ValueError("the published way knows no missing regions: give every image the same number")
    for words, n in zip(captions.values, captions.lengths.tolist()): yield words[None, :n].expand(len(images), -1, -1).contiguous()


def literal(model: IMRAM, images: Fragments, captions: Fragments) -> Tensor:
    "Every image with every caption, (I, C), as published. ValueError for images with missing regions, or another memory than Eq. 7."
    if not all(isinstance(ram.memory, Distill | None) for ram in model.ram.values()): raise ValueError('the published way is written for memory="distill" only')
    columns = []
    for words in captions_expanded(images, captions):
        asks = {"text": (words, images.values), "image": (images.values, words)}
        columns.append(sum(direction_score(ram, *asks[side], model.steps) for side, ram in model.ram.items()))
    return torch.stack(columns, 1)


# The published way of computing CAMP: the same loop; for each caption both projections, both messages and both fusions anew, with all images.

def fused_vector(fusion, pool, x: Tensor, told: Tensor) -> Tensor:
    "CAMP Eq. 5-11: fragments (I, k, d), and what each of them was told, to one vector for each image, (I, d)."
    agreement = x * told
    gate = torch.sigmoid(agreement if fusion.kind == "element" else agreement.sum(-1, keepdim=True))             # Eq. 5 and 7
    both = x + told if fusion.operation == "sum" else torch.cat([x, told], -1)
    fused = torch.relu(fusion.linear(gate * both)) + x                                                           # Eq. 6 and 9
    shares = torch.softmax(pool.scorer(fused) * pool.scale, 1)                                                   # Eq. 10, a column for each branch
    return torch.bmm(shares.transpose(1, 2), fused).mean(1)                                                      # Eq. 11


def literal_camp(model: CAMP, images: Fragments, captions: Fragments) -> Tensor:
    "Every image with every caption, (I, C): logits as published. ValueError for images with missing regions, or a form it is not written for."
    form, known = model.form, (("element", "sum"), ("scalar", "sum"), ("scalar", "concat"))
    whole = form["interaction"] and form["attention"] and form["residual"] and form["pooling"] == "attention"
    if not whole or (form["gates"], form["fusion"]) not in known: raise ValueError("the published way is written for the whole CAMP, the paper's or the released, not for its ablations")
    ask, columns = model.aggregation, []
    for words in captions_expanded(images, captions):
        A = torch.bmm(ask.project_regions(images.values), ask.project_words(words).transpose(1, 2)) / ask.hidden ** .5   # Eq. 1
        to_words = torch.bmm(A.transpose(1, 2).softmax(-1), images.values)                                       # Eq. 2-3
        to_regions = torch.bmm(A.softmax(-1), words)                                                             # Eq. 4
        v = fused_vector(model.fuse_regions, model.pool_regions, images.values, to_regions)
        columns.append(model.matching(v, fused_vector(model.fuse_words, model.pool_words, words, to_words)))     # Eq. 13
    return torch.stack(columns, 1)


@cache
def compiled_scores() -> Callable:
    "The engine's steps through torch.compile, sizes left open."
    return torch.compile(Recurrence.scores, dynamic=True)


def compiled(model: IMRAM, images: Fragments, captions: Fragments) -> Tensor:
    "The engine with its steps compiled; for scoring only."
    plain, Recurrence.scores = Recurrence.scores, compiled_scores()
    try: return model.score(images, captions)
    finally: Recurrence.scores = plain


SCORES = {"literal": lambda model, *sides: (literal_camp if isinstance(model, CAMP) else literal)(model, *sides),
          "plain": lambda model, *sides: model.plain_score(*sides), "engine": lambda model, *sides: model.training_scores(*sides), "compiled": compiled}
MODELS = {"imram": {}, "camp": {}, "camp-scalar": {"gates": "scalar"}, "camp-released": {"variant": "released"}}  # what a row may be about, and how it differs
REGIONS, REGION_DIM, VOCABULARY, WORD_DIM, MARGIN, CLIP = 36, 2048, 10000, 300, 0.2, 2.0


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
    rows += [Row(what, b, b, d, steps, direction) for b, d in square for steps in (3, 2, 1) for direction in DIRECTIONS for what in ("forward", "both")]
    if device == "cuda":
        rows += [Row(what, 128, 128, 1024, precision=p, memory=what == "both") for what in ("forward", "both") for p in ("tf32", "bf16")]
        rows += [Row("forward", 1000, 5000, 1024, seconds=25), Row("step", 128, 128, 1024, memory=True, seconds=30, model="camp")]
    named = {}
    for row in rows: named.setdefault(row.name, row)                                                     # of two of one name, the first
    return list(named.values())


def camp_rows(model: str) -> list[Row]:
    "One form of CAMP, forward, and forward and backward."
    return [Row(what, 12, 12, 1024, variants=("literal", "plain", "engine"), memory=what == "both", seconds=12, model=model) for what in ("forward", "both")]


def bar_rows() -> list[Row]:
    "The rows that have a bar."
    return [Row("forward", 16, 16, 1024, seconds=12), Row("both", 16, 16, 1024, memory=True, seconds=25), Row("both", 48, 48, 256, memory=True, seconds=25),
            Row("both", 16, 16, 1024, 1, seconds=12), Row("step", 128, 128, 1024, memory=True, seconds=30), *camp_rows("camp")]


def with_compiled(rows: Sequence[Row]) -> list[Row]:
    "The engine compiled, too, wherever all three steps of IMRAM are only scored."
    def wanted(row): return (row.what, row.model, row.direction, row.steps) == ("forward", "imram", "full", 3)
    return [replace(row, variants=(*row.variants, "compiled")) if wanted(row) else row for row in rows]


def chosen(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    "Rows whose name fits one of the patterns; all where there are none. ValueError for a pattern that fits nothing."
    for pattern in patterns:
        if not any(fnmatch(row.name, pattern) for row in rows):
            raise ValueError(f"no row fits {pattern!r}; a row is called what-direction-K-IMAGESxCAPTIONS-width, or what-camp-IMAGESxCAPTIONS-width; for example {', '.join(row.name for row in rows[:4])}; "
                             "* stands for anything")
    return [row for row in rows if not patterns or any(fnmatch(row.name, pattern) for pattern in patterns)]


def word_counts(captions: int) -> Tensor:
    "Words of each caption, 8 to 16, 12 on average; seeded."
    return torch.randint(8, 17, (captions,), generator=torch.Generator().manual_seed(0))


def make_fragments(images: int, captions: int, width: int, device: str = "cpu", dtype=torch.float32) -> tuple[Fragments, Fragments]:
    "Unit vectors of random direction, 36 regions an image: no pair stands out, so that every hinge is active and every row and column has its rival."
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
    "What a row does, as a function of how many images and captions it takes (None: all). `world`: model, images, captions, where they are there already."
    model, images, captions = world or (make_model(row, device), *make_fragments(row.images, row.captions, row.width, device))
    if row.what == "step": return training_step(row, variant, model, device)
    leaves = [images.values, captions.values, *(p for name, p in model.named_parameters() if "_encoder." not in name)]

    def run(size=None):
        with products_in(row.precision), torch.set_grad_enabled(row.what == "both"):
            with torch.autocast(device, torch.bfloat16, enabled=row.precision == "bf16"): scores = SCORES[variant](model, images[:size], captions[:size])
            if row.what == "both": torch.autograd.grad(model.loss(scores, MARGIN), leaves, allow_unused=True)
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
            model.loss(scores, MARGIN).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
    return run


# How many operations: what the engine's formula needs is the floor that every time is held against

def pair_operations(m: int, n: int, d: int, steps: int, direction: str, variant: str = "engine") -> int:
    "Operations of one pair of m regions and n words (a multiplication and an addition are two)."
    ways, total = [{"text": (n, m), "image": (m, n)}[side] for side in DIRECTIONS[direction]], 0
    for q, r in ways:
        if variant == "engine": total += 2 * q * r * d * steps + 4 * q * r * d * (steps - 1) + 2 * q * r * r * steps + 4 * q * d * d * max(steps - 2, 0)
        else: total += steps * (4 * q * r * d + 8 * q * d * d)
    return total - (2 * m * n * d if variant == "engine" and len(ways) == 2 else 0)                      # the first products serve both


def side_operations(k: int, d: int, steps: int, asks: bool, answers: bool) -> int:
    "What the engine does once for an image or a caption of k fragments."
    return (4 * k * d * d * (steps > 1)) * (asks + answers) + 2 * k * k * d * answers


def camp_pair_operations(m: int, n: int, d: int, model: str = "camp", variant: str = "engine") -> int:
    "Operations of one pair of m regions and n words in a form of CAMP."
    both, released, branches = m + n, model == "camp-released", 4 if model == "camp-released" else 1
    total = 6 * m * n * d + 2 * both * d * (branches + d * released) + 2 * d * (d * (1 + released) + 1)  # affinities, messages; the scorer; the MLP
    if variant != "engine": return total + 2 * both * d * d * (2 + released) + 2 * both * d * branches   # projections and F; one sum for each branch
    return total + 4 * both * d + (2 * both * d * d if model == "camp" else 2 * m * n * d)               # two sums; F, or products for the scalar gates


def camp_side_operations(k: int, d: int, model: str, words: bool) -> int:
    "What the engine does once for an image or a caption of k fragments: both projections as one, both halves of F, the scorer's first layer."
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


def product_rate(device: str = "cpu", precision: str = "float32", size: int | None = None) -> float:
    "Operations a second of this machine's own product of two large matrices: the best of ten."
    size = size or (2048 if device == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32) for _ in range(2))
    with products_in(precision): return 2 * size ** 3 / min(timed(lambda: a @ b, device) for _ in range(10))


# Time and memory

def timed(task: Callable, device: str) -> float:
    "Seconds of one call; on a GPU, until it is done."
    if device == "cuda": torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    if device == "cuda": torch.cuda.synchronize()
    return time.perf_counter() - start


def kept_for_backward(row: Row, variant: str, device: str = "cpu") -> float:
    "Bytes that autograd keeps for a pair, counted on 2 x 2 pairs."
    model, (images, captions) = make_model(replace(row, what="both"), device), make_fragments(2, 2, row.width, device)
    kept, known = {}, {x.untyped_storage().data_ptr() for x in (*model.parameters(), images.values, captions.values)}

    def note(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x): scores = SCORES[variant](model, images, captions)  # noqa: F841 - keeps the graph
    return sum(size for at, size in kept.items() if at not in known) / 4


def bytes_needed(row: Row, variant: str, device: str = "cpu") -> float:
    "An estimate of the memory a variant takes above what is there before it."
    if variant in ("engine", "compiled"): return 0.0                                                     # bounded by its blocks
    if row.what != "forward": return row.pairs * kept_for_backward(row, variant, device)
    at_once = row.images if variant == "literal" else row.pairs
    return 4.0 * at_once * (6 * REGIONS * 16 + 10 * row.width * REGIONS)


def free_bytes(device: str) -> float:
    "What a variant may take: half of the free memory of a machine that others use too, nearly all of a GPU's."
    if device != "cuda": return 0.5 * psutil.virtual_memory().available
    torch.cuda.empty_cache()
    return 0.9 * torch.cuda.mem_get_info()[0]


def gigabytes(count: float) -> str:
    "Bytes as people read them: 0.26 GB, 83 GB."
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"


def time_row(row: Row, device: str, left: Callable[[], float]) -> dict:
    "Run a row's variants in turns, A B A B; `left` says how many seconds there are for it."
    found = {"seconds": {variant: [] for variant in row.variants}, "skipped": {}, "needs": {}}
    world = (make_model(row, device), *make_fragments(row.images, row.captions, row.width, device))
    tasks, expected = {}, {}
    for variant in row.variants:
        found["needs"][variant] = need = bytes_needed(row, variant, device)
        if 1.2 * need > (free := free_bytes(device)):
            found["skipped"][variant] = f"would need about {gigabytes(need)} (estimated from 2 x 2 pairs), may have {gigabytes(free)}"
            continue
        task = work(row, variant, device, world)
        task(min(4, row.images))
        seconds = timed(lambda: task(8), device) * operations(row, variant) / operations(row, variant, 8)  # noqa: B023 - called at once
        allowed = min(6 * row.seconds, left())
        if variant != "engine" and seconds > allowed: found["skipped"][variant] = f"would take about {seconds:.0f} s, may take {max(allowed, 0):.0f} s"
        else: tasks[variant], expected[variant] = task, seconds
    rounds = max(1, min(7, int(min(row.seconds, left()) / max(sum(expected.values()), 1e-9))))
    for n in range(-(rounds > 1), rounds):                                                               # a first round is for warming up
        for variant, task in tasks.items():
            try: took = timed(task, device)
            except torch.cuda.OutOfMemoryError: took = found["skipped"][variant] = "ran out of memory"
            if n >= 0: found["seconds"][variant].append(took)
    found["seconds"] = {variant: [] if variant in found["skipped"] else many for variant, many in found["seconds"].items()}
    return found


def resident() -> tuple[int, int]:
    "Bytes of this process in memory, now and at most."
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines: return tuple(1024 * int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM"))
    import resource
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def forget_peak() -> None:
    "Let the system count the peak from now on, where it can."
    try: Path("/proc/self/clear_refs").write_text("5")
    except OSError: pass


def own_peak(row: Row, variant: str, device: str) -> dict:
    "Run a variant once in this process, which should have done nothing before but the same on a few pairs: bytes above that, and bytes in all."
    task = work(row, variant, device)
    task(8 if row.what == "step" else 2)                                     # what libraries take once; and Adam's memory is there from the second step on
    if device == "cuda":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        timed(task, device)
        most = torch.cuda.max_memory_allocated()
        return {"above": most - base, "all": most}
    before = resident()[1]
    forget_peak()
    base = resident()[0]
    task()
    return {"above": resident()[1] - base, "all": max(before, resident()[1])}


def measure_peak(row: Row, variant: str, device: str) -> dict:
    "`own_peak` in a process of its own. RuntimeError with what that process said where it fails."
    command = [sys.executable, "-m", "cmr.bench", json.dumps(asdict(row)), variant, device]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode: raise RuntimeError(f"measuring the memory of {row.name}, {variant}, failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


# The bars

BARS = (  # what, device, row, measure, bound
    ("forward", "cpu", "forward-full-3-16x16-1024", "time", 4.0), ("forward and backward", "cpu", "both-full-3-16x16-1024", "time", 5.0),
    ("forward and backward", "cpu", "both-full-3-48x48-256", "time", 8.0), ("forward and backward, K = 1", "cpu", "both-full-1-16x16-1024", "time", 25.0),
    ("peak memory above the base", "cpu", "both-full-3-48x48-256", "memory", 10.0), ("training step, peak memory in all", "cpu", "step-full-3-128x128-1024", "resident", 4e9),
    ("CAMP, forward", "cpu", "forward-camp-12x12-1024", "time", 2.0), ("CAMP, forward and backward", "cpu", "both-camp-12x12-1024", "time", 2.5),
    ("CAMP, peak memory above the base", "cpu", "both-camp-12x12-1024", "memory", 2.0), ("training step", "cuda", "step-full-3-128x128-1024", "time", 10.0))


def ratio(result: dict, what: str = "time") -> float | None:
    "How many times as much the literal form needs as the engine, of time or of memory; None where one of them was not measured."
    found = {variant: median(many) for variant, many in result["seconds"].items() if many} if what == "time" else {v: m["above"] for v, m in result["memory"].items()}
    return found["literal"] / found["engine"] if {"literal", "engine"} <= found.keys() else None


def check_bars(results: Sequence[dict], device: str = "cpu") -> list[dict]:
    "What each bar asks, what was measured, and whether it was met (None: not measured)."
    found, bars = {result["name"]: result for result in results}, []
    for what, kind, name, measure, bound in BARS:
        if kind != device: continue
        result = found.get(name)
        if measure == "resident":
            value = result and result["memory"].get("engine", {}).get("all")
            asked, got, met = f"below {gigabytes(bound)}", value and gigabytes(value), value and value < bound
        else:
            value = result and ratio(result, measure)
            asked, got, met = f"at least {bound:g} times less than literal", value and f"{value:.1f} times", value and value >= bound
        far = "" if met or not value else f", {value / bound:.2f} of what is asked" if measure != "resident" else f", {value / bound:.2f} times what is allowed"
        bars.append({"bar": what, "row": name, "asked": asked, "measured": (got or "") + far, "met": None if not value else bool(met)})
    return bars


# What comes out

def machine(device: str) -> dict:
    "What the numbers belong to."
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return {"processor": names[0] if names else platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "memory_bytes": psutil.virtual_memory().total, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "system": platform.system(),
            "python": platform.python_version(), "torch": torch.__version__, "date": datetime.date.today().isoformat()}


def told(about: dict) -> str:
    "The machine in one line."
    where = "no GPU used" if about["device"] == "cpu" else about["device"]
    return (f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, {about['memory_bytes'] / 2**30:.0f} GiB, {where}; {about['system']}, "
            f"Python {about['python']}, torch {about['torch']}; {about['date']}; matrix products at {', '.join(f'{rate / 1e9:.0f} GFLOP/s ({name})' for name, rate in about['rates'].items())}")


def spread(many: Sequence[float]) -> str:
    "Median, and smallest to largest where there is more than one."
    if not many: return ""
    places = 3 if median(many) < 10 else 1
    return f"{median(many):.{places}f}" + (f" ({min(many):.{places}f}-{max(many):.{places}f})" if len(many) > 1 else "")


COLUMNS = ("row", "literal s", "plain s", "engine s", "literal : engine", "engine : floor", "literal memory", "engine memory", "literal : engine, memory")


def cells(result: dict) -> list[str]:
    "One row of the table."
    seconds, memory, (times, bytes_) = result["seconds"], result["memory"], (ratio(result), ratio(result, "memory"))
    engine = seconds.get("engine")
    held = [gigabytes(memory[variant]["above"]) if variant in memory else "" for variant in ("literal", "engine")]
    return [result["name"], *(spread(seconds.get(variant, [])) for variant in ("literal", "plain", "engine")), f"{times:.1f}" if times else "",
            f"{median(engine) / result['floor']:.1f}" if engine else "", *held, f"{bytes_:.1f}" if bytes_ else ""]


def remarks(results: Sequence[dict]) -> list[str]:
    "Why something is missing, what else was measured."
    said = [f"{result['name']}: {variant} not run, {why}" for result in results for variant, why in result["skipped"].items()]
    said += [f"{result['name']}: engine's peak {gigabytes(result['memory']['engine']['all'])} in all, everything counted"
             for result in results if result["what"] == "step" and "engine" in result["memory"]]
    return said + [f"{result['name']}: compiled {spread(result['seconds']['compiled'])} s" for result in results if result["seconds"].get("compiled")]


def table(content: dict) -> str:
    "Everything measured, in markdown."
    results = content["rows"]
    lines = [told(content["machine"]), "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", *("| " + " | ".join(cells(result)) + " |" for result in results), "",
             "| bar | row | asked | measured | met |", "|---|---|---|---|---|"]
    lines += [f"| {bar['bar']} | {bar['row']} | {bar['asked']} | {bar['measured']} | {verdict(bar['met'])} |" for bar in content["bars"]]
    if content["machine"]["device"] == "cpu" and content["machine"]["threads"] != 2: lines += ["", f"The bars are meant for 2 CPU cores; this was with {content['machine']['threads']}."]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks(results))]).rstrip() + "\n"


def verdict(met: bool | None) -> str:
    "Whether a bar was met, in words."
    return {True: "yes", False: "no", None: "not measured"}[met]


def plotted(results: Sequence[dict], variant: str) -> list[dict]:
    "The rows in which a variant was timed."
    return [result for result in results if result["seconds"].get(variant)]


def figure(content: dict):
    "Time against pairs, and time over the floor: a matplotlib Figure."
    from matplotlib.figure import Figure
    shape = Figure(figsize=(10, 4), layout="constrained")
    left, right = shape.subplots(1, 2)
    for colour, variant in (("C3", "literal"), ("C1", "plain"), ("C0", "engine")):
        runs = plotted(content["rows"], variant)
        for width, line in ((256, "o-"), (1024, "s--")):
            sought = {"what": "both", "model": "imram", "direction": "full", "steps": 3, "width": width, "precision": "float32"}
            some = sorted((run for run in runs if all(run[key] == value for key, value in sought.items())), key=lambda run: run["pairs"])
            if some: left.plot([run["pairs"] for run in some], [median(run["seconds"][variant]) for run in some], line, ms=4, color=colour, label=f"{variant}, d = {width}")
        if runs: right.plot([run["floor"] for run in runs], [median(run["seconds"][variant]) / run["floor"] for run in runs], "o", ms=4, color=colour, label=variant)
    right.axhline(1, color="grey", lw=.8, label="the floor: matrix products alone")
    left.set(xscale="log", yscale="log", xlabel="pairs of image and caption", ylabel="seconds", title="IMRAM, forward and backward, full, K = 3")
    right.set(xscale="log", yscale="log", xlabel="seconds at the machine's own matrix-product rate", ylabel="times as long as that", title="How near the floor, all rows")
    for panel in (left, right):
        if panel.get_legend_handles_labels()[0]: panel.legend(fontsize=7)
    return shape


FIELDS = ("name", "what", "model", "direction", "steps", "images", "captions", "width", "precision", "variant", "rounds", "median_s", "lowest_s", "highest_s", "floor_s",
          "bytes_above_base", "bytes_in_all", "not_run")


def flat(results: Sequence[dict]) -> list[dict]:
    "One line for each row and variant, for the csv file; CAMP has neither direction nor steps."
    lines = []
    for result in results:
        if result["model"] != "imram": result = {**result, "direction": "", "steps": ""}
        for variant in result["variants"]:
            many, held = result["seconds"].get(variant) or [], result["memory"].get(variant, {})
            lines.append({**{key: result[key] for key in FIELDS[:9]}, "variant": variant, "rounds": len(many), "median_s": median(many) if many else None,
                          "lowest_s": min(many, default=None), "highest_s": max(many, default=None), "floor_s": result["floor"],
                          "bytes_above_base": held.get("above"), "bytes_in_all": held.get("all"), "not_run": result["skipped"].get(variant, "")})
    return lines


def write(content: dict, out: Path, picture: bool = False) -> None:
    "benchmarks.json, benchmarks.csv, table.md and, at the end, benchmark.png; each whole or not at all."
    with whole_file(out / "benchmarks.json") as partial: partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with whole_file(out / "table.md") as partial: partial.write_text(table(content), encoding="utf-8")
    with whole_file(out / "benchmarks.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, FIELDS)
        lines.writeheader()
        lines.writerows(flat(content["rows"]))
    if picture:
        with whole_file(out / "benchmark.png") as partial: figure(content).savefig(partial, format="png", dpi=120)


def measure(row: Row, device: str, rates: dict, left: Callable[[], float]) -> dict:
    "All about one row: times, memory, floor."
    found = time_row(row, device, left)
    wanted = [variant for variant in ("literal", "engine") if row.memory and found["seconds"].get(variant)]
    if row.precision not in rates: rates[row.precision] = product_rate(device, row.precision)
    return {"name": row.name, **asdict(row), "pairs": row.pairs, "operations": operations(row), "floor": operations(row) / rates[row.precision], **found,
            "memory": {variant: measure_peak(row, variant, device) for variant in wanted}}


def about_seconds(row: Row, rate: float) -> float:
    "A guess at how long a row takes with all its rounds, for the progress bar."
    literal_s = 2 * operations(row, "literal") / rate if "literal" in row.variants else 0
    one = 3 * operations(row) / rate + (literal_s if literal_s < 6 * row.seconds else 0)
    return min(8 * one, max(one, row.seconds)) + 1 + row.memory * (one + 6)


def bench(rows: Sequence[Row], out: str | Path, device: str = "cpu", minutes: float = 12, progress: bool = True) -> dict:
    "Measure rows one after the other, writing after each; the literal form is left out where memory or time would not do. Returns what is in benchmarks.json."
    start, rates = time.perf_counter(), {"float32": product_rate(device)}
    content = {"machine": {**machine(device), "rates": rates}, "rows": [], "bars": []}
    costs = [about_seconds(row, rates["float32"]) for row in rows]
    engine = [3 * operations(row) / rates["float32"] + 1 for row in rows]                                # what later rows will need at least
    layout = "{desc} {percentage:.0f}%|{bar}| {elapsed}, about {remaining} left"
    with tqdm(total=sum(costs), disable=not progress, bar_format=layout) as bar:
        for n, row in enumerate(rows):
            bar.set_description_str(row.name)
            until = start + 60 * minutes - sum(engine[n + 1:])
            content["rows"].append(measure(row, device, rates, lambda: until - time.perf_counter()))  # noqa: B023 - called at once
            content["bars"] = check_bars(content["rows"], device)
            write(content, Path(out))
            bar.update(costs[n])
    write(content, Path(out), picture=True)
    return content


if __name__ == "__main__":  # a process of its own, for `measure_peak`
    given = json.loads(sys.argv[1])
    print(json.dumps(own_peak(Row(**{**given, "variants": tuple(given["variants"])}), *sys.argv[2:])))
