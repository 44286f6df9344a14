"Captions in every form that people bring, with features in every form: `cmr import captions`, and what it refuses."

import base64
import itertools
import json
import os
import re

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from cmr.cli import app
from cmr.data import gather_captions, open_split, write_split
from cmr.data.captions import first_captions, match_names

TEXTS = {"1.jpg": ["A dog, a cat", "Two dogs"], "2.jpg": ['A "big" boat'], "3.jpg": ["A kite"], "4.jpg": ["A ball", "One ball"]}
PAIRS = [(name, text) for name, texts in TEXTS.items() for text in texts]


def quoted(text): return '"{}"'.format(text.replace('"', '""'))


def table(mark, quote, header): return header + "".join(f"{name}{mark}{quoted(text) if quote else text}\n" for name, text in PAIRS)


COCO = {"images": [{"id": int(name[0]), "file_name": name} for name in TEXTS],
        "annotations": [{"id": i, "image_id": int(name[0]), "caption": text} for i, (name, text) in enumerate(PAIRS)]}
KARPATHY = {"images": [{"filename": name, "split": "train", "sentences": [{"raw": text, "tokens": text.split()} for text in texts]}
                       for name, texts in TEXTS.items()]}
FORMS = {
    "commas": (table(",", True, "image,caption\n"), "a table with commas (csv)"),
    "commas, other order": ("n,caption,image\n" + "".join(f"{i},{quoted(text)},{name}\n" for i, (name, text) in enumerate(PAIRS)), "a table with commas (csv)"),
    "commas, no header": (table(",", True, ""), "a table with commas (csv)"),
    "byte order mark": ("\ufeff" + table(",", True, "image,caption\n").replace("\n", "\r\n"), "a table with commas (csv)"),
    "tabs": (table("\t", True, "filename\tcaption\n"), "a table with tabs (tsv)"),
    "tabs, unquoted": (table("\t", False, "filename\tcaption\n"), "a table with tabs (tsv)"),
    "semicolons": (table(";", True, "image;caption\n"), "a table with ';' between fields"),
    "bars": ("image_name| comment_number| comment\n" + "".join(f"{name}| {i}| {text}\n" for i, (name, text) in enumerate(PAIRS)), "Kaggle's Flickr30k table"),
    "token": ("".join(f"{name}#{i}\t{text}\n" for i, (name, text) in enumerate(PAIRS)), "Flickr's .token file"),
    "COCO": (json.dumps(COCO), "COCO's captions file"),
    "Karpathy": (json.dumps(KARPATHY), "Karpathy's json"),
    "Karpathy, texts": (json.dumps({"images": [{"filename": name, "split": "train", "sentences": texts} for name, texts in TEXTS.items()]}), "Karpathy's json"),
    "list": (json.dumps([{"image": name, "caption": text, "image_id": f"coco_{name[0]}"} for name, text in PAIRS]), "LAVIS' list of captions"),
    "list of lists": (json.dumps([{"image": name, "caption": texts} for name, texts in TEXTS.items()], indent=1), "LAVIS' list of captions"),
    "lines": ("".join(json.dumps({"caption": text, "image": name}) + "\n" for name, text in PAIRS), "a file of JSON lines"),
}


def call(*words, code=0):
    "Run a command; its output on one line, since the terminal's width has no say in it."
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output and not isinstance(result.exception, (KeyError, TypeError, AttributeError, IndexError))
    return " ".join(result.output.split())


def refused(*words):
    said = call(*words, code=2)
    assert "an error of the package" not in said
    return said


