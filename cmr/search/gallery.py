"""Let a cheap vector choose the hundred worth looking at, and let the model look at those."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmr.data import ImageCaptions, Vocabulary, pad
from cmr.encoders import Fragments
from cmr.fast.scoring import encode_all, evaluating, score_all
from cmr.files import atomic_write, digest
from cmr.matcher import Matcher
from cmr.recall import check_scores
from cmr.similarity import l2_normalize


def pooled(
    fragments: Fragments, # (B, k, d), at least one real fragment a row
    block: int = 1024,    # rows at a time
) -> Tensor:              # (B, 3d + 1)
    "Mean, highest and lowest value of each coordinate over the real fragments, and a one."
    parts = []
    for values, mask in zip(fragments.values.split(block), fragments.mask.split(block)):
        absent, count = ~mask[:, :, None], mask.sum(1)[:, None]
        high, low = values.masked_fill(absent, -torch.inf).amax(1), values.masked_fill(absent, torch.inf).amin(1)
        parts.append(torch.cat([values.sum(1) / count, high, low, torch.ones_like(values[:, 0, :1])], 1))
    return torch.cat(parts)


def summary_vectors(
    fragments: Fragments,       # (B, k, d) one side, encoded
    map: Tensor | None = None,  # (3d + 1, w) fitted to the model's scores; None: take the mean
) -> Tensor:                    # (B, w) float32; without a map (B, d), of length one
    "One cheap vector for each row: the mean of its real fragments, scaled to length one, or `pooled` times a fitted map."
    if map is not None: return (pooled(fragments) @ map.to(fragments.values)).float()
    return l2_normalize(fragments.values.sum(1) / fragments.lengths.clamp(min=1)[:, None]).float()


def faiss_index(
    vectors: Tensor, # (N, w) float32 on the CPU
):                   # a faiss index
    "The vectors in faiss's exact index for products; None where faiss is not installed."
    try: import faiss
    except ImportError: return None
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    return index


class Shortlist:
    "Which vectors have the largest products with a query's: by faiss where it is installed, else by a matrix product. ValueError for NaN."
    def __init__(
        self,
        vectors: Tensor,     # (N, w) one for each row of the gallery
        exact: bool = False, # True: the matrix product, also where faiss is installed
    ):
        if vectors.dim() != 2 or not len(vectors):
            raise ValueError(f"a shortlist is made from vectors (N, w), at least one; got shape {tuple(vectors.shape)}")
        if not vectors.isfinite().all():
            raise ValueError("NaN or infinity among the cheap vectors: encode the gallery again, or look at the model")
        vectors = vectors.detach().cpu().float().contiguous()
        self.shape, self.index = vectors.shape, None if exact else faiss_index(vectors)
        self.vectors = vectors if self.index is None else vectors[:0]  # faiss has its own copy

    def __len__(self): return self.shape[0]

    def nearest(
        self,
        queries: Tensor, # (Q, w)
        k: int,          # how many; all there are, if they are fewer
    ) -> Tensor:         # (Q, k) rows of the gallery, the largest product first
        "The k nearest rows of each query. ValueError for queries of another width."
        queries, k = queries.detach().cpu().float().contiguous(), min(k, len(self))
        if queries.dim() != 2 or queries.shape[1] != self.shape[1]:
            raise ValueError(f"queries must be (Q, {self.shape[1]}) as the gallery's vectors are, got {tuple(queries.shape)}: "
                             "make them with the same maps")
        if self.index is not None: return torch.from_numpy(self.index.search(queries.numpy(), k)[1])
        rows = max(1, 2**24 // len(self))                              # at most so many products at a time
        return torch.cat([(part @ self.vectors.T).topk(k).indices for part in queries.split(rows)])


OTHER = {"images": "captions", "captions": "images"}  # a gallery's side: who asks it

def check_side(
    side: str,
) -> None:
    "ValueError for anything but \"images\" and \"captions\"."
    if side not in OTHER: raise ValueError(f"side={side!r}: a gallery holds images or captions")


def row_names(
    names: Sequence[str] | None, # one for each row; None: the rows' numbers
    count: int,                  # rows
    side: str,                   # what they are
) -> list[str]:
    "The names of a gallery's rows. ValueError for an unknown side, where there is no row, or another number of names."
    check_side(side)
    if not count: raise ValueError("nothing in this gallery: give it at least one image or caption")
    found = [str(name) for name in (range(count) if names is None else names)]
    if len(found) != count: raise ValueError(f"{len(found)} names for {count} {side}: give one for each")
    return found


def fingerprint(
    model: Matcher,
) -> str:           # 16 characters
    "A digest of a model's class, settings and weights: two models that share it give the same scores."
    settings = {**model.config, **({} if model.max_words is None else {"max_words": model.max_words})}
    parts: list = [json.dumps([type(model).__name__, settings], sort_keys=True, default=str)]
    for name, x in sorted(model.state_dict().items()): parts += [f"{name} {x.dtype} {tuple(x.shape)}", x]
    return digest(*parts)[:16]


def put_on_disk(
    blocks: Iterable[Fragments], # rows, some at a time: (b, k, d) of one k
    count: int,                  # N, how many there will be
    path: str,                   # a file for their values
) -> Fragments:                  # (N, k, d), the values mapped from the file
    "Blocks one after the other. ValueError where they aren't `count` rows."
    values, masks, rows = torch.empty(0), [], 0
    for block in blocks:
        if not rows: values = torch.from_file(path, True, count * block.values[0].numel(), dtype=block.values.dtype)
        masks.append(block.mask)
        if (rows := rows + len(block)) > count: break
        values.view(count, *block.values.shape[1:])[rows - len(block):rows] = block.values
    if rows != count: raise ValueError(f"{rows} rows for {count} names: give one name for each row")
    return Fragments(values.view(count, masks[0].shape[1], -1), torch.cat(masks))


def save_gallery(
    path: str | Path,
    gallery: Gallery,
) -> None:
    "A gallery in one file, written whole or not at all."
    about = {"gallery": "1", "side": gallery.side, "model": fingerprint(gallery.model), "matcher": type(gallery.model).__name__,
             "data": gallery.data, "names": json.dumps(gallery.names)}
    parts = {"values": gallery.fragments.values, "vectors": gallery.vectors, "mask": gallery.fragments.mask}
    parts |= {f"map.{name}": x for name, x in (gallery.maps or {}).items()}
    with atomic_write(path) as partial: save_file({name: x.detach().cpu().contiguous() for name, x in parts.items()}, partial, about)


def read_file(
    path: str | Path,
) -> tuple[dict[str, str], dict[str, Tensor]]: # what it says about itself, and its arrays, mapped
    "A gallery's file. FileNotFoundError or ValueError names it where it is not there, damaged, or something else."
    path = Path(path)
    if not path.is_file(): raise FileNotFoundError(f"no gallery at {path}: write one with Gallery.save or cmr.search.open_gallery")
    try:
        with safe_open(path, "pt") as file: about, parts = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as problem:
        raise ValueError(f"{path} is cut short, or no safetensors file ({problem}): delete it and encode the gallery again") from problem
    if not ({"gallery", "side", "model", "data", "names"} <= set(about) and {"values", "vectors", "mask"} <= set(parts)):
        raise ValueError(f"{path} is no gallery: another program's file; name one that Gallery.save wrote")
    return about, parts


def read_gallery(
    path: str | Path,
    model: Matcher,          # must have encoded it
    side: str | None = None, # expected; None: any
    data: str | None = None, # expected digest of the data; None: any
) -> dict:                   # what `Gallery` takes, the fragments still on disk
    "A gallery's parts from its file. ValueError where that is of another model, another side or other data."
    about, parts = read_file(path)
    wanted = {"model": ("another model", fingerprint(model)), "side": ("the other side", side), "data": ("other data", data)}
    for key, (what, value) in wanted.items():
        if value not in (None, about[key]):
            raise ValueError(f"{path} is a gallery of {what} ({about[key]}, not {value}): its answers would be wrong. "
                             "Name another file, or delete this one and encode again")
    maps = {name: parts[f"map.{name}"] for name in OTHER if f"map.{name}" in parts}
    return {"fragments": Fragments(parts["values"], parts["mask"]), "side": about["side"], "maps": maps or None,
            "names": json.loads(about["names"]), "vectors": parts["vectors"], "data": about["data"]}


def best(
    scores: Tensor, # (Q, N)
    top: int,       # how many; all there are, if they are fewer
) -> tuple[Tensor, Tensor]: # (Q, top) scores and (Q, top) columns
    "The highest of each row, best first; equal scores in the order of the columns."
    found = scores.sort(dim=1, descending=True, stable=True)
    return found.values[:, :top], found.indices[:, :top]


def best_of_all(
    score: Callable[[Fragments], Tensor], # queries (q, k, d) to their scores (q, N)
    query: Fragments,                     # (Q, k, d)
    size: int,                            # N
    top: int,                             # how many answers
) -> tuple[Tensor, Tensor]:               # (Q, top) scores and (Q, top) rows
    "The full ranking's first answers, some queries at a time."
    at_once = max(1, 2**24 // size)
    parts = [best(score(query[q:q + at_once]), top) for q in range(0, len(query), at_once)]
    return torch.cat([scores for scores, _ in parts]), torch.cat([rows for _, rows in parts])


def best_of_some(
    score: Callable[[Fragments, Tensor], Tensor], # a query (1, k, d) and rows (s,) to scores (1, s)
    query: Fragments,                             # (Q, k, d)
    rows: Tensor,                                 # (Q, s) each query's shortlist
    top: int,                                     # how many answers
) -> tuple[Tensor, Tensor]:                       # (Q, top) scores and (Q, top) rows of the gallery
    "The shortlist's first answers; equal scores in the order of the gallery."
    rows = rows.sort(1).values
    scores, at = best(torch.cat([score(query[q], rows[q]) for q in range(len(query))]), top)
    return scores, rows.gather(1, at)


def check_search(
    query: Fragments,      # (Q, k, d)
    width: int,            # of the gallery's fragments
    shortlist: int | None, # how many rows the model looks at; None: all
    top: int,              # how many answers
) -> None:
    "ValueError for a question that cannot be answered."
    if not len(query): raise ValueError("no query: give at least one row of fragments")
    if query.values.shape[2] != width:
        raise ValueError(f"the query is {query.values.shape[2]} wide, the gallery {width}: encode both with the same model")
    if top < 1: raise ValueError(f"top={top}: ask for at least one answer")
    if shortlist is not None and shortlist < top:
        raise ValueError(f"shortlist={shortlist} is shorter than top={top}: look at more, or ask for fewer")


class Gallery:
    "One side, encoded once, that answers queries of the other side. ValueError for an unknown side, or where there is nothing in it."
    def __init__(
        self,
        model: Matcher,                     # any, on any device
        fragments: Fragments,               # (N, k, d) what can be found, on the CPU or memory-mapped
        side: str = "images",               # what that is: "images" or "captions"
        maps: dict | None = None,           # as `fit_maps` makes them; None: the mean
        names: Sequence[str] | None = None, # N names; None: the rows' numbers
        vectors: Tensor | None = None,      # (N, w) the cheap vectors, where they have been made before
        data: str = "",                     # a digest of the data, kept in the file
    ):
        self.names = row_names(names, len(fragments), side)
        self.model, self.fragments, self.side, self.maps, self.data = model, fragments, side, maps, data
        self.vectors = summary_vectors(fragments, maps[side] if maps else None) if vectors is None else vectors
        self.index = Shortlist(self.vectors)
    def __len__(self): return len(self.fragments)

    def scores(self, query: Fragments, rows: Tensor | slice = slice(None)) -> Tensor:
        "The model's own scores (Q, N) of queries (Q, k, d) with some rows, by default all. ValueError where one is NaN or infinite."
        images, captions = (self.fragments[rows], query) if self.side == "images" else (query, self.fragments[rows])
        check_scores(found := score_all(self.model, images, captions, progress=False))
        return found.T if self.side == "images" else found

    def search(self, query: Fragments, shortlist: int | None = 100, top: int = 10) -> tuple[Tensor, Tensor]:
        "Scores (Q, top), best first, and rows: chosen by cheap vectors (None: all), ranked by the model. ValueError as `check_search`."
        check_search(query, self.fragments.values.shape[2], shortlist, top)
        if shortlist is None or shortlist >= len(self): return best_of_all(self.scores, query, len(self), top)
        cheap = summary_vectors(query, self.maps[OTHER[self.side]] if self.maps else None)
        return best_of_some(self.scores, query, self.index.nearest(cheap, shortlist), top)

    def save(self, path: str | Path) -> None:
        "Write it to one file, whole or not at all."
        save_gallery(path, self)

    @classmethod
    def load(cls, path: str | Path, model: Matcher, side: str | None = None, data: str | None = None) -> Gallery:
        "Open a file; its fragments stay on disk. ValueError where it is damaged, or of another model, side or data than expected."
        return cls(model, **read_gallery(path, model, side, data))


def write_gallery(
    path: str | Path,            # one file, *.safetensors
    model: Matcher,              # what encoded the blocks
    blocks: Iterable[Fragments], # the rows, some at a time: (b, k, d) of one k
    names: Sequence[str],        # N names, one for each row
    side: str = "images",        # or "captions"
    maps: dict | None = None,    # as `fit_maps` makes them
    data: str = "",              # a digest of the data, to be compared when the file is read
) -> None:
    "Write a gallery block by block; the file appears when it is complete. ValueError where rows and names differ in number."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as scratch:
        Gallery(model, put_on_disk(blocks, len(names), scratch.name), side, maps, names, data=data).save(path)


@dataclass(frozen=True)
class Kept:
    "What a shortlist of some size leaves of the full ranking, in percent."
    size: int    # rows that the model looks at
    best: float  # of queries: the full ranking's first answer is among them
    top10: float # of the full ranking's first ten: are among them
    r1: float    # of queries: a right answer comes first, after the model has ranked the shortlist
    r5: float    # ... is among the first five
    r10: float   # ... is among the first ten


def share(
    found: Tensor, # bool
) -> float:
    "How many of them, in percent."
    return 100 * float(found.double().mean())


def recalls(
    scores: Tensor, # (Q, N); minus infinity where a row was not looked at
    right: Tensor,  # (Q, N) bool: which answers are right
) -> list[float]:
    "R@1, R@5, R@10 as `cmr.recall.ranks` counts: a tie counts against the right answer."
    highest = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    rank = ((scores >= highest) & ~right).sum(1).masked_fill(highest[:, 0] == -torch.inf, scores.shape[1])
    return [share(rank < k) for k in (1, 5, 10)]


def recall_kept(
    full: Tensor,         # (Q, N) the model's scores
    cheap: Tensor,        # (Q, N) products of the cheap vectors
    right: Tensor,        # (Q, N) bool: which answers are right
    sizes: Sequence[int], # lengths of the shortlist
) -> list[Kept]:          # one for each size
    "What is lost by looking at a shortlist only. ValueError for NaN or infinity, shapes that differ, or a query without right answer."
    for table in (full, cheap): check_scores(table)
    if not full.shape == cheap.shape == right.shape:
        raise ValueError(f"three tables of one shape are needed, got {tuple(full.shape)}, {tuple(cheap.shape)}, {tuple(right.shape)}")
    if not right.any(1).all(): raise ValueError(f"query {int((~right.any(1)).nonzero()[0])} has no right answer: leave it out")
    place = best(cheap, len(cheap.T))[1].argsort(dim=1)                             # where the cheap ranking has each row
    first = place.gather(1, best(full, 10)[1])
    return [Kept(size, share(first[:, :1] < size), share(first < size), *recalls(full.masked_fill(place >= size, -torch.inf), right))
            for size in sizes]


def whitened(
    rows: Tensor, # X, (N, p) float64
    ridge: float, # relative to the mean square of a column
) -> tuple[Tensor, Tensor]:
    "L with L L^T = X^T X + ridge, and L^-1 X^T."
    squares = rows.T @ rows
    L = torch.linalg.cholesky(squares + ridge * squares.diagonal().mean() * torch.eye(len(squares), dtype=rows.dtype))
    return L, torch.linalg.solve_triangular(L, rows.T, upper=False)


def fit_maps(
    images: Fragments,    # (I, m, d)
    captions: Fragments,  # (C, n, d)
    scores: Tensor,       # (I, C) the model's, of these images with these captions
    width: int = 64,      # w, numbers of a cheap vector
    ridge: float = 1e-2,  # relative to the mean square of the pooled numbers
) -> dict[str, Tensor]:   # "images" and "captions": (3d + 1, w) each
    "Maps whose products come closest to the scores, by least squares. ValueError where the scores are of other sides, or not finite."
    if tuple(scores.shape) != (len(images), len(captions)):
        raise ValueError(f"{len(images)} images and {len(captions)} captions, but scores {tuple(scores.shape)}")
    check_scores(scores)
    (L, X), (R, Y) = (whitened(pooled(side).double(), ridge) for side in (images, captions))
    U, s, Vh = torch.linalg.svd(X @ scores.double() @ Y.T, full_matrices=False)
    halves = ((L, U[:, :width] * s[:width].sqrt()), (R, Vh[:width].T * s[:width].sqrt()))
    return {side: torch.linalg.solve_triangular(L.T, half, upper=True).float() for side, (L, half) in zip(OTHER, halves)}


def some_pairs(
    split: ImageCaptions,
    images: int, # so many images, drawn at random
    each: int,   # captions of each
    seed: int,   # of the draw
) -> ImageCaptions:
    "A part of a split, in memory."
    rows = torch.randperm(split.n_images, generator=torch.Generator().manual_seed(seed))[:images].sort().values.tolist()
    columns = [(n, int(c)) for n, row in enumerate(rows) for c in (split.image_of_caption == row).nonzero()[0][:each]]
    return ImageCaptions(split.features[rows], [split.captions[c] for _, c in columns], [n for n, _ in columns],
                         mask=None if split.mask is None else split.mask[rows], source=split.source)


def learn_maps(
    model: Matcher,
    split: ImageCaptions,   # the training split
    vocabulary: Vocabulary, # the model's
    images: int = 400,      # take so many images, drawn at random
    each: int = 2,          # and so many captions of each
    width: int = 64,        # numbers of a cheap vector
    seed: int = 0,          # of the draw
    progress: bool = True,  # show bars where it takes more than two seconds
) -> dict[str, Tensor]:     # as `fit_maps` gives them
    "Score some training pairs with the model and fit cheap vectors to the scores."
    sides = encode_all(model, some_pairs(split, images, each, seed), vocabulary, progress=progress)
    return fit_maps(*sides, score_all(model, *sides, progress=progress), width)


def image_blocks(
    model: Matcher,
    split: ImageCaptions,
    size: int = 256,          # images at a time
) -> Iterator[Fragments]:     # (b, m, d) on the CPU
    "A split's images, encoded, a block at a time."
    for i in range(0, split.n_images, size):
        features, mask = split.block(i, min(i + size, split.n_images))
        with evaluating(model): found = model.encode_images(features.to(model.device), mask.to(model.device))
        yield found.to("cpu")


def caption_blocks(
    model: Matcher,
    split: ImageCaptions,
    vocabulary: Vocabulary,   # the model's
    size: int = 256,          # captions at a time
) -> Iterator[Fragments]:     # (b, n, d) on the CPU, as wide as the longest caption of all
    "A split's captions, encoded, a block at a time."
    tokens, at = split.encode(vocabulary)
    longest = max(stop - start for start, stop in zip(at, at[1:]))
    for i in range(0, len(split), size):
        rows, real = pad([tokens[at[n]:at[n + 1]] for n in range(i, min(i + size, len(split)))])
        rows = torch.nn.functional.pad(rows, (0, longest - rows.shape[1]))
        with evaluating(model): found = model.encode_captions(rows.to(model.device), real.sum(1))
        yield found.to("cpu")


def data_digest(
    split: ImageCaptions,
) -> str:                  # 16 characters
    "What tells one split from another: names, captions, whose they are, the first and the last image."
    words = json.dumps([split.ids, split.captions, split.image_of_caption.tolist()])
    return digest(words, *(split.regions(n).tobytes() for n in (0, split.n_images - 1)))[:16]


def open_gallery(
    model: Matcher,
    split: ImageCaptions,
    vocabulary: Vocabulary,         # the model's
    side: str = "images",           # what can be found: "images" or "captions"
    path: str | Path | None = None, # its file; None: keep it in memory
    maps: dict | None = None,       # as `learn_maps` gives them, for a gallery that is made now
) -> Gallery:
    "The gallery of one side of a split: read from its file, else encoded, and written where a file is named. ValueError as `Gallery.load`."
    check_side(side)
    names, data = split.ids if side == "images" else split.captions, data_digest(split)
    def blocks(): return image_blocks(model, split) if side == "images" else caption_blocks(model, split, vocabulary)
    if path is None: return Gallery(model, Fragments.cat(list(blocks())), side, maps, names, data=data)
    if not Path(path).is_file(): write_gallery(path, model, blocks(), names, side, maps, data)
    return Gallery.load(path, model, side, data)


def ask(
    model: Matcher,
    vocabulary: Vocabulary, # the model's
    sentence: str,          # what to look for
) -> Fragments:             # (1, n, d) on the CPU
    "A sentence as a query. ValueError where it is empty, or holds no word that the model knows."
    tokens = torch.tensor([vocabulary.encode(sentence)])
    with evaluating(model): return model.encode_captions(tokens.to(model.device), torch.tensor([tokens.shape[1]])).to("cpu")


def image_row(
    split: ImageCaptions,
    image: str | int, # an id, or a row
) -> int:             # its row
    "Where an image stands in a split. ValueError where it has none of that name."
    row = split.ids.index(str(image)) if str(image) in split.ids else int(image) if str(image).isdigit() else -1
    if not 0 <= row < split.n_images:
        raise ValueError(f"no image {image!r} in {split.source}: its {split.n_images} ids are like {split.ids[0]!r}")
    return row


def ask_with_image(
    model: Matcher,
    split: ImageCaptions, # where the image is
    image: str | int,     # its id, or its row
) -> Fragments:           # (1, m, d) on the CPU
    "An image of a split as a query. ValueError where the split has none of that name."
    row = image_row(split, image)
    features, mask = split.block(row, row + 1)
    with evaluating(model): return model.encode_images(features.to(model.device), mask.to(model.device)).to("cpu")


def draw_captions(
    picture,            # (h, w, 3)
    hits: Sequence,     # captions
    scores: Sequence,   # of each
    right: Sequence,    # of each, True: in green
):                      # matplotlib figure
    "A picture, and captions with their scores beside it."
    import matplotlib.pyplot as plt
    fig, (left, text) = plt.subplots(1, 2, figsize=(8, 1.9), width_ratios=(1, 4))
    left.imshow(picture); left.axis("off"); text.axis("off")
    for n, (hit, score, fine) in enumerate(zip(hits, scores, right)):
        text.text(0, .95 - n / len(hits), f"{float(score):.2f}  {hit}", va="top", fontsize=8, color="tab:green" if fine else "black")
    return fig


def draw_pictures(
    sentence: str,
    hits: Sequence,     # pictures (h, w, 3)
    scores: Sequence,   # of each
    right: Sequence,    # of each, True: framed in green
):                      # matplotlib figure
    "Pictures with their scores below, the sentence above."
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, len(hits), figsize=(1.5 * len(hits) + .2, 1.9), squeeze=False)
    for ax, hit, score, fine in zip(axes[0], hits, scores, right):
        ax.imshow(hit); ax.set(xticks=[], yticks=[]); ax.set_xlabel(f"{float(score):.2f}", fontsize=8)
        for spine in ax.spines.values(): spine.set(visible=fine, color="tab:green", linewidth=4)
    fig.suptitle(sentence, fontsize=9); fig.tight_layout()
    return fig


def show_hits(
    query,                 # a sentence, or a picture (h, w, 3)
    hits: Sequence,        # what was found, best first: pictures, or captions
    scores: Sequence,      # of each
    right: Sequence = (),  # of each, True where it is a right answer: framed, or green
):                         # matplotlib figure
    "A query and what came back. ValueError where scores and hits differ in number."
    if len(hits) != len(scores): raise ValueError(f"{len(hits)} hits and {len(scores)} scores: give one for each")
    right = [*right, *[False] * (len(hits) - len(right))]
    return (draw_pictures if isinstance(query, str) else draw_captions)(query, hits, scores, right)
