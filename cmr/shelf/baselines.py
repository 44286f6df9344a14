"""Six models from 2013 to 2019, each in a few lines, each as a difference from VSE++."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from cmr.encoders import Fragments, RegionEncoder, WordEncoder, check_tokens
from cmr.losses import Loss, Triplet, positives, register_loss
from cmr.matcher import VSE, Matcher, as_fragments, register
from cmr.similarity import l2_normalize, wide


def mean_region(
    regions: Fragments, # (B, m, d)
) -> Tensor:            # (B, d)
    "The mean of each image's real regions, not scaled."
    return regions.values.sum(1) / regions.lengths[:, None]


class MeanWords(nn.Module):
    "The mean of a caption's word embeddings through a linear map: a text encoder that does not read."
    def __init__(
        self,
        vocab_size: int,     # words in the vocabulary
        embed_dim: int,      # d, width of the result
        word_dim: int = 300, # width of a word embedding
    ):
        super().__init__()
        self.vocab_size = vocab_size
        self.embed, self.project = nn.Embedding(vocab_size, word_dim), nn.Linear(word_dim, embed_dim)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(
        self,
        tokens: Tensor,  # (B, n) word ids
        lengths: Tensor, # (B,) real words in each row
    ) -> Fragments:      # (B, 1, d), not scaled
        "One vector a caption. ValueError as `check_tokens`."
        mask = check_tokens(tokens, lengths, self.vocab_size)
        words = self.embed(tokens.masked_fill(~mask, 0)) * mask[:, :, None]
        return as_fragments(self.project(words.sum(1) / mask.sum(1, keepdim=True)))


@register
class DEVISE(VSE):
    "DeViSE (Frome et al. 2013) over region features: mean region and mean word, a linear map each, cosine, all hinges."
    def __init__(
        self,
        region_dim: int,       # width of a region feature
        vocab_size: int,       # words in the vocabulary
        embed_dim: int = 1024, # width of the common space
        word_dim: int = 300,   # width of a word embedding
    ):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.text_encoder = MeanWords(vocab_size, embed_dim, word_dim)  # type: ignore[assignment]

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "The mean word (tokens (B, n)), mapped and scaled to length one: (B, 1, d)."
        words = self.text_encoder(tokens, lengths)
        return Fragments(l2_normalize(words.values), words.mask)

    def default_loss(self) -> Loss:
        "All rivals, margin 0.1."
        return Triplet(0.1, "all")


@register
class ORDER(VSE):
    "Order embeddings (Vendrov et al. 2016, Eq. 1-2): a caption lies above its image; the score is minus the violation."
    def __init__(
        self,
        region_dim: int,       # width of a region feature
        vocab_size: int,       # words in the vocabulary
        embed_dim: int = 1024, # width of the common space
        word_dim: int = 300,   # width of a word embedding
        unit: bool = True,     # scale both sides to length one first
    ):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.unit = unit

    def positive(self, x: Tensor) -> Fragments:
        "Vectors (B, d) into the space without negative numbers: (B, 1, d)."
        return as_fragments((l2_normalize(x) if self.unit else x).abs())

    def encode_images(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "The mean of the projected regions (B, m, f), without signs: (B, 1, d)."
        return self.positive(mean_region(self.image_encoder(features, mask)))

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "The reader's last state (tokens (B, n)), without signs: (B, 1, d)."
        return self.positive(self.text_encoder.states(tokens, lengths)[1])

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "Minus the violation of \"the caption is above the image\" (Eq. 2): (I, C), never above 0."
        return -(wide(captions.values[:, 0]) - wide(images.values[:, :1])).relu().pow(2).sum(-1)

    def default_loss(self) -> Loss:
        "All rivals, margin 0.05."
        return Triplet(0.05, "all")


def best_regions(
    regions: Fragments, # (I, m, d)
    words: Fragments,   # (C, n, d)
) -> tuple[Tensor, Tensor]: # both (I, C, n): the product of each word with its best region, and that region's number
    "Each word's best real region in each image, by dot product (DVSA, inside Eq. 8). Padding words are not masked."
    products = wide(torch.einsum("imd,cnd->icnm", regions.values, words.values))
    values, rows = products.masked_fill(~regions.mask[:, None, None, :], -torch.inf).max(3)
    return values, rows


@register
class DVSA(Matcher):
    "Deep visual-semantic alignments (Karpathy and Fei-Fei 2015, Eq. 8): each word takes its best region, summed over words."
    def __init__(
        self,
        region_dim: int,       # width of a region feature
        vocab_size: int,       # words in the vocabulary
        embed_dim: int = 1024, # width of a fragment
        word_dim: int = 300,   # width of a word embedding
    ):
        super().__init__()
        self.image_encoder = RegionEncoder(region_dim, embed_dim, normalise=False)
        self.text_encoder = WordEncoder(vocab_size, embed_dim, word_dim, normalise=False)
        self.word_layer = nn.Linear(embed_dim, embed_dim)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "Words (B, n) read both ways, through a linear layer and relu: (B, n, d)."
        words = self.text_encoder(tokens, lengths)
        return Fragments(self.word_layer(words.values).relu() * words.mask[:, :, None], words.mask)

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "Every word's best region, summed over the words (Eq. 8): (I, C)."
        return (best_regions(images, captions)[0] * captions.mask).sum(2)

    def default_loss(self) -> Loss:
        "All rivals, margin 1 (Eq. 9)."
        return Triplet(1.0, "all")


def projection_matching(
    projections: Tensor,              # (B, B, 2) image b onto caption c, and caption c onto image b; pair b on the diagonal
    same_image: Tensor | None = None, # (B, B) True where row and column come from one image: they match
    eps: float = 1e-8,                # added to the true distribution
) -> Tensor:                          # () the sum over the batch and over both directions; the paper has the mean over the batch
    "Cross-modal projection matching (Zhang and Lu 2018, Eq. 1-3). ValueError for another shape, and as `losses.positives`."
    if projections.dim() != 3 or projections.shape[2] != 2:
        raise ValueError(f"projection matching needs both projections, (B, B, 2), got {tuple(projections.shape)}: "
                         "it is a loss for CMPM, and takes CMPM.logits")
    match, parts = positives(projections.sum(2), same_image), []
    for logits, y in ((wide(projections[..., 0]), match), (wide(projections[..., 1]).T, match.T)):
        log_p, q = logits.log_softmax(1), y.to(logits.dtype) / y.sum(1, keepdim=True)
        parts.append((log_p.exp() * (log_p - (q + eps).log())).sum())
    return parts[0] + parts[1]


@register_loss("projection_matching")
@dataclass(frozen=True)
class ProjectionMatching(Loss):
    "Projection matching as an object: no margin, and all rivals take part from the first step on."
    def __call__(self, scores, same_image=None): return projection_matching(scores, same_image)
    def standstill(self, batch_size): return self(torch.zeros(batch_size, batch_size, 2)).item() / batch_size


@register
class CMPM(VSE):
    "VSE's two vectors, trained by cross-modal projection matching (Zhang and Lu 2018). Captions and images keep their lengths."
    def encode_images(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "The mean of the projected regions (B, m, f), not scaled: (B, 1, d)."
        return as_fragments(mean_region(self.image_encoder(features, mask)))

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "The reader's last state (tokens (B, n)), not scaled: (B, 1, d)."
        return as_fragments(self.text_encoder.states(tokens, lengths)[1])

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "All cosines (I, C): each side ranks by them as by its projections."
        unit = [Fragments(l2_normalize(wide(side.values)), side.mask) for side in (images, captions)]
        return super().score(*unit)

    def logits(self, images: Fragments, captions: Fragments) -> Tensor:
        "Both projections (I, C, 2): images onto captions' directions, captions onto images' directions (Eq. 1)."
        x, z = wide(images.values[:, 0]), wide(captions.values[:, 0])
        with torch.autocast(x.device.type, enabled=False): # sums over d: in float32, also in mixed precision
            return torch.stack((x @ l2_normalize(z).T, l2_normalize(x) @ z.T), -1)

    def default_loss(self) -> Loss:
        "Of both projections."
        return ProjectionMatching()


class PIE(nn.Module):
    "Several embeddings of one side (PVSE): attention heads over its local features, each added to its global vector."
    def __init__(
        self,
        local_dim: int, # width of a local feature
        embed_dim: int, # d, width of the global vector
        heads: int,     # K
    ):
        super().__init__()
        self.hidden = nn.Linear(local_dim, max(1, local_dim // 2), bias=False)
        self.head = nn.Linear(self.hidden.out_features, heads, bias=False)
        self.project, self.norm = nn.Linear(local_dim, embed_dim), nn.LayerNorm(embed_dim)
        for layer in (self.hidden, self.head, self.project): nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.project.bias)

    def weights(
        self,
        local: Fragments, # (B, m, local_dim)
    ) -> Tensor:          # (B, K, m), every row sums to one over real fragments
        "Where each head looks."
        logits = self.head(self.hidden(local.values).tanh()).transpose(1, 2)
        return logits.masked_fill(~local.mask[:, None], -torch.inf).softmax(2)

    def forward(
        self,
        whole: Tensor,    # (B, d)
        local: Fragments, # (B, m, local_dim)
    ) -> Fragments:       # (B, K, d), every vector of length one
        "K views of each item."
        seen = self.weights(local) @ local.values
        views = l2_normalize(self.norm(whole[:, None] + self.project(seen).sigmoid()))
        return Fragments(views, torch.ones(views.shape[:2], dtype=torch.bool, device=views.device))


@register
class PVSE(VSE):
    "Polysemous embeddings (Song and Soleymani 2019): K vectors a side, and the score is the best of the K x K cosines."
    warmup_steps = 450
    def __init__(
        self,
        region_dim: int,       # width of a region feature
        vocab_size: int,       # words in the vocabulary
        embed_dim: int = 1024, # width of the common space
        word_dim: int = 300,   # width of a word embedding
        heads: int = 2,        # K, vectors a side
    ):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        if heads < 1: raise ValueError(f"heads={heads}: a side needs at least one vector")
        self.image_heads, self.text_heads = PIE(embed_dim, embed_dim, heads), PIE(word_dim, embed_dim, heads)

    def encode_images(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "K views of each image (B, m, f), of length one: (B, K, d)."
        regions = self.image_encoder(features, mask)
        return self.image_heads(mean_region(regions), regions)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "K views of each caption (B, n), of length one: (B, K, d)."
        states, last = self.text_encoder.states(tokens, lengths)
        words = self.text_encoder.embed(tokens.masked_fill(~states.mask, 0)) * states.mask[:, :, None]
        return self.text_heads(last, Fragments(words, states.mask))

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "The best of the K x K cosines of every pair: (I, C)."
        real = images.mask[:, None, :, None] & captions.mask[:, None]
        with torch.autocast(images.values.device.type, enabled=False): # sums over d: in float32, also in mixed precision
            cosines = torch.einsum("ikd,cld->ickl", wide(images.values), wide(captions.values))
        return cosines.masked_fill(~real, -torch.inf).amax((2, 3))

    def default_loss(self) -> Loss:
        "The hardest rivals, margin 0.1 (the released command for COCO)."
        return Triplet(0.1)


class RegionGraph(nn.Module):
    "One round of messages between the regions of an image (VSRN Eq. 2-3)."
    def __init__(
        self,
        embed_dim: int, # d
    ):
        super().__init__()
        self.query, self.key, self.message, self.back = (nn.Linear(embed_dim, embed_dim, bias=False) for _ in range(4))
        nn.init.zeros_(self.back.weight)  # at first every region stays as it is

    def affinity(
        self,
        regions: Fragments, # (B, m, d)
    ) -> Tensor:            # (B, m, m)
        "How much each region takes from each other one (Eq. 2), over the number of real regions."
        return self.query(regions.values) @ self.key(regions.values).transpose(1, 2) / regions.lengths[:, None, None]

    def forward(
        self,
        regions: Fragments, # (B, m, d), zero where there is no region
    ) -> Fragments:         # (B, m, d), zero where there is no region
        "Regions that have received each other's messages (Eq. 3)."
        return Fragments(self.back(self.affinity(regions) @ self.message(regions.values)) + regions.values, regions.mask)


@register
class VSRN(VSE):
    "VSE++ whose regions exchange messages and are then read by a GRU (Li et al. 2019); without the caption generator."
    warmup_steps = 450 # without a warm-up, regions that reinforce each other round after round can overflow

    def __init__(
        self,
        region_dim: int,       # width of a region feature
        vocab_size: int,       # words in the vocabulary
        embed_dim: int = 1024, # width of the common space (the paper: 2048)
        word_dim: int = 300,   # width of a word embedding
        layers: int = 4,       # rounds of messages, as in the released code
    ):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        if layers < 0: raise ValueError(f"layers={layers}: give 0 or more rounds of messages")
        self.image_encoder.normalise = True  # type: ignore[assignment]
        self.graph = nn.Sequential(*(RegionGraph(embed_dim) for _ in range(layers)))
        self.walker = nn.GRU(embed_dim, embed_dim, batch_first=True)

    def encode_images(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "The GRU's last state after the real regions (B, m, f), in their order, of length one: (B, 1, d)."
        regions = self.graph(self.image_encoder(features, mask))
        first = (~regions.mask).to(torch.uint8).argsort(dim=1, stable=True)     # real ones to the front
        path = l2_normalize(regions.values).take_along_dim(first[:, :, None], 1).to(next(self.walker.parameters()).dtype)
        packed = pack_padded_sequence(path, regions.lengths.cpu(), batch_first=True, enforce_sorted=False)
        return as_fragments(l2_normalize(self.walker(packed)[1][0]))
