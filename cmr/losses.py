"""A model is trained by what it is punished for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cmr.similarity import wide


def positives(
    scores: Tensor,                   # (B, B) row b is an image, column b its caption
    same_image: Tensor | None = None, # (B, B) True where a row's image is also the column's
) -> Tensor:                          # (B, B) bool, the diagonal always True
    "Which pairs belong together. ValueError where `scores` is no square of finite numbers, or leaves nothing to tell apart."
    shape = tuple(scores.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"a loss needs a square (B, B) matrix of scores, one row and one column a pair; got {shape}")
    if not torch.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: look at the features that went in, the learning rate, and the last gradient")
    same = torch.eye(shape[0], dtype=torch.bool, device=scores.device)
    if same_image is not None:
        if tuple(same_image.shape) != shape:
            raise ValueError(f"same_image has shape {tuple(same_image.shape)}, scores {shape}: they must agree")
        same = same | same_image.to(scores.device, torch.bool)
    if same.all(): raise ValueError(f"a batch of {shape[0]} with no negatives: every caption belongs to every image; "
                                    "use larger batches")
    return same


def check_negatives(
    negatives: str, # "hardest" or "all"
) -> None:
    "ValueError for any other word."
    if negatives not in ("hardest", "all"): raise ValueError(f'negatives={negatives!r}: choose "hardest" or "all"')


def triplet(
    scores: Tensor,                   # (B, B) every image of the batch with every caption; pair b on the diagonal
    margin: float = 0.2,              # how far the right one must lead, in units of the score
    negatives: str = "hardest",       # "hardest": the closest rival only; "all": every rival
    same_image: Tensor | None = None, # (B, B) True where row and column come from one image: never rivals
) -> Tensor:                          # () the sum over the batch and over both directions
    "Triplet ranking loss (IMRAM Eq. 13; CAMP Eq. 12). ValueError for unknown `negatives` and where `positives` raises."
    check_negatives(negatives)
    same, scores = positives(scores, same_image), wide(scores)
    right, rivals = scores.diag(), scores.masked_fill(same, -torch.inf)
    per_image, per_caption = margin - right[:, None] + rivals, margin - right + rivals
    if negatives == "hardest": per_image, per_caption = per_image.amax(1), per_caption.amax(0)
    return per_image.clamp(min=0).sum() + per_caption.clamp(min=0).sum()


def matching_bce(
    logits: Tensor,                   # (B, B) what goes into the sigmoid: every image with every caption; pair b on the diagonal
    negatives: str = "hardest",       # "hardest": the rival with the highest logit; "all": the mean over all of them
    same_image: Tensor | None = None, # (B, B) True where row and column come from one image: never rivals
) -> Tensor:                          # () the sum over the batch and over both directions
    "Binary cross-entropy of the question \"is this a pair?\" (CAMP Eq. 14, with its minus sign). ValueError as `triplet`."
    check_negatives(negatives)
    same, logits = positives(logits, same_image), wide(logits)
    wrong = softplus(logits).masked_fill(same, 0)                  # -log(1 - m), never below zero
    if negatives == "hardest": rivals = wrong.amax(1).sum() + wrong.amax(0).sum()
    else: rivals = torch.stack([(wrong.sum(axis) / (~same).sum(axis).clamp(min=1)).sum() for axis in (0, 1)]).sum()
    return 2 * softplus(-logits.diag()).sum() + rivals


class Loss:
    "What training makes small: settings, and three things it knows. Called with (B, B) scores, pair b on the diagonal."
    def __call__(self, scores: Tensor, same_image: Tensor | None = None) -> Tensor:
        "The loss, summed over the batch and both directions; same_image (B, B): True where two are never rivals."
        raise NotImplementedError(f"{type(self).__name__} must define __call__(scores, same_image)")

    def warm_up(self, scores: Tensor, same_image: Tensor | None = None) -> Tensor:
        "All rivals, on the scale of the loss itself: how a training may begin. By default the loss."
        return self(scores, same_image)

    def standstill(self, batch_size: int) -> float:
        "The loss of a pair where all scores are equal: where a training that has found nothing stands."
        return self(torch.zeros(batch_size, batch_size)).item() / batch_size


LOSSES: dict[str, type[Loss]] = {}  # name in a recipe -> class

def register_loss(
    name: str, # as a recipe spells it
):             # a decorator for a class of losses
    "Make a loss known by a name. ValueError for a second one of that name."
    def remember(cls: type[Loss]) -> type[Loss]:
        known = LOSSES.get(name, cls)
        if known.__qualname__ != cls.__qualname__: raise ValueError(f"a loss {name!r} is there already: choose another name")
        LOSSES[name] = cls
        return cls
    return remember


@register_loss("triplet")
@dataclass(frozen=True)
class Triplet(Loss):
    "The triplet ranking loss as an object (IMRAM Eq. 13; CAMP Eq. 12)."
    margin: float = 0.2        # in units of the score
    negatives: str = "hardest" # "hardest" or "all"
    of: str = "score"          # "score", or "probability": of its sigmoid (CAMP's "MLP + ranking loss")

    def __post_init__(self):
        check_negatives(self.negatives)
        if self.of not in ("score", "probability"): raise ValueError(f'of={self.of!r}: choose "score" or "probability"')

    def __call__(self, scores, same_image=None):
        if self.of == "score": return triplet(scores, self.margin, self.negatives, same_image)
        positives(scores, same_image)                              # an infinite logit is refused while it can be seen
        return triplet(wide(scores).sigmoid(), self.margin, self.negatives, same_image)

    def warm_up(self, scores, same_image=None):
        all_rivals = Triplet(self.margin, "all", self.of)(scores, same_image)
        return all_rivals / (len(scores) - 1) if self.negatives == "hardest" else all_rivals


@register_loss("matching_bce")
@dataclass(frozen=True)
class MatchingBCE(Loss):
    "The matching loss as an object (CAMP Eq. 14)."
    negatives: str = "hardest" # "hardest" or "all"

    def __post_init__(self): check_negatives(self.negatives)
    def __call__(self, scores, same_image=None): return matching_bce(scores, self.negatives, same_image)
    def warm_up(self, scores, same_image=None): return matching_bce(scores, "all", same_image)
    def standstill(self, batch_size): return 4 * math.log(2)       # each of the four probabilities is one half


def make_loss(
    name: str,  # as `LOSSES` has it
    **settings, # what that loss takes
) -> Loss:
    "A loss by name. ValueError for a name or a setting that nobody knows."
    if name not in LOSSES: raise ValueError(f"unknown loss {name!r}: choose one of {', '.join(sorted(LOSSES))}")
    known = [field.name for field in fields(LOSSES[name])]  # type: ignore[arg-type]
    unknown = sorted(set(settings) - set(known))
    if unknown: raise ValueError(f"the loss {name} has no {', '.join(unknown)}: it has {', '.join(known)}")
    return LOSSES[name](**settings)
