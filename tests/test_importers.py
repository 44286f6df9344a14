"What others publish, converted: the SCAN layout with its repeated rows, and captions in a json with features beside it."

import json
import subprocess
import sys

import numpy as np
import pytest
from test_data import FEATURES, N, same, write_scan

from cmr.data import convert, open_split, read_karpathy, write_split
from cmr.data.extractors import ExtractorInfo

# --- the SCAN layout

def test_the_converter_finds_damage_where_the_quick_look_does_not(tmp_path):
    n = 400
    rows = np.random.default_rng(0).normal(size=(n, 1, 2)).astype(np.float32).repeat(5, axis=0)
    rows[1003] += 1
    write_scan(tmp_path, "dev", rows, [f"caption {i}" for i in range(5 * n)])
    assert open_split(tmp_path, "dev").n_images == n
    with pytest.raises(ValueError, match="rows 1000 and 1003 should be one image"): convert(tmp_path, tmp_path / "h5", progress=False)
    assert not list((tmp_path / "h5").glob("*"))


def test_scan_then_h5_then_h5_again(tmp_path):
    write_scan(tmp_path)
    convert(tmp_path, tmp_path / "a", progress=False)
    convert(tmp_path / "a", tmp_path / "b", progress=False)
    same(open_split(tmp_path / "b", "train"))


def test_features_may_be_called_feat(tmp_path):
    write_scan(tmp_path)
    (tmp_path / "train_ims.npy").rename(tmp_path / "train_feat.npy")
    same(open_split(tmp_path, "train"))
    convert(tmp_path, tmp_path / "h5", progress=False)
    same(open_split(tmp_path / "h5", "train"))
    (tmp_path / "train_ims.npy").write_bytes((tmp_path / "train_feat.npy").read_bytes())
    with pytest.raises(ValueError, match=r"train_ims\.npy and train_feat\.npy are both there"): open_split(tmp_path, "train")


def test_progress_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cmr.bars.EVERY", 0)  # a line for each step, where no terminal shows a bar
    convert(write_scan(tmp_path), tmp_path / "h5")
    assert f"{N}/{N}" in capsys.readouterr().err


