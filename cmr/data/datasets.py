"""Images and captions on disk: features, captions, which image each caption belongs to; and batches of them."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import gcd
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..files import atomic_write
from .vocabulary import Vocabulary, tokenize, unknown_share

def _open_npy(path: Path) -> ndarray:
    "Memory-map a .npy file; raises ValueError naming it where it is cut short, pickled or no array."
    try: array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as problem:
        raise ValueError(f"{path} cannot be read: it is cut short, pickled (refused, since a pickle can run code) or no .npy file "
                         f"({problem}). Copy it again, or save it with np.save(path, array, allow_pickle=False)") from problem
    if not hasattr(array, "shape"): raise ValueError(f"{path} is an archive of arrays; save the one array of features with np.save")
    return array

def _open_h5(path: Path) -> h5py.File:
    "Open an HDF5 file for reading; raises ValueError naming it where it is cut short or no such file."
    try: return h5py.File(path, "r")
    except OSError as problem:
        raise ValueError(f"{path} cannot be read: it is cut short or no HDF5 file ({problem}). Copy or convert it again") from problem

def as_slice(
    rows: range,    # row numbers, upwards or downwards
    step: int = 1,  # file rows for one row
) -> slice:         # of the file, upwards: HDF5 reads in no other direction
    "The rows of the file that hold these rows; a downward range gives them in reverse."
    up = rows if rows.step > 0 else rows[::-1]
    return slice(up.start * step, up.stop * step, up.step * step) if len(up) else slice(0, 0)

class Rows:
    "An array on disk that is opened where it is used: in this process, in a loader's worker, after unpickling."

    def __init__(self,
        path: str | Path,           # a .npy or an .h5 file
        dataset: str | None = None, # name inside the .h5 file
        step: int = 1,              # use every step-th row: 5 where each image stands five times
    ):
        self.path, self.dataset, self.step, self._opened = Path(path), dataset, step, None
        array = self.array()
        self.shape, self.dtype = (array.shape[0] // step, *array.shape[1:]), array.dtype

    def array(self):
        "The whole array as it lies in the file, repeated rows and all."
        if self._opened is None or self._opened[0] != os.getpid():
            array = _open_npy(self.path) if self.dataset is None else _open_h5(self.path)[self.dataset]
            self._opened = os.getpid(), array
        return self._opened[1]

    def __getitem__(self, index: int | slice | Sequence[int] | ndarray) -> ndarray:
        "Read these rows, and only these, into memory."
        if isinstance(index, slice):
            wanted = range(len(self))[index]
            found = np.array(self.array()[as_slice(wanted, self.step)])
            return found if wanted.step > 0 else found[::-1].copy()
        rows = np.asarray(index)
        if rows.ndim: return np.stack([self[int(i)] for i in rows]) if len(rows) else np.empty((0, *self.shape[1:]), self.dtype)
        i = int(rows)
        if not -len(self) <= i < len(self): raise IndexError(f"row {i} of {len(self)} in {self.path}")
        return np.array(self.array()[i % len(self) * self.step])

    def __len__(self) -> int: return self.shape[0]
    def __getstate__(self) -> dict: return {**self.__dict__, "_opened": None}
    def __repr__(self) -> str: return f"Rows({self.path.name}, shape={self.shape}, dtype={self.dtype})"

    def close(self) -> None:
        "Let go of the file; the next use opens it again."
        if self._opened and self.dataset: self._opened[1].file.close()
        self._opened = None

def read_captions(
    path: str | Path, # a text file in UTF-8
) -> list[str]:       # exactly one caption a line
    "Read a caption file; raises ValueError naming the line where one is blank or not UTF-8."
    path = Path(path)
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"": lines.pop()
    captions = []
    for number, line in enumerate(lines, 1):
        try: captions.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as problem:
            raise ValueError(f"{path}, line {number}: not UTF-8 ({problem}); save the file as UTF-8") from problem
        if not captions[-1]:
            raise ValueError(f"{path}, line {number}: empty caption; every line must hold one, since a caption's place says its image")
    return captions

def _equal(a: ndarray, b: ndarray) -> bool: return np.array_equal(a, b, equal_nan=True)

def repeats(
    rows: ndarray,     # (rows, m, f), memory-mapped
    windows: int = 8,  # look at so many places: the first, the last and some between
    width: int = 26,   # rows in each
) -> int:              # how often each image's row stands, 1 where none is repeated
    "How many times each image is repeated; raises ValueError where the repetition is broken."
    n, changes, pairs = len(rows), [], 0
    for start in np.unique(np.linspace(0, max(n - width, 0), windows).astype(int)):
        window = np.asarray(rows[start:start + width])
        pairs += len(window) - 1
        changes += [start + i for i in range(1, len(window)) if not _equal(window[i - 1], window[i])]
    if not changes: return 5 if n % 5 == 0 else 1
    times = gcd(n, *map(int, changes))
    if times == 1 and len(changes) < pairs / 2:
        raise ValueError(f"most rows repeat the one before, but not in equal groups (rows {changes[0] - 1} and {changes[0]} differ): "
                         "captions would go to wrong images; take another copy of the file")
    return times

def _need(fine: bool, source: object, message: str) -> None:
    if not fine: raise ValueError(f"{source}: {message}")

def _check_features(shape: tuple, dtype: np.dtype, source: Path) -> None:
    _need(len(shape) == 3 and min(shape) > 0, source, f"features must be (images, regions, numbers), none of them 0, but are {shape}")
    _need(dtype.kind in "fiu", source, f"features hold {dtype}, not numbers")

def _check_captions(captions: list[str], image_of_caption: ndarray, n: int, source: Path) -> None:
    _need(image_of_caption.shape == (len(captions),), source,
          f"{len(captions)} captions but image_of_caption has shape {image_of_caption.shape}; give one image for each")
    outside = np.flatnonzero((image_of_caption < 0) | (image_of_caption >= n))[:1]
    _need(not outside.size, source, f"caption {outside} belongs to image {image_of_caption[outside]}, but the images are 0 to {n - 1}")
    alone = np.flatnonzero(np.bincount(image_of_caption, minlength=n) == 0)
    _need(not alone.size, source, f"{alone.size} of {n} images have no caption, the first is image {alone[:1]}; drop them or caption them")
    blank = next((i for i, caption in enumerate(captions) if not caption.strip()), None)
    _need(blank is None, source, f"caption {blank} is empty; write one or drop it")

def _check_regions(mask: ndarray | None, boxes, shape: tuple, source: Path) -> None:
    if boxes is not None: _need(tuple(boxes.shape) == (*shape, 4), source, f"boxes have shape {tuple(boxes.shape)}, expected {(*shape, 4)}")
    if mask is None: return
    _need(mask.shape == shape, source, f"mask has shape {mask.shape}, features ask for {shape}")
    empty = np.flatnonzero(~mask.any(1))[:1]
    _need(not empty.size, source, f"image {empty} has no region at all in the mask; every image needs one")

def check_parts(
    split: "ImageCaptions",
) -> None:
    "Raise ValueError naming the file where the parts of a split do not fit together."
    shape, n = tuple(split.features.shape), len(split.features)
    _check_features(shape, split.features.dtype, split.source)
    _check_captions(split.captions, split.image_of_caption, n, split.source)
    _need(len(split.ids) == n, split.source, f"{len(split.ids)} ids for {n} images; give one for each")
    _check_regions(split.mask, split.boxes, shape[:2], split.source)

def check_finite(
    features: ndarray | Tensor, # (images, m, f)
    source: str | Path,         # the file, for the message
    first: int = 0,             # number of the first of these images in the file
    mask: ndarray | None = None,# (images, m) True where a region is real; padding is not looked at
) -> None:
    "Raise ValueError naming file, image and region where a feature is NaN or infinite."
    features = np.asarray(features)
    bad = ~np.isfinite(features).all(-1)                # (images, m)
    if mask is not None: bad &= np.asarray(mask)
    if bad.any():
        image, region = np.argwhere(bad)[0]
        raise ValueError(f"{source}: image {first + image}, region {region} holds NaN or infinity; "
                         "extract its features again or drop the image")

def read_padded(
    features,               # (N, m, f) array or `Rows`
    mask: ndarray | None,   # (N, m) True where a region is real; None: all are
    start: int,             # first image
    stop: int,              # one past the last image
    source: str | Path,     # the file, for messages
) -> tuple[Tensor, Tensor]: # (b, m, f) float32, and (b, m) True where a region is real
    "Neighbouring images in one read, padding set to zero; raises ValueError where a real region is NaN or infinite."
    rows = np.array(features[start:stop], dtype=np.float32)
    real = np.ones(rows.shape[:2], bool) if mask is None else mask[start:stop].copy()
    check_finite(rows, source, start, real)
    rows[~real] = 0
    return torch.from_numpy(rows), torch.from_numpy(real)

def read_regions(
    features,              # (N, m, f) array or `Rows`
    mask: ndarray | None,  # (N, m) True where a region is real; None: all are
    i: int,                # number of an image
    source: str | Path,    # the file, for messages
) -> ndarray:              # (m_i, f) float32
    "The real regions of one image; raises ValueError where one is NaN or infinite."
    rows = np.asarray(features[i], dtype=np.float32)
    if mask is not None: rows = rows[mask[i]]
    check_finite(rows[None], source, i)
    return rows

def encode_captions(
    captions: Sequence[str],
    vocabulary: Vocabulary,
    source: str | Path,        # the file, for messages
) -> tuple[ndarray, ndarray]:  # all tokens one after the other, and (C + 1,) where each caption begins
    "Encode every caption and warn of how many are cut; ValueError naming file and caption where one has no known word."
    rows, limit = [], vocabulary.max_words
    for i, caption in enumerate(captions):
        try: rows.append(vocabulary.encode(caption))
        except ValueError as problem: raise ValueError(f"{source}, caption {i}: {problem}") from problem
    cut = sum(len(row) == limit < len(tokenize(caption)) + 2 * vocabulary.marks for row, caption in zip(rows, captions)) if limit else 0
    if cut: warnings.warn(f"{source}: {cut} of {len(rows)} captions are cut to max_words={limit}", stacklevel=3)
    starts = np.cumsum([0, *map(len, rows)])
    return np.fromiter((token for row in rows for token in row), np.int64, starts[-1]), starts

class ImageCaptions:
    "One split: region features that stay on disk, captions, and which image each caption belongs to."

    def __init__(self,
        features,                          # (N, m, f) array, or `Rows` on disk
        captions: Sequence[str],           # C captions
        image_of_caption,                  # (C,) row of `features` for each caption
        ids: Sequence[str] | None = None,  # N names; None: the rows' numbers
        boxes=None,                        # (N, m, 4) x1, y1, x2, y2 in 0..1, or None
        mask=None,                         # (N, m) True where a region is real; None: all are
        source: str | Path = "memory",     # the file, for messages
    ):
        self.features, self.boxes = features.numpy() if isinstance(features, Tensor) else features, boxes
        self.captions, self.source = list(captions), Path(source)
        self.image_of_caption = np.asarray(image_of_caption, dtype=np.int64)
        self.ids = [str(i) for i in (range(len(features)) if ids is None else ids)]
        self.mask = None if mask is None else np.asarray(mask, dtype=bool)
        self._encoded: tuple = (None, None)
        check_parts(self)

    @property
    def n_images(self) -> int: return len(self.features)
    @property
    def region_dim(self) -> int: return self.features.shape[2]
    def __len__(self) -> int: return len(self.captions)
    def __repr__(self): return f"{self.source.name}: {self.n_images} images of {self.features.shape[1]} regions, {len(self)} captions"

    def regions(self, i: int) -> ndarray:  # (m_i, f) float32
        "The real regions of image `i`; raises ValueError where one is NaN or infinite."
        return read_regions(self.features, self.mask, i, self.source)

    def block(self, start: int, stop: int) -> tuple[Tensor, Tensor]:  # (b, m, f) float32, (b, m) True where a region is real
        "Images `start` to `stop - 1` in one read, padding set to zero; raises ValueError where a real region is NaN or infinite."
        return read_padded(self.features, self.mask, start, stop, self.source)

    def encode(self, vocabulary: Vocabulary) -> tuple[ndarray, ndarray]:
        "What `encode_captions` gives for all captions, made once and remembered."
        if self._encoded[0] is not vocabulary: self._encoded = vocabulary, encode_captions(self.captions, vocabulary, self.source)
        return self._encoded[1]

def read_names(
    path: Path,   # a text file
) -> list[str]:   # one name a line
    "The names of images, as `{split}_ids.txt` holds them."
    return [line.strip() for line in path.read_text(encoding="utf-8").rstrip().split("\n")]

def _scan_ids(path: Path, n: int, allowed: set[int]) -> list[str] | None:
    if not path.is_file(): return None
    ids = read_names(path)
    if len(ids) not in allowed: raise ValueError(f"{path} has {len(ids)} ids for {n} images; give one for each, or leave the file out")
    return ids[::len(ids) // n]

def _scan_boxes(folder: Path, split: str, n: int, m: int, times: int):
    if (folder / f"{split}_boxes.npy").is_file(): return Rows(folder / f"{split}_boxes.npy", step=times)
    if not (folder / "boxes.npy").is_file(): return None
    boxes = np.array(_open_npy(folder / "boxes.npy"))
    if boxes.shape != (m, 4):
        raise ValueError(f"{folder / 'boxes.npy'} has shape {boxes.shape}; the same boxes for all images are ({m}, 4)")
    return np.broadcast_to(boxes, (n, m, 4))

def _open_scan(folder: Path, split: str) -> ImageCaptions:
    path, captions_path = folder / f"{split}_ims.npy", folder / f"{split}_caps.txt"
    if not captions_path.is_file():
        raise FileNotFoundError(f"{path.name} has no {captions_path.name} beside it in {folder}: one caption a line")
    captions, rows = read_captions(captions_path), _open_npy(path)
    if rows.ndim != 3: raise ValueError(f"{path} has shape {rows.shape}; features must be (images, regions, numbers)")
    if len(captions) < len(rows):
        raise ValueError(f"{captions_path} has {len(captions)} captions, {path} has {len(rows)} rows: different lengths; "
                         "are they of one split?")
    if not len(rows) or len(captions) % len(rows):
        raise ValueError(f"{captions_path} has {len(captions)} captions, which the {len(rows)} images of {path} do not divide; "
                         "where images have different numbers of captions, use HDF5 with image_of_caption")
    try: times = repeats(rows) if len(captions) == len(rows) else 1
    except ValueError as problem: raise ValueError(f"{path}: {problem}") from problem
    n = len(rows) // times
    return ImageCaptions(Rows(path, step=times), captions, np.arange(len(captions)) // (len(captions) // n),
                         ids=_scan_ids(folder / f"{split}_ids.txt", n, {n, len(rows), len(captions)}),
                         boxes=_scan_boxes(folder, split, n, rows.shape[1], times), source=path)

def _open_hdf5(path: Path) -> ImageCaptions:
    with _open_h5(path) as file:
        if missing := [name for name in ("features", "captions", "image_of_caption") if name not in file]:
            raise ValueError(f"{path} lacks {', '.join(missing)}; "
                             "a split holds features, captions, image_of_caption, ids (and mask, boxes)")
        small = {name: file[name][:] for name in ("image_of_caption", "mask") if name in file}
        text = {name: file[name].asstr()[:].tolist() for name in ("captions", "ids") if name in file}
        boxes = Rows(path, "boxes") if "boxes" in file else None
    return ImageCaptions(Rows(path, "features"), boxes=boxes, source=path, **small, **text)

BLOCK = 64 * 2**20 # bytes read at a time

def _read_repeated(features: Rows, start: int, stop: int) -> ndarray:
    "Read these images, and make sure that the repeated rows of each are equal."
    block, step = np.array(features[start:stop]), features.step
    for copy in range(1, step):
        again = features.array()[start * step + copy:stop * step:step]
        if not _equal(block, again):
            image = next(i for i in range(len(block)) if not _equal(block[i], again[i]))
            first = (start + image) * step
            raise ValueError(f"{features.path}: rows {first} and {first + copy} should be one image but differ")
    features.close()
    return block

def read_blocks(
    features,         # (N, m, f) array or `Rows`
    max_bytes: int = BLOCK,
) -> Iterator[ndarray]:
    "Consecutive images, at most `max_bytes` (or one image) at a time; a mapped file is let go of after each."
    size = max(1, max_bytes // (int(np.prod(features.shape[1:])) * features.dtype.itemsize * getattr(features, "step", 1)))
    for start in range(0, len(features), size):
        stop = min(start + size, len(features))
        yield _read_repeated(features, start, stop) if isinstance(features, Rows) else features[start:stop]

def _write_features(file: h5py.File, blocks: Iterable, mask, source) -> int:
    "Append blocks to the dataset `features`, one chunk an image; returns the number of images."
    n = 0
    for block in map(np.asarray, blocks):
        if block.ndim != 3: raise ValueError(f"{source}: a block of features has shape {block.shape}, expected (images, regions, numbers)")
        check_finite(block, source, n, None if mask is None else np.asarray(mask[n:n + len(block)], dtype=bool))
        dtype, one = np.float16 if block.dtype == np.float16 else np.float32, block.shape[1:]
        if "features" not in file: file.create_dataset("features", (0, *one), dtype, maxshape=(None, *one), chunks=(1, *one))
        data = file["features"]
        if data.shape[1:] != one:
            raise ValueError(f"{source}: image {n} has shape {one}, those before {data.shape[1:]}; pad it and give a mask")
        data.resize(n := n + len(block), 0)
        data[n - len(block):] = block
    if not n: raise ValueError(f"{source}: no image to write")
    return n

def write_split(
    path_h5: str | Path,        # the file to write, {split}.h5
    features,                   # (N, m, f) array or `Rows`, or an iterator over blocks (n, m, f) of it
    captions: Sequence[str],    # C captions
    image_of_caption,           # (C,) image of each
    ids: Sequence[str] | None = None,   # N names
    boxes=None,                 # (N, m, 4) x1, y1, x2, y2 in 0..1
    mask=None,                  # (N, m) True where a region is real
) -> Path:
    "Write one split as HDF5, block by block; the file appears when it is complete. Raises ValueError as `open_split` does."
    text = h5py.string_dtype()
    with atomic_write(path_h5) as partial:
        with h5py.File(partial, "w") as file:
            n = _write_features(file, read_blocks(features) if hasattr(features, "shape") else features, mask, path_h5)
            file["captions"] = np.array(list(captions), dtype=text)
            file["image_of_caption"] = np.asarray(image_of_caption, dtype=np.int64)
            file["ids"] = np.array([str(i) for i in (range(n) if ids is None else ids)], dtype=text)
            if mask is not None: file["mask"] = np.asarray(mask, dtype=bool)
            if boxes is not None: file["boxes"] = np.asarray(boxes[:], dtype=np.float32)
        try: written = _open_hdf5(partial)
        except ValueError as problem: raise ValueError(str(problem).replace(str(partial), str(path_h5))) from problem
        for rows in (written.features, written.boxes):
            if isinstance(rows, Rows): rows.close()  # some systems rename no open file
    return Path(path_h5)

EXPECTED = """a data folder holds, for each of train, dev and test, either
  {split}.h5                          features, captions, image_of_caption, ids (and mask, boxes)
