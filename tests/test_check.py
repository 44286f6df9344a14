"`cmr check`: every planted leak and every empty feature is found, and a clean data set is called clean."

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import digests
from typer.testing import CliRunner

from cmr.cli import app
from cmr.data import write_split
from cmr.data.check import CLOSE, check_data, close_pairs, fault_of, groups, random_directions, same_regions, signature

WORDS = "red blue green dog cat bird boat kite runs sits flies sleeps near under old new".split()


def clean(seed=0, regions=3, width=5, sizes=(12, 6, 7)):
    "Splits without a fault: features, captions of random words that are all different, ids."
    rng, parts, number = np.random.default_rng(seed), {}, iter(range(10_000))
    for split, n in zip(("train", "dev", "test"), sizes):
        captions = [f"{' '.join(rng.choice(WORDS, 4))} {next(number)}" for _ in range(2 * n)]
        parts[split] = {"features": rng.normal(1, 3, (n, regions, width)).astype(np.float32), "captions": captions,
                        "image_of_caption": np.arange(n).repeat(2), "ids": [f"{split}-{i}.jpg" for i in range(n)]}
    return parts


def write(folder, parts):
    for split, part in parts.items(): write_split(folder / f"{split}.h5", **part)
    return folder


def check(folder, code):
    result = CliRunner().invoke(app, ["check", str(folder), "--min-count", "1"])
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def test_a_clean_data_set(tmp_path):
    before = digests(write(tmp_path, clean()))
    said = check(tmp_path, 0)
    for words in ("nothing found", "train", "image_of_caption", "2 / 2 / 2", "unknown words", "5 (float32)"): assert words in said
    assert "found:" not in said and digests(tmp_path) == before


PLANTS = {"picture", "picture, sorted and halved", "picture twice", "caption", "caption twice", "caption again", "id", "zeros", "constant", "equal", "NaN"}


def plant(parts, what, rng):
    "One fault, somewhere; returns what must be said."
    a, b = rng.permutation(["train", "dev", "test"])[:2]
    one, two = parts[a], parts[b]
    i, j = rng.integers(len(one["ids"])), rng.integers(len(two["ids"]))
    both = " and ".join(sorted([a, b], key=("train", "dev", "test").index))
    sorted_pair = " and ".join(sorted([a, b]))
    if what == "picture": two["features"][j] = one["features"][i]; return f"{sorted_pair} share 1 picture"
    if what == "picture, sorted and halved":
        two["features"] = two["features"].astype(np.float16)
        two["features"][j] = one["features"][i][rng.permutation(3)]
        return f"{sorted_pair} share 1 picture"
    if what == "picture twice": one["features"][i - 1] = one["features"][i]; return f"{a}: 1 picture more than once"
    if what == "caption": two["captions"][2 * j] = f" {one['captions'][2 * i].upper()} "; return f"{both} share 1 caption"
    if what == "caption twice": one["captions"][2 * i] = one["captions"][2 * i - 1]; return f"{a}: 1 caption of more than one image"
    if what == "caption again": one["captions"][2 * i] = one["captions"][2 * i + 1]; return f"{a}: 1 caption twice for one image"
    if what == "id": two["ids"][j] = one["ids"][i]; return f"{both} share 1 id"
    bad = {"zeros": 0, "constant": 3, "equal": one["features"][i][:1], "NaN": one["features"][i]}[what]
    one["features"][i] = bad
    return f"{a}: 1 image with {({'zeros': 'zeros only', 'constant': 'one number', 'equal': 'all regions equal'})[what]}"


@pytest.mark.parametrize("what", sorted(PLANTS - {"NaN"}))
@given(seed=st.integers(0, 2**20))
@settings(max_examples=5, deadline=None)
def test_what_is_planted_is_found_and_nothing_else(tmp_path_factory, what, seed):
    parts = clean(seed)
    expected = plant(parts, what, np.random.default_rng(seed))
    found = check_data(write(tmp_path_factory.mktemp("planted"), parts), min_count=1).findings
    assert len(found) == 1 and found[0].startswith(expected), (expected, found)


def test_all_of_them_together_and_the_exit_status(tmp_path):
    parts = clean()
    expected = [plant(parts, what, np.random.default_rng(k)) for k, what in enumerate(("picture", "caption", "id", "zeros"))]
    said = check(write(tmp_path, parts), 1)
    for words in expected: assert f"found: {words}" in said, said