MEASURE = """
import sys
import cmr.data
def peak(): return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
cmr.data.convert(sys.argv[1], sys.argv[2], progress=False, max_bytes=4 * 2**20)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts a process's memory as Linux does")
def test_the_converter_uses_little_memory(tmp_path):
    n, m, f = 200, 36, 512                                        # 14 MiB of images, 70 MiB with the rows repeated
    rows = np.lib.format.open_memmap(tmp_path / "dev_ims.npy", "w+", np.float32, (5 * n, m, f))
    for i in range(n): rows[5 * i:5 * i + 5] = i
    del rows
    (tmp_path / "dev_caps.txt").write_text("".join(f"caption {i}\n" for i in range(5 * n)))
    size = (tmp_path / "dev_ims.npy").stat().st_size / 2**20
    command = [sys.executable, "-c", MEASURE, tmp_path, tmp_path / "h5"]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert size > 65
    assert grown < 35, f"{grown:.0f} MiB for blocks of 4 MiB"
    assert open_split(tmp_path / "h5", "dev").features[n - 1].max() == n - 1


# --- Karpathy's json

def karpathy(path, **changes):
    def image(i, split, *raw):
        sentences = [{"raw": text, "tokens": text.lower().split(), "sentid": i} for text in raw]
        return {"filename": f"{i}.jpg", "split": split, "sentids": [i], "sentences": sentences}
    images = [image(0, "train", "A red ball.", "a ball"), image(1, "val", "A kite"), image(2, "restval", "A boat"),
              image(3, "test", "A dog\nruns", "dog")]
    path.write_text(json.dumps({"images": images, **changes}))
    return path


def test_read_karpathy(tmp_path):
    found = read_karpathy(karpathy(tmp_path / "d.json"))
    assert sorted(found) == ["dev", "test", "train"]
    train = found["train"]
    assert (train.ids, train.captions) == (["0.jpg", "2.jpg"], ["A red ball.", "a ball", "A boat"])
    assert (train.image_of_caption.tolist(), train.rows.tolist()) == ([0, 0, 1], [0, 2])
    assert found["test"].captions == ["A dog runs", "dog"]
    only_tokens = karpathy(tmp_path / "t.json", images=[{"filename": "x.jpg", "split": "train", "sentences": [{"tokens": ["a", "dog"]}]}])
    assert read_karpathy(only_tokens)["train"].captions == ["a dog"]


@pytest.mark.parametrize("content", [
    "[]", "{}", "3", '{"images": [3]}', '{"images": [{"split": "train"}]}', '{"images": [', '{"images": []}',
    '{"images": [{"filename": "x", "split": "train", "sentences": [{"raw": " ", "tokens": []}]}]}',
    '{"images": [{"filename": "x", "split": "train", "sentences": [7]}]}', '[{"image": "x", "caption": "a dog"}]'])
def test_no_karpathy(tmp_path, content):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(ValueError, match=r"d\.json"): read_karpathy(tmp_path / "d.json")
    with pytest.raises(FileNotFoundError, match="no json at"): read_karpathy(tmp_path / "none.json")


@pytest.mark.parametrize("names", [None, ["2.jpg", "0.jpg", "3.jpg", "1.jpg"], ["2", "0", "3", "1"]])
def test_convert_karpathy(tmp_path, names):
    source, order = karpathy(tmp_path / "d.json"), [0, 1, 2, 3] if names is None else [2, 0, 3, 1]
    np.save(tmp_path / "f.npy", FEATURES[order])
    if names: (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    ids = tmp_path / "names.txt" if names else None
    written = convert(source, tmp_path / "h5", progress=False, features=tmp_path / "f.npy", ids=ids, max_bytes=1)
    assert sorted(p.name for p in written) == ["dev.h5", "test.h5", "train.h5"]
    same(open_split(tmp_path / "h5", "train"), FEATURES[[0, 2]], ["A red ball.", "a ball", "A boat"], [0, 0, 1])
    same(open_split(tmp_path / "h5", "test"), FEATURES[[3]], ["A dog runs", "dog"], [0, 0])


def test_convert_karpathy_with_features_for_each_split(tmp_path):
    np.save(tmp_path / "train.npy", FEATURES[:2])
    written = convert(karpathy(tmp_path / "d.json"), tmp_path / "h5", progress=False, features={"train": tmp_path / "train.npy"})
    assert [p.name for p in written] == ["train.h5"]
    same(open_split(tmp_path / "h5", "train"), FEATURES[:2], ["A red ball.", "a ball", "A boat"], [0, 0, 1])


def test_karpathy_and_features_that_do_not_fit(tmp_path):
    source = karpathy(tmp_path / "d.json")
    np.save(tmp_path / "f.npy", FEATURES[:3])
    with pytest.raises(ValueError, match="give features"): convert(source, tmp_path / "h5", progress=False)
    for rows in (3, 5):  # a row too many is as wrong as a row too few: the order is all there is
        np.save(tmp_path / "f.npy", np.ones((rows, 2, 3), np.float32))
        with pytest.raises(ValueError, match=rf"f\.npy has {rows} rows"):
            convert(source, tmp_path / "h5", progress=False, features=tmp_path / "f.npy")
    np.save(tmp_path / "f.npy", np.ones((3, 2, 3), np.float32))
    assert not (tmp_path / "h5").exists()
    names = tmp_path / "names.txt"
    for text, message in (("0.jpg\n1.jpg", "names 2 images"), ("0.jpg\n1.jpg\n7.jpg", r"nothing for 2 of 4 images .* 2\.jpg"),
                          ("0.jpg\n1.jpg\n1.jpg", r"the name '1\.jpg' stands twice")):
        names.write_text(text)
        with pytest.raises(ValueError, match=message):
            convert(source, tmp_path / "h5", progress=False, features=tmp_path / "f.npy", ids=names)


def test_who_made_the_features_is_kept(tmp_path):
    maker = ExtractorInfo(name="mine", preprocessing="as they are", regions=2, width=3, digest="0" * 64)
    write_split(tmp_path / "a/train.h5", np.random.default_rng(0).normal(size=(2, 2, 3)).astype(np.float32), ["a", "b"], np.arange(2), extractor=maker)
    convert(tmp_path / "a", tmp_path / "b", progress=False)
    assert open_split(tmp_path / "b", "train").extractor == maker
