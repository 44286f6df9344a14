"The triplet loss against a literal one, its gradient, and what it must refuse."

import math

import literal_losses as literal
import pytest
import torch
from torch.autograd import gradcheck

from cmr.losses import matching_bce, positives, triplet

S = torch.tensor([[0.60, 0.45, 0.20], [0.30, 0.70, 0.65], [0.45, 0.35, 0.50]])
KINDS = ["hardest", "all"]
kinds = pytest.mark.parametrize("kind", KINDS)


def random(batch, seed): return torch.rand(batch, batch, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shared(batch, images, seed):
    image = torch.randint(0, images, (batch,), generator=torch.Generator().manual_seed(seed))
    return image[:, None] == image


def test_by_hand():
    assert triplet(S).item() == pytest.approx(0.05 + 0.15 + 0.15 + 0.05 + 0.35, abs=1e-6)
    assert triplet(S, negatives="all").item() == pytest.approx(0.80, abs=1e-6)
    assert triplet(S, margin=0.0).item() == pytest.approx(0.15, abs=1e-6)
    image = torch.tensor([0, 1, 1])
    assert triplet(S, same_image=image[:, None] == image).item() == pytest.approx(0.25, abs=1e-6)


@kinds
@pytest.mark.parametrize("seed", range(12))
def test_literal(kind, seed):
    scores, same = random(7, seed), shared(7, 4, seed)
    for mask in (None, same):
        for margin in (0.0, 0.2, 1.5):
            expected = literal.triplet(scores, margin, kind, mask if mask is None else mask.tolist())
            assert triplet(scores, margin, kind, mask).item() == pytest.approx(expected, abs=1e-10)


@kinds
def test_gradcheck(kind):
    scores, same = random(5, 3).requires_grad_(), shared(5, 3, 3)
    assert gradcheck(lambda s: triplet(s, 0.2, kind), scores) and gradcheck(lambda s: triplet(s, 0.2, kind, same), scores)


@kinds
def test_order_and_sides(kind):
    scores, same = random(8, 4), shared(8, 5, 4)
    expected = triplet(scores, 0.2, kind, same)
    order = torch.randperm(8)
    assert torch.allclose(triplet(scores[order][:, order], 0.2, kind, same[order][:, order]), expected)
    assert torch.allclose(triplet(scores.T, 0.2, kind, same.T), expected)
    assert torch.allclose(triplet(scores + 5, 0.2, kind, same), expected)                      # only differences matter


@kinds
def test_positives_are_never_pushed_down(kind):
    scores, same = random(6, 5).requires_grad_(), shared(6, 3, 5)
    triplet(scores, 5.0, kind, same).backward()                                               # a margin that nobody reaches
    assert (scores.grad[same] <= 0).all() and (scores.grad[~same] >= 0).all()
    off = same & ~torch.eye(6, dtype=torch.bool)
    assert off.any() and (scores.grad[off] == 0).all() and scores.grad.sum().abs() < 1e-12


def test_two_captions_of_one_image_are_not_rivals():
    "The second caption of an image scores best of all: without the mask it is the hardest rival, with it nothing is paid."
    scores = torch.tensor([[0.9, 0.95, 0.1], [0.9, 0.95, 0.1], [0.1, 0.1, 0.9]])
    image = torch.tensor([4, 4, 9])
    assert triplet(scores, same_image=image[:, None] == image).item() == 0 and triplet(scores).item() > 0.4


@kinds
def test_some_without_rivals(kind):
    chain = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]).bool()
    scores = S.clone().requires_grad_()
    loss = triplet(scores, 0.2, kind, chain)
    loss.backward()
    assert loss.item() == pytest.approx(0.20, abs=1e-6) and torch.isfinite(scores.grad).all() and (scores.grad[1] == 0).all()


@kinds
def test_collapse_value(kind):
    "Equal scores cost the margin for every term: 2 x margin x B with the hardest, B - 1 times that with all."
    loss = triplet(torch.full((16, 16), 0.3, dtype=torch.float64), 0.2, kind)
    assert loss.item() == pytest.approx(2 * 0.2 * 16 * (1 if kind == "hardest" else 15))


