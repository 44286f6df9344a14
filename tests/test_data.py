"Data sets on disk and batches: both conventions, HDF5, and every kind of bad input."

import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
import torch

from cmr.data import (
    CaptionPairs,
    ImageCaptions,
    Rows,
    Vocabulary,
    batches,
    check_vocabulary,
    collate,
    convert,
    open_split,
    pad,
    splits,
    write_split,
)
from cmr.data.datasets import batch_rows, feature_digest, read_captions, repeats, split_name
from cmr.data.vocabulary import UNK
from cmr.files import NpyFile

N, M, F, K = 6, 3, 4, 5
FEATURES = np.random.default_rng(0).normal(size=(N, M, F)).astype(np.float32)
THINGS = ["ball", "kite", "boat", "dog", "tree", "car"]
CAPTIONS = [" ".join(["a"] * k + [thing]) for thing in THINGS for k in range(K)]
OWNER = np.arange(N * K) // K
VOCABULARY = Vocabulary(["a", *THINGS])
FIELDS = ("features", "mask", "tokens", "lengths", "image", "caption")


def write_scan(folder, split="train", features=FEATURES, captions=CAPTIONS, ids=None):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{split}_ims.npy", features)
    (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    if ids: (folder / f"{split}_ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return folder


def toy(**parts):
    return ImageCaptions(**{"features": FEATURES, "captions": CAPTIONS, "image_of_caption": OWNER, "source": "toy", **parts})


def same(split, features=FEATURES, captions=CAPTIONS, owner=OWNER):
    np.testing.assert_array_equal(split.features[:], features)
    np.testing.assert_array_equal(split.image_of_caption, owner)
    assert split.captions == list(captions)
    assert split.image_of_caption.dtype == np.int64
    for i in range(split.n_images): np.testing.assert_array_equal(split.regions(i), features[i])


# --- the SCAN layout

@pytest.mark.parametrize("times", [1, 5])
def test_both_conventions(tmp_path, times):
    write_scan(tmp_path, "dev", FEATURES.repeat(times, axis=0), ids=[f"{i}.jpg" for i in range(N) for _ in range(times)])
    split = open_split(tmp_path, "dev")
    same(split)
    assert (split.n_images, split.region_dim, len(split), split.ids) == (N, F, N * K, [f"{i}.jpg" for i in range(N)])
    (path,) = convert(tmp_path, tmp_path / "h5", progress=False)
    with h5py.File(path) as file: assert file["features"].shape == (N, M, F)
    same(open_split(tmp_path / "h5", "dev"))
    assert open_split(tmp_path / "h5", "dev").ids == split.ids


@pytest.mark.parametrize(("n", "k", "m", "f"), [(1, 1, 1, 1), (4, 1, 3, 2), (4, 2, 1, 2), (1, 5, 2, 3), (3, 7, 1, 4)])
def test_any_number_of_captions_and_regions(tmp_path, n, k, m, f):
    features = np.random.default_rng(1).normal(size=(n, m, f)).astype(np.float32)
    captions = [f"caption {c}" for c in range(n * k)]
    write_scan(tmp_path, features=features, captions=captions)
    same(open_split(tmp_path, "train"), features, captions, np.arange(n * k) // k)
    convert(tmp_path, tmp_path / "h5", progress=False)
    same(open_split(tmp_path / "h5", "train"), features, captions, np.arange(n * k) // k)


def test_features_are_read_by_rows_not_loaded(tmp_path):
    write_scan(tmp_path)
    split = open_split(tmp_path, "train")
    assert isinstance(split.features.array(), NpyFile)
    assert not isinstance(split.features[0], np.memmap)


@pytest.mark.parametrize("count", [1, 2, 5, 29, 31])
def test_captions_that_images_do_not_divide(tmp_path, count):
    write_scan(tmp_path, captions=(CAPTIONS * 2)[:count])
    message = "different lengths" if count < N else "do not divide"
    with pytest.raises(ValueError, match=message) as problem: open_split(tmp_path, "train")
    assert "train_caps.txt" in str(problem.value)
    assert "train_ims.npy" in str(problem.value)


@pytest.mark.parametrize("count", [29, 31])
def test_repeated_rows_and_captions_of_different_lengths(tmp_path, count):
    write_scan(tmp_path, "dev", FEATURES.repeat(5, axis=0), (CAPTIONS * 2)[:count])
    with pytest.raises(ValueError, match=r"dev_caps\.txt"): open_split(tmp_path, "dev")


@pytest.mark.parametrize("row", [0, 1, 4, 7, 13, 29])
def test_one_damaged_row_among_repeated_ones(tmp_path, row):
    rows = FEATURES.repeat(5, axis=0)
    rows[row, 1, 2] += 1
    write_scan(tmp_path, "dev", rows)
    with pytest.raises(ValueError, match=r"dev_ims\.npy, dev_caps\.txt: most rows repeat"): open_split(tmp_path, "dev")


def test_repeats():
    for times in (1, 2, 5): assert repeats(FEATURES.repeat(times, axis=0)) == times
    assert repeats(np.zeros((7, 1, 1))) == 1
    assert repeats(np.zeros((10, 1, 1))) == 5
    with_nan = FEATURES.copy()
    with_nan[2] = np.nan
    assert repeats(with_nan.repeat(5, axis=0)) == 5
    big = np.random.default_rng(0).normal(size=(1014, 1, 2)).repeat(5, axis=0)
    assert repeats(big) == 5


@pytest.mark.parametrize("per", ["image", "row", "caption"])
def test_ids(tmp_path, per):
    times = {"image": 1, "row": 5, "caption": 5}[per]
    features = FEATURES.repeat(5, axis=0) if per == "row" else FEATURES
    write_scan(tmp_path, "dev", features, ids=[f"my {i}.jpg" for i in range(N) for _ in range(times)])
    assert open_split(tmp_path, "dev").ids == [f"my {i}.jpg" for i in range(N)]


@pytest.mark.parametrize("count", [1, N - 1, N + 1])
def test_ids_of_another_length(tmp_path, count):
    write_scan(tmp_path, ids=["x"] * count)
    with pytest.raises(ValueError, match=rf"train_ims\.npy, train_caps\.txt, train_ids\.txt: {count} ids for {N} images"): open_split(tmp_path, "train")


def test_boxes(tmp_path):
    write_scan(tmp_path, "dev", FEATURES.repeat(5, axis=0))
    grid = np.random.default_rng(0).random((M, 4)).astype(np.float32)
    np.save(tmp_path / "boxes.npy", grid)
    np.testing.assert_array_equal(open_split(tmp_path, "dev").boxes[N - 1], grid)
    each = np.random.default_rng(0).random((N, M, 4)).astype(np.float32)
    np.save(tmp_path / "dev_boxes.npy", each.repeat(5, axis=0))
    np.testing.assert_array_equal(open_split(tmp_path, "dev").boxes[:], each)
    convert(tmp_path, tmp_path / "h5", progress=False)
    np.testing.assert_array_equal(open_split(tmp_path / "h5", "dev").boxes[:], each)
    (tmp_path / "dev_boxes.npy").unlink()
    np.save(tmp_path / "boxes.npy", grid[1:])
    with pytest.raises(ValueError, match=r"boxes\.npy has shape"): open_split(tmp_path, "dev")


# --- which caption belongs to which image

@pytest.mark.parametrize("how", ["folder", "pipe", "link"])
@pytest.mark.parametrize("name", ["train_ids.txt", "train_mask.npy", "train_boxes.npy", "boxes.npy", "train_caps.txt", "train_ims.npy",
                                  "train.h5", "world.json"])
def test_what_is_no_file_is_not_passed_over(tmp_path, name, how):
    path = write_scan(tmp_path) / name
    path.unlink(missing_ok=True)
    if name == "world.json": write_split(tmp_path / "train.h5", FEATURES, CAPTIONS, OWNER)
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(tmp_path / "nowhere")}
    make[how]()
    with pytest.raises((ValueError, FileNotFoundError), match=name): open_split(tmp_path, "train")


@pytest.mark.parametrize("value", [np.nan, np.inf, -.5, 1e38, 640])
@pytest.mark.parametrize("layout", ["scan", "everywhere", "h5", "memory"])
def test_boxes_lie_in_their_pictures(tmp_path, layout, value):
    boxes = np.tile(np.float32([0, 0, 1.002, 1]), (N, M, 1))
    toy(boxes=boxes)                                    # rounding
    boxes[0 if layout == "everywhere" else 2, 1, 3] = value
    write_scan(tmp_path)
    if layout == "scan": np.save(tmp_path / "train_boxes.npy", boxes)
    if layout == "everywhere": np.save(tmp_path / "boxes.npy", boxes[0])
    if layout == "h5":
        with h5py.File(write_split(tmp_path / "train.h5", FEATURES, CAPTIONS, OWNER, boxes=np.zeros_like(boxes)), "r+") as file:
            file["boxes"][:] = boxes
    named = {"scan": "train_boxes.npy", "everywhere": "boxes.npy", "h5": "train.h5, member boxes", "memory": "toy"}[layout]
    with pytest.raises(ValueError, match=rf"{named}: image [02], region 1 has the box .* within 0\.\.1"):
        toy(boxes=boxes) if layout == "memory" else open_split(tmp_path, "train")


@pytest.mark.parametrize("shape", [(N - 1, M, 4), (N + 1, M, 4), (N, M - 1, 4), (N, M, 3)])
@pytest.mark.parametrize("rows", [range(N), [0, 0, 0, 1, 2, 2, 3, 3, 4, 5]])
def test_boxes_of_another_shape_name_their_own_file(tmp_path, shape, rows):
    write_scan(tmp_path, features=FEATURES[list(rows)], captions=CAPTIONS[:len(rows)], ids=[f"n{i}" for i in rows])
    np.save(tmp_path / "train_boxes.npy", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"train_boxes\.npy: boxes"): open_split(tmp_path, "train")


def test_a_pickle_that_looks_like_text_is_no_file_of_captions(tmp_path):
    write_scan(tmp_path)
    for value in (["a dog"], {"a": 1}, Vocabulary(["a"])):
        (tmp_path / "train_caps.txt").write_bytes(pickle.dumps(value, protocol=0))
        with pytest.raises(ValueError, match=r"train_caps\.txt is a pickle"): open_split(tmp_path, "train")
    same(open_split(write_scan(tmp_path, captions=["cat", "dog", "(a kite)", *CAPTIONS[3:-1], "A car."]), "train"),
         captions=["cat", "dog", "(a kite)", *CAPTIONS[3:-1], "A car."])


def names(numbers): return [f"n{i}" for i in numbers]


UNEVEN = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 4, 5, 5]


def test_an_id_for_each_caption_decides(tmp_path):
    write_scan(tmp_path, captions=CAPTIONS[:14], ids=names(UNEVEN))
    split = open_split(tmp_path, "train")
    same(split, FEATURES, CAPTIONS[:14], UNEVEN)
    assert split.ids == names(range(N))
    assert "an id for each caption" in split.known_by
    assert split.known_by in repr(split)
    (path,) = convert(tmp_path, tmp_path / "h5", progress=False)
    same(open_split(path.parent, "train"), FEATURES, CAPTIONS[:14], UNEVEN)
    assert open_split(path.parent, "train").known_by == "image_of_caption"


def test_ids_go_before_captions_divided_by_rows(tmp_path):
    owner = np.repeat(np.arange(N), [1, 9, 5, 5, 5, 5])
    write_scan(tmp_path, ids=names(owner))
    same(open_split(tmp_path, "train"), owner=owner)


@pytest.mark.parametrize("rows", [UNEVEN, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]])
def test_an_id_for_each_row_and_caption_decides(tmp_path, rows):
    write_scan(tmp_path, features=FEATURES[rows], captions=CAPTIONS[:len(rows)], ids=names(rows))
    boxes = np.repeat(np.abs(FEATURES[:, :, :1]) % 1, 4, 2)
    np.save(tmp_path / "train_boxes.npy", boxes[rows])
    split = open_split(tmp_path, "train")
    same(split, FEATURES, CAPTIONS[:len(rows)], rows)
    np.testing.assert_array_equal(split.boxes[:], boxes)
    same(pickle.loads(pickle.dumps(split)), FEATURES, CAPTIONS[:len(rows)], rows)
    (path,) = convert(tmp_path, tmp_path / "h5", progress=False)
    same(open_split(path.parent, "train"), FEATURES, CAPTIONS[:len(rows)], rows)


def test_rows_of_one_id_must_be_equal(tmp_path):
    write_scan(tmp_path, features=FEATURES[[0, 1, 2, 1]], captions=CAPTIONS[:4], ids=["a", "b", "a", "c"])
    with pytest.raises(ValueError, match=r"train_ims\.npy.*train_ids\.txt: rows 0 and 2 should be one image, 'a'"): open_split(tmp_path, "train")
    write_scan(tmp_path, features=FEATURES.repeat(5, axis=0), ids=names(np.arange(30) // 3))
    with pytest.raises(ValueError, match="rows 3 and 5 should be one image"): open_split(tmp_path, "train")
    write_scan(tmp_path, features=FEATURES[[0, 1, 2, 1]], captions=CAPTIONS[:4], ids=["a", "b"])
    with pytest.raises(ValueError, match="rows 0 and 1 should be one image"): open_split(tmp_path, "train")


def test_different_ids_of_equal_rows_are_followed_and_said(tmp_path):
    write_scan(tmp_path, features=FEATURES.repeat(5, axis=0), ids=names(range(30)))
    with pytest.warns(UserWarning, match="rows 0 and 1 hold the same features under different ids"): split = open_split(tmp_path, "train")
    assert split.n_images == 30


@pytest.mark.parametrize(("rows", "captions", "ids", "message"), [
    (6, 30, names(range(30)), "name 30 images, but there are 6 rows"),          # ids of sentences
    (6, 30, names([0, 0, 1, 2, 3, 4]), "'n0' stands twice"),
    (6, 30, names([0] * 10 + [1] * 20), "name 2 images, but there are 6 rows"),
    (6, 30, names(range(5)), "5 ids for 6 images"),
    (6, 20, names(range(6)), "6 ids for 6 images and 20 captions"),
    (6, 4, names(range(6)), "different lengths"),
    (6, 6, names(range(4)), "4 ids for 6 images"),
])
def test_ids_that_fit_nothing(tmp_path, rows, captions, ids, message):
    write_scan(tmp_path, features=FEATURES[:rows], captions=CAPTIONS[:captions], ids=ids)
    with pytest.raises(ValueError, match=message) as problem: open_split(tmp_path, "train")
    assert "train_ids.txt" in str(problem.value)


@pytest.mark.parametrize(("ids", "reason"), [(None, "equal neighbours: each row stands 5 times"), (names(range(N)), "whose row stands 5 times"),
                                             (names(OWNER), "an id for each caption and its row")])
def test_repeated_rows_and_how_it_is_known(tmp_path, ids, reason):
    write_scan(tmp_path, features=FEATURES.repeat(5, axis=0), ids=ids)
    split = open_split(tmp_path, "train")
    same(split)
    assert reason in split.known_by
    assert split.features.step == 5


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    write_scan(tmp_path)
    (tmp_path / "train_ids.txt").write_bytes("\n".join(names(range(N))).encode("utf-8-sig"))
    assert open_split(tmp_path, "train").ids[0] == "n0"
    (tmp_path / "train_ids.txt").write_text("a\n\nb\n")
    with pytest.raises(ValueError, match=r"train_ids\.txt, line 2 is empty"): open_split(tmp_path, "train")


def test_one_vector_an_image_is_one_region(tmp_path):
    write_scan(tmp_path, features=FEATURES[:, 0])
    same(open_split(tmp_path, "train"), FEATURES[:, :1])
    with h5py.File(tmp_path / "dev.h5", "w") as file:
        file["features"], file["image_of_caption"] = FEATURES[:, 0], OWNER
        file["captions"] = np.array(CAPTIONS, h5py.string_dtype())
    same(open_split(tmp_path, "dev"), FEATURES[:, :1])


# --- padding

@pytest.mark.parametrize("layout", ["npy", "repeated", "h5", "h5 of chunks"])
def test_zeros_behind_the_last_region_are_padding(tmp_path, layout):
    features = FEATURES.copy()
    features[1, 1:], features[2, 2], features[3, 0], features[4] = 0, -0., 0, 0     # 3: a zero region in front; 4: nothing else
    mask = np.ones((N, M), bool)
    mask[1, 1:] = mask[2, 2] = False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if layout.startswith("h5"):
            with h5py.File(tmp_path / "train.h5", "w") as file:
                file.create_dataset("features", data=features, chunks=(1, M, F) if "chunks" in layout else None)
                file["image_of_caption"], file["captions"] = OWNER, np.array(CAPTIONS, h5py.string_dtype())
        else: write_scan(tmp_path, features=features.repeat(5, axis=0) if layout == "repeated" else features)
        split = open_split(tmp_path, "train")
        split.block(0, N)
    np.testing.assert_array_equal(split.mask, mask)
    assert [len(split.regions(i)) for i in range(N)] == [3, 1, 2, 3, 3, 3]
    assert len(said) == 2
    assert "2 of 6 images end with regions of zeros, 3 regions" in str(said[0].message)
    assert "1 of 6 images hold only zeros, the first is image 4" in str(said[1].message)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_mask_beside_the_features_is_read(tmp_path, rows):
    features, mask = FEATURES.copy(), np.arange(M) < np.array([3, 2, 1, 3, 3, 2])[:, None]
    features[0, 2] = 0
    write_scan(tmp_path, features=features.repeat(rows, axis=0))
    for given in (mask, mask.astype(int), mask.repeat(rows, axis=0)):
        np.save(tmp_path / "train_mask.npy", given)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(open_split(tmp_path, "train").mask, mask)
    for bad in (mask[:, :2], mask * 2, mask * .5):
        np.save(tmp_path / "train_mask.npy", bad)
        with pytest.raises(ValueError, match=r"train_mask\.npy"): open_split(tmp_path, "train")


@pytest.mark.parametrize("given", ["array", "blocks", "rows"])
def test_padding_is_looked_for_once_when_a_split_is_written(tmp_path, given, monkeypatch):
    features = FEATURES.copy()
    features[1, 1:] = features[5, 2] = 0
    write_scan(tmp_path, features=features)
    parts = {"array": lambda: features, "blocks": lambda: (features[i:i + 2] for i in range(0, N, 2)), "rows": lambda: Rows(tmp_path / "train_ims.npy")}
    with pytest.warns(UserWarning, match=r"x\.h5: 2 of 6 images end with regions of zeros, 3 regions"):
        write_split(tmp_path / "x.h5", parts[given](), CAPTIONS, OWNER)
    write_split(tmp_path / "y.h5", FEATURES, CAPTIONS, OWNER)
    monkeypatch.setattr("cmr.data.datasets.find_padding", None)   # would be called
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_split(tmp_path, "x").mask.tolist() == [[True] * M, [True, False, False], *[[True] * M] * 3, [True, True, False]]
        assert open_split(tmp_path, "y").mask is None


# --- what a run began with

@pytest.mark.parametrize("layout", ["npy", "h5"])
def test_a_run_reads_what_it_began_with(tmp_path, layout):
    write_scan(tmp_path)
    if layout == "h5": convert(tmp_path, tmp_path, progress=False)
    rows = Rows(tmp_path / "train_ims.npy") if layout == "npy" else Rows(tmp_path / "train.h5", "features")
    sent = pickle.dumps(rows)
    write_scan(tmp_path, features=FEATURES + 1)
    if layout == "h5": write_split(tmp_path / "train.h5", FEATURES + 1, CAPTIONS, OWNER)
    with pytest.raises(ValueError, match="another file than the one this run began with"): pickle.loads(sent)[0]
    rows.close()
    with pytest.raises(ValueError, match="another file than the one this run began with"): rows[0]


def test_a_file_cut_short_in_a_run(tmp_path):
    write_scan(tmp_path)
    split = open_split(tmp_path, "train")
    with open(tmp_path / "train_ims.npy", "rb+") as file: file.truncate(200)
    with pytest.raises(ValueError, match=r"train_ims\.npy was changed or cut short"): split.regions(N - 1)


# --- captions

@pytest.mark.parametrize(("content", "message"), [
    (b"a dog\n\na cat\n", r"x_caps\.txt, line 2: empty caption"), (b"\na dog\n", "line 1: empty"), (b"a dog\n   \n", "line 2: empty"),
    (b"a dog\na cat\n\n", "line 3: empty"), (b"a dog\na caf\xe9\n", "line 2 is not UTF-8"),
])
def test_bad_captions(tmp_path, content, message):
    (tmp_path / "x_caps.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message): read_captions(tmp_path / "x_caps.txt")


def test_one_caption_a_line(tmp_path):
    path = tmp_path / "x_caps.txt"
    for content in ("a dog\na cat", "a dog\na cat\n", "a dog\r\na cat\r\n", "\ufeffa dog \na cat\n"):
        path.write_bytes(content.encode())
        assert read_captions(path) == ["a dog", "a cat"]
    odd = ["one\u2028two", "a\x0bb", "a\x85b", "café", "\U0001f600"]
    path.write_bytes("\n".join(odd).encode())
    assert read_captions(path) == odd


def test_an_empty_caption_names_its_line(tmp_path):
    write_scan(tmp_path, captions=[*CAPTIONS[:11], "", *CAPTIONS[12:]])
    with pytest.raises(ValueError, match=r"train_caps\.txt, line 12: empty caption"): open_split(tmp_path, "train")


# --- bad features

@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("times", [1, 5])
def test_features_that_are_not_finite(tmp_path, value, times):
    features = FEATURES.copy()
    features[3, 1, 2] = value
    split = open_split(write_scan(tmp_path, "dev", features.repeat(times, axis=0)), "dev")
    message = r"dev_ims\.npy: image 3, region 1"
    with pytest.raises(ValueError, match=message): split.regions(3)
    with pytest.raises(ValueError, match=message): split.block(2, 5)
    with pytest.raises(ValueError, match=message): list(batches(split, VOCABULARY, 4))
    with pytest.raises(ValueError, match="image 3, region 1"): convert(tmp_path, tmp_path / "h5", progress=False)
    np.testing.assert_array_equal(split.regions(2), FEATURES[2])


def test_a_worker_says_which_feature_is_not_finite():
    features = FEATURES.copy()
    features[3, 1, 2] = np.nan
    with pytest.raises(ValueError, match="toy: image 3, region 1"): list(batches(toy(features=features), VOCABULARY, 30, workers=1))


@pytest.mark.parametrize("keep", [0, 50, 200, -4])
def test_a_truncated_npy(tmp_path, keep):
    write_scan(tmp_path)
    path = tmp_path / "train_ims.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train_ims\.npy.*(is empty|damaged|cut short)"): open_split(tmp_path, "train")


class Bomb:
    def __reduce__(self): return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["object array", "bare pickle"])
def test_a_pickle_is_refused_and_not_run(tmp_path, how):
    write_scan(tmp_path)
    bomb = Bomb()
    bomb.path = tmp_path / "it ran"
    if how == "object array": np.save(tmp_path / "train_ims.npy", np.array([bomb] * N, dtype=object), allow_pickle=True)
    else: (tmp_path / "train_ims.npy").write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match=r"train_ims\.npy (holds Python objects.*pickle|is a pickle)"): open_split(tmp_path, "train")
    assert not bomb.path.exists()


def test_an_archive_is_not_an_array(tmp_path):
    write_scan(tmp_path)
    with open(tmp_path / "train_ims.npy", "wb") as file: np.savez(file, a=FEATURES)
    with pytest.raises(ValueError, match=r"train_ims\.npy is an archive"): open_split(tmp_path, "train")


@pytest.mark.parametrize("shape", [(N * M * F,), (N, M, F, 1), (N, 0, F), (N, M, 0)])
def test_features_of_another_shape(tmp_path, shape):
    write_scan(tmp_path, features=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"train_ims\.npy.*expected features \(images, regions, numbers\)"): open_split(tmp_path, "train")


def test_features_that_are_no_numbers(tmp_path):
    write_scan(tmp_path, features=np.full((N, M, F), "x"))
    with pytest.raises(ValueError, match="holds text .*, not floating point numbers or whole numbers"): open_split(tmp_path, "train")


# --- folders

def test_no_folder(tmp_path):
    none = tmp_path / "none"
    for act in (lambda: open_split(none, "train"), lambda: splits(none), lambda: convert(none, tmp_path / "h5")):
        with pytest.raises(FileNotFoundError, match="no data folder at") as problem: act()
        for word in ("{split}.h5", "{split}_ims.npy", "{split}_caps.txt", "cmr data scenes", "cmr data convert", "none"):
            assert word in str(problem.value)
    with pytest.raises(FileNotFoundError, match="no split in"): open_split(tmp_path, "train")


def test_no_such_split(tmp_path):
    write_scan(write_scan(tmp_path), "dev")
    write_split(tmp_path / "extra.h5", FEATURES, CAPTIONS, OWNER)
    with h5py.File(tmp_path / "other.h5", "w") as file: file["weights"] = np.zeros(3)
    assert splits(tmp_path) == ["dev", "extra", "train"]
    with pytest.raises(FileNotFoundError, match="no split 'test' in .*; it has dev, extra, train"): open_split(tmp_path, "test")
    (tmp_path / "dev_caps.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"dev_caps\.txt"): open_split(tmp_path, "dev")


# --- HDF5

def test_write_and_read_with_everything(tmp_path):
    mask = np.random.default_rng(0).random((N, M)) < .6
    mask[:, 0] = True
    boxes = np.random.default_rng(1).random((N, M, 4)).astype(np.float32)
    owner = np.array([0, 0, 1, 5, 4, 3, 2, 5])
    captions = ["café", *THINGS, "a dog"]
    features = np.where(mask[..., None], FEATURES, np.nan)
    write_split(tmp_path / "x.h5", features, captions, owner, ids=[f"i{n}" for n in range(N)], boxes=boxes, mask=mask)
    split = open_split(tmp_path, "x")
    assert split.captions == captions
    assert split.ids == [f"i{n}" for n in range(N)]
    np.testing.assert_array_equal(split.image_of_caption, owner)
    np.testing.assert_array_equal(split.mask, mask)
    np.testing.assert_array_equal(split.boxes[:], boxes)
    for i in range(N): np.testing.assert_array_equal(split.regions(i), FEATURES[i][mask[i]])
    values, real = split.block(0, N)
    np.testing.assert_array_equal(values.numpy(), np.where(mask[..., None], FEATURES, 0))
    np.testing.assert_array_equal(real.numpy(), mask)


@pytest.mark.parametrize("given", ["array", "tensor", "blocks", "half"])
def test_write_from(tmp_path, given):
    features = {"array": FEATURES, "tensor": torch.from_numpy(FEATURES), "half": FEATURES.astype(np.float16),
                "blocks": (FEATURES[i:i + 4] for i in range(0, N, 4))}[given]
    write_split(tmp_path / "x.h5", features, CAPTIONS, OWNER)
    split = open_split(tmp_path, "x")
    same(split, FEATURES.astype(np.float16).astype(np.float32) if given == "half" else FEATURES)
    assert split.regions(0).dtype == np.float32
    assert split.features.dtype == (np.float16 if given == "half" else np.float32)


BAD = {
    "out of range": ({"image_of_caption": [*OWNER[:-1], N]}, "belongs to image"),
    "negative": ({"image_of_caption": [-1, *OWNER[1:]]}, "belongs to image"),
    "an image without caption": ({"image_of_caption": np.where(OWNER == 2, 3, OWNER)}, "have no caption"),
    "one owner too few": ({"image_of_caption": OWNER[1:]}, "give one image for each"),
    "empty caption": ({"captions": [*CAPTIONS[:-1], " "]}, "caption 29 is empty"),
    "ids": ({"ids": ["x"] * (N + 1)}, f"{N + 1} ids for {N} images"),
    "boxes": ({"boxes": np.zeros((N, M, 3))}, "boxes have shape"),
    "mask": ({"mask": np.ones((N, M + 1), bool)}, "mask"),
    "no region": ({"mask": np.arange(N)[:, None].repeat(M, 1) != 2}, "no region at all"),
}


@pytest.mark.parametrize("name", BAD)
def test_parts_that_do_not_fit(tmp_path, name):
    parts, message = BAD[name]
    with pytest.raises(ValueError, match=message): toy(**parts)
    old = write_split(tmp_path / "x.h5", FEATURES, CAPTIONS, OWNER).read_bytes()
    with pytest.raises(ValueError):
        write_split(tmp_path / "x.h5", **{"features": FEATURES, "captions": CAPTIONS, "image_of_caption": OWNER, **parts})
    assert (tmp_path / "x.h5").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        for key, value in parts.items():
            if key in file: del file[key]
            file[key] = np.array(value, dtype=h5py.string_dtype()) if key in ("captions", "ids") else np.asarray(value)
    with pytest.raises(ValueError, match=message) as problem: open_split(tmp_path, "x")
    assert "x.h5" in str(problem.value)


def test_blocks_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"x\.h5: image 1 has shape"):
        write_split(tmp_path / "x.h5", iter([FEATURES[:1], FEATURES[1:, :2]]), CAPTIONS, OWNER)
    with pytest.raises(ValueError, match="no image to write"): write_split(tmp_path / "x.h5", iter([]), [], [])
    with pytest.raises(ValueError, match="a block of features has shape"): write_split(tmp_path / "x.h5", FEATURES[0], CAPTIONS, OWNER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0, .3, .99])