def put(path, content):
    path.write_text(content, encoding="utf-8", newline="") if isinstance(content, str) else path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_by_its_content(tmp_path, form):
    content, name = FORMS[form]
    found = gather_captions(put(tmp_path / "captions.dat", content))  # the ending says nothing
    assert found.kind == name
    assert (found.ids, [found.ids[i] for i in found.image_of_caption]) == (list(TEXTS), [name for name, _ in PAIRS])
    assert found.captions == [text for _, text in PAIRS]
    assert str(found) == f"this is {name}: 6 captions of 4 images"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_spreadsheets_unicode_text_is_named_with_what_to_do(tmp_path, encoding):
    content = ("" if encoding == "utf-16" else "\ufeff") + table(",", True, "image,caption\n")
    said = refused("import", "captions", put(tmp_path / "captions.csv", content.encode(encoding)), tmp_path / "out")
    assert "captions.csv is text in UTF-16" in said and "save it as UTF-8" in said and not (tmp_path / "out").exists()


def test_splits_without_features_are_not_dropped(tmp_path):
    "Features beside the captions of one split only: refused, as with --features."
    folder = tmp_path / "scan"
    folder.mkdir()
    for split in ("train", "dev"):
        put(folder / f"{split}_caps.txt", "a dog\na cat\n"), put(folder / f"{split}_ids.txt", f"{split}1\n{split}2\n")
    np.save(folder / "train_ims.npy", np.ones((2, 2, 2), np.float32) * np.arange(1, 3)[:, None, None])
    assert "no dev_feat.npy and no dev_ims.npy" in refused("import", "captions", folder, tmp_path / "out") and not (tmp_path / "out").exists()
    assert "no features of dev: left out" in call("import", "captions", folder, tmp_path / "out", "--drop-missing")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.h5"]


def test_a_next_line_within_a_caption_is_a_part_of_it(tmp_path):
    text = "1.jpg#0\ta dog\x85runs\r\n1.jpg#1\ta\u2028dog\r\n"
    assert gather_captions(put(tmp_path / "c.token", text)).captions == ["a dog runs", "a dog"]
    assert gather_captions(put(tmp_path / "c.token", "1.jpg#0\ta dog\r1.jpg#1\ta cat\r")).captions == ["a dog", "a cat"]


def test_one_row_of_kaggles_flickr30k_lacks_its_second_bar(tmp_path):
    text = "image_name| comment_number| comment\n9.jpg| 0| A man\n2199200615.jpg| 4   A dog runs across the grass .\n"
    found = gather_captions(put(tmp_path / "results.csv", text))
    assert found.captions == ["A man", "A dog runs across the grass ."] and "1 rows lack a bar" in found.notes[0]


def test_a_caption_over_several_lines_is_one(tmp_path):
    found = gather_captions(put(tmp_path / "c.csv", 'image,caption\n1.jpg,"A dog\nruns"\n'))
    assert found.captions == ["A dog runs"]


def features_of(names, path, form):
    "Features whose first number is the image's, in some form; the rows are in another order than the captions."
    names = list(names)[::-1]
    x = np.stack([np.full((3, 2), int(name[0])) + np.arange(3)[:, None] for name in names]).astype(np.float32)
    boxes = np.tile(np.array([0, 0, 50, 100], np.float32), (3, 1))
    if form == "npy": np.save(path, x); put(path.with_suffix(".txt"), "\ufeff" + "\n".join(f"some/folder/{name}" for name in names) + "\n")
    if form == "flat": np.save(path, x[:, 0]); put(path.with_suffix(".txt"), "\n".join(name.removesuffix(".jpg") for name in names))
    if form == "h5": write_split(path.with_suffix(".h5"), x, ["a"] * len(x), np.arange(len(x)), names)
    if form == "tsv":
        packed = [base64.b64encode(array.tobytes()).decode() for array in (boxes, *x)]
        put(path, "".join(f"{name[0]}\t100\t200\t3\t{packed[0]}\t{row}\n" for name, row in zip(names, packed[1:])))
    if form == "npz":
        path.mkdir()
        for name, row in zip(names, x): np.savez(path / f"{name}.npz", x=row, bbox=boxes, image_w=100, image_h=200)
    return path.with_suffix(".h5") if form == "h5" else path