def test_nan_and_padding(tmp_path):
    parts = clean()
    write(tmp_path, {split: parts[split] for split in ("dev", "test")})
    x = parts["train"]["features"]
    x[4, 1:] = 0  # padding: one real region
    x[2, 1, 1] = np.nan
    np.save(tmp_path / "train_ims.npy", x)
    (tmp_path / "train_caps.txt").write_text("\n".join(parts["train"]["captions"]) + "\n")
    said = check(tmp_path, 1)
    assert "found: train: 1 image with NaN or infinity, such as 2" in said and said.count("found:") == 1
    assert "1 to 3" in said and "no ids" in said and "padding" in said


def test_what_cannot_be_read_is_no_finding(tmp_path):
    assert "no data folder" in check(tmp_path / "none", 2) and "no split" in check(tmp_path, 2)
    write(tmp_path, clean())
    (tmp_path / "dev.h5").write_bytes((tmp_path / "dev.h5").read_bytes()[:3000])
    assert "dev.h5" in check(tmp_path, 2)
    parts = clean()
    parts["dev"]["ids"][1] = parts["dev"]["ids"][0]
    with pytest.raises(ValueError, match="two images have the id"): write(tmp_path / "b", parts)


def test_splits_of_other_widths_and_one_split_alone(tmp_path):
    write(tmp_path, {**clean(), "dev": clean(width=4)["dev"]})
    assert "different widths" in check(tmp_path, 1)
    write(tmp_path / "alone", {"test": clean()["test"]})
    assert "nothing found" in check(tmp_path / "alone", 0)


def test_unknown_words_are_counted_against_train(tmp_path):
    parts = clean()
    parts["test"]["captions"] = [f"zzz {caption}" for caption in parts["test"]["captions"]]
    found = {about.name: about for about in check_data(write(tmp_path, parts), min_count=1).splits}
    assert found["train"].unknown is None and found["dev"].unknown == pytest.approx(1 / 5) and found["test"].unknown == pytest.approx(2 / 6)
    assert check_data(tmp_path, min_count=1000).splits[1].unknown == 1


def test_scenes_whose_things_change_places_are_different_pictures():
    "A thing is a number, its place another one: the sums over regions are the same, the pictures are not."
    a = np.array([[1, 0, .2], [0, 1, .8]], np.float32)
    b = np.array([[1, 0, .8], [0, 1, .2]], np.float32)
    look = random_directions(3)
    assert not same_regions(a, b) and np.abs(signature(a, look) / signature(b, look) - 1).max() > 100 * CLOSE


@given(st.integers(2, 80), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_close_pairs_against_all_pairs(n, seed):
    rng = np.random.default_rng(seed)
    rows = np.abs(rng.normal(size=(n, 4)))
    rows[rng.integers(n, size=n // 2)] = rows[rng.integers(n, size=n // 2)]
    literal = [(i, j) for i in range(n) for j in range(i) if np.allclose(rows[i], rows[j], rtol=CLOSE, atol=0)]
    assert sorted(map(sorted, groups(close_pairs(rows)))) == sorted(map(sorted, groups(literal)))


def test_built_in_scenes_have_no_picture_twice(tmp_path):
    from cmr.world import make_scenes
    make_scenes(tmp_path, 0, {"train": 12, "dev": 4, "test": 4}, False)
    assert not [finding for finding in check_data(tmp_path).findings if "picture" in finding or "id" in finding.split()]


def test_a_strange_terminal_sees_no_escapes(tmp_path):
    parts = clean()
    parts["test"]["ids"][0] = parts["train"]["ids"][0] = "a\x1b[2Jb"
    assert "\x1b" not in check(write(tmp_path, parts), 1)


def test_json_beside_it_is_no_split(tmp_path):
    write(tmp_path, clean())
    (tmp_path / "notes.json").write_text(json.dumps({"a": 1}))
    check(tmp_path, 0)


def test_test_within_testall_is_no_leak(tmp_path):
    "As COCO is published: 1,000 pictures of test are a part of testall's 5,000. Any other two splits are held apart."
    write(tmp_path, clean())
    shutil.copy(tmp_path / "test.h5", tmp_path / "testall.h5")
    assert "nothing found" in check(tmp_path, 0)
    shutil.copy(tmp_path / "dev.h5", tmp_path / "devall.h5")
    assert "dev and devall share" in check(tmp_path, 1)


def test_half_precision_is_no_overflow(tmp_path, recwarn):
    assert fault_of(np.full((2, 3), 6e4, np.float16) * np.array([1, .5, .1], np.float16)) in ("", "all regions equal")
    assert fault_of(np.array([[1e19, 1]], np.float32)) == "numbers too large to be squared" and not recwarn.list
