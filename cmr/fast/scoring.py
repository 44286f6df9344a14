"""Thousands of images with thousands of captions: encoded once, scored tile by tile within a bound on memory, resumed where it stopped."""

from __future__ import annotations

import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cmr.attention import AttentionMatcher
from cmr.camp import CAMP
from cmr.data import ImageCaptions, Vocabulary, pad
from cmr.encoders import Fragments
from cmr.fast.sparse import as_written, plan, scores_of
from cmr.files import atomic_write, digest
from cmr.matcher import VSE, Matcher


@contextmanager
def evaluating(
    model: Matcher,
) -> Iterator[None]:
    "Evaluation mode without gradients; afterwards the model is in the mode it was in."
    training = model.training
    model.eval()
    try:
        with torch.no_grad(): yield
    finally: model.train(training)


def batch_starts(
    count: int,     # rows
    size: int,      # rows in a batch
    what: str,      # what the bar says
    progress: bool, # show it
) -> Iterator[int]:
    "Where each batch begins, with a bar if it takes more than two seconds."
    return tqdm(range(0, count, size), desc=what, unit="batch", delay=2, disable=not progress)


def encode_all(
    model: Matcher,         # on any device
    split: ImageCaptions,   # images and captions
    vocabulary: Vocabulary, # what the model was trained with
    batch_size: int = 256,  # images or captions at a time
    progress: bool = True,  # show bars where it takes more than two seconds
) -> tuple[Fragments, Fragments]: # N images and C captions, on the CPU
    "Encode each image and each caption of a split once. ValueError as `split.block`, `split.encode` and the encoders raise it."
    images, captions = [], []
    tokens, at = split.encode(vocabulary)
    with evaluating(model):
        for i in batch_starts(split.n_images, batch_size, "encoding images", progress):
            features, mask = split.block(i, min(i + batch_size, split.n_images))
            images.append(model.encode_images(features.to(model.device), mask.to(model.device)).to("cpu"))
        for i in batch_starts(len(split), batch_size, "encoding captions", progress):
            rows, real = pad([tokens[at[k]:at[k + 1]] for k in range(i, min(i + batch_size, len(split)))])
            captions.append(model.encode_captions(rows.to(model.device), real.sum(1)).to("cpu"))
    return Fragments.cat(images), Fragments.cat(captions)


@singledispatch
def floats_per_pair(
    model: Matcher,
    m: int, # fragments of an image
    n: int, # fragments of a caption
    d: int, # their width
) -> int:   # numbers that `model.score` holds at its peak for one pair
    "What tiles are sized by where no plan computes: a guess for a few m x n tables and a few vectors a fragment. Register a better one."
    return 8 * m * n + 4 * max(m, n) * d


@floats_per_pair.register
def vse_floats(model: VSE, m: int, n: int, d: int) -> int:
    "The score itself, and nothing else."
    return 1 if as_written(model, VSE, "score") else 8 * m * n + 4 * max(m, n) * d


@floats_per_pair.register
def attention_floats(model: AttentionMatcher, m: int, n: int, d: int) -> int:
    "Tables of queries by responses, and queries and contexts of full width."
    return 6 * m * n + 7 * d * {"text": n, "image": m}.get(model.direction, max(m, n))


@floats_per_pair.register
def camp_floats(model: CAMP, m: int, n: int, d: int) -> int:
    "Messages and fused fragments of both sides."
    return 8 * (m + n) * d


@singledispatch
def floats_per_tile(
    model: Matcher,
    a: int, # images
    b: int, # captions
    m: int, # fragments of an image
    n: int, # fragments of a caption
    d: int, # their width
) -> int:   # numbers that `model.score` holds at its peak, beside fragments and scores
    "The same for a tile. A model that does not hold all pairs at once needs less, and registers it."
    return a * b * floats_per_pair(model, m, n, d)


@floats_per_tile.register
def camp_tile_floats(model: CAMP, a: int, b: int, m: int, n: int, d: int) -> int:
    "Of the base model only vectors meet."
    return a * b * floats_per_pair(model, m, n, d) if model.form["interaction"] else 4 * (a + b) * d + 2 * a * b


