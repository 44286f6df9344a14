"""IMRAM asks the same picture three times, and each time with a better question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cmr.attention import AttentionMatcher, attend, fragment_scores, one_of, pool, released_normalize
from cmr.encoders import Fragments
from cmr.matcher import register
from cmr.memory import MEMORIES
from cmr.memory import memory as make_memory


class RAM(nn.Module):
    "One block of recurrent attention memory: attention, then a memory update (IMRAM Eq. 8)."
    def __init__(
        self,
        dim: int,                         # d
        memory: str | None = "distill",   # which f(x, c) of Eq. 6; None where no second step follows
        inverse_temperature: float = 9.0, # lambda in Eq. 5
        variant: str = "paper",           # "paper" or "released"
        renormalise: bool = False,        # scale x to unit length after each update
    ):
        super().__init__()
        self.memory = make_memory(memory, dim) if memory else None
        self.inverse_temperature, self.variant, self.renormalise = inverse_temperature, variant, renormalise

    def look(self, x, y, x_mask, y_mask):
        "Attention (Eq. 3-5): queries (R or 1, Q, q, d), responses (R, r, d) to contexts (R, Q, q, d), weights (R, Q, q, r)."
        return attend(x, y, x_mask, y_mask, self.inverse_temperature, self.variant)

    def update(self, x, c):
        "What the next step asks with (Eq. 6): queries (R or 1, Q, q, d), contexts (R, Q, q, d) to queries (R, Q, q, d)."
        x = self.memory(x, c)
        return released_normalize(x) if self.renormalise else x

    def forward(self, x, y, x_mask, y_mask):
        "C, X* = RAM(X, Y) (Eq. 8), both (R, Q, q, d)."
        context, _ = self.look(x, y, x_mask, y_mask)
        return context, self.update(x, context)


class Step(NamedTuple):
    "What one step of matching leaves behind, for every query against every response."
    query: Tensor    # (R or 1, Q, q, d) what was asked with, x_{k-1}
    context: Tensor  # (R, Q, q, d) what was found, c_k
    weights: Tensor  # (R, Q, q, r) where it was found
    scores: Tensor   # (R, Q, q) one score per query fragment, Eq. 11

def match_steps(
    ram: RAM,            # the block, shared by all steps
    query: Fragments,    # (Q, q, d)
    response: Fragments, # (R, r, d)
    steps: int = 3,      # K
) -> Iterator[Step]:
    "Go through the K steps one after the other (IMRAM Eq. 9 and 11); after the last one nothing is updated."
    x = original = query.values[None]
    for k in range(steps):
        context, weights = ram.look(x, response.values, query.mask, response.mask)
        yield Step(x, context, weights, fragment_scores(original, context))
        if k + 1 < steps: x = ram.update(x, context)

def direction_scores(
    ram: RAM,                 # the direction's block
    images: Fragments,        # (I, m, d)
    captions: Fragments,      # (C, n, d)
    direction: str = "text",  # who asks: "text" words, "image" regions
    steps: int = 3,           # K
) -> Tensor:                  # (K, I, C)
    "One direction's score at each step: the mean over a query's real fragments (one term of IMRAM Eq. 10)."
    query, response = (captions, images) if direction == "text" else (images, captions)
    found = torch.stack([pool(step.scores, query.mask) for step in match_steps(ram, query, response, steps)])
    return found if direction == "text" else found.transpose(1, 2)


DIRECTIONS = {"full": ("image", "text"), "image": ("image",), "text": ("text",)}  # who asks

@register
class IMRAM(AttentionMatcher):
    "Iterative matching with recurrent attention memory (Chen et al. 2020)."
    def __init__(
        self,
        region_dim: int,                  # f
        vocab_size: int,                  # words in the vocabulary
        embed_dim: int = 1024,            # d
        word_dim: int = 300,              # width of a word embedding
        steps: int = 3,                   # K
        direction: str = "full",          # "full", "image" (regions ask) or "text" (words ask)
        memory: str = "distill",          # "distill", "add", "mlp", "att" or "gate"
        inverse_temperature: float = 9.0, # lambda in Eq. 5
        variant: str = "paper",           # "paper" or "released"
        renormalise: bool = False,        # scale x_k to unit length after each memory update
        bidirectional: bool = True,       # read captions both ways
    ):
        one_of("direction", direction, tuple(DIRECTIONS)); one_of("memory", memory, tuple(MEMORIES))
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps={steps!r}: IMRAM needs a whole number of steps, at least 1")
        super().__init__(region_dim, vocab_size, embed_dim, word_dim, direction, inverse_temperature, variant, bidirectional)
        block = (embed_dim, memory if steps > 1 else None, inverse_temperature, variant, renormalise)
        self.steps, self.ram = steps, nn.ModuleDict({asks: RAM(*block) for asks in DIRECTIONS[direction]})

    def step_scores(self, images: Fragments, captions: Fragments) -> Tensor:
        "Every step's score of every image (I, m, d) with every caption (C, n, d): (K, I, C) (Eq. 10)."
        parts = [direction_scores(ram, images, captions, asks, self.steps) # type: ignore[arg-type]
                 for asks, ram in self.ram.items()]
        return torch.stack(parts).sum(0)

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "The sum over the steps: every image with every caption, (I, C) (Eq. 12)."
        return self.step_scores(images, captions).sum(0)
