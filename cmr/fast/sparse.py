"""A loss looks at few of its scores. The backward pass of any model need only go where it looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmr.encoders import Fragments
from cmr.matcher import Matcher
from cmr.similarity import wide

Side = dict[str, Tensor]  # what is computed once for each image, or once for each caption: tensors (B, k, ...) over k fragments


def take(
    side: Side,
    rows: Tensor,         # (P,) which rows, in which order; one may be taken twice
    k: int | None = None, # leave out the fragments from k on
) -> Side:                # tensors (P, k, ...)
    "Some rows of a side, copied, cut to their first k fragments."
    return {name: x.index_select(0, rows)[:, :k] for name, x in side.items()}


def cut(
    side: Side,
    rows: slice, # which rows
    k: int,      # leave out the fragments from k on
) -> Side:       # tensors (P, k, ...)
    "A slice of a side, not copied."
    return {name: x[rows, :k] for name, x in side.items()}


_warm = threading.local()

def buffer(
    like: Tensor, # of this dtype, on this device
    size: int,    # numbers
    n: int = 0,   # which one, where several are needed at once
) -> Tensor:      # (size,), holding whatever was written to it last
    "Memory to write to. A processor gets the same again in each thread: fresh pages cost more than what is computed in them."
    if like.device.type != "cpu": return like.new_empty(size)  # PyTorch keeps a GPU's memory itself
    kept, count = _warm.__dict__.setdefault("buffers", {}), size * like.element_size()
    if n not in kept or not count <= kept[n].numel() <= count * 5 // 4: kept[n] = torch.empty(count, dtype=torch.uint8)
    return kept[n][:count].view(like.dtype)


def needed(
    mask: Tensor, # bool
) -> Tensor | None:
    "A mask, or None where nothing is masked. (On a GPU the mask: there, to ask costs more than to mask.)"
    return None if mask.device.type == "cpu" and mask.all() else mask


def reach(
    mask: Tensor, # (B, k) bool
) -> Tensor:      # (B,)
    "How many places of each row are needed to hold all its real fragments."
    return mask.flip(1).cumsum(1).gt(0).sum(1)


def shortest_first(
    mask: Tensor, # (B, k) bool
) -> tuple[Tensor, list[int]]: # (B,) the rows, shortest first; and how far each reaches
    "Sort by length, so that neighbours share little padding."
    many = reach(mask).cpu()
    rows = many.argsort(stable=True)
    return rows.to(mask.device), many[rows].tolist()


class Plan(Protocol):
    "How a model's logits are made block by block. I images of m regions, C captions of n words, P pairs, fragments of width d."
    @property
    def weights(self) -> list[Tensor]: "The parameters that scoring depends on, always in one order."
    @property
    def finish(self) -> Callable[[Tensor], Tensor] | None: "From logits (I, C) to what `model.score` gives; None: only the model knows."

    def prepare(self, images: Fragments, captions: Fragments) -> tuple[Side, Side]:
        "What each image has for itself, tensors (I, m, ...), and each caption, (C, n, ...): `values` and `mask`, and what else saves work."

    def all_pairs(self, images: Side, captions: Side, spaces: Any) -> Tensor:
        "Logits of every image with every caption, (I, C, ...), of prepared sides; `spaces`, given where no graph is kept, are buffers."

    def pairs(self, images: Side, captions: Side) -> Tensor:
        "Logits of image p with caption p only, (P, ...), of prepared sides (P, m, ...) and (P, n, ...)."

    def spaces(self, images: Side, captions: Side, room: int) -> Any:
        "Buffers for blocks of up to `room` pairs of these prepared sides, or None."

    def floats_per_pair(self, m: int, n: int, d: int) -> int:
        "Numbers held for one pair while it is scored: what blocks are sized by."

    def floats_per_tile(self, a: int, b: int, m: int, n: int, like: Tensor) -> int:
        "Numbers held at the peak for a images and b captions, beside fragments and scores; `like` (..., d) has their dtype and device."


def _diagonal(block: Tensor) -> Tensor:
    "Scores of pair p only."
    p = torch.arange(len(block), device=block.device)
    return block[p, p]


def paired(
    score: Callable[[Fragments, Fragments], Tensor], # all pairs: (I, C, ...)
    images: Fragments,                               # P of them
    captions: Fragments,                             # P of them
) -> Tensor:                                         # (P, ...)
    "Image p with caption p only: mapped over the pairs by torch.vmap; small blocks' diagonals of what can't be mapped."
    def one(v, v_mask, t, t_mask): return score(Fragments(v[None], v_mask[None]), Fragments(t[None], t_mask[None]))[0, 0]
    try: return torch.vmap(one, randomness="different")(images.values, images.mask, captions.values, captions.mask)
    except RuntimeError: pass  # something in it looks at numbers, or has no rule for vmap
    return torch.cat([_diagonal(score(images[p:p + 4], captions[p:p + 4])) for p in range(0, len(images), 4)])


def _own_pairs(model: Matcher) -> Callable[[Fragments, Fragments], Tensor] | None:
    "A model's own `score_pairs`, unless a subclass of the one who wrote it has another `score` or `logits`."
    mro = type(model).__mro__
    def written(name): return next((depth for depth, cls in enumerate(mro) if name in vars(cls)), len(mro))
    return getattr(model, "score_pairs", None) if written("score_pairs") <= min(written("score"), written("logits")) else None


@dataclass(frozen=True)
class AnyModel:
    "The plan of a model without one: its own `logits` in blocks; single pairs by its `score_pairs`, or as `paired` finds them."
    model: Matcher
    finish: ClassVar[None] = None

    @property
    def weights(self) -> list[Tensor]:
        "All parameters: who knows which."
        return list(self.model.parameters())

    def prepare(self, images: Fragments, captions: Fragments) -> tuple[Side, Side]:
        "The fragments themselves."
        return {"values": images.values, "mask": images.mask}, {"values": captions.values, "mask": captions.mask}

    def all_pairs(self, images: Side, captions: Side, spaces: Any = None) -> Tensor:
        "Every image with every caption, (I, C, ...)."
        return self.model.logits(Fragments(**images), Fragments(**captions))

    def pairs(self, images: Side, captions: Side) -> Tensor:
        "Image p with caption p only, (P, ...)."
        sides, own = (Fragments(**images), Fragments(**captions)), _own_pairs(self.model)
        return own(*sides) if own else paired(self.model.logits, *sides)

    def spaces(self, images: Side, captions: Side, room: int) -> None:
        "None: it makes its own."

    def floats_per_pair(self, m: int, n: int, d: int) -> int:
        "A guess that suits a few tables of regions by words, and a few vectors for each fragment."
        return 8 * m * n + 4 * max(m, n) * d

    def floats_per_tile(self, a: int, b: int, m: int, n: int, like: Tensor) -> int:
        "All pairs at once."
        return a * b * self.floats_per_pair(m, n, like.shape[-1])


@singledispatch
def plan(model: Matcher) -> Plan:
    "How a model is scored in blocks. A room that knows a class better registers its own; this one does for any."
    return AnyModel(model)


def as_written(
    model: Matcher,
    cls: type,   # for which a plan was written
    *names: str, # methods that the plan computes
) -> bool:
    "Whether a model still has these methods as its class wrote them: no subclass has others, and nobody put one in their place."
    return all(getattr(type(model), name) is getattr(cls, name) and name not in vars(model) for name in names)


BLOCK = {"cpu": (2**25, 2**28), "cuda": (2**29, 2**31)} # bytes for the pairs of a block, without and with a graph: tried out

def block_bytes(
    device: torch.device,
    graph: bool = False, # whether a graph is kept
) -> int:
    "What the pairs of a block may take: so much stays in a processor's cache, or keeps a GPU busy."
    return BLOCK.get(device.type, BLOCK["cuda"])[graph]


def pairs_at_once(
    plan: Plan,
    images: Side,
    captions: Side,
    graph: bool = False, # with one, a pair needs several times as much
) -> int:
    "How many pairs a block may hold."
    values = images["values"]
    floats = plan.floats_per_pair(values.shape[1], captions["values"].shape[1], values.shape[2]) * (6 if graph else 1)
    return max(1, block_bytes(values.device, graph) // max(1, floats * values.element_size()))


def blocks(
    m: list[int], # regions of each image, ascending
    n: list[int], # words of each caption, ascending
    room: int,    # pairs in a block
) -> Iterator[tuple[slice, int, slice, int]]: # images, regions of the largest, captions, words of the longest
    "Cut all pairs into blocks."
    b = max(min(8, room), -(-room // max(len(m), 1)))
    for c in range(0, len(n), b):
        a = max(1, room // len(n[c:c + b]))
        for i in range(0, len(m), a): yield slice(i, i + a), m[i:i + a][-1], slice(c, c + b), n[c:c + b][-1]


def _forward_room(plan: Plan, images: Side, captions: Side) -> int:
    "Pairs in a block of the forward pass: no more than there are, so that no buffer is larger than it need be."
    return min(pairs_at_once(plan, images, captions), max(1, len(images["mask"]) * len(captions["mask"])))


def all_scores(
    plan: Plan,
    images: Fragments,   # I of them
    captions: Fragments, # C of them
) -> Tensor:             # (I, C), or (I, C, ...) where a model's logits have more axes
    "Every image with every caption, block by block, without a graph."
    (rows, m), (columns, n) = shortest_first(images.mask), shortest_first(captions.mask)
    first, second = plan.prepare(images[rows], captions[columns])
    room = _forward_room(plan, first, second)
    scores, spaces = None, plan.spaces(first, second, room)
    for i, k, c, l in blocks(m, n, room):
        part = plan.all_pairs(cut(first, i, k), cut(second, c, l), spaces)
        if scores is None: scores = part.new_empty(len(m), len(n), *part.shape[2:])
        scores[i, c] = part
    if scores is None: return wide(images.values.new_empty(len(m), len(n)))
    return scores[rows.argsort()][:, columns.argsort()]


Rescored = Iterator[tuple[Tensor, Tensor]]  # scores, with a graph, and their slopes

def _all_again(plan: Plan, images: Side, captions: Side, slope: Tensor, room: int) -> Rescored:
    "Everything, block by block; taken anew for each: whatever two graphs share, the first backward pass frees."
    (rows, m), (columns, n) = shortest_first(images["mask"]), shortest_first(captions["mask"])
    for i, k, c, l in blocks(m, n, room):
        yield plan.all_pairs(take(images, rows[i], k), take(captions, columns[c], l), None), slope[rows[i]][:, columns[c]]


def _pairs_again(plan: Plan, images: Side, captions: Side, slope: Tensor, rows: Tensor, columns: Tensor, room: int) -> Rescored:
    "Single pairs, those with short captions first."
    m, n = (reach(side["mask"])[chosen].cpu() for side, chosen in ((images, rows), (captions, columns)))
    for p in n.argsort(stable=True).split(room):
        i, c = rows[p.to(rows.device)], columns[p.to(rows.device)]
        yield plan.pairs(take(images, i, int(m[p].max())), take(captions, c, int(n[p].max()))), slope[i, c]


def again(
    plan: Plan,
    images: Side,
    captions: Side,
    slope: Tensor, # (I, C, ...) the loss's gradient
) -> Rescored:
    "Score once more what the loss depends on: single pairs where they are few, else everything."
    seen = slope if slope.dim() == 2 else slope.flatten(2).ne(0).any(2)
    room, (rows, columns) = pairs_at_once(plan, images, captions, True), seen.nonzero(as_tuple=True)
    if not len(rows): return iter(())
    if 4 * len(rows) > seen.numel(): return _all_again(plan, images, captions, slope, room)
    return _pairs_again(plan, images, captions, slope, rows, columns, room)


def _again_in_order(plan: Plan, images: Side, captions: Side, slope: Tensor) -> Rescored:
    "Score the forward pass's own blocks once more, in their order: random numbers drawn in them come out the same."
    m, n = (reach(side["mask"]).tolist() for side in (images, captions))
    for i, k, c, l in blocks(m, n, _forward_room(plan, images, captions)):
        yield plan.all_pairs(cut(images, i, k), cut(captions, c, l), None), slope[i, c]


def _added(total: Sequence, found: Sequence) -> list:
    "The sum of two lists of gradients; None counts as zero."
    return [b if a is None else a if b is None else a + b for a, b in zip(total, found)]


def slopes(
    plan: Plan,
    images: Fragments,         # I of them
    captions: Fragments,       # C of them
    slope: Tensor,             # (I, C, ...) the loss's gradient
    rescore: Callable = again, # or `_again_in_order`, where all three are in the order of the forward pass
) -> list:                     # gradients of image fragments, caption fragments and each of plan.weights; None where there is none
    "The backward pass: score again what has a slope, and carry it through the blocks, then through what all blocks share."
    inputs = [x.values.detach().requires_grad_() for x in (images, captions)]
    trained = [w for w in plan.weights if w.requires_grad]
    sides = plan.prepare(Fragments(inputs[0], images.mask), Fragments(inputs[1], captions.mask))
    leaves = [{name: x.detach().requires_grad_(x.requires_grad) for name, x in side.items()} for side in sides]
    joints = [(x, leaf[name]) for side, leaf in zip(sides, leaves) for name, x in side.items() if x.requires_grad]
    wanted = [leaf for _, leaf in joints] + trained
    total: list = [None] * len(wanted)
    for scores, part in rescore(plan, *leaves, slope):
        if scores.requires_grad: total = _added(total, torch.autograd.grad(scores, wanted, part, allow_unused=True))
    used = [(x, g) for (x, _), g in zip(joints, total) if g is not None]
    if not used: return [None, None, *total[len(joints):]]
    last = torch.autograd.grad([x for x, _ in used], [*inputs, *trained], [g for _, g in used], allow_unused=True)
    return [*last[:2], *_added(total[len(joints):], last[2:])]


def _slopes_in_order(plan: Plan, images: Fragments, captions: Fragments, slope: Tensor) -> list:
    "The backward pass of a scoring that draws random numbers: its very blocks, each side sorted as there."
    rows, columns = shortest_first(images.mask)[0], shortest_first(captions.mask)[0]
    v, t, *rest = slopes(plan, images[rows], captions[columns], slope[rows][:, columns], _again_in_order)
    return [None if v is None else v[rows.argsort()], None if t is None else t[columns.argsort()], *rest]


def _random_state(device: torch.device) -> list[Tensor]:
    "Where the generators stand that scoring may draw from: the processor's, and the GPU's."
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


@contextmanager
def _random_numbers(state: list[Tensor] | None, device: torch.device) -> Iterator[None]:
    "Inside, the numbers that were drawn from this state come again; afterwards the generators stand where they stood."
    if state is None: yield
    else:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.set_rng_state(state[0])
            if len(state) > 1: torch.cuda.set_rng_state(state[1], device)
            yield


def _check_weights(then: Sequence[Tensor], now: Sequence[Tensor]) -> None:
    "RuntimeError unless they are the same tensors: the backward pass scores again, and would do so with other ones."
    if len(then) == len(now) and all(a is b for a, b in zip(then, now)): return
    raise RuntimeError("a weight was replaced between scoring and its backward pass (under torch.func.functional_call they all are): the "
                       "sparse backward pass scores again, and needs the first weights. Go backward before, or score with engine=False")


class SparseBackward(torch.autograd.Function):
    "Scores (I, C) without a graph; in the backward pass, those with a slope are scored again, with one."
    @staticmethod
    def forward(ctx, plan, image_mask, caption_mask, images, captions, *weights):
        "All scores by a plan; RNG state is kept where scoring has drawn from it."
        kind, before = images.device.type, _random_state(images.device)
        ctx.plan, ctx.cast, ctx.weights = plan, (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)), weights
        ctx.save_for_backward(image_mask, caption_mask, images, captions, *weights)
        scores = all_scores(plan, Fragments(images, image_mask), Fragments(captions, caption_mask))
        ctx.random = None if all(map(torch.equal, before, _random_state(images.device))) else before
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        "Gradients of fragments and weights. RuntimeError where a weight was changed or replaced since."
        image_mask, caption_mask, images, captions, *weights = ctx.saved_tensors
        _check_weights(ctx.weights, ctx.plan.weights)
        carry = slopes if ctx.random is None else _slopes_in_order
        with torch.enable_grad(), torch.autocast(*ctx.cast), _random_numbers(ctx.random, images.device):
            found = carry(ctx.plan, Fragments(images, image_mask), Fragments(captions, caption_mask), slope)
        ends, rest = [torch.zeros_like(x) if g is None else g for x, g in zip((images, captions), found)], iter(found[2:])
        return None, None, None, *ends, *(next(rest) if w.requires_grad else None for w in weights)


def planned_scores(
    plan: Plan,          # how to prepare and score
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
) -> Tensor:             # (I, C)
    "Every image with every caption, exactly; its gradient costs only what the loss looks at."
    weights = plan.weights
    if torch.is_grad_enabled() and any(x.requires_grad for x in (images.values, captions.values, *weights)):
        return SparseBackward.apply(plan, images.mask, captions.mask, images.values, captions.values, *weights)
    with torch.no_grad(): return all_scores(plan, images, captions)


def training_scores(
    model: Matcher,
    images: Fragments,    # (I, m, d)
    captions: Fragments,  # (C, n, d)
    engine: bool = True,  # False: `model.logits` as they are, with a graph of every pair
) -> Tensor:              # (I, C), or what else `model.logits` gives
    "A model's logits for a training step, by its plan. RuntimeError in the backward pass where a weight was replaced since."
    own, single = plan(model), images.mask.shape[1] == captions.mask.shape[1] == 1
    if not engine or single and own.finish is None: return model.logits(images, captions)  # one vector a side: there is nothing to save
    return planned_scores(own, images, captions)


def scores_of(
    model: Matcher,
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
    engine: bool = True, # False: `model.score`, whatever plan there is
) -> Tensor:             # (I, C)
    "What `model.score` gives: by a plan, where one was written for it."
    own = plan(model)
    if not engine or own.finish is None: return model.score(images, captions)
    return own.finish(planned_scores(own, images, captions))


def pair_scores(
    model: Matcher,
    images: Fragments,   # (P, m, d)
    captions: Fragments, # (P, n, d)
    engine: bool = True, # as for `scores_of`
) -> Tensor:             # (P,)
    "What `model.score` gives image p with caption p only."
    own = plan(model)
    if not engine or own.finish is None: return paired(model.score, images, captions)
    return own.finish(own.pairs(*own.prepare(images, captions)))