@dataclass
class Room:
    "How many bytes a tile may take: what was allowed, and less from when the device refused."
    bytes: int
    engine: bool = True  # whether a plan computes, where there is one
    warned: bool = False # whether it was said that memory ran out


def tile_bytes(
    model: Matcher,
    images: Fragments,   # (., m, d)
    captions: Fragments, # (., n, d)
    a: int,              # images in the tile
    b: int,              # captions in the tile
    engine: bool = True, # score by a plan, where there is one
) -> int:
    "What a tile needs: a copy of both sides, what scoring holds, and the scores."
    (m, d), (n, _), own = images.values.shape[1:], captions.values.shape[1:], plan(model)
    if engine and own.finish: held = own.floats_per_tile(a, b, m, n, images.values.new_empty(0, d, device=model.device))
    else: held = floats_per_tile(model, a, b, m, n, d)
    return images.values.element_size() * (a * m * d + b * n * d + a * b + held)


MOST_PAIRS = 2**18  # in a tile: more of them save nothing, and a bar that stands still and a file that never grows help nobody

def _halved(a: int, b: int) -> tuple[int, int]:
    "A tile with its longer side halved."
    return (-(-a // 2), b) if a >= b else (a, -(-b // 2))


def tile_shape(
    model: Matcher,
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
    max_bytes: int,      # the bound
    engine: bool = True, # score by a plan, where there is one
) -> tuple[int, int]:    # images and captions in a tile
    "The largest tile within a bound on memory, of at most 2^18 pairs, by halving the longer side. ValueError where one pair does not fit."
    a, b = max(len(images), 1), max(len(captions), 1)
    while (need := tile_bytes(model, images, captions, a, b, engine)) > max_bytes or a * b > MOST_PAIRS:
        if a == b == 1: raise ValueError(f"one image with one caption needs about {need:,} bytes, max_bytes is {max_bytes:,}: "
                                         "allow more, or free memory")
        a, b = _halved(a, b)
    return a, b


def default_bytes(
    model: Matcher,
    engine: bool = True, # score by a plan, where there is one
) -> int:
    "What a tile may take where nobody says: a quarter of what is free, and at most as much as was found to be of use."
    kind, planned = model.device.type, engine and plan(model).finish is not None
    free = torch.cuda.mem_get_info(model.device)[0] if kind == "cuda" else psutil.virtual_memory().available
    return min(free // 4, (2**28 if planned else 2**25) if kind == "cpu" else (2**32 if planned else 2**30))


def _ran_out(problem: Exception) -> bool:
    "Whether an error says that memory ran out, on a GPU or on a CPU."
    words = "out of memory", "not enough memory", "DefaultCPUAllocator"
    return isinstance(problem, (torch.OutOfMemoryError, MemoryError)) or any(word in str(problem) for word in words)


def _shrink(room: Room, model: Matcher, images: Fragments, captions: Fragments) -> None:
    "After a tile was refused: allow half as much, give back what a GPU's allocator keeps, and say so the first time."
    a, b = len(images), len(captions)
    room.bytes = min(room.bytes, tile_bytes(model, images, captions, *_halved(a, b), room.engine))
    if model.device.type == "cuda": torch.cuda.empty_cache()
    if not room.warned:
        warnings.warn(f"no memory left on {model.device} for a tile of {a} images by {b} captions: going on with smaller tiles, no score "
                      f"is lost. A smaller max_bytes avoids this (a tile may now take {room.bytes:,} bytes)", stacklevel=2)
    room.warned = True


def _tile_scores(model: Matcher, images: Fragments, captions: Fragments, room: Room) -> Tensor:
    "Scores of a tile: in one go where it fits, else half by half. MemoryError where not even one pair fits."
    (a, b), need = (len(images), len(captions)), tile_bytes(model, images, captions, len(images), len(captions), room.engine)
    if a == b == 1 or need <= room.bytes:
        try: return scores_of(model, images.trimmed().to(model.device), captions.trimmed().to(model.device), room.engine).to("cpu")
        except (RuntimeError, MemoryError) as problem:
            if not _ran_out(problem): raise
            if a == b == 1: raise MemoryError(f"{model.device} has no memory left for one image with one caption (about {need:,} bytes): "
                                              "free some, or take another device") from problem
        _shrink(room, model, images, captions)                        # out here, the refused tile's tensors are gone
    if a >= b: return torch.cat([_tile_scores(model, half, captions, room) for half in (images[:-(-a // 2)], images[-(-a // 2):])])
    return torch.cat([_tile_scores(model, images, half, room) for half in (captions[:-(-b // 2)], captions[-(-b // 2):])], 1)


def _fill(scores: Tensor, model: Matcher, images: Fragments, captions: Fragments, tile: tuple[int, int], room: Room,
          progress: bool, done: int = 0, after: Callable[[int], None] = lambda done: None) -> None:
    "Write scores (I, C) tile by tile, captions of like length together, the first `done` left out; `after` gets how many are done."
    order, (a, b) = captions.lengths.argsort(stable=True).to("cpu"), tile
    corners = list(itertools.product(range(0, len(images), a), range(0, len(captions), b)))
    bar = tqdm(total=len(corners), initial=done, desc="scoring", unit="tile", delay=2, disable=not progress)
    with evaluating(model), bar:
        for there, (i, c) in enumerate(corners[done:], done + 1):
            chosen = order[c:c + b]
            scores[i:i + a, chosen] = _tile_scores(model, images[i:i + a], captions[chosen], room).to(scores.dtype)
            bar.update()
            after(there)


def _sketch(x: Fragments) -> list[float]:
    "A number that hardly two rows share and rounding hardly moves: the sum of a row's features, weighted by a wave."
    k, d = x.values.shape[1:]
    wave = torch.outer(torch.arange(1, k + 1), torch.arange(1, d + 1)).double().cos().flatten().to(x.values.device, torch.float32)
    return [float(f"{row:.6g}") for row in torch.cat([rows.flatten(1).float() @ wave for rows in x.values.split(256)]).tolist()]


RETIRED = ("engine", "max_words")  # arguments that models once had, and that change no score: files of that time have them

def _evaluation(model: Matcher, images: Fragments, captions: Fragments) -> dict[str, Any]:
    "Whose scores: the model's settings and weights, and the fragments of both sides."
    settings = {"matcher": type(model).__name__, **model.config}
    sides = {name: {"mask": digest(x.trimmed().mask), "sketch": _sketch(x)} for name, x in (("images", images), ("captions", captions))}
    return {"settings": settings, "weights": digest(*model.state_dict().values()), **sides}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    "In what two evaluations differ. Sketches may differ by rounding."
    def near(a, b): return len(a) == len(b) and np.allclose(a, b, rtol=0, atol=1e-4 * max(map(abs, b)))
    def settings(x): return {key: value for key, value in x["settings"].items() if key not in RETIRED}
    def same(a, b): return a["mask"] == b["mask"] and near(a["sketch"], b["sketch"])
    differ = {"settings": settings(old) != settings(new), "weights": old["weights"] != new["weights"],
              **{name: not same(old[name], new[name]) for name in ("images", "captions")}}
    return [name for name, different in differ.items() if different]


def _new_array(path: Path, shape: tuple[int, int]) -> np.ndarray:
    "A file of float32 zeros, its room on the disk taken at once: better no space now than after hours. OSError names it."
    try:
        array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        with open(path, "rb+") as file:
            if hasattr(os, "posix_fallocate"): os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as problem:
        path.unlink(missing_ok=True)
        what = f"{shape[0]:,} x {shape[1]:,} scores ({4e-6 * shape[0] * shape[1]:,.1f} MB)"
        raise OSError(problem.errno, f"no file for {what} at {path}: {problem.strerror}") from problem
    return array


class ScoreFile:
    "Scores that grow on disk: FILE.part until all are there, and FILE.json, which says whose they are and how many tiles are done."
    def __init__(self, path: str | Path, evaluation: dict[str, Any], shape: tuple[int, int], tile: tuple[int, int]):
        self.path, self.part, self.notes = (Path(f"{path}{end}") for end in ("", ".part", ".json"))
        self.at = self.cost = 0.0                                              # when it was last written, and how long that took
        for left in self.path.parent.glob(f".{self.notes.name}.*.part"): left.unlink(missing_ok=True)  # by a run that was killed
        if self.path.exists() or self.part.exists() and self.notes.exists(): self.reopen(evaluation, shape)
        else: self.begin({"tile": list(tile), "done": 0, **evaluation}, shape)

    def begin(self, state: dict[str, Any], shape: tuple[int, int]) -> None:
        "Anew. The notes go first: they may be of a file of this name that was deleted."
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.notes.unlink(missing_ok=True)
        self.state, self.scores = state, _new_array(self.part, shape)
        self.write(0)

    def reopen(self, evaluation: dict[str, Any], shape: tuple[int, int]) -> None:
        "Go on with what is there. ValueError where it belongs to another model or other data, or is damaged."
        there = self.path if self.path.exists() else self.part
        self.state, self.scores = _read_scores(there, self.notes, evaluation, shape)
        self.done = int(self.state["done"])

    def write(self, done: int) -> None:
        "Bring the scores to the disk, and then the number of tiles that are there."
        begun, self.done, self.state["done"] = time.monotonic(), done, done
        if isinstance(self.scores, np.memmap): self.scores.flush()
        with atomic_write(self.notes) as partial: partial.write_text(json.dumps(self.state), encoding="utf-8")
        self.at, self.cost = time.monotonic(), time.monotonic() - begun


def _read_scores(there: Path, notes: Path, evaluation: dict[str, Any], shape: tuple[int, int]) -> tuple[dict[str, Any], np.ndarray]:
    "A score file as it was left. ValueError where it belongs to another model or other data, or is damaged."
    remedy = f"delete {there}, or give another name"
    try:
        state, scores = json.loads(notes.read_text(encoding="utf-8")), np.load(there, "c", allow_pickle=False)
        _ = [int(x) for x in (*state["tile"], state["done"])]
        other = _differences(state, evaluation)
        if not other and (scores.shape != shape or scores.dtype != np.float32): raise ValueError(f"{scores.dtype} {scores.shape}")
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{there} is no file of scores that can be gone on with, or {notes} does not belong to it ({problem}): "
                         f"{remedy}") from problem
    if other: raise ValueError(f"{there} holds scores of another evaluation, with other {' and '.join(other)}: {remedy}")
    return state, np.load(there, "r+") if there.suffix == ".part" else scores  # "r+" not before: it would fill up a file that was cut short


def _score_into(out: str | Path, model: Matcher, images: Fragments, captions: Fragments, tile: tuple[int, int], room: Room,
                progress: bool) -> Tensor:
    "`score_all` with a file: begin it, go on with it, or take it as it is."
    file = ScoreFile(out, _evaluation(model, images, captions), (len(images), len(captions)), tile)
    def after(done): # not after every tile, but so that a twentieth of all time is spent on writing
        file.done = done
        if time.monotonic() - file.at > 20 * file.cost: file.write(done)
    if not file.path.exists():
        try: _fill(torch.from_numpy(file.scores), model, images, captions, tuple(file.state["tile"]), room, progress, file.done, after)
        finally: file.write(file.done)                                         # also where an error or Ctrl-C ends it
        os.replace(file.part, file.path)
    return torch.from_numpy(np.load(file.path, "c", allow_pickle=False))       # "c": what is written to it stays in memory


def score_all(
    model: Matcher,                 # on any device
    images: Fragments,              # I images, as `encode_all` gives them
    captions: Fragments,            # C captions
    max_bytes: int | None = None,   # what a tile may take; None: a quarter of what is free, with a limit (`default_bytes`)
    progress: bool = True,          # show a bar where it takes more than two seconds
    out: str | Path | None = None,  # write the scores here as they come (.npy); an earlier call that was cut off is gone on with
    engine: bool = True,            # score by a plan, where there is one; False: in the model's plain form
) -> Tensor:                        # (I, C) on the CPU; with `out`, mapped from the file
    "Every image with every caption, tile by tile. ValueError where a pair exceeds the bound or `out` is another's; MemoryError."
    room = Room(default_bytes(model, engine) if max_bytes is None else max_bytes, engine)
    tile, shape = tile_shape(model, images, captions, room.bytes, engine), (len(images), len(captions))
    if out is not None and 0 not in shape: return _score_into(out, model, images, captions, tile, room, progress)
    scores = torch.empty(shape, dtype=torch.promote_types(images.values.dtype, torch.float32))
    if scores.numel(): _fill(scores, model, images, captions, tile, room, progress)
    return scores
