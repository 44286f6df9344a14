"""The published way of computing (`literal`): a loop over captions, with nothing saved."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cmr.camp import CAMP
from cmr.encoders import Fragments
from cmr.imram import IMRAM
from cmr.memory import Distill

# IMRAM: the words of one caption expanded over all images, every context and [x, c] written down, the memory updated after every step
# (also after the last, which nobody reads), a graph of everything for the backward pass.

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
    if not all(isinstance(ram.memory, Distill | None) for ram in model.ram.values()):
        raise ValueError('the published way is written for memory="distill" only')
    columns = []
    for words in captions_expanded(images, captions):
        sides = {"text": (words, images.values), "image": (images.values, words)}
        columns.append(sum(direction_score(ram, *sides[direction], model.steps) for direction, ram in model.ram.items()))
    return torch.stack(columns, 1)


# CAMP: the same loop; for each caption both projections, both messages and both fusions anew, with all images.

def fused_vector(fusion, pool, x: Tensor, message: Tensor) -> Tensor:
    "CAMP Eq. 5-11: fragments (I, k, d) and the message that each of them receives, to one vector for each image, (I, d)."
    agreement = x * message
    gate = torch.sigmoid(agreement if fusion.kind == "element" else agreement.sum(-1, keepdim=True))             # Eq. 5 and 7
    both = x + message if fusion.operation == "sum" else torch.cat([x, message], -1)
    fused = torch.relu(fusion.linear(gate * both)) + x                                                           # Eq. 6 and 9
    shares = torch.softmax(pool.scorer(fused) * pool.scale, 1)                                                   # Eq. 10, for each branch
    return torch.bmm(shares.transpose(1, 2), fused).mean(1)                                                      # Eq. 11


def literal_camp(model: CAMP, images: Fragments, captions: Fragments) -> Tensor:
    "Every image with every caption, (I, C): logits as published. ValueError for missing regions, or a form it is not written for."
    form, known = model.form, (("element", "sum"), ("scalar", "sum"), ("scalar", "concat"))
    whole = form["interaction"] and form["attention"] and form["residual"] and form["pooling"] == "attention"
    if not whole or (form["gates"], form["fusion"]) not in known:
        raise ValueError("the published way is written for the whole CAMP, the paper's or the released, not for its ablations")
    a, columns = model.aggregation, []
    for words in captions_expanded(images, captions):
        A = torch.bmm(a.project_regions(images.values), a.project_words(words).transpose(1, 2)) / a.hidden ** .5   # Eq. 1
        to_words = torch.bmm(A.transpose(1, 2).softmax(-1), images.values)                                       # Eq. 2-3
        to_regions = torch.bmm(A.softmax(-1), words)                                                             # Eq. 4
        v = fused_vector(model.fuse_regions, model.pool_regions, images.values, to_regions)
        columns.append(model.matching(v, fused_vector(model.fuse_words, model.pool_words, words, to_words)))     # Eq. 13
    return torch.stack(columns, 1)
