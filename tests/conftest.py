"""What several test files need."""

import pytest
import torch
from tiny import RECIPE, write_world

from cmr.encoders import Fragments


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    "A tiny data folder. Nobody writes into it."
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def whole(world, tmp_path_factory):
    "An uninterrupted tiny training: its folder, and what `train` returned. Nobody writes into it."
    from cmr.training import train
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, train(RECIPE, world, out, progress=False)


@pytest.fixture(scope="session")
def tiny_model(whole):
    "The best model of that training, and its vocabulary."
    from cmr.saving import load
    return load(whole[0] / "best")


@pytest.fixture(scope="session")
def ragged():
    "A maker of fragments of different lengths: ragged([3, 1, 4], d=4, seed=0), float64, zero where padded."
    def make(lengths, d=4, seed=0, dtype=torch.float64):
        draw = torch.Generator().manual_seed(seed)
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return Fragments(torch.randn(*mask.shape, d, generator=draw, dtype=torch.float64).to(dtype) * mask[..., None], mask)
    return make
