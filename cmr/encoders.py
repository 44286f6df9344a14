"""A region and a word can be compared only when they live in the same space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cmr.similarity import l2_normalize


@dataclass(eq=False)
class Fragments:
    "One side of a batch: B rows of up to k vectors of width d, zero where `mask` is False. ValueError for shapes that disagree."
    values: Tensor  # (B, k, d)
    mask: Tensor    # (B, k) bool, True for a real fragment

    def __post_init__(self):
        if self.values.dim() != 3 or self.mask.shape != self.values.shape[:2] or self.mask.dtype != torch.bool:
            raise ValueError(f"fragments need values (B, k, d) and a boolean mask (B, k); got {tuple(self.values.shape)} "
                             f"with a mask of {self.mask.dtype} {tuple(self.mask.shape)}")

    def __len__(self): return len(self.values)
    def __getitem__(self, rows):
        "Some of the rows, as Fragments: an int, a slice, a list or an index tensor."
        if isinstance(rows, Integral): rows = [int(rows)]
        return Fragments(self.values[rows], self.mask[rows])

    @property
    def lengths(self) -> Tensor: return self.mask.sum(1) # (B,) how many fragments of each row are real

    def to(self, *args, **kwargs) -> Fragments:
        "Move to a device, or the values to a dtype, as `Tensor.to` does."
        values = self.values.to(*args, **kwargs)
        return Fragments(values, self.mask.to(values.device))

    def padded(self, k: int) -> Fragments:
        "The same fragments with zero columns added up to k of them."
        extra = k - self.mask.shape[1]
        return Fragments(pad(self.values, (0, 0, 0, extra)), pad(self.mask, (0, extra)))

    def trimmed(self) -> Fragments:
        "The same fragments without the last columns where every row is padding."
        used = self.mask.any(0).nonzero()
        k = int(used.max()) + 1 if len(used) else 0
        return Fragments(self.values[:, :k], self.mask[:, :k])

    @classmethod
    def cat(cls, parts: Sequence[Fragments]) -> Fragments:
        "All rows of some Fragments, padded to the widest."
        parts = [part.padded(max(p.mask.shape[1] for p in parts)) for part in parts]
        return cls(torch.cat([part.values for part in parts]), torch.cat([part.mask for part in parts]))


def check_features(
    features: Tensor,   # (B, m, f) region features
    mask: Tensor,       # (B, m) bool, True for a real region
    region_dim: int,    # the width f that the model was built for
) -> None:
    "ValueError unless these can be encoded: right width, a region in every image, no NaN or infinity in real ones."
    if features.dim() != 3 or features.shape[2] != region_dim:
        raise ValueError(f"expected region features of shape (images, regions, {region_dim}), got {tuple(features.shape)}: "
                         f"open the data this model was trained on, or build one with region_dim={features.shape[-1]}")
    if mask.shape != features.shape[:2] or mask.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask of shape {tuple(features.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty: raise ValueError(f"no region at all in image(s) {empty[:5]} of this batch: "
                               "every image needs at least one; drop it or repair its mask")
    wrong = ((~features.isfinite()).any(2) & mask).any(1).nonzero().flatten().tolist()
    if wrong: raise ValueError(f"NaN or infinity in a region of image(s) {wrong[:5]} of this batch: "
                               "extract its features again or drop the image")


class RegionEncoder(nn.Module):
    "v_i = W_v f_i + b_v, then L2-normalised (IMRAM Eq. 1; CAMP Eq. 15 with `normalise=False`)."
    shift: Tensor # (f,) subtracted from a feature
    scale: Tensor # (f,) divided by then

    def __init__(
        self,
        region_dim: int,        # f, width of a region feature (2048 for bottom-up attention)
        embed_dim: int,         # d, width of a fragment
        normalise: bool = True, # scale every fragment to length one
    ):
        super().__init__()
        self.region_dim, self.normalise = region_dim, normalise
        self.project = nn.Linear(region_dim, embed_dim)
        nn.init.xavier_uniform_(self.project.weight); nn.init.zeros_(self.project.bias)
        self.register_buffer("shift", torch.zeros(region_dim))
        self.register_buffer("scale", torch.ones(region_dim))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "Regions (B, m, f), mask (B, m) or None, to (B, m, d), zero for padding. ValueError as `check_features`."
        if mask is None: mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        check_features(features, mask, self.region_dim)
        absent = ~mask[:, :, None]
        x = (features.to(self.scale.dtype) - self.shift) / self.scale
        v = self.project(x.masked_fill(absent, 0))
        if self.normalise: v = l2_normalize(v)
        return Fragments(v.masked_fill(absent, 0), mask)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        "From now on x -> (x - mean) / std, (f,) each, before Eq. 1; a column that never varies is only shifted."
        mean, std = torch.as_tensor(mean), torch.as_tensor(std)
        fine = mean.shape == std.shape == self.shift.shape and bool((mean.isfinite() & (std >= 0) & std.isfinite()).all())
        if not fine: raise ValueError(f"mean and std must be finite, std not negative, both of shape ({self.region_dim},); "
                                      f"got {tuple(mean.shape)} and {tuple(std.shape)}")
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(std > 1e-6 * mean.abs(), std, torch.ones_like(std)))


def check_tokens(
    tokens: Tensor,     # (B, n) word ids
    lengths: Tensor,    # (B,) real words in each row
    vocab_size: int,    # ids must be below this
) -> Tensor:            # (B, n) bool, True for a real word
    "The mask of real words. ValueError for a length of 0 or beyond the row, or an id outside the vocabulary."
    if tokens.dim() != 2 or lengths.shape != tokens.shape[:1] or not len(tokens):
        raise ValueError(f"expected tokens (B, n) and lengths (B,), at least one row; got {tuple(tokens.shape)} "
                         f"and {tuple(lengths.shape)}")
    low, high = int(lengths.min()), int(lengths.max())
    if low < 1 or high > tokens.shape[1]:
        raise ValueError(f"caption lengths go from {low} to {high}, they must lie between 1 and {tokens.shape[1]}, "
                         "the width of tokens: drop empty captions")
    mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]
    wrong = tokens[mask & ((tokens < 0) | (tokens >= vocab_size))]
    if len(wrong): raise ValueError(f"word id {int(wrong[0])} is outside this model's vocabulary of {vocab_size}: "
                                    "encode the captions with the vocabulary saved beside the model")
    return mask


class WordEncoder(nn.Module):
    "t_j = (forward + backward GRU state) / 2, then L2-normalised (IMRAM Eq. 2; CAMP Eq. 16-17, `normalise=False`)."
    def __init__(
        self,
        vocab_size: int,            # number of words, <pad> and the other marks included
        embed_dim: int,             # d, width of a fragment: the GRU's hidden size
        word_dim: int = 300,        # width of a word embedding
        normalise: bool = True,     # scale every fragment to length one
        bidirectional: bool = True, # False: the forward reader alone
    ):
        super().__init__()
        self.vocab_size, self.normalise = vocab_size, normalise
        self.embed = nn.Embedding(vocab_size, word_dim)
        self.gru = nn.GRU(word_dim, embed_dim, batch_first=True, bidirectional=bidirectional)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def states(self, tokens: Tensor, lengths: Tensor) -> tuple[Fragments, Tensor]:
        "Every word's state (B, n, d) and the last ones (B, d), averaged over the directions (Eq. 2 before its norm)."
        mask = check_tokens(tokens, lengths, self.vocab_size)
        words = self.embed(tokens.masked_fill(~mask, 0))
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, last = self.gru(packed)
        output, _ = pad_packed_sequence(output, batch_first=True, total_length=tokens.shape[1])
        return Fragments(output.unflatten(2, (-1, self.gru.hidden_size)).mean(2), mask), last.mean(0)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "Word ids (B, n) and lengths (B,) to (B, n, d), zero beyond a row's length (Eq. 2). ValueError as `check_tokens`."
        words, _ = self.states(tokens, lengths)
        return Fragments(l2_normalize(words.values), words.mask) if self.normalise else words
