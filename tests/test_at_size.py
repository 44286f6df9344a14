"""Data of COCO's size: what is read before the first step, and how often a step waits for the device."""

import re
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import at_size
from tiny import RECIPE, write_world
from torch.utils._python_dispatch import TorchDispatchMode

from cmr import create_model
from cmr.data import ImageCaptions, batches, datasets, open_split
from cmr.training import Run, standardise_from, train_step

LOOP = {"loop.py", "datasets.py", "sampling.py", "distributed.py", "checkpoints.py"}
READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"}


def split_of(n: int, read: list, bad: int | None = None) -> ImageCaptions:
    "Some images with a caption each; which are read is noted."
    features = np.random.default_rng(n).normal(3, 2, (n, 2, 4)).astype("float32")
    if bad is not None: features[bad, 1] = np.nan
    split = ImageCaptions(features, ["a dog runs"] * n, np.arange(n))
    true = split.block
    split.block = lambda start, stop: read.extend(range(start, stop)) or true(start, stop)
    return split


def test_standardise_reads_a_sample_of_many_images():
    found = []
    for most in (60, 59, 59):
        read: list = []
        model = create_model("vse", region_dim=4, vocab_size=5, embed_dim=4, word_dim=4)
        standardise_from(model, split_of(60, read), progress=False, most=most, sample=7)
        assert len(read) == len(set(read)) == (60 if most == 60 else 7)
        rows = split_of(60, []).features[read].reshape(-1, 4).astype("float64")
        torch.testing.assert_close(model.image_encoder.shift, torch.tensor(rows.mean(0)).float())
        found.append(read)
    assert found[1] == found[2] == sorted(found[1]) and max(np.diff(found[1])) > 1


def test_a_bad_value_that_the_sample_misses_is_named_when_it_is_read():
    standardise_from(create_model("vse", region_dim=4, vocab_size=5, embed_dim=4, word_dim=4), split := split_of(60, read := [], 0),
                     progress=False, most=59, sample=2)
    assert 0 not in read
    with pytest.raises(ValueError, match="memory: image 0, region 1 holds NaN"): split.block(0, 8)


def test_padding_is_looked_for_once_in_a_file_that_stays(tmp_path, monkeypatch):
    n, calls, true = 9, [], datasets._padding
    features = np.ones((n, 3, 2), "float32")
    features[[2, 3, 7], 2], features[3] = 0, 0
    np.save(tmp_path / "train_ims.npy", features)
    (tmp_path / "train_caps.txt").write_text("a dog\n" * 2 * n)
    monkeypatch.setattr(datasets, "_padding", lambda rows: calls.append(rows) or true(rows))
    monkeypatch.setattr(datasets, "BLOCK", 24)  # an image at a time
    for _ in range(2):
        with pytest.warns(UserWarning): split = open_split(tmp_path, "train")
        np.testing.assert_array_equal(split.mask.sum(1), [3, 3, 2, 3, 3, 3, 3, 2, 3])
    assert len(calls) == 1
    np.save(tmp_path / "train_ims.npy", features + 1)
    assert open_split(tmp_path, "train").mask is None and len(calls) == 2


class Reads(TorchDispatchMode):
    "Notes from which of our files a number is read that a GPU would have to be waited for."
    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def note(self):
        files = [frame.filename for frame in traceback.extract_stack()]
        ours = [Path(name).name for name in files if "/cmr/" in name]
        if not any("/torch/optim/" in name for name in files): self.seen.append(ours[-1] if ours else "")  # Adam counts beside the GPU

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in READS: self.note()
        return func(*args, **(kwargs or {}))


def test_batches_and_the_loop_wait_for_the_device_twice_a_step_at_most(tmp_path, monkeypatch):
    run = Run(RECIPE, write_world(tmp_path / "data"), tmp_path / "out", device="cpu", progress=False)
    batch = next(iter(batches(run.train, run.vocabulary, 7)))
    true = torch.Tensor.tolist
    with Reads() as reads:
        monkeypatch.setattr(torch.Tensor, "tolist", lambda x: reads.note() or true(x))  # is none of PyTorch's operators
        train_step(run, [batch])
    assert 1 <= sum(name in LOOP for name in reads.seen) <= 2, reads.seen
    with Reads() as reads: float(torch.ones(()))
    assert reads.seen == [""]


def test_the_benchmark_reaches_its_first_step(monkeypatch, capsys):
    monkeypatch.setattr(at_size, "COCO", (300, 2, 8))
    at_size.main(["--start"])
    assert re.search(r"^first step after \d+\.\d s$", capsys.readouterr().out, re.MULTILINE)