@kinds
def test_content_batch(kind):
    scores = torch.eye(4).requires_grad_()
    loss = triplet(scores, 0.2, kind)
    loss.backward()
    assert loss.item() == 0 and (scores.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@kinds
def test_sixteen_bits(dtype, kind):
    scores = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    loss = triplet(scores, 0.2, kind)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(literal.triplet(scores.detach().double(), 0.2, kind), rel=1e-5)
    assert torch.isfinite(scores.grad).all() and scores.grad.dtype == dtype


@kinds
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [(0, 0), (1, 2)])
def test_not_finite_is_refused(kind, bad, where):
    scores = S.clone()
    scores[where] = bad
    with pytest.raises(ValueError, match="NaN or infinity: look at"): triplet(scores, negatives=kind)


@kinds
def test_no_negatives(kind):
    with pytest.raises(ValueError, match="a batch of 1 with no negatives"): triplet(torch.ones(1, 1), negatives=kind)
    with pytest.raises(ValueError, match="a batch of 3 with no negatives"): triplet(S, negatives=kind, same_image=torch.ones(3, 3, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 2, 2)])
def test_not_square(shape):
    with pytest.raises(ValueError, match="square"): triplet(torch.zeros(shape))


def test_bad_arguments():
    for name in ("hard", "", None, "ALL"):
        with pytest.raises(ValueError, match='choose "hardest" or "all"'): triplet(S, negatives=name)
    with pytest.raises(ValueError, match="must agree"): triplet(S, same_image=torch.ones(2, 2, dtype=torch.bool))


def test_positives():
    assert torch.equal(positives(S), torch.eye(3, dtype=torch.bool))
    assert positives(S, torch.zeros(3, 3, dtype=torch.bool)).diag().all()
    assert torch.equal(positives(S, torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 1]])), torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 1]]).bool())


def bce_literally(logits, negatives, same):
    "CAMP Eq. 14 with its minus sign, one pair at a time, in probabilities."
    m, B, total = logits.sigmoid().tolist(), range(len(logits)), 0.0
    for b in B:
        total -= 2 * math.log(m[b][b])
        for rivals in ([m[b][c] for c in B if c != b and not same[b][c]], [m[i][b] for i in B if i != b and not same[i][b]]):
            costs = [-math.log(1 - r) for r in rivals]
            if costs: total += max(costs) if negatives == "hardest" else sum(costs) / len(costs)
    return total


@kinds
@pytest.mark.parametrize("seed", range(8))
def test_matching_bce_literally(kind, seed):
    logits, same = 4 * random(7, seed) - 2, shared(7, 4, seed)
    assert matching_bce(logits, kind, same).item() == pytest.approx(bce_literally(logits, kind, same.tolist()), abs=1e-10)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(matching_bce(logits[order][:, order], kind, same[order][:, order]), matching_bce(logits, kind, same))
    assert gradcheck(lambda z: matching_bce(z, kind, same), logits.requires_grad_())


def test_matching_bce_keeps_gradients_where_a_clamp_kills_them():
    logits = torch.tensor([[-40.0, 35.0], [0.0, 3.0]], requires_grad=True)
    matching_bce(logits).backward()
    assert logits.grad[0, 0] == pytest.approx(-2, abs=1e-6) and logits.grad[0, 1] == pytest.approx(2, abs=1e-6)


@kinds
def test_matching_bce_refuses_what_it_cannot_use(kind):
    with pytest.raises(ValueError, match="NaN or infinity"): matching_bce(torch.tensor([[math.inf, 0.0], [0.0, 1.0]]), kind)
    with pytest.raises(ValueError, match="no negatives"): matching_bce(torch.zeros(1, 1), kind)
    with pytest.raises(ValueError, match='"hardest" or "all"'): matching_bce(S, "some")
    chain = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]).bool()      # the middle pair has no rival
    logits = S.clone().requires_grad_()
    matching_bce(logits, kind, chain).backward()
    assert torch.isfinite(logits.grad).all() and (logits.grad[1] != 0).sum() == 1