@pytest.mark.parametrize("form", ["npy", "flat", "h5", "tsv", "npz"])
def test_features_of_every_form_are_joined_by_name(tmp_path, form):
    source = put(tmp_path / "c.json", json.dumps(COCO))
    features = features_of(TEXTS, tmp_path / "f.npy", form)
    ids = ["--ids", tmp_path / "f.txt"] if form in ("npy", "flat") else []
    said = call("import", "captions", source, tmp_path / "out", "--features", features, *ids, "--dev", 1, "--test", 1, "--seed", 3)
    assert "this is COCO's captions file: 6 captions of 4 images" in said and "splits are drawn by picture with seed 3" in said
    splits = {name: open_split(tmp_path / "out", name) for name in ("train", "dev", "test")}
    assert sorted(name for split in splits.values() for name in split.ids) == sorted(TEXTS)
    for split in splits.values():
        for i, name in enumerate(split.ids):
            assert split.regions(i)[0, 0] == int(name[0])
            assert [split.captions[c] for c in np.flatnonzero(split.image_of_caption == i)] == TEXTS[name]
        if form in ("tsv", "npz"): assert np.array(split.boxes[0])[0].tolist() == [0, 0, .5, .5]


def test_features_beside_the_captions_and_for_each_split(tmp_path):
    content = {"images": [{"filename": name, "split": "val" if name == "4.jpg" else "train", "sentences": texts} for name, texts in TEXTS.items()]}
    source, folder = put(tmp_path / "c.json", json.dumps(content)), tmp_path / "f"
    folder.mkdir()
    np.save(folder / "train_feat.npy", np.ones((3, 2, 2), np.float32)); np.save(folder / "dev_ims.npy", np.full((1, 2), 7, np.float32))
    call("import", "captions", source, tmp_path / "out", "--features", folder)
    assert open_split(tmp_path / "out", "dev").regions(0).tolist() == [[7, 7]]
    np.save(folder / "train_ims.npy", np.ones((3, 2, 2), np.float32))
    assert "both there" in refused("import", "captions", source, tmp_path / "out2", "--features", folder)
    (folder / "train_ims.npy").unlink(); (folder / "train_feat.npy").unlink()
    assert "no train_feat.npy and no train_ims.npy" in refused("import", "captions", source, tmp_path / "out2", "--features", folder)
    np.save(tmp_path / "c_feat.npy", np.ones((4, 2, 2), np.float32))
    assert "beside the captions" in call("import", "captions", source, tmp_path / "out3")
    assert open_split(tmp_path / "out3", "train").n_images == 3 and not (tmp_path / "out2").exists()


def test_ragged_regions_get_a_mask(tmp_path):
    (tmp_path / "f").mkdir()
    for i, m in enumerate((2, 4), 1): np.savez(tmp_path / "f" / f"{i}.npz", x=np.full((m, 3), i, np.float32), bbox=np.ones((m, 4)) * .5)
    source = put(tmp_path / "c.jsonl", '{"image": 1, "caption": "a dog"}\n{"image": 2, "caption": "a cat"}\n')
    call("import", "captions", source, tmp_path / "out", "--features", tmp_path / "f", "--split", "test")
    split = open_split(tmp_path / "out", "test")
    assert [split.regions(i).tolist() for i in range(2)] == [[[1.] * 3] * 2, [[2.] * 3] * 4]


# --- splits

def test_a_drawn_split_depends_on_seed_and_names_only(tmp_path):
    def splits(seed, entries):
        out = tmp_path / f"{seed}-{entries[0]['image']}"
        call("import", "captions", put(tmp_path / "c.json", json.dumps(entries)), out, "--seed", seed)
        return {split: sorted(set((out / f"{split}_ids.txt").read_text().split())) for split in ("train", "dev", "test")}
    entries = [{"image": f"{i}.jpg", "caption": [f"picture {i}", "another"]} for i in range(50)]
    one = splits(5, entries)
    assert [len(ids) for ids in one.values()] == [40, 5, 5] and sorted(itertools.chain(*one.values())) == sorted(e["image"] for e in entries)
    assert splits(5, entries[::-1]) == one != splits(6, entries)
    source = tmp_path / "c.json"
    assert "leave none of 50" in refused("import", "captions", source, tmp_path / "no", "--dev", 30, "--test", 20)
    call("import", "captions", source, tmp_path / "all", "--split", "val")
    assert (tmp_path / "all" / "dev_ids.txt").read_text().count("\n") == 100
    assert "said" not in refused("import", "captions", source, tmp_path / "no", "--split", "../victim") and not (tmp_path / "no").exists()


