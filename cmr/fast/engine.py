"""The same scores and the same gradients, to the last digits, for a sixth of the work: what SCAN and IMRAM compute twice cancels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cmr.attention import SCAN, clip, pool, released_normalize
from cmr.encoders import Fragments
from cmr.fast.sparse import AnyModel, Plan, Side, as_written, block_bytes, buffer, needed, plan
from cmr.imram import IMRAM, RAM
from cmr.memory import MLP, Add, Att, Distill, Gate
from cmr.similarity import inverse_lengths, wide


def _numbered(side: Side, name: str) -> list[Tensor]:
    "The tensors of a side that go by a name and a number."
    return [side[f"{name}{n}"] for n in range(len(side)) if f"{name}{n}" in side]


def products(
    y: Tensor, # (R, r, d) responses
    x: Tensor, # (R, Q, q, d) queries, or (1, Q, q, d) where all responses meet the same
) -> Tensor:   # (R, r, Q, q)
    "Every response fragment times every query fragment; the last axis runs over the fragments of one query."
    flat = x.flatten(1, 2)
    return wide((linear(y, flat[0]) if len(x) == 1 else y @ flat.transpose(1, 2)).unflatten(2, x.shape[1:3]))


def mix(
    weights: Tensor,              # (R, r, Q, q)
    message: Tensor,              # (R, r, p)
    space: Tensor | None = None,  # a buffer to write to, where no graph is kept
) -> Tensor:                      # (R, Q, q, p)
    "The weighted sum of messages."
    flat = weights.flatten(2).transpose(1, 2).to(message.dtype)
    shape = (*flat.shape[:2], message.shape[2])
    out = None if space is None else space[:shape[0] * shape[1] * shape[2]].view(shape)
    return (flat @ message if out is None else torch.bmm(flat, message, out=out)).unflatten(1, weights.shape[2:])


def gram(
    y: Tensor, # (R, r, d)
) -> Tensor:   # (R, r, r), float32 or wider
    "G = Y Y^T: all products of a response's fragments with each other, of which the length of every context is made."
    with torch.autocast(y.device.type, enabled=False): return wide(y) @ wide(y).transpose(1, 2)


def context_cosines(
    weights: Tensor, # (R, r, Q, q) attention weights
    dots: Tensor,    # (R, r, Q, q) products of the original queries with the responses
    G: Tensor,       # (R, r, r)
    inverse: Tensor, # (R or 1, Q, q) one over the original queries' lengths
) -> Tensor:         # (R, Q, q)
    "Cosine of each query with its context (IMRAM Eq. 11), no context made: x . c = sum of alpha (x . y), and |c|^2 = alpha G alpha."
    flat = weights.flatten(2)
    with torch.autocast(flat.device.type, enabled=False): squares = ((G @ flat) * flat).sum(1).unflatten(1, weights.shape[2:])
    return (weights * dots).sum(1) * torch.where(squares > 1e-24, squares, torch.inf).rsqrt() * inverse


def halves(
    layer: nn.Linear, # from 2d features to any number
) -> tuple[Tensor, Tensor]: # W_x and W_c, (out, d) each
    "The two halves of W in W [x, c]."
    x, c = layer.weight.chunk(2, 1)
    return x, c


def _blend(a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
    "gate * b + (1 - gate) * a."
    b, gate = b.to(a.dtype).expand_as(a), gate.to(a.dtype)
    return a.lerp(b, gate.sigmoid()) if torch.is_grad_enabled() else a.lerp_(b, gate.sigmoid_())


def _distilled(x: Tensor, o: Tensor, g: Tensor) -> Tensor:
    "IMRAM Eq. 7 from what its two layers gave."
    return _blend(o.tanh() if torch.is_grad_enabled() else o.tanh_(), x, g)


@dataclass(frozen=True)
class Halves:
    "A memory unit f(x, c) taken apart: f.weights times the query, plus parts of the context, joined."
    weights: Callable[[Any], list[Tensor]]         # unit to the matrices (p, d) for the query's half of the first parts
    parts: Callable[[Any, Tensor], list[Tensor]]   # unit and responses (..., d) to the parts (..., p) that are mixed
    join: Callable[..., Tensor]                    # queries (..., d) and parts (..., p) to the next queries (..., d)


_gate = Halves(lambda f: [halves(f.gate)[0]], lambda f, c: [linear(c, halves(f.gate)[1], f.gate.bias), c], lambda x, g, c: _blend(c, x, g))
HALVES: dict[type, Halves] = {  # by the exact class: a subclass may do something else
    Distill: Halves(lambda f: [halves(f.linear)[0], halves(f.gate)[0]],
                    lambda f, c: [linear(c, halves(layer)[1], layer.bias) for layer in (f.linear, f.gate)], _distilled),
    Gate: _gate, Att: _gate,
    Add: Halves(lambda f: [], lambda f, c: [c], lambda x, c: x + c),
    MLP: Halves(lambda f: [], lambda f, c: [f.linear(c)], lambda x, c: x + c.tanh()),
}


def next_query(
    memory: nn.Module,       # of a class in HALVES
    x: Tensor,               # (R or 1, Q, q, d) queries
    shares: Sequence[Tensor], # the query's half of each part, where it was made before
    weights: Tensor,         # (R, r, Q, q) attention weights
    messages: Sequence[Tensor], # (R, r, p) the parts of each response fragment
    spaces: Sequence,        # buffers, where no graph is kept
) -> Tensor:                 # (R, Q, q, d)
    "The next queries (IMRAM Eq. 6): W [x, c] = W_x x + W_c c, and W_c c is the weighted sum of the messages W_c y."
    parts = [mix(weights, message, space) for message, space in zip_longest(messages, spaces)]
    for n, w in enumerate(HALVES[type(memory)].weights(memory)):
        if torch.is_grad_enabled(): parts[n] = parts[n] + (shares[n] if shares else linear(x, w))
        elif shares: parts[n].add_(shares[n])
        else: parts[n].flatten(0, 2).addmm_(x.flatten(0, 2).to(parts[n].dtype), w.to(parts[n].dtype).t())
    return HALVES[type(memory)].join(x, *parts)


@dataclass(frozen=True)
class Recurrence:
    "One direction's K steps of attention and memory (IMRAM Eq. 3-12; SCAN for K = 1)."
    clip: Callable                   # Eq. 4: (R, r, Q, q) to the same, normalised over the last axis
    pool: Callable                   # scores (R, Q, q) and mask (R or 1, Q, q) to (R, Q)
    inverse_temperature: float = 9.0 # lambda in Eq. 5
    steps: int = 1                   # K
    memory: Any = None               # of a class in HALVES; not needed for one step
    cosine: bool = True              # compare by cosine (the paper), or by dot product (the released code)
    rescale: Callable | None = None  # what is done to a query after a memory update

    def as_query(self, x: Tensor) -> Side:
        "What queries (B, k, d) need only once: their lengths, and their half of the first memory update."
        weights = HALVES[type(self.memory)].weights(self.memory) if self.steps > 1 else []
        return {"inverse": inverse_lengths(x), **{f"share{n}": linear(x, w) for n, w in enumerate(weights)}}

    def as_response(self, y: Tensor) -> Side:
        "What responses (B, k, d) need only once: their Gram matrix, and what the memory makes of each fragment."
        messages = HALVES[type(self.memory)].parts(self.memory, y) if self.steps > 1 else []
        return {"gram": gram(y), **{f"message{n}": message for n, message in enumerate(messages)}}

    def weigh(self, z: Tensor, query_mask: Tensor | None = None, response_mask: Tensor | None = None) -> Tensor:
        "Attention weights (R, r, Q, q) of similarities (R, r, Q, q) (Eq. 4-5)."
        z = self.clip(z if query_mask is None else z * query_mask[:, None]) * self.inverse_temperature
        return (z if response_mask is None else z.masked_fill(~response_mask[:, :, None, None], -torch.inf)).softmax(1)

    def update(self, x: Tensor, *parts) -> Tensor:
        "The next queries (R, Q, q, d) (Eq. 6), as `next_query` makes them."
        x = next_query(self.memory, x, *parts)
        return self.rescale(x) if self.rescale else x


def recurrent_scores(
    direction: Recurrence,
    query: Side,      # (R, Q, q, ...), or (1, Q, q, ...) where all responses meet the same
    response: Side,   # (R, r, ...)
    dots: Tensor,     # (R, r, Q, q) their products
    spaces: Any = None, # buffers for odd and for even steps, where no graph is kept
) -> Tensor:          # (R, Q)
    "Queries with responses, summed over the K steps (Eq. 12)."
    x, y, masks = query["values"], response["values"], [needed(side["mask"]) for side in (query, response)]
    shares, messages, G = _numbered(query, "share"), _numbered(response, "message"), response["gram"][:, :, :y.shape[1]]
    now, inverse, total = dots, query["inverse"], torch.zeros((), device=dots.device)
    for k in range(direction.steps):
        weights = direction.weigh(now * inverse[:, None] if direction.cosine else now, *masks)
        total = total + context_cosines(weights, dots, G, query["inverse"])
        if k + 1 == direction.steps: break                                      # nobody reads the memory after the last step
        x = direction.update(x, [] if k else shares, weights, messages, spaces[k % 2] if spaces else ())
        now = products(y, x)
        if direction.cosine: inverse = inverse_lengths(x)
    return direction.pool(total, query["mask"])


def both_directions(
    text: Recurrence | None,  # words ask
    image: Recurrence | None, # regions ask
    images: Side,
    captions: Side,
    axis: int,                # 0: everyone meets everyone; 1: image p meets caption p
    spaces: Any = None,
) -> tuple[Tensor | None, Tensor | None]: # (I, C) and (C, I), or (P, 1) each
    "The scores of each direction. Both begin with the same products."
    regions, words = ({name: x.unsqueeze(axis) for name, x in side.items()} for side in (images, captions))
    dots, swap = products(images["values"], words["values"]), (0, 3, 2, 1) if axis else (2, 3, 0, 1)
    by_words = recurrent_scores(text, words, images, dots, spaces) if text else None
    return by_words, recurrent_scores(image, regions, captions, dots.permute(swap).contiguous(), spaces) if image else None


def _step_spaces(images: Side, captions: Side, room: int) -> tuple[list[Tensor], list[Tensor]]:
    "Buffers that all blocks share, two sets in turns: fresh memory costs more than what is computed in it."
    def need(a, b): return [(room * message.shape[2] * b["values"].shape[1], message) for message in _numbered(a, "message")]
    largest = [max(filter(None, both), key=lambda need: need[0]) for both in zip_longest(need(images, captions), need(captions, images))]
    even, odd = ([buffer(message, size, 2 * n + k) for n, (size, message) in enumerate(largest)] for k in range(2))
    return even, odd


def _prepared_floats(asks: Recurrence | None, answers: Recurrence | None, k: int, d: int) -> int:
    "Numbers for one fragment: prepared, and again in the sorted copy, which has the fragment too."
    shares = sum(map(len, HALVES[type(asks.memory)].weights(asks.memory))) if asks and asks.steps > 1 else 0
    prepared = (1 + shares if asks else 0) + (k + (2 * d if answers.steps > 1 else 0) if answers else 0)
    return 2 * (prepared + 1) + d


def _tile_floats(both: Recurrences, a: int, b: int, m: int, n: int, like: Tensor) -> int:
    "Numbers for a images and b captions: both sides prepared, a sorted copy, a block of pairs, the scores twice to be put in order."
    d, size = like.shape[-1], like.element_size()
    pair = both.floats_per_pair(m, n, d)
    block = min(a * b * pair, max(block_bytes(like.device) // size, pair))
    sides = a * m * _prepared_floats(both.image, both.text, m, d) + b * n * _prepared_floats(both.text, both.image, n, d)
    found = sides + 2 * a * b + 8 * (a + b) + block * 5 // 4  # a quarter more: what a memory makes in between
    return found * max(1, 4 // size)                          # sums are in float32, whatever fragments are in


@dataclass(frozen=True)
class Recurrences:
    "The plan of SCAN and IMRAM: a direction, or two."
    text: Recurrence | None = None  # words ask
    image: Recurrence | None = None # regions ask
    finish = staticmethod(lambda logits: logits)

    @property
    def weights(self) -> list[Tensor]:
        "The memories' parameters."
        known = [direction for direction in (self.text, self.image) if direction and direction.memory is not None]
        return [p for direction in known for p in direction.memory.parameters()]

    def prepare(self, images: Fragments, captions: Fragments) -> tuple[Side, Side]:
        "Everything that an image, or a caption, has for itself, whatever it is paired with."
        def side(x, asks, answers):
            own = {**(asks.as_query(x.values) if asks else {}), **(answers.as_response(x.values) if answers else {})}
            return {"values": x.values, "mask": x.mask, **own}
        return side(images, self.image, self.text), side(captions, self.text, self.image)

    def all_pairs(self, images: Side, captions: Side, spaces: Any = None) -> Tensor:
        "Every image with every caption, (I, C)."
        text, image = both_directions(self.text, self.image, images, captions, 0, spaces)
        if text is None or image is None: return cast(Tensor, image).T if text is None else text
        return text + image.T

    def pairs(self, images: Side, captions: Side) -> Tensor:
        "Image p with caption p only, (P,)."
        parts = [part for part in both_directions(self.text, self.image, images, captions, 1) if part is not None]
        return (parts[0] + parts[1] if len(parts) > 1 else parts[0])[:, 0]

    def spaces(self, images: Side, captions: Side, room: int) -> Any:
        "Buffers of `step_spaces`."
        return _step_spaces(images, captions, room)

    def floats_per_pair(self, m: int, n: int, d: int) -> int:
        "Tables of regions by words, and, where there is a memory, queries of full width."
        return max(8 * m * n + 4 * d * q * (direction.steps > 1) for direction, q in ((self.text, n), (self.image, m)) if direction)

    floats_per_tile = _tile_floats


@plan.register
def scan_plan(model: SCAN) -> Plan:
    "One step, one direction, and how it is pooled."
    if not as_written(model, SCAN, "score", "logits", "ask"): return AnyModel(model)
    pooled = partial(pool, pooling=model.pooling, lse_temperature=model.lse_temperature)
    direction = Recurrence(partial(clip, dim=-1, variant=model.variant), pooled, model.inverse_temperature, cosine=model.variant == "paper")
    return Recurrences(**{model.direction: direction})


def _ram_recurrence(ram: Any, steps: int) -> Recurrence:
    "What a block does in K steps."
    clipped, rescale = partial(clip, dim=-1, variant=ram.variant), released_normalize if ram.renormalise else None
    return Recurrence(clipped, pool, ram.inverse_temperature, steps, ram.memory, ram.variant == "paper", rescale)


@plan.register
def imram_plan(model: IMRAM) -> Plan:
    "K steps in each direction, with memories that can be taken apart."
    known = all(type(ram) is RAM and (model.steps == 1 or type(ram.memory) in HALVES) for ram in model.ram.values())
    if not known or not as_written(model, IMRAM, "score", "logits", "step_scores"): return AnyModel(model)
    return Recurrences(**{direction: _ram_recurrence(ram, model.steps) for direction, ram in model.ram.items()})
