"""Attention finds, for each word, the part of the picture it is about. One step of it is already a strong matcher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, linear

from cmr.encoders import Fragments, RegionEncoder, WordEncoder
from cmr.matcher import Matcher, register
from cmr.similarity import inverse_lengths, l2_normalize


def released_normalize(
    x: Tensor,         # vectors along `dim`
    dim: int = -1,     # the axis whose length becomes (almost) one
    eps: float = 1e-8, # added to the length
) -> Tensor:           # x / (length + eps)
    "Scale to unit length as the authors' released code does, but with a gradient that is finite at zero."
    return x / (x.pow(2).sum(dim, keepdim=True).clamp(min=1e-24).sqrt() + eps)

def similarities(
    query: Tensor,           # (R, Q, q, d), or (1, Q, q, d) where all responses meet the same queries
    response: Tensor,        # (R, r, d)
    variant: str = "paper",  # "paper": cosine; "released": dot product
) -> Tensor:                 # (R, Q, q, r)
    "Compare every query fragment with every response fragment (IMRAM Eq. 3)."
    if variant == "paper": response = l2_normalize(response)
    x = query.flatten(1, 2)                                                       # (R or 1, Q*q, d)
    z = linear(response, x[0]) if len(x) == 1 else response @ x.transpose(1, 2)   # (R, r, Q*q)
    z = z.transpose(1, 2).unflatten(1, query.shape[1:3])
    return z * inverse_lengths(query)[..., None] if variant == "paper" else z


def clip(
    z: Tensor,              # similarities
    dim: int,               # the query axis
    variant: str = "paper", # "paper": relu; "released": LeakyReLU(0.1)
) -> Tensor:                # the same shape; along `dim` of length one, or zero
    "Clip similarities and normalise them over one axis."
    return released_normalize(leaky_relu(z, 0.1), dim) if variant == "released" else l2_normalize(z.relu(), dim)

def sharpen(
    z: Tensor,              # (R, Q, q, r) similarities
    query_mask: Tensor,     # (Q, q) True where a query fragment is real
    variant: str = "paper", # "paper": relu; "released": LeakyReLU(0.1)
) -> Tensor:                # (R, Q, q, r), every column of length one over the queries, or zero
    "Clip similarities and normalise them over the query axis (IMRAM Eq. 4)."
    return clip(z * query_mask[..., None], -2, variant) # a padded query is zero before clipping and after it


def attend(
    query: Tensor,                    # (R, Q, q, d), or (1, Q, q, d) at the first step
    response: Tensor,                 # (R, r, d)
    query_mask: Tensor,               # (Q, q), or (R, Q, q) where every response has its own queries
    response_mask: Tensor,            # (R, r), at least one True in a row
    inverse_temperature: float = 9.0, # lambda: higher means sharper
    variant: str = "paper",           # "paper" or "released"
) -> tuple[Tensor, Tensor]:           # context (R, Q, q, d) and attention weights (R, Q, q, r)
    "The cross-modal attention unit: every query fragment's summary of every response (IMRAM Eq. 3-5)."
    zbar = sharpen(similarities(query, response, variant), query_mask, variant)
    logits = (inverse_temperature * zbar).masked_fill(~response_mask[:, None, None, :], -torch.inf)
    weights = logits.softmax(-1)
    return (weights.flatten(1, 2) @ response).unflatten(1, weights.shape[1:3]), weights


def fragment_scores(
    query: Tensor,   # (1, Q, q, d) the original query fragments
    context: Tensor, # (R, Q, q, d)
) -> Tensor:         # (R, Q, q) cosines
    "Cosine of each query fragment with its context (IMRAM Eq. 11)."
    return (query * context).sum(-1) * inverse_lengths(query) * inverse_lengths(context)


VARIANTS, POOLINGS = ("paper", "released"), ("mean", "sum", "max", "lse")

def one_of(
    name: str,    # the argument's name, for the message
    value: str,   # what was given
    known: tuple, # what is allowed
) -> str:         # `value`, if it is allowed
    "Return `value`, or raise a ValueError that lists what is known."
    if value not in known: raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
    return value

def positive(
    name: str,    # the argument's name, for the message
    value: float, # what was given
) -> float:       # `value`, if it is a positive number
    "Return `value`, or raise a ValueError."
    if not 0 < value < float("inf"): raise ValueError(f"{name}={value!r} must be a positive number")
    return value


def pool(
    scores: Tensor,               # (R, Q, q) one score per query fragment
    mask: Tensor,                 # (Q, q)
    pooling: str = "mean",        # "mean", "sum", "max" or "lse"
    lse_temperature: float = 6.0, # only for "lse": higher is closer to the maximum
) -> Tensor:                      # (R, Q)
    "Make one score of a query's fragments, the real ones only (the inner mean of IMRAM Eq. 10; SCAN's AVG, SUM, MAX, LSE)."
    if one_of("pooling", pooling, POOLINGS) in ("mean", "sum"):
        total = (scores * mask).sum(-1)
        return total / mask.sum(-1) if pooling == "mean" else total
    scores = scores.masked_fill(~mask, -torch.inf)
    return scores.amax(-1) if pooling == "max" else (lse_temperature * scores).logsumexp(-1) / lse_temperature


class AttentionMatcher(Matcher):
    "What SCAN and IMRAM share: encoders, direction, and the choice between the paper's form and the released code's."
    def __init__(
        self,
        region_dim: int,                  # f: width of a region's feature
        vocab_size: int,                  # words in the vocabulary
        embed_dim: int = 1024,            # d: width of a fragment
        word_dim: int = 300,              # width of a word embedding
        direction: str = "text",          # who asks: "text" words, "image" regions
        inverse_temperature: float = 9.0, # lambda in Eq. 5
        variant: str = "paper",           # "paper" or "released"
        bidirectional: bool = True,       # read captions both ways
    ):
        super().__init__()
        self.direction, self.variant = direction, one_of("variant", variant, VARIANTS)
        self.inverse_temperature = positive("inverse_temperature", inverse_temperature)
        paper = variant == "paper"
        self.image_encoder = RegionEncoder(region_dim, embed_dim, normalise=paper)
        self.text_encoder = WordEncoder(vocab_size, embed_dim, word_dim, normalise=paper, bidirectional=bidirectional)

    def encode_images(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "Regions (B, m, f) and their mask (B, m) as unit vectors (IMRAM Eq. 1)."
        return self.unit(super().encode_images(features, mask))

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "Words (B, n) as unit vectors (IMRAM Eq. 2)."
        return self.unit(super().encode_captions(tokens, lengths))

    def unit(self, fragments: Fragments) -> Fragments:
        "The released code's own normalisation, where that variant was asked for."
        if self.variant == "paper": return fragments
        return Fragments(released_normalize(fragments.values), fragments.mask)


@register
class SCAN(AttentionMatcher):
    "Stacked cross attention: one step of attention, then pooling (Lee et al. 2018)."
    def __init__(
        self,
        region_dim: int,                  # f
        vocab_size: int,                  # words in the vocabulary
        embed_dim: int = 1024,            # d
        word_dim: int = 300,              # width of a word embedding
        direction: str = "text",          # "text": words look at regions (t-i); "image": regions look at words (i-t)
        pooling: str = "mean",            # "mean", "lse", "max" or "sum"
        inverse_temperature: float = 9.0, # lambda in Eq. 5
        lse_temperature: float = 6.0,     # only for "lse"
        variant: str = "paper",           # "paper" or "released"
        bidirectional: bool = True,       # read captions both ways
    ):
        one_of("direction", direction, ("text", "image"))
        super().__init__(region_dim, vocab_size, embed_dim, word_dim, direction, inverse_temperature, variant, bidirectional)
        self.pooling = one_of("pooling", pooling, POOLINGS)
        self.lse_temperature = positive("lse_temperature", lse_temperature)

    def ask(self, query: Fragments, response: Fragments) -> Tensor:
        "All queries (Q, q, d) against all responses (R, r, d): scores (R, Q)."
        x = query.values[None]
        context, _ = attend(x, response.values, query.mask, response.mask, self.inverse_temperature, self.variant)
        return pool(fragment_scores(x, context), query.mask, self.pooling, self.lse_temperature)

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "Every image (I, m, d) with every caption (C, n, d): (I, C), higher is better."
        return self.ask(captions, images) if self.direction == "text" else self.ask(images, captions).T
