"""Encode each side once, then score every image against every caption."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from cmr import MODEL_HOMES
from cmr.encoders import Fragments, RegionEncoder, WordEncoder
from cmr.losses import Loss, Triplet
from cmr.similarity import l2_normalize, wide

if TYPE_CHECKING: from cmr.data.vocabulary import Vocabulary


class Portable(PyTorchModelHubMixin):
    "How a model comes and goes. The work is done upstairs: these are the only imports that run up."
    vocabulary: Vocabulary | None = None # the words it was trained with, once it was
    config = property(lambda self: dict(self._hub_mixin_config or {}), doc="The arguments it was made with.")

    @classmethod
    def from_pretrained(cls, where, **options):
        "A model from a folder, or from the hub by its owner/name (`cmr.saving.from_pretrained`)."
        from cmr.saving import from_pretrained
        return from_pretrained(cls, where, **options)

    @classmethod
    def from_released(cls, *weights, **options):
        "A model with its authors' weights (`cmr.shelf.released.from_released`)."
        from cmr.shelf.released import from_released
        return from_released(cls, *weights, **options)

    def _save_pretrained(self, save_directory):
        from cmr.saving import write_model
        write_model(self, save_directory)


class Matcher(nn.Module, Portable):
    "Encodes each side once and scores every image against every caption. A subclass sets the encoders and writes `score`."
    image_encoder: nn.Module           # features (B, m, f), mask (B, m) -> Fragments; usually a RegionEncoder
    text_encoder: nn.Module            # tokens (B, n), lengths (B,) -> Fragments; usually a WordEncoder
    warmup_steps = 0                   # steps with all rivals that its training needs first
    max_words: int | None = None       # where its paper cuts captions

    region_dim = property(lambda self: self.config["region_dim"], doc="Width of the region features it takes.")
    vocab_size = property(lambda self: self.config["vocab_size"], doc="Words it knows, marks included.")
    device = property(lambda self: next(self.parameters()).device, doc="Where its weights are.")

    def encode_images(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "Region features (B, m, f), mask (B, m) or None where all are real: what depends on images alone, (B, m, d)."
        return self.image_encoder(features, mask)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "Word ids (B, n), how many are real (B,): what depends on captions alone, (B, n, d)."
        return self.text_encoder(tokens, lengths)

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "Every image (I of them) with every caption (C of them): (I, C), higher is better."
        raise NotImplementedError(f"{type(self).__name__} must define score(images, captions) -> (I, C)")

    def logits(self, images: Fragments, captions: Fragments) -> Tensor:
        "What the loss is made of, (I, C): the scores, unless a model has something better."
        return self.score(images, captions)

    def default_loss(self) -> Loss:
        "What training makes small where a recipe names no loss."
        return Triplet()

    def forward(self, features: Tensor, tokens: Tensor, lengths: Tensor, mask: Tensor | None = None) -> Tensor:
        "Encode both sides and score all pairs: (I, C)."
        return self.score(self.encode_images(features, mask), self.encode_captions(tokens, lengths))


MODELS: dict[str, type[Matcher]] = {}  # lower-case name -> class

def same_code(
    a: type, # a class
    b: type, # another
) -> bool:
    "Whether two classes have the same methods, to the instruction: one class, whose cell was run again."
    def methods(cls): return {name: f.__code__.co_code for name, f in vars(cls).items() if inspect.isfunction(f)}
    return methods(a) == methods(b)

def register(
    cls: type[Matcher], # known by its name from now on
) -> type[Matcher]:     # the class as it is, so that this can stand above it as a decorator
    "Make a model known to every command by its class name. ValueError for a second class of that name."
    name, home = cls.__name__.lower(), MODEL_HOMES.get(cls.__name__.upper(), cls.__module__)
    if home != cls.__module__: # the package's own name: its chapter writes the class again, others may not
        if same_code(cls, getattr(importlib.import_module(home), cls.__name__.upper())): return cls
    elif MODELS.get(name, cls).__module__ == home:
        MODELS[name] = cls
        return cls
    raise ValueError(f"there is a model {cls.__name__} already (in {MODELS[name].__module__}): give yours another name")


def as_fragments(
    x: Tensor,     # (B, d), one vector a row
) -> Fragments:    # (B, 1, d)
    "Vectors as Fragments, one for each row."
    return Fragments(x[:, None], torch.ones(len(x), 1, dtype=torch.bool, device=x.device))


@register
class VSE(Matcher):
    "One vector a side and their cosine: VSE++ (Faghri et al. 2018) over region features."
    text_encoder: WordEncoder

    def __init__(
        self,
        region_dim: int,       # width of a region feature
        vocab_size: int,       # words in the vocabulary
        embed_dim: int = 1024, # width of the common space
        word_dim: int = 300,   # width of a word embedding
    ):
        super().__init__()
        self.image_encoder = RegionEncoder(region_dim, embed_dim, normalise=False)
        self.text_encoder = WordEncoder(vocab_size, embed_dim, word_dim, normalise=False)

    def encode_images(self, features: Tensor, mask: Tensor | None = None) -> Fragments:
        "The mean of the projected regions (B, m, f), scaled to length one: (B, 1, d)."
        regions = self.image_encoder(features, mask)
        return as_fragments(l2_normalize(regions.values.sum(1) / regions.lengths[:, None]))

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Fragments:
        "The last states of the two readers (tokens (B, n)), averaged and scaled to length one: (B, 1, d)."
        return as_fragments(l2_normalize(self.text_encoder.states(tokens, lengths)[1]))

    def score(self, images: Fragments, captions: Fragments) -> Tensor:
        "All cosines (I, C) as one matrix product: both sides have length one already."
        with torch.autocast(images.values.device.type, enabled=False): # a sum over d: in float32, also in mixed precision
            return wide(images.values[:, 0]) @ wide(captions.values[:, 0]).T
