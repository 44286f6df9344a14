"""CAMP's plan: what can be multiplied before the two sides meet is, and no padded fragment goes through F."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cmr.aggregation import MessageAggregation, even_weights
from cmr.camp import CAMP, FragmentPooling, Matching, branch_shares, form_scores
from cmr.encoders import Fragments
from cmr.fast.engine import mix, products
from cmr.fast.sparse import AnyModel, Plan, Side, as_written, block_bytes, buffer, cut, needed, plan, reach
from cmr.fusion import GatedFusion, gated
from cmr.similarity import wide


def equal_lengths(
    mask: Tensor, # (B, k) bool, rows in the order of their lengths
) -> list[tuple[slice, int]]: # rows, and how many places the longest of them needs
    "Neighbouring rows of equal length. On a GPU all rows are taken for one: to ask costs more than to compute padding."
    if mask.device.type != "cpu": return [(slice(0, len(mask)), mask.shape[1])]
    lengths, counts = reach(mask).unique_consecutive(return_counts=True)
    ends = counts.cumsum(0).tolist()
    return [(slice(end - count, end), length) for end, count, length in zip(ends, counts.tolist(), lengths.tolist())]


def _asking(side: Side, axis: int) -> Side:
    "A side as the one that asks: (1, B, k, ...) where it meets all of the other (axis 0), (P, 1, k, ...) where row p meets row p only (1)."
    return {name: x.unsqueeze(axis) for name, x in side.items()}


def weighted_sum(
    shares: Tensor, # (R, Q, k)
    x: Tensor,      # (R, Q, k, d), which may be cut out of something larger
) -> Tensor:        # (R, Q, d)
    "The weighted sum over the last axis but one; row by row, so that nothing is copied."
    axis = 0 if len(x) < x.shape[1] else 1
    return torch.stack([(s[:, None] @ part)[:, 0] for s, part in zip(shares.unbind(axis), x.unbind(axis))], axis)


def message_weights(
    A: Tensor,    # (R, r, Q, q) scaled affinities
    mask: Tensor, # (R, r)
) -> Tensor:      # (R, r, Q, q)
    "How each query weighs the responses (CAMP Eq. 2 and 4)."
    real = needed(mask)
    return (A if real is None else A.masked_fill(~real[:, :, None, None], -torch.inf)).softmax(1)


def is_separable(
    fusion: GatedFusion,
) -> bool:
    "Whether F's products can be made before the two sides meet: with scalar gates or none, of a sum or a concatenation."
    return fusion.fuse and fusion.kind != "element" and fusion.operation != "product"


def fusion_halves(
    fusion: GatedFusion, # separable
) -> tuple[Tensor, Tensor]: # (d, d) each
    "The matrices by which F multiplies a fragment and a message."
    if fusion.operation != "concat": return fusion.linear.weight, fusion.linear.weight
    x, message = fusion.linear.weight.chunk(2, 1)
    return x, message


def fuse_together(
    fusion: GatedFusion,
    x: Tensor,        # (R or 1, Q, q, d) fragments
    message: Tensor,  # (R, Q, q, d); used up where no graph is kept
    space: Tensor | None, # a buffer, where no graph is kept
) -> Tensor:          # (R, Q, q, d)
    "relu of F's linear layer (CAMP Eq. 6 and 9 before the residual), where F has to wait for the pair."
    if torch.is_grad_enabled() or (fusion.kind, fusion.operation) != ("element", "sum"):
        return fusion.linear(gated(x, message, fusion.gates(x, message), fusion.operation)).relu()
    g = torch.mul(message, x, out=None if space is None else space[:message.numel()].view_as(message)).sigmoid_()
    met = message.add_(x).mul_(g).flatten(0, 2)
    W, b = fusion.linear.weight.to(met.dtype), fusion.linear.bias.to(met.dtype)
    return torch.addmm(b, met, W.t(), out=g.view_as(met)).relu_().view_as(message)


def fuse_separately(
    fusion: GatedFusion,
    own: Tensor,          # (R or 1, Q, q, d) fragments times their half of F
    message: Tensor,      # (R, Q, q, d) messages times theirs; used up where no graph is kept
    dots: Tensor | None,  # (R, Q, q) products of fragments with their messages, for scalar gates
) -> Tensor:              # (R, Q, q, d)
    "The same where both halves of F were made before: g (W x + W t) + b."
    into = None if torch.is_grad_enabled() else message
    y = torch.add(message, own, out=into)
    if dots is not None: y = torch.mul(y, dots.sigmoid()[..., None], out=into)
    y = torch.add(y, fusion.linear.bias, out=into)
    return y.relu() if into is None else y.relu_()


def _scorer_matrix(pool: FragmentPooling) -> Tensor:
    "The matrix of its first layer."
    return cast(nn.Linear, pool.scorer[0]).weight


def _first_layer(pool: FragmentPooling, fused: Tensor) -> Tensor:
    "What the pooling's first layer makes of fused fragments; nothing where the mean is taken."
    return pool.scorer[0](fused) if pool.attention else fused[..., :0]


def _pool_shares(pool: FragmentPooling, begun: Tensor, mask: Tensor) -> Tensor:
    "The share of each fragment (CAMP Eq. 10)."
    return branch_shares(pool.scorer[1:](begun) * pool.scale, mask)


@dataclass(frozen=True)
class Listener:
    "How one side's fragments take in the other side's messages and become one vector for each pair (CAMP Eq. 2-11)."
    fusion: GatedFusion
    pool: FragmentPooling

    def as_query(self, x: Tensor) -> Side:
        "What fragments (B, k, d) need only once: their half of F, and of the pooling's first layer."
        side = {"own": linear(x, fusion_halves(self.fusion)[0])} if is_separable(self.fusion) else {}
        if self.fusion.fuse and self.fusion.residual and self.pool.attention: side["begun"] = linear(x, _scorer_matrix(self.pool))
        return side

    def as_response(self, y: Tensor) -> Side:
        "What messages are made of, (B, k, d): multiplied by their half of F, or, where there is no F, by the pooling's first layer."
        if is_separable(self.fusion): return {"message": linear(y, fusion_halves(self.fusion)[1])}
        return {"message": self.pool.scorer[0](y)} if self.pool.attention and not self.fusion.fuse else {}

    def fused(self, query: Side, response: Side, weights: Tensor, dots: Sequence[Tensor], spaces: Sequence | None) -> Tensor:
        "Fused fragments before the residual, (R, Q, q, d) (CAMP Eq. 6 and 9); dots: for scalar gates, products (R, r, Q, q)."
        spaces = spaces or (None, None)
        if not is_separable(self.fusion):
            return fuse_together(self.fusion, query["values"], mix(weights, response["values"], spaces[0]), spaces[1])
        agreement = (weights * dots[0]).sum(1) if self.fusion.kind else None
        return fuse_separately(self.fusion, query["own"], mix(weights, response["message"], spaces[0]), agreement)

    def pooled(self, query: Side, fused: Tensor, begun: Tensor) -> Tensor:
        "v* or t*, (R, Q, d), of fused fragments (R, Q, q, d), what the pooling began with them, and the residual (CAMP Eq. 10-11)."
        residual = self.fusion.residual
        begun = begun + query["begun"] if residual and self.pool.attention else begun
        if self.pool.attention: shares = _pool_shares(self.pool, begun, query["mask"]).to(fused.dtype)
        else: shares = even_weights(query["mask"], fused.dtype)[..., 0, :].expand(fused.shape[:-1])
        y = weighted_sum(shares, fused)
        return y + torch.einsum("...k,...kd->...d", shares, query["values"].to(shares.dtype)) if residual else y


def passed_on(
    pool: FragmentPooling,
    query: Side,     # (R or 1, Q, q, ...)
    response: Side,  # (R, r, ...)
    weights: Tensor, # (R, r, Q, q)
) -> Tensor:         # (R, Q, d)
    "v* or t* of messages that nothing is done to: shares times weights, a mixture of responses."
    if pool.attention: shares = _pool_shares(pool, mix(weights, response["message"]), query["mask"])
    else: shares = even_weights(query["mask"], weights.dtype)[..., 0, :]
    mixture = (weights * shares[:, None]).sum(-1).transpose(1, 2)
    return mixture.to(response["values"].dtype) @ response["values"]


def pair_vectors(
    listener: Listener,
    query: Side,              # (R or 1, Q, q, ...)
    response: Side,           # (R, r, ...)
    tables: Sequence[Tensor], # (R, r, Q, q): affinities and, for scalar gates, products
    spaces: Sequence | None = None,
) -> Tensor:                  # (R, Q, d)
    "One vector for each pair: v* where regions ask, t* where words do."
    weights = message_weights(tables[0], response["mask"])
    if not listener.fusion.fuse: return passed_on(listener.pool, query, response, weights)
    fused = listener.fused(query, response, weights, tables[1:], spaces)
    return listener.pooled(query, fused, _first_layer(listener.pool, fused))


def packed_vectors(
    listener: Listener,
    query: Side,              # (Q, q, ...), shortest first
    response: Side,           # (R, r, ...)
    tables: Sequence[Tensor], # (R, r, Q, q)
    spaces: Sequence | None,  # buffers, where no graph is kept
) -> Tensor:                  # (R, Q, d)
    "The same of all pairs, queries laid end to end so that F sees no padding."
    parts = equal_lengths(query["mask"])
    if len(parts) == 1 or not listener.fusion.fuse: return pair_vectors(listener, _asking(query, 0), response, tables, spaces)
    packed = {name: torch.cat([x[rows, :k].flatten(0, 1) for rows, k in parts])[None, None] for name, x in query.items()}
    A, *dots = (torch.cat([x[:, :, rows, :k].flatten(2) for rows, k in parts], -1)[:, :, None] for x in tables)
    fused = listener.fused(packed, response, message_weights(A, response["mask"]), dots, spaces)[:, 0]
    sizes = [(rows.stop - rows.start) * k for rows, k in parts]
    pieces = zip(parts, fused.split(sizes, 1), _first_layer(listener.pool, fused).split(sizes, 1))
    return torch.cat([listener.pooled(_asking(cut(query, rows, k), 0), x.unflatten(1, (-1, k)), begun.unflatten(1, (-1, k)))
                      for (rows, k), x, begun in pieces], 1)


def _tables(passing: MessagePassing, images: Side, captions: Side) -> list[Tensor]:
    "Scaled affinities (Eq. 1) and, for scalar gates, products: (R, m, C, n) each of images (R, m, ...), captions (R or 1, C, n, ...)."
    values, a = images["values"], passing.aggregation
    if a.attention: A = products(values, captions["key"]) * a.hidden ** -.5
    else: A = values.new_zeros(1).expand(*images["mask"].shape, *captions["mask"].shape[1:])
    scalar = is_separable(passing.regions.fusion) and passing.regions.fusion.kind is not None
    return [A, products(values, captions["values"])] if scalar else [A]


def _prepare(passing: MessagePassing, images: Fragments, captions: Fragments) -> tuple[Side, Side]:
    "Both sides in one dtype, of which mixed precision may have left two; the keys of both are with the words."
    kind = min(images.values.dtype, captions.values.dtype, key=lambda dtype: dtype.itemsize)
    v, t, a = images.values.to(kind), captions.values.to(kind), passing.aggregation
    regions = {"values": v, "mask": images.mask, **passing.regions.as_query(v), **passing.words.as_response(v)}
    words = {"values": t, "mask": captions.mask, **passing.words.as_query(t), **passing.regions.as_response(t)}
    if a.attention: words["key"] = linear(linear(t, a.project_words.weight), a.project_regions.weight.t())
    return regions, words


def _fusion_spaces(fusion: GatedFusion, images: Side, captions: Side, room: int) -> tuple[Tensor | None, Tensor | None]:
    "Two buffers that all blocks of `room` pairs share, as far as they are needed."
    separable = is_separable(fusion)
    mixed = images["message" if separable else "values"]
    size = room * max(mixed.shape[1], captions["mask"].shape[1]) * mixed.shape[2]
    return buffer(mixed, size, 0) if fusion.fuse else None, buffer(mixed, size, 1) if fusion.fuse and not separable else None


def _tile_floats(passing: MessagePassing, a: int, b: int, m: int, n: int, like: Tensor) -> int:
    "Numbers for a tile of a images and b captions: both sides' preparations, sorted copies, and a block of pairs."
    d, pair = like.shape[-1], passing.floats_per_pair(m, n, like.shape[-1])
    block = min(a * b * pair, block_bytes(like.device) // like.element_size() * 3 // 2)
    return 10 * (a * m + b * n) * d + 4 * a * b + max(pair, block)


@dataclass(frozen=True)
class MessagePassing:
    "The plan of CAMP."
    aggregation: MessageAggregation
    regions: Listener
    words: Listener
    matching: Matching
    finish: Callable[[Tensor], Tensor] # logits to scores

    @property
    def weights(self) -> list[Tensor]:
        "The parameters that scoring depends on."
        parts = self.aggregation, self.regions.fusion, self.regions.pool, self.words.fusion, self.words.pool, self.matching
        return [p for part in parts for p in part.parameters()]

    def all_pairs(self, images: Side, captions: Side, spaces: Any = None) -> Tensor:
        "Every image with every caption, (I, C)."
        tables = _tables(self, images, _asking(captions, 0))
        t = packed_vectors(self.words, captions, images, tables, spaces)
        v = packed_vectors(self.regions, images, captions, [x.permute(2, 3, 0, 1).contiguous() for x in tables], spaces)
        return wide(self.matching(v.transpose(0, 1), t))

    def pairs(self, images: Side, captions: Side) -> Tensor:
        "Image p with caption p only, (P,)."
        tables = _tables(self, images, _asking(captions, 1))
        t = pair_vectors(self.words, _asking(captions, 1), images, tables)
        v = pair_vectors(self.regions, _asking(images, 1), captions, [x.permute(0, 3, 2, 1) for x in tables])
        return wide(self.matching(v, t))[:, 0]

    def spaces(self, images: Side, captions: Side, room: int) -> Any:
        "Two buffers, or None."
        return _fusion_spaces(self.regions.fusion, images, captions, room)

    def floats_per_pair(self, m: int, n: int, d: int) -> int:
        "Tables of regions by words, and a few vectors for each fragment of the longer side."
        return 4 * max(m, n) * d + 8 * m * n

    prepare, floats_per_tile = _prepare, _tile_floats


@plan.register
def camp_plan(model: CAMP) -> Plan:
    "Messages, fusion, pooling and matching as they are written in the chapter; the base model needs no plan."
    known = {"aggregation": MessageAggregation, "fuse_regions": GatedFusion, "fuse_words": GatedFusion,
             "pool_regions": FragmentPooling, "pool_words": FragmentPooling, "matching": Matching}
    same = all(type(getattr(model, name)) is cls for name, cls in known.items())
    if not same or not as_written(model, CAMP, "score", "logits"): return AnyModel(model)
    regions, words = Listener(model.fuse_regions, model.pool_regions), Listener(model.fuse_words, model.pool_words)
    return MessagePassing(model.aggregation, regions, words, model.matching, partial(form_scores, model.form))
