"""How often is the right one among the first K?"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


def recall_at(
    ranks: np.ndarray, # (Q,) 0 is the best
    k: int,            # how many answers are looked at
) -> float:            # percent
    "The share of queries whose right answer is among the first k."
    return 100 * float(np.mean(np.asarray(ranks) < k))


def as_array(
    x, # a tensor on any device, an array or a list
) -> np.ndarray:
    "An array of the same numbers, without a copy where none is needed."
    if not isinstance(x, Tensor): return np.asarray(x)
    x = x.detach().cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def row_blocks(
    scores: np.ndarray | Tensor, # (I, C), memory-mapped or on any device
    cells: int = 8_000_000,      # at most so many scores in a block, though never less than a row
):                               # yields (number of the block's first row, block as an array)
    "Walk down a matrix a few rows at a time, so that nothing as large as the matrix is made beside it."
    rows = max(1, cells // scores.shape[1])
    for start in range(0, scores.shape[0], rows):
        yield start, as_array(scores[start:start + rows])


def check_scores(
    scores: np.ndarray | Tensor, # (I, C) row i holds image i's score with every caption
) -> None:
    "ValueError unless `scores` is a matrix of finite numbers, naming the first cell that is not."
    if len(scores.shape) != 2 or 0 in scores.shape:
        raise ValueError(f"scores must be a matrix, images by captions, with no side empty; "
                         f"got shape {tuple(scores.shape)}")
    for start, block in row_blocks(scores):
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            i, c = bad[0]
            raise ValueError(f"scores[{start + i}, {c}] is {block[i, c]}: no rank can be trusted; "
                             f"look at the model and its features")


def check_image_of_caption(
    image_of_caption, # (C,) integers: the image each caption belongs to; numpy, torch or list
    shape: tuple,     # (I, C) of the scores
) -> np.ndarray:      # (C,) int64
    "`image_of_caption` as an array; ValueError unless each caption has an image and each image a caption."
    found, (images, captions) = as_array(image_of_caption), shape
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"image_of_caption must be one row of integers; "
                         f"got shape {found.shape} of {found.dtype}")
    if len(found) != captions:
        raise ValueError(f"image_of_caption names {len(found)} captions, scores have {captions} columns "
                         f"(and {images} rows, one per image)")
    if found.min() < 0 or found.max() >= images:
        raise ValueError(f"image_of_caption holds images {found.min()} to {found.max()}, "
                         f"scores have rows 0 to {images - 1}")
    bare = np.flatnonzero(np.bincount(found, minlength=images) == 0)
    if len(bare):
        raise ValueError(f"{len(bare)} images have no caption, the first is image {bare[0]}: "
                         f"leave their rows out")
    return found.astype(np.int64)


def ranks(
    scores: np.ndarray | Tensor, # (I, C) higher is better
    image_of_caption,            # (C,) the image each caption belongs to
) -> tuple:                      # (I,) text ranks and (C,) image ranks, int64 arrays; 0 is the best
    "How many wrong answers score at least as high as the right one, per query; ValueError for bad input."
    check_scores(scores)
    image_of_caption = check_image_of_caption(image_of_caption, scores.shape)
    own = as_array(scores[image_of_caption, np.arange(len(image_of_caption))]) # (C,) with its own image
    best = np.full(scores.shape[0], own.min())                                 # (I,) best of an image's own
    np.maximum.at(best, image_of_caption, own)
    text, image = np.zeros(len(best), np.int64), np.zeros(len(own), np.int64)
    for start, block in row_blocks(scores):
        stop = start + len(block)
        text[start:stop] = np.count_nonzero(block >= best[start:stop, None], axis=1)
        image += np.count_nonzero(block >= own, axis=0)
    right = image_of_caption[own >= best[image_of_caption]]                    # counted, but not wrong
    return text - np.bincount(right, minlength=len(best)), image - 1


@dataclass(frozen=True)
class Report:
    "Recall in percent, ranks from 1; `text`: images ask for captions, `image`: captions ask for images."
    text_r1: float
    text_r5: float
    text_r10: float
    image_r1: float
    image_r5: float
    image_r10: float
    rsum: float
    text_median: float
    image_median: float
    text_mean: float
    image_mean: float

    def __str__(self):
        head = f"{'':16}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median':>9}{'mean':>9}"
        row = "{:16}{:7.1f}{:7.1f}{:7.1f}{:9.1f}{:9.1f}".format
        text = row("text retrieval", self.text_r1, self.text_r5, self.text_r10,
                   self.text_median, self.text_mean)
        image = row("image retrieval", self.image_r1, self.image_r5, self.image_r10,
                    self.image_median, self.image_mean)
        return f"{head}\n{text}\n{image}\nR@sum {self.rsum:.1f}"


def whole_report(
    scores: np.ndarray | Tensor, # (I, C)
    image_of_caption,            # (C,)
) -> Report:
    "One report over all images at once."
    directions = dict(zip(("text", "image"), ranks(scores, image_of_caption), strict=True))
    recalls = {f"{name}_r{k}": recall_at(r, k) for name, r in directions.items() for k in (1, 5, 10)}
    medians = {f"{name}_median": float(np.median(r)) + 1 for name, r in directions.items()}
    means = {f"{name}_mean": float(np.mean(r)) + 1 for name, r in directions.items()}
    return Report(rsum=sum(recalls.values()), **recalls, **medians, **means)


def fold(
    scores: np.ndarray | Tensor,  # (I, C)
    image_of_caption: np.ndarray, # (C,)
    first: int,                   # first image of the fold
    count: int,                   # images in it
) -> tuple:                       # ((count, C') scores, (C',) image of each caption, counted from 0)
    "A stretch of images with their own captions; a view of the matrix where those captions stand together."
    columns = np.flatnonzero((image_of_caption >= first) & (image_of_caption < first + count))
    together = len(columns) and columns[-1] - columns[0] + 1 == len(columns)
    rows = scores[first:first + count]
    part = rows[:, columns[0]:columns[-1] + 1] if together else rows[:, columns]
    return part, image_of_caption[columns] - first


def report(
    scores: np.ndarray | Tensor, # (I, C) every image with every caption, higher is better
    image_of_caption,            # (C,) the image each caption belongs to; any number of captions per image
    folds: int = 1,              # 5 for COCO's "5 x 1K": each fifth of the images alone, then the mean
) -> Report:
    "Recall both ways, R@sum, median and mean rank; ValueError for bad scores or folds of unequal size."
    check_scores(scores)                                        # all of it, also what no fold will look at
    if folds < 1 or scores.shape[0] % folds:
        raise ValueError(f"{folds} folds don't divide {scores.shape[0]} images into equal parts")
    image_of_caption = check_image_of_caption(image_of_caption, scores.shape)
    count = scores.shape[0] // folds
    reports = [whole_report(*fold(scores, image_of_caption, k * count, count)) for k in range(folds)]
    return Report(*(float(np.mean([getattr(r, f.name) for r in reports])) for f in fields(Report)))