or the published SCAN layout
  {split}_ims.npy, {split}_caps.txt   features (images, regions, numbers) and one caption a line, {split}_ids.txt if you like
Make the built-in one with `cmr data scenes`; turn the SCAN layout or Karpathy's json into HDF5 with `cmr data convert`."""

def _is_split(path: Path) -> bool:
    "Has it features and captions? A file that cannot be read counts: opening it will say what is wrong with it."
    try:
        with _open_h5(path) as file: return "features" in file and "captions" in file
    except ValueError: return True

def splits(
    folder: str | Path,
) -> list[str]:     # names, sorted
    "The splits in a data folder; raises FileNotFoundError saying what a data folder holds where it is none."
    folder = Path(folder)
    if not folder.is_dir(): raise FileNotFoundError(f"no data folder at {folder}: {EXPECTED}")
    found = {path.name.removesuffix("_ims.npy") for path in folder.glob("*_ims.npy")}
    found |= {path.stem for path in folder.glob("*.h5") if _is_split(path)}
    if not found: raise FileNotFoundError(f"no split in {folder}: {EXPECTED}")
    return sorted(found)

def open_split(
    folder: str | Path, # a data folder
    split: str,         # train, dev, test, ...
) -> ImageCaptions:
    "Open one split from HDF5 or the SCAN layout; FileNotFoundError lists the splits there are where this one is missing."
    folder = Path(folder)
    if (folder / f"{split}.h5").is_file(): return _open_hdf5(folder / f"{split}.h5")
    if (folder / f"{split}_ims.npy").is_file(): return _open_scan(folder, split)
    raise FileNotFoundError(f"no split {split!r} in {folder}; it has {', '.join(splits(folder))}")

