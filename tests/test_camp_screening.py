"""The screening of what helps CAMP (tests/benchmarks/camp_screening.py): its rows are what they are called."""

import sys
from pathlib import Path

import pytest
import torch

from cmr.camp import CAMP
from cmr.encoders import Fragments
from cmr.fast import training_scores
from cmr.losses import LOSSES
from cmr.matcher import MODELS
from cmr.training.recipes import check_arguments

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
before = [dict(known) for known in (MODELS, LOSSES)]
from camp_screening import ROWS, Gradual, StartedCAMP  # noqa: E402

for known, was in zip((MODELS, LOSSES), before):  # other tests look at all that is registered
    for name in known.keys() - was.keys(): del known[name]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_can_be_built(row, monkeypatch):
    monkeypatch.setitem(MODELS, "startedcamp", StartedCAMP)
    check_arguments(ROWS[row])


def made(cls, **options):
    torch.manual_seed(0)
    return cls(3, 9, 8, 4, **options).double()


def sides():
    torch.manual_seed(1)
    return [Fragments(torch.randn(3, k, 8, dtype=torch.float64), torch.ones(3, k, dtype=torch.bool)) for k in (4, 5)]


def test_the_start_taken_apart():
    plain, small = made(CAMP), made(StartedCAMP, small=True)
    assert torch.equal(made(StartedCAMP).logits(*sides()), plain.logits(*sides()))
    assert torch.allclose(small.fuse_words.linear.weight, plain.fuse_words.linear.weight / 10, rtol=0, atol=1e-7)
    both, base = made(StartedCAMP, small=True, rising=True, normalise="both"), made(CAMP, start="base", normalise="both")
    assert torch.allclose(both.fuse_regions.linear.weight, base.fuse_regions.linear.weight, rtol=0, atol=1e-7)
    both.matching.load_state_dict(base.matching.state_dict())
    assert torch.allclose(both.logits(*sides()), base.logits(*sides()), rtol=0, atol=1e-6)
    assert torch.allclose(training_scores(both, *sides()), both.logits(*sides()), rtol=0, atol=1e-10)


def test_the_weighed_loss_begins_with_the_mean_and_ends_with_the_hardest():
    torch.manual_seed(2)
    scores = torch.randn(5, 5, dtype=torch.float64)
    wrong = torch.nn.functional.softplus(scores).masked_fill(torch.eye(5, dtype=torch.bool), 0)
    right = 2 * torch.nn.functional.softplus(-scores.diag()).sum()
    first, loss = Gradual(sharpest=1e6, steps=1), Gradual(sharpest=1e6, steps=1)
    assert torch.allclose(first(scores), right + wrong.sum() / 4 * 2, rtol=0, atol=1e-10)
    loss(scores)
    assert torch.allclose(loss(scores), right + wrong.amax(0).sum() + wrong.amax(1).sum(), rtol=0, atol=1e-10)