@pytest.mark.parametrize("split", ["../victim", "/etc/x", "train2", "Train/..", "", "a\nb", "\x1b[2J", "train\0"])
def test_the_name_of_a_split_never_becomes_a_path(tmp_path, split):
    np.save(tmp_path / "f.npy", np.ones((2, 2, 2), np.float32))
    victim = put(tmp_path / "victim.h5", "mine")
    images = [{"filename": "1", "split": "train", "sentences": ["a dog"]}, {"filename": "2", "split": split, "sentences": ["a cat"]}]
    source = put(tmp_path / "c.json", json.dumps({"images": images}))
    before = sorted(tmp_path.rglob("*"))
    for command in (["import", "captions", source, tmp_path / "out" / "in"], ["data", "convert", source, tmp_path / "out" / "in"]):
        said = refused(*command, "--features", tmp_path / "f.npy")
        assert "c.json" in said and "split" in said and "\x1b" not in said
    assert sorted(tmp_path.rglob("*")) == before and victim.read_text() == "mine"


def test_captions_of_one_picture_are_never_in_two_splits(tmp_path):
    source = put(tmp_path / "c.csv", "image,caption,split\na.jpg,a dog,train\na.jpg,one dog,test\n")
    assert "line 3: the picture 'a.jpg' is in train and in test" in refused("import", "captions", source, tmp_path / "out")
    source = put(tmp_path / "c.csv", "image,caption,split\na.jpg,a dog,train\nb.jpg,one dog,\n")
    assert "1 pictures are in no split, the first is b.jpg" in refused("import", "captions", source, tmp_path / "out")
    source = put(tmp_path / "c.csv", "image,caption,split\na.jpg,a dog,train\nb.jpg,a dog,val\n")
    assert "splits are known" not in call("import", "captions", source, tmp_path / "out")
    assert "known already" in refused("import", "captions", source, tmp_path / "out2", "--seed", 0)
    assert "says itself" in refused("import", "captions", source, tmp_path / "out2", "--split", "test")


def test_ids_that_stand_twice_are_refused_where_they_name_pictures(tmp_path):
    twice = {**COCO, "images": COCO["images"] + COCO["images"][:1]}
    assert "two images have the id 1" in refused("import", "captions", put(tmp_path / "c.json", json.dumps(twice)), tmp_path / "out")
    twice = {"images": KARPATHY["images"] * 2}
    assert "'1.jpg' stands twice" in refused("import", "captions", put(tmp_path / "c.json", json.dumps(twice)), tmp_path / "out")


def test_the_first_captions_of_each_image(tmp_path):
    found = gather_captions(put(tmp_path / "c.csv", "image,caption\n1,a\n2,b\n1,c\n1,d\n2,e\n3,f\n"))
    kept = first_captions(found, 2)
    assert (kept.captions, kept.image_of_caption.tolist()) == (["a", "b", "c", "e", "f"], [0, 1, 0, 1, 2])
    assert "1 pictures have fewer than 2" in kept.notes[0]


# --- names

def test_ambiguous_names_are_refused_naming_both():
    with pytest.raises(ValueError, match=r"'a/1\.jpg' and 'b/1\.jpg' both fit '1'"): match_names(["a/1.jpg", "b/1.jpg"], [("1",)], "ids.txt")
    with pytest.raises(ValueError, match=r"fits 'a/1\.jpg' and 'b/1\.jpg'"): match_names(["1.png"], [("a/1.jpg",), ("b/1.jpg",)], "ids.txt")
    assert match_names(["a/1.jpg", "b/1.jpg", "c/2.jpg.npz"], [("b/1.jpg",), ("a/1.jpg",), ("2",)], "ids.txt") == [1, 0, 2]