def check_vocabulary(
    split: ImageCaptions,
    vocabulary: Vocabulary,
    sample: int = 1000,     # look at so many captions, evenly spread
) -> float:                 # share of unknown tokens
    "Raise ValueError naming the file where more than half of its words are unknown."
    share = unknown_share(split.captions[::max(1, len(split) // sample)], vocabulary)
    if share > .5:
        raise ValueError(f"{split.source}: the vocabulary does not know {share:.0%} of the words, so it is that of another data set; "
                         "build one from this data's training captions, or take the model trained on this data")
    return share

@dataclass
class Batch:
    "Some captions and their images, padded."
    features: Tensor    # (B, m, f) float32; zero where padded
    mask: Tensor        # (B, m) bool; True where a region is real
    tokens: Tensor      # (B, n) int64; <pad> after a caption's end
    lengths: Tensor     # (B,) int64; tokens of each caption
    image: Tensor       # (B,) int64; row of the image in its split
    caption: Tensor     # (B,) int64; row of the caption in its split

    @property
    def same_image(self) -> Tensor: # (B, B) bool; True where the column's caption was written for the row's image
        "Which captions of the batch are positives of which images."
        return self.image[:, None] == self.image[None]

    def __len__(self) -> int: return len(self.image)
    def to(self, device, non_blocking: bool = False) -> "Batch":
        "The same batch on another device."
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)})
    def pin_memory(self) -> "Batch":
        "The same batch in page-locked memory, from where a GPU copies faster."
        return replace(self, **{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

def pad(
    rows: Sequence, # arrays or tensors (n_i, ...) of different lengths
) -> tuple[Tensor, Tensor]: # (B, n, ...) padded with zeros, and (B, n) True where an entry is real
    "Stack arrays of different lengths."
    tensors = [torch.as_tensor(row) for row in rows]
    lengths = torch.tensor([len(row) for row in tensors])
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), torch.arange(int(lengths.max())) < lengths[:, None]

def collate(
    items: Sequence[tuple], # (regions (m_i, f), tokens (n_i,), image, caption) of each
) -> Batch:
    "Pad the items of a batch to its longest (Eq. 1 and 2 then see the padding nowhere)."
    regions, tokens, image, caption = zip(*items)
    features, mask = pad(regions)
    padded, real = pad(tokens)
    return Batch(features, mask, padded, real.sum(1), torch.tensor(image), torch.tensor(caption))

class CaptionPairs(Dataset):
    "One item per caption of a split: its image's regions, its tokens, the image's row and its own."

    def __init__(self,
        split: ImageCaptions,
        vocabulary: Vocabulary, # encodes the captions now, so that a bad one is found before training
    ):
        self.split = split
        self.tokens, self.starts = split.encode(vocabulary)

    def __len__(self) -> int: return len(self.split)

    def __getitem__(self, caption: int) -> tuple[ndarray, ndarray, int, int]:
        image = int(self.split.image_of_caption[caption])
        return self.split.regions(image), self.tokens[self.starts[caption]:self.starts[caption + 1]], image, int(caption)

def batch_rows(
    order: ndarray,          # (C,) captions in the order of the epoch
    batch_size: int,         # captions in a batch
    part: tuple[int, int],   # (rank, world_size): of each batch only this process's equal part
) -> list[list[int]]:        # the captions of each batch
    "Cut an epoch's order into batches; left out are a last batch of one, and what processes cannot share equally."
    (rank, world_size), n = part, len(order)
    sizes = [min(batch_size, n - i) // world_size for i in range(0, n, batch_size)]  # of a process's part of each batch
    rows = [order[i * batch_size + rank * size:][:size].tolist() for i, size in enumerate(sizes)]
    return rows if sizes[-1] * world_size > 1 else rows[:-1]

def batches(
    split: ImageCaptions,
    vocabulary: Vocabulary,
    batch_size: int,                 # captions in a batch, 2 or more
    seed: int = 0,
    epoch: int = 0,                  # another epoch is another order
    start: int = 0,                  # leave out so many batches: where an interrupted epoch goes on
    shuffle: bool = True,            # False: in the split's order
    workers: int = 0,                # processes that read ahead, two batches each
    part: tuple[int, int] = (0, 1),  # (rank, world_size): of each batch only this process's equal part
    pin: bool = False,               # in page-locked memory, from where a GPU copies while it computes
) -> DataLoader:                     # of `Batch`
    "The batches of one epoch, as `batch_rows` cuts them, in an order of seed and epoch only. ValueError where a batch has no negatives."
    n, world_size = len(split), part[1]
    if batch_size < 2 or n < max(2, world_size):
        raise ValueError(f"{split.source}: a batch of one has no negatives "
                         f"(batch_size={batch_size}, {n} captions, {world_size} processes); use 2 or more")
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size} cannot be divided among {world_size} processes: use a multiple of {world_size}")
    order = np.random.default_rng([seed, epoch]).permutation(n) if shuffle else np.arange(n)
    return DataLoader(CaptionPairs(split, vocabulary), batch_sampler=batch_rows(order, batch_size, part)[start:], collate_fn=collate,
                      num_workers=workers, pin_memory=pin, generator=torch.Generator().manual_seed(seed))
