"""Captions and features as others publish them, turned into HDF5."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray
from tqdm.auto import tqdm

from .datasets import BLOCK, Rows, open_split, read_blocks, read_names, splits, write_split

@dataclass
class Karpathy:
    "One split as Karpathy's json has it."
    ids: list[str]             # N file names
    captions: list[str]        # C sentences
    image_of_caption: ndarray  # (C,) int64
    rows: ndarray              # (N,) place of each image in the json
    sentids: list[int]         # C sentence numbers

def sentence_text(
    sentence: dict,  # "raw", or only "tokens"
    filename: str,   # its image, for the message
) -> str:            # on one line
    "A sentence of the json as a caption; raises ValueError where it is empty."
    caption = " ".join((sentence.get("raw") or " ".join(sentence["tokens"])).split())
    if not caption: raise ValueError(f"empty caption of {filename}")
    return caption

def _karpathy_split(images: list[tuple[int, dict]]) -> Karpathy:
    "The images of one split, each with its place in the json."
    sentences = [(i, s, image["filename"]) for i, (_, image) in enumerate(images) for s in image["sentences"]]
    return Karpathy([image["filename"] for _, image in images], [sentence_text(s, name) for _, s, name in sentences],
                    np.array([i for i, _, _ in sentences], np.int64), np.array([row for row, _ in images], np.int64),
                    [s.get("sentid", n) for n, (_, s, _) in enumerate(sentences)])

def read_karpathy(
    json_path: str | Path,  # dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json
) -> dict[str, Karpathy]:   # by split; "restval" counts as "train", as the papers do, and "val" is called "dev"
    "Captions and splits from Karpathy's json; raises FileNotFoundError, or ValueError where the file is another one."
    path = Path(json_path)
    found: dict[str, list] = {}
    if not path.is_file():
        raise FileNotFoundError(f"no json at {path}: expected Karpathy's dataset_*.json with images[], split, sentences[]")
    try:
        for row, image in enumerate(json.loads(path.read_text(encoding="utf-8"))["images"]):
            name = {"restval": "train", "val": "dev"}.get(image["split"], image["split"])
            found.setdefault(name, []).append((row, image))
        return {name: _karpathy_split(images) for name, images in found.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise ValueError(f"{path} is not Karpathy's json ({type(problem).__name__}: {problem})") from problem

def rows_by_name(
    names: list[str],   # of the features' rows, with or without .jpg
    wanted: list[str],  # of the images
) -> list[int | None]:  # the row of each image, None where no row has its name
    "Find images by their names; an extension too many or too few does no harm."
    place = {key: i for i, name in enumerate(names) for key in (name, Path(name).stem)}
    return [place.get(name, place.get(Path(name).stem)) for name in wanted]

def feature_rows(
    split: Karpathy,
    features: Rows,           # one row for each image: those of the whole json, or only this split's
    own: bool,                # the features are only this split's
    ids: str | Path | None,   # a file naming the image of each row; None: rows stand in the json's order
    source: str | Path,       # the json, for messages
) -> ndarray:                 # (N,) the row of each image
    "Where each image's features stand; raises ValueError where one has none."
    if ids is None:
        rows = np.arange(len(split.ids)) if own else split.rows
        if rows.max(initial=0) < len(features): return rows
        raise ValueError(f"{features.path} has {len(features)} rows, {source} asks for row {rows.max()}; "
                         "name the rows' images in an ids file")
    names = read_names(Path(ids))
    if len(names) != len(features): raise ValueError(f"{ids} names {len(names)} images, {features.path} has {len(features)} rows")
    found = rows_by_name(names, split.ids)
    if None in found: raise ValueError(f"{ids} does not name {split.ids[found.index(None)]}, an image of {source}")
    return np.array(found)

def with_progress(
    blocks: Iterable[ndarray],
    total: int,                # images in all of them
    name: str,
    progress: bool,            # False: no bar
) -> Iterator[ndarray]:
    "Pass blocks of images on and show how many went by."
    with tqdm(total=total, desc=name, unit=" images", disable=not progress) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))

def convert_karpathy(
    json_path: str | Path,
    features,                       # a .npy file with one row for each image, or {split: .npy file}
    out: str | Path,                # the folder for {split}.h5
    ids: str | Path | None = None,  # a file naming the image of each row; None: rows stand in the json's order
    progress: bool = True,          # show a bar for each split
    max_bytes: int = BLOCK,         # read at most so much at a time
) -> list[Path]:                    # the files written
    "Karpathy's captions and splits with your features, as HDF5; raises ValueError where images have no row of features."
    if features is None:
        raise ValueError(f"{json_path} holds captions only: give features, a .npy file with a row (regions, numbers) for each image")
    own, written = isinstance(features, dict), []
    for name, split in read_karpathy(json_path).items():
        if own and name not in features: continue
        rows = Rows(features[name] if own else features)
        wanted = feature_rows(split, rows, own, ids, json_path)
        size = max(1, max_bytes // (int(np.prod(rows.shape[1:])) * rows.dtype.itemsize))
        blocks = with_progress((rows[wanted[i:i + size]] for i in range(0, len(wanted), size)), len(wanted), name, progress)
        written.append(write_split(Path(out) / f"{name}.h5", blocks, split.captions, split.image_of_caption, split.ids))
    return written

def convert(
    source: str | Path,             # a folder in the SCAN layout, or Karpathy's json (then with `features`)
    out: str | Path,                # the folder for {split}.h5
    progress: bool = True,          # show a bar for each split
    features=None,                  # for a json: a .npy file with one row for each image, or {split: .npy file}
    ids: str | Path | None = None,  # for a json: a file naming the image of each row; None: rows stand in the json's order
    max_bytes: int = BLOCK,         # read at most so much at a time
) -> list[Path]:                    # the files written
    "Write every split of the source as HDF5, each image once; raises as `open_split` does, and leaves no unfinished file."
    if Path(source).suffix == ".json": return convert_karpathy(source, features, out, ids, progress, max_bytes)
    written = []
    for name in splits(source):
        split, path = open_split(source, name), Path(out) / f"{name}.h5"
        blocks = with_progress(read_blocks(split.features, max_bytes), split.n_images, name, progress)
        try: written.append(write_split(path, blocks, split.captions, split.image_of_caption, split.ids, split.boxes, split.mask))
        except ValueError as problem: raise ValueError(f"converting {split.source}: {problem}") from problem
    return written