def test_pictures_beside_the_captions(tmp_path):
    source, folder = put(tmp_path / "c.json", json.dumps(COCO)), tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    assert "none of them named" in refused("import", "captions", source, tmp_path / "out", "--images", folder)
    for name in ("1.jpg", "more/2.png", "9.jpg", "x.txt"): (folder / name).touch()
    said = call("import", "captions", source, tmp_path / "out", "--images", folder, "--dev", 1, "--test", 1)
    assert "1 of 3 pictures" in said and "2 of 4 images have no picture" in said and "3.jpg" in said
    call("import", "captions", source, tmp_path / "two", "--images", folder, "--drop-missing", "--split", "test")
    assert set((tmp_path / "two" / "test_ids.txt").read_text().split()) == {"1.jpg", "2.jpg"}
    assert "no folder of pictures" in refused("import", "captions", source, tmp_path / "out", "--images", tmp_path / "none")


# --- all or nothing

def test_nothing_is_written_before_all_of_it_is_clear(tmp_path):
    content = {"images": [{**image, "split": split} for image, split in zip(KARPATHY["images"], ("train", "train", "val", "test"))]}
    source, out = put(tmp_path / "c.json", json.dumps(content)), tmp_path / "out"
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    np.save(tmp_path / "f.npy", x)
    call("import", "captions", source, out, "--features", tmp_path / "f.npy")
    before = {path: path.read_bytes() for path in out.iterdir()}
    broken = x.copy()
    broken[3, 1, 2] = np.nan
    for name, array in (("nan", broken), ("few", x[:3]), ("many", np.concatenate([x, x]))):
        np.save(tmp_path / f"{name}.npy", array)
        said = refused("import", "captions", source, out, "--features", tmp_path / f"{name}.npy")
        assert ("test.h5: image 0, region 1" if name == "nan" else f"{name}.npy has") in said
    assert "import.folder" not in said and {path: path.read_bytes() for path in out.iterdir()} == before
    put(tmp_path / "ids.txt", "1\n2\n3\n")
    assert "names 3 images" in refused("import", "captions", source, out, "--features", tmp_path / "f.npy", "--ids", tmp_path / "ids.txt")
    put(tmp_path / "ids.txt", "1\n2\n3\n3\n")
    assert "'3' stands twice" in refused("import", "captions", source, out, "--features", tmp_path / "f.npy", "--ids", tmp_path / "ids.txt")
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_rows_that_no_caption_asks_for_are_left_out_where_names_match(tmp_path):
    source = put(tmp_path / "c.json", json.dumps(COCO))
    features_of([*TEXTS, "7.jpg"], tmp_path / "f.npy", "tsv")
    assert "1 of 5 rows" in call("import", "captions", source, tmp_path / "out", "--features", tmp_path / "f.npy", "--split", "test")
    features_of(["1.jpg", "2.jpg", "4.jpg"], tmp_path / "g.npy", "tsv")
    assert "nothing for 1 of 4 images" in refused("import", "captions", source, tmp_path / "out2", "--features", tmp_path / "g.npy", "--split", "test")
    said = call("import", "captions", source, tmp_path / "out2", "--features", tmp_path / "g.npy", "--split", "test", "--drop-missing")
    assert "1 images have nothing in" in said and open_split(tmp_path / "out2", "test").ids == ["1.jpg", "2.jpg", "4.jpg"]


def test_captions_alone_take_features_later(tmp_path):
    call("import", "captions", put(tmp_path / "c.json", json.dumps(COCO)), tmp_path / "alone", "--split", "test")
    features_of(TEXTS, tmp_path / "f.npy", "tsv")
    call("import", "captions", tmp_path / "alone", tmp_path / "out", "--features", tmp_path / "f.npy")
    assert sorted(open_split(tmp_path / "out", "test").captions) == sorted(text for _, text in PAIRS)
    np.save(tmp_path / "alone" / "test_ims.npy", np.arange(16, dtype=np.float32).reshape(4, 2, 2))  # in the order of the ids
    assert open_split(tmp_path / "alone", "test").image_of_caption.tolist() == [0, 0, 1, 2, 3, 3]
    assert "holds features" in refused("import", "captions", tmp_path / "c.json", tmp_path / "alone", "--split", "test")