def test_a_truncated_h5(tmp_path, share):
    path = write_split(tmp_path / "train.h5", FEATURES, CAPTIONS, OWNER)
    content = path.read_bytes()
    path.write_bytes(content[:int(share * len(content))])
    with pytest.raises(ValueError, match=r"train\.h5 (is empty|cannot be opened)"): open_split(tmp_path, "train")
    with pytest.raises(ValueError, match=r"train\.h5"): convert(tmp_path, tmp_path / "out", progress=False)


def test_an_h5_without_its_parts(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file: file["features"] = FEATURES
    with pytest.raises(ValueError, match=r"x\.h5 has no member captions"): open_split(tmp_path, "x")


@pytest.mark.parametrize(("member", "value", "message"), [
    ("image_of_caption", OWNER + .9, "member image_of_caption holds floating point numbers"),
    ("image_of_caption", np.array(["0"] * 30, h5py.string_dtype()), "member image_of_caption holds text"),
    ("captions", np.arange(30), "member captions holds whole numbers"),
    ("captions", np.array([b"\xff"] * 30, h5py.string_dtype()), r"member captions\[0\] is not UTF-8"),
    ("captions", np.array(["a" * 10_001] * 30, h5py.string_dtype()), "at most 10,000"),
    ("features", np.ones((N, M, F), complex), "member features holds complex numbers"),
    ("features", np.ones((N, M, F, 1)), "member features has 4 axes"),
    ("mask", np.full((N, M), .5), "member mask holds floating"), ("mask", np.full((N, M), 2), "member mask holds other numbers than 0 and 1"),
    ("boxes", np.ones((N, M)), "member boxes has 2 axes"), ("ids", np.ones(N), "member ids holds floating"),
    ("ids", np.zeros(N, int), "two images have the id '0'"), ("features", None, "member features is a group"),
    ("captions", "link", "member captions points elsewhere"),
])
def test_members_of_another_kind(tmp_path, member, value, message):
    write_split(tmp_path / "x.h5", FEATURES, CAPTIONS, OWNER)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        if member in file: del file[member]
        if value is None: file.create_group(member)
        elif isinstance(value, str): file[member] = h5py.ExternalLink("other.h5", "captions")
        else: file[member] = value
    with pytest.raises(ValueError, match=message) as problem: open_split(tmp_path, "x")
    assert "x.h5" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_numbers_as_ids_become_text(tmp_path):
    write_split(tmp_path / "x.h5", FEATURES, CAPTIONS, OWNER)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["ids"]
        file["ids"] = np.arange(N) * 3
    assert open_split(tmp_path, "x").ids == [str(3 * i) for i in range(N)]


@pytest.mark.parametrize(("blocks", "value"), [([np.float64], 1e300), ([np.float16, np.float32], 7e4), ([np.float16, np.float64], -7e4)])
def test_numbers_that_the_file_cannot_hold(tmp_path, blocks, value):
    features = FEATURES.astype(np.float64)
    features[4, 1, 2] = value
    size = N // len(blocks)
    given = (features[i * size:(i + 1) * size].astype(dtype) for i, dtype in enumerate(blocks))
    with pytest.raises(ValueError, match=r"x\.h5: image 4, region 1 holds (1e\+300, more than float32|7e\+04, more than float16) can"):
        write_split(tmp_path / "x.h5", given, CAPTIONS, OWNER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../victim", "/tmp/x", "a/b", "", ".", "x.y", "a b", "x" * 41, "a\nb"])
def test_names_that_are_no_splits(tmp_path, name):
    write_scan(tmp_path)
    with pytest.raises(ValueError, match="is no name of a split") as problem: open_split(tmp_path, name)
    assert "\n" not in str(problem.value)
    with pytest.raises(ValueError, match="is no name of a split"): split_name(name, "dataset.json")


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from cmr.data import write_split
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try: write_split(Path(sys.argv[1]) / "x.h5", (np.ones((1, 16, 64), "float32") for _ in range(200)), ["a dog"] * 200, range(200))
except OSError as problem: print("refused:", problem)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(tmp_path):
    ended = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("refused: [Errno")
    assert "x.h5" in ended.stdout
    assert ended.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"x\.h5 needs .* MB, the disk has 0\.0 MB left"): write_split(tmp_path / "x.h5", FEATURES, CAPTIONS, OWNER)
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_no_room_left_over(tmp_path):
    one = write_split(tmp_path / "one.h5", FEATURES, CAPTIONS, OWNER).stat().st_size
    assert one < 60_000                                           # what was reserved beyond the need is given back


# --- words

def test_captions_of_unknown_words_only_are_counted_in_one_warning():
    captions = ["a dog", "kite\x1b[2J", "a ball", "ein Hund"]
    split = ImageCaptions(np.ones((4, 1, 2), "float32"), captions, range(4), source="toy.h5")
    with pytest.warns(UserWarning) as said:
        pairs = CaptionPairs(split, Vocabulary(["a", "ball", "dog"]))
    assert len(said) == 1
    assert str(said[0].message).startswith("toy.h5: 2 of 4 captions have no word that the vocabulary knows, the first is caption 1, 'kite [2J'")
    assert set(pairs[1][1].tolist()) == {UNK}
    assert pairs[3][1].tolist() == [UNK, UNK]


def test_feature_digest():
    split = toy()
    def changed(image, **parts):
        features = FEATURES.copy()
        features[image, -1, -1] += 1
        return ImageCaptions(features, CAPTIONS, OWNER, **parts)
    assert feature_digest(split) == feature_digest(ImageCaptions(FEATURES, CAPTIONS[::-1], OWNER))
    assert len({feature_digest(s) for s in (split, changed(0), changed(2), changed(N - 1))}) == 4
    some = M * F * 4 * 3                                          # three images of N
    for image, seen in ((0, True), (N - 1, True), (1, False)):
        assert (feature_digest(changed(image), some) != feature_digest(split, some)) == seen
    mask = np.ones((N, M), bool)
    mask[2, -1] = False
    assert feature_digest(changed(2, mask=mask)) == feature_digest(ImageCaptions(FEATURES, CAPTIONS, OWNER, mask=mask)) != feature_digest(split)
    assert feature_digest(ImageCaptions(FEATURES.astype("float64"), CAPTIONS, OWNER)) != feature_digest(split)


def test_a_vocabulary_of_another_data_set():
    assert check_vocabulary(toy(), VOCABULARY) == 0
    with pytest.raises(ValueError, match="toy: the vocabulary does not know .*another data set"):
        check_vocabulary(toy(), Vocabulary(["ein", "hund", "dog"]))


def test_captions_are_encoded_once(monkeypatch):
    split, calls = toy(), []
    vocabulary = Vocabulary(VOCABULARY.words)
    encode = vocabulary.encode
    vocabulary.encode = lambda caption: calls.append(caption) or encode(caption)
    for epoch in range(3): batches(split, vocabulary, 4, epoch=epoch)
    assert len(calls) == len(CAPTIONS)
    another = Vocabulary(["dog", *VOCABULARY.words[:1], *THINGS[:3], *THINGS[4:]])
    np.testing.assert_array_equal(split.encode(another)[0][:2], [6, 5])


# --- batches

def test_padding():
    values, real = pad([np.ones((2, 3)), np.ones((1, 3))])
    assert values.tolist() == [[[1] * 3, [1] * 3], [[1] * 3, [0] * 3]]
    assert real.tolist() == [[True, True], [True, False]]


def test_collate():
    items = ((FEATURES[0], [4, 5], 0, 0), (FEATURES[1][:1], [4, 5, 6], 1, 7), (FEATURES[0], [9], 0, 2))
    batch = collate([(regions, np.array(tokens), *rows) for regions, tokens, *rows in items])
    assert batch.features.dtype == torch.float32
    assert batch.mask.tolist() == [[True] * 3, [True, False, False], [True] * 3]
    assert batch.features[1, 1:].abs().max() == 0
    assert batch.tokens.tolist() == [[4, 5, 0], [4, 5, 6], [9, 0, 0]]
    assert batch.lengths.tolist() == [2, 3, 1]
    assert batch.same_image.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert [getattr(batch, name).dtype for name in FIELDS] == [torch.float32, torch.bool, *[torch.int64] * 4]
    assert batch.to("cpu").tokens.equal(batch.tokens)
    assert len(batch) == 3


@pytest.mark.parametrize("layout", ["memory", "scan", "repeated", "h5"])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_caption_comes_with_its_image(tmp_path, layout, workers):
    if layout == "memory": split = toy()
    else:
        split = open_split(write_scan(tmp_path, features=FEATURES.repeat(5, axis=0) if layout == "repeated" else FEATURES), "train")
        if layout == "h5": split = open_split(convert(tmp_path, tmp_path / "h5", progress=False)[0].parent, "train")
    split.regions(0)                                              # the file is open before workers start
    seen = []
    for batch in batches(split, VOCABULARY, 7, workers=workers):
        for k, caption in enumerate(batch.caption.tolist()):
            assert batch.image[k] == OWNER[caption]
            np.testing.assert_array_equal(batch.features[k].numpy(), FEATURES[OWNER[caption]])
            assert batch.tokens[k, :batch.lengths[k]].tolist() == VOCABULARY.encode(CAPTIONS[caption])
        seen += batch.caption.tolist()
    assert sorted(seen) == list(range(N * K))


def captions_of(**settings): return [b.caption.tolist() for b in batches(toy(), VOCABULARY, 4, **settings)]


def test_the_order_depends_on_seed_and_epoch_only():
    torch.manual_seed(1)
    first = captions_of(seed=3, epoch=2)
    torch.manual_seed(2)
    assert captions_of(seed=3, epoch=2) == first == captions_of(seed=3, epoch=2, workers=1)
    assert len({str(captions_of(seed=s, epoch=e)) for s in range(3) for e in range(3)}) == 9
    assert captions_of(shuffle=False) == [list(range(i, min(i + 4, 30))) for i in range(0, 30, 4)]


def test_a_loader_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(batches(toy(), VOCABULARY, 4))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("start", [0, 1, 5, 8])
def test_start_goes_on_where_an_epoch_stopped(start):
    whole = list(batches(toy(), VOCABULARY, 4, seed=1, epoch=1))
    rest = list(batches(toy(), VOCABULARY, 4, seed=1, epoch=1, start=start))
    assert len(rest) == len(whole) - start
    for a, b in zip(whole[start:], rest): assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.mark.parametrize(("size", "sizes"), [(7, [7, 7, 7, 7, 2]), (29, [29]), (30, [30]), (100, [30]), (2, [2] * 15)])
def test_no_batch_of_one(size, sizes):
    loader = batches(toy(), VOCABULARY, size)
    assert [len(batch) for batch in loader] == sizes
    assert len(loader) == len(sizes)


def test_a_batch_of_one_has_no_negatives():
    with pytest.raises(ValueError, match="toy: a batch of one has no negatives"): batches(toy(), VOCABULARY, 1)
    with pytest.raises(ValueError, match="no negatives"): batches(ImageCaptions(FEATURES[:1], ["a dog"], [0]), VOCABULARY, 8)


def read_row(rows, i, queue): queue.put((rows[i], rows._opened[0]))


@pytest.mark.parametrize("layout", ["npy", "h5"])
def test_rows_travel_to_other_processes(tmp_path, layout):
    write_scan(tmp_path)
    convert(tmp_path, tmp_path, progress=False)
    rows = Rows(tmp_path / "train_ims.npy") if layout == "npy" else Rows(tmp_path / "train.h5", "features")
    rows[0]                                                       # open here
    assert len(pickle.dumps(rows)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows))[2], FEATURES[2])
    for index in (-1, slice(None), slice(1, 6, 2), slice(4, 99), [3, 0, 3], np.array([5])):
        np.testing.assert_array_equal(rows[index], FEATURES[index])
    assert rows[[]].shape == (0, M, F)
    for index in (N, -N - 1):
        with pytest.raises(IndexError, match=f"of {N} in"): rows[index]
    if "fork" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=read_row, args=(rows, 4, queue))
        process.start()
        row, opened_by = queue.get(timeout=20)
        np.testing.assert_array_equal(row, FEATURES[4])
        assert opened_by == process.pid                           # it did not use the handle that came with the fork
        process.join()


