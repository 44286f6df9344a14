"Flickr8K through the published layout, both conventions: set CMR_FLICKR8K to the folder (in the SCAN layout, or with its unpack.py)."

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cmr.data import Vocabulary, batches, check_vocabulary, convert, open_split

HOME = os.environ.get("CMR_FLICKR8K")
pytestmark = pytest.mark.skipif(not HOME, reason="CMR_FLICKR8K is not set: it names the folder with Flickr8K")
N = 50


def head_of_scan(source, out, duplicate):
    "The first images of a data set in the SCAN layout, with the rows repeated or not."
    out.mkdir()
    for split in ("train", "dev", "test"):
        found = open_split(source, split)
        keep = np.flatnonzero(found.image_of_caption < N)
        np.save(out / f"{split}_ims.npy", found.features[:N].repeat(5 if duplicate and split != "train" else 1, axis=0))
        (out / f"{split}_caps.txt").write_text("".join(found.captions[c] + "\n" for c in keep), encoding="utf-8")


@pytest.fixture(scope="module", params=[False, True], ids=["each image once", "rows repeated"])
def folder(request, tmp_path_factory):
    home, out = Path(HOME), tmp_path_factory.mktemp("flickr8k") / "scan"
    if (home / "train_ims.npy").is_file(): head_of_scan(home, out, request.param)
    elif (home / "unpack.py").is_file():
        command = [sys.executable, home / "unpack.py", out, "--limit", str(N), *["--duplicate"] * request.param]
        subprocess.run(command, check=True, capture_output=True)
    else: pytest.skip(f"{home} holds neither train_ims.npy nor unpack.py")
    return out


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_five_captions_an_image(folder, split):
    found = open_split(folder, split)
    assert found.n_images == N
    assert len(found) == 5 * N
    np.testing.assert_array_equal(found.image_of_caption, np.arange(5 * N) // 5)
    rows = np.load(folder / f"{split}_ims.npy", mmap_mode="r")
    lines = (folder / f"{split}_caps.txt").read_text(encoding="utf-8").split("\n")
    times = len(rows) // N
    for i in (0, 7, N - 1):
        np.testing.assert_array_equal(found.regions(i), rows[i * times])
        assert found.captions[5 * i:5 * i + 5] == [line.strip() for line in lines[5 * i:5 * i + 5]]


def test_converting_keeps_everything(folder):
    for path in convert(folder, folder / "h5", progress=False):
        one, two = open_split(folder, path.stem), open_split(folder / "h5", path.stem)
        np.testing.assert_array_equal(one.features[:], two.features[:])
        np.testing.assert_array_equal(one.image_of_caption, two.image_of_caption)
        assert (one.captions, one.ids) == (two.captions, two.ids)
        if one.boxes is not None: np.testing.assert_array_equal(one.boxes[:], two.boxes[:])


def test_batches_and_words(folder):
    train, dev = open_split(folder, "train"), open_split(folder, "dev")
    vocabulary = Vocabulary.build(train.captions, min_count=2)
    assert 0 < check_vocabulary(dev, vocabulary) < .4
    for batch in batches(train, vocabulary, 64):
        np.testing.assert_array_equal(batch.image, batch.caption // 5)
        for k in range(len(batch)):
            text = vocabulary.decode(batch.tokens[k, :batch.lengths[k]])
            assert text == vocabulary.decode(vocabulary.encode(train.captions[batch.caption[k]]))
            assert (batch.features[k].numpy() == train.features[int(batch.image[k])]).all()