# --- refused, with the place

def b64(x): return base64.b64encode(x).decode()


@pytest.mark.parametrize("row, words", [
    (f"1\t9\t9\t2\t{b64(bytes(32))}\t{b64(bytes(16))[:-2]}", "row 2: features is no base64"),
    (f"1\t9\t9\t2\t{b64(bytes(32))}\t{b64(bytes(17))}", "row 2: features holds 17 bytes"),
    (f"1\t9\t9\t2\t{b64(bytes(16))}\t{b64(bytes(16))}", "row 2: boxes holds 2 numbers for each box"),
    (f"1\t9\t9\t2\t{b64(bytes(32))}\t{b64(bytes(24))}", "row 2: 3 numbers for each region, the rows before have 2"),
    (f"1\t9\t9\t-2\t{b64(bytes(32))}\t{b64(bytes(16))}", "row 2: num_boxes is '-2'"),
    (f"1\t0\t9\t2\t{b64(bytes(32))}\t{b64(bytes(16))}", "row 2: image_w is '0'"),
    (f"1\t9\t9\t{2**70}\t{b64(bytes(32))}\t{b64(bytes(16))}", "row 2: num_boxes is"), ("1\t2\t3", "row 2: 3 fields, expected 6"),
    (f"0\t9\t9\t2\t{b64(bytes(32))}\t{b64(bytes(16))}", "the name '0' stands twice")])
def test_a_wrong_row_of_a_table_is_named(tmp_path, row, words):
    good = f"0\t9\t9\t2\t{b64(bytes(32))}\t{b64(np.ones(4, '<f4').tobytes())}"
    source = put(tmp_path / "c.jsonl", '{"image": 0, "caption": "a dog"}')
    put(tmp_path / "f.tsv", f"{good}\n{row}\n")
    assert f"f.tsv, {words}" in refused("import", "captions", source, tmp_path / "out", "--features", tmp_path / "f.tsv", "--split", "test").replace("f.tsv: ", "f.tsv, ")


@pytest.mark.parametrize("arrays, words", [({"x": np.ones((2, 3))}, "no array 'bbox'"), ({"x": np.ones((2, 3)), "bbox": np.ones((5, 4))}, "not one box for each"),
                                           ({"x": np.ones(3), "bbox": np.ones((2, 4))}, "1 axes"), ({"x": np.ones((2, 3)), "bbox": np.ones((2, 3))}, "array bbox"),
                                           ({"x": np.array([["a"]]), "bbox": np.ones((1, 4))}, "holds text"), ({"x": np.array([{}]), "bbox": np.ones((1, 4))}, "pickle")])
def test_a_wrong_archive_is_named(tmp_path, arrays, words):
    (tmp_path / "f").mkdir()
    np.savez(tmp_path / "f" / "0.npz", **arrays)
    said = refused("import", "captions", put(tmp_path / "c.jsonl", '{"image": 0, "caption": "a dog"}'), tmp_path / "out", "--features", tmp_path / "f", "--split", "test")
    assert "0.npz" in said and words in said


WRONG = ["", " ", "\n\n", "3", "null", "[]", "{}", "[3]", "[[]]", "{\"images\": 3}", "{\"images\": [], \"annotations\": []}", "[" * 5000, "{\"a\":" * 5000,
         "one sentence\nanother one\n", "image,caption\n", "image,caption\na.jpg,\n", "image,caption\n,a dog\n", 'image,caption\na.jpg,"a dog\n',
         "image,caption\na.jpg,a dog,more\n", "a.jpg#0\ta dog\nno\n", "{\"image\": 1}\n", "{\"image\": \"a\", \"caption\": 3}\n{}\n", "\0\0\0\0", b"\xff\xfe\x00a",
         b"\x80\x04]q\x00.", b"\x93NUMPY\x01\x00", b"PK\x03\x04", "image,caption\na.jpg," + "x" * 10_001 + "\n", "image,caption\na\x1b[2J.jpg,a dog\n",
         "image\tcaption\n" + "x" * 200_000 + "\t\n", "image,caption\n\"" + "y" * 200_000 + "\",z\n"]


