"""Before the two are compared, every word hears from the regions, and every region hears from the words."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cmr.encoders import Fragments


def affinity(
    regions: Tensor, # (..., m, h) projected regions; leading axes broadcast: (I, 1, m, h)
    words: Tensor,   # (..., n, h) projected words: (1, C, n, h)
) -> Tensor:         # (..., m, n): (I, C, m, n)
    "How much every region and every word have to do with each other (CAMP Eq. 1, after the projections)."
    return torch.einsum("...mh,...nh->...mn", regions, words)


def attention_weights(
    affinity: Tensor, # (..., q, r) queries against responses: A^T where words ask, A where regions ask
    mask: Tensor,     # (..., r) True where a response is real, at least once in a row
    hidden: int,      # d_h, the width in which the affinity was taken
) -> Tensor:          # (..., q, r), a row adds up to 1; 0 where a response is padding
    "How each query shares out its attention (the softmax in CAMP Eq. 2 and Eq. 4)."
    return (affinity / hidden ** .5).masked_fill(~mask[..., None, :], -torch.inf).softmax(-1)


def message(
    weights: Tensor,   # (..., q, r) how each query weighs the responses
    responses: Tensor, # (..., r, d) the other side's fragments, as they are
) -> Tensor:           # (..., q, d)
    "Each query's message: the responses, mixed by its weights (CAMP Eq. 3; second half of Eq. 4)."
    return torch.einsum("...qr,...rd->...qd", weights, responses)


def facing(
    images: Fragments,   # (I, m, d)
    captions: Fragments, # (C, n, d)
) -> tuple[Tensor, Tensor, Tensor, Tensor]: # regions, their mask, words, their mask
    "Both sides with an axis for each other: (I, 1, m, d), (1, C, n, d). ValueError where widths disagree."
    V, T = images.values, captions.values
    if V.shape[-1] != T.shape[-1]:
        raise ValueError(f"regions have width {V.shape[-1]}, words {T.shape[-1]}; both must be of one model")
    return V[:, None], images.mask[:, None], T[None], captions.mask[None]


def even_weights(
    mask: Tensor,        # (..., r) True where a response is real, at least once in a row
    dtype: torch.dtype,  # the dtype of the fragments
) -> Tensor:             # (..., 1, r), the same for every query
    "The same weight for every real response (the ablation without cross-attention, CAMP Table 3)."
    return (mask.to(dtype) / mask.sum(-1, keepdim=True))[..., None, :]


class Messages(NamedTuple):
    "What passes between the fragments of every image and every caption."
    to_words: Tensor       # (I, C, n, d) the visual message to each word, V~ of Eq. 3
    to_regions: Tensor     # (I, C, m, d) the textual message to each region, T~ of Eq. 4
    word_weights: Tensor   # (I, C, n, m) how each word weighs the regions, Eq. 2
    region_weights: Tensor # (I, C, m, n) how each region weighs the words, Eq. 4


class MessageAggregation(nn.Module):
    "Message aggregation: a visual message to each word, a textual one to each region (CAMP Eq. 1-4)."
    def __init__(
        self,
        dim: int,                  # d, width of a fragment
        hidden: int | None = None, # d_h, width of the projections; None: d
        attention: bool = True,    # False: average fragments as messages (Table 3, "w/o cross-attn")
    ):
        super().__init__()
        self.attention, self.hidden = attention, dim if hidden is None else hidden
        if self.hidden < 1: raise ValueError(f"hidden={hidden!r}: the affinity needs a width of at least 1")
        if not attention: return                                      # nothing to learn
        self.project_regions, self.project_words = (nn.Linear(dim, self.hidden, bias=False) for _ in range(2))
        for layer in (self.project_regions, self.project_words): nn.init.xavier_uniform_(layer.weight)

    def weights(self, V, v_mask, T, t_mask):
        "Of what `facing` gives: the words' weights (I, C, n, m) and the regions' (I, C, m, n) (Eq. 1, 2, 4)."
        if not self.attention: return even_weights(v_mask, V.dtype), even_weights(t_mask, T.dtype)
        A = affinity(self.project_regions(V), self.project_words(T))
        over_words = attention_weights(A, t_mask, self.hidden)
        return attention_weights(A.transpose(-1, -2), v_mask, self.hidden), over_words

    def forward(self, images: Fragments, captions: Fragments) -> Messages:
        "Fragments (I, m, d) and (C, n, d) to the messages of every pair."
        V, v_mask, T, t_mask = facing(images, captions)
        over_regions, over_words = self.weights(V, v_mask, T, t_mask)
        pairs, m, n = (len(images), len(captions)), V.shape[2], T.shape[2]
        to_words, to_regions = message(over_regions, V), message(over_words, T)
        shapes = (*pairs, n, -1), (*pairs, m, -1), (*pairs, n, -1), (*pairs, m, -1)
        parts = to_words, to_regions, over_regions, over_words
        return Messages(*(x.expand(shape) for x, shape in zip(parts, shapes)))
