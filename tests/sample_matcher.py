"""A matcher of the tests' own, and data for it: used by the tests of the interface, of scoring and of saving."""

import numpy as np
import torch

from cmr.data.datasets import ImageCaptions
from cmr.encoders import RegionEncoder, WordEncoder
from cmr.matcher import Matcher, register
from cmr.similarity import wide

WORDS = ["a", "red", "blue", "star", "ring", "above"]


@register
class BestWord(Matcher):
    "A matcher with tables: each word takes its best region."

    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 8, word_dim: int = 4):
        super().__init__()
        self.image_encoder, self.text_encoder = RegionEncoder(region_dim, embed_dim), WordEncoder(vocab_size, embed_dim, word_dim)

    def score(self, images, captions):
        z = wide(torch.einsum("imd,cnd->icmn", images.values, captions.values))
        best = z.masked_fill(~images.mask[:, None, :, None], -torch.inf).amax(2)
        return (best * captions.mask).sum(2) / captions.lengths


def raw(images=7, captions=11, m=5, n=6, f=4):
    mask = torch.arange(m) < torch.randint(1, m + 1, (images, 1))
    lengths = torch.randint(1, n + 1, (captions,))
    return torch.randn(images, m, f), torch.randint(4, 10, (captions, n)), lengths, mask


def model_of(kind, dtype=torch.float32):
    return kind(4, 10, embed_dim=8, word_dim=4).to(dtype)


def a_split(images=23, per_image=(1, 4), f=4, m=5):
    generator = np.random.default_rng(0)
    mask = np.arange(m) < generator.integers(1, m + 1, (images, 1))
    features = generator.normal(size=(images, m, f)).astype(np.float32) * mask[:, :, None]
    image_of_caption = np.repeat(np.arange(images), generator.integers(*per_image, images))
    captions = [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in image_of_caption]
    return ImageCaptions(features, captions, image_of_caption, mask=mask)


# --- VSE and the interface