def variants():
    "Each member of each json with values of every wrong kind."
    values = [None, 2**70, float("nan"), "", [], {"a": 1}, "../x", ["a", None]]
    bases = {"karpathy": {"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "a dog", "tokens": ["a", "dog"], "sentid": 1}]}]},
             "coco": {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a dog"}]},
             "list": [{"image": "1.jpg", "caption": ["a dog"], "image_id": "1", "split": "train"}]}
    def places(x, path=()):
        if path: yield path
        for key, value in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else (): yield from places(value, (*path, key))
    for base, value in itertools.product(bases.values(), values):
        for path in places(base):
            copy = json.loads(json.dumps(base))
            inner = copy
            for key in path[:-1]: inner = inner[key]
            inner[path[-1]] = value
            yield json.dumps(copy)


def tries(folder, contents, command):
    "Every content ends with status 0 or 2, one line, and nothing half-written."
    out = folder / "out"
    for content in contents:
        put(folder / "c.json", content)
        result = CliRunner().invoke(app, [str(word) for word in command])
        last = result.output.strip().splitlines()
        assert result.exit_code in (0, 2), (content, result.output)
        assert "Traceback" not in result.output and "error of the package" not in result.output, (content, result.output)
        if result.exit_code == 2:
            assert last[-1].startswith("Error: ") and not out.exists(), (content, last)
            assert sum(line.startswith("Error") for line in last) == 1 and len(last) <= 3 and "\x1b" not in result.output
            assert "c.json" in last[-1], (content, last)
        else:
            assert {path.suffix for path in out.iterdir()} <= {".h5", ".txt"}
            for path in out.iterdir(): path.unlink()
            out.rmdir()


def test_any_content_ends_with_a_line_or_is_taken(tmp_path):
    tries(tmp_path, WRONG, ["import", "captions", tmp_path / "c.json", tmp_path / "out"])


def test_any_value_in_any_member_ends_with_a_line_or_is_taken(tmp_path):
    np.save(tmp_path / "f.npy", np.ones((1, 2, 2), np.float32))
    tries(tmp_path, variants(), ["import", "captions", tmp_path / "c.json", tmp_path / "out", "--features", tmp_path / "f.npy"])


def test_files_of_other_kinds_are_called_what_they_are(tmp_path):
    source = put(tmp_path / "c.json", json.dumps(COCO))
    with h5py.File(tmp_path / "a.h5", "w") as file: file["x"] = 1
    for words in (["import", "captions", tmp_path, tmp_path / "out"], ["import", "captions", tmp_path / "none", tmp_path / "out"],
                  ["import", "captions", tmp_path / "a.h5", tmp_path / "out"], ["import", "captions", source, tmp_path / "out", "--features", tmp_path / "a.h5"],
                  ["import", "captions", source, tmp_path / "out", "--features", source], ["import", "captions", source, tmp_path / "out", "--features", tmp_path],
                  ["import", "captions", source, tmp_path / "out", "--features", put(tmp_path / "p.npy", b"\x80\x04.")],
                  ["import", "captions", source, source], ["import", "captions", source, source / "x"], ["import", "captions", source, tmp_path / "out", "--ids", source]):
        assert re.search(r"c\.json|a\.h5|p\.npy|none|folder", refused(*words)), words
    assert not (tmp_path / "out").exists()
    if os.getuid():
        source.chmod(0)
        assert "c.json" in refused("import", "captions", source, tmp_path / "out")


def test_a_header_below_the_first_line_is_refused(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("a.jpg,a red dog\nimage,caption\nb.jpg,a blue cat\n", encoding="utf-8")
    with pytest.raises(ValueError, match="captions.csv, line 2: a header below the first line"): gather_captions(path)