@pytest.mark.parametrize("layout", ["npy", "repeated", "h5"])
def test_slices_of_rows(tmp_path, layout):
    write_scan(tmp_path, features=FEATURES.repeat(5, axis=0) if layout == "repeated" else FEATURES)
    convert(tmp_path, tmp_path / "h5", progress=False)
    rows = {"npy": lambda: Rows(tmp_path / "train_ims.npy"), "repeated": lambda: Rows(tmp_path / "train_ims.npy", step=5),
            "h5": lambda: Rows(tmp_path / "h5" / "train.h5", "features")}[layout]()
    ends = [None, *range(-N - 2, N + 3)]
    for start, stop, stride in itertools.product(ends, ends, (None, 1, 2, 3, 7, -1, -2, -3, -7)):
        index = slice(start, stop, stride)
        np.testing.assert_array_equal(rows[index], FEATURES[index], err_msg=str(index))
    rows[::-1][:] = 0                                             # a copy of one's own
    np.testing.assert_array_equal(rows[::-1], FEATURES[::-1])


def test_every_process_gets_its_part_of_a_batch():
    order = np.random.default_rng(0).permutation(11)
    assert batch_rows(order, 4, (0, 1)) == [order[:4].tolist(), order[4:8].tolist(), order[8:].tolist()]
    assert [len(rows) for rows in batch_rows(order[:9], 4, (0, 1))] == [4, 4]      # a last batch of one is left out
    halves = [batch_rows(order, 4, (rank, 2)) for rank in range(2)]
    for a, b, whole in zip(*halves, (order[:4], order[4:8], order[8:10])): assert [*a, *b] == whole.tolist()


def test_cut_captions_are_counted_once():
    captions = ["a red dog", "a red dog runs home now", "a dog"]
    split = ImageCaptions(np.ones((3, 2, 4), "float32"), captions, [0, 1, 2], source="some.h5")
    for marks, most, cut in ((False, 3, 1), (False, 2, 2), (True, 5, 1), (False, 6, 0), (False, None, 0)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            vocabulary = Vocabulary.build(captions, 1, marks, most)
            for _ in range(2): tokens, starts = split.encode(vocabulary)
        assert [str(one.message) for one in said] == [f"some.h5: {cut} of 3 captions are cut to max_words={most}"] * bool(cut)
        assert np.diff(starts).max() <= (most or 6)


@pytest.mark.parametrize("missing", ["features", "captions"])
def test_half_a_split_is_refused_not_passed_over(tmp_path, missing):
    for name in ("train", "dev"): write_split(tmp_path / f"{name}.h5", np.ones((2, 3, 4), np.float32), ["a", "b"], [0, 1])
    with h5py.File(tmp_path / "train.h5", "r+") as file: del file[missing]
    assert splits(tmp_path) == ["dev", "train"]
    with pytest.raises(ValueError, match=rf"train\.h5.*{missing}"): open_split(tmp_path, "train")
