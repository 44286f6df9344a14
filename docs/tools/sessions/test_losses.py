"Given tests of session 3: chapter 6."

import math

import pytest
import torch
from adapters import InfoNCE, MatchingBCE, Triplet, check_negatives, make_loss, matching_bce, positives, triplet

from cmr.exercise import close

S = torch.tensor([[.6, .5, .1], [.4, .3, .2], [.0, .1, .9]], dtype=torch.float64)  # a row an image, a column a caption
SAME = torch.eye(3, dtype=torch.bool) | torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
NEGATIVE, SCORES = -S, torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()


def by_loop(scores, margin, negatives, same):
    total, n = 0., len(scores)
    for b in range(n):
        for costs in ([margin - scores[b, b] + scores[b, k] for k in range(n) if not same[b, k]],
                      [margin - scores[b, b] + scores[k, b] for k in range(n) if not same[k, b]]):
            costs = [max(float(cost), 0.) for cost in costs]
            if costs: total += max(costs) if negatives == "hardest" else sum(costs)
    return total


def test_positives():
    "the diagonal, and what same_image adds"
    close(positives(S), torch.eye(3)); close(positives(S, SAME), SAME)


def test_positives__refused():
    "scores that are no square, that hold nan, or that leave nobody a rival: ValueError"
    for bad in (S[:2], torch.where(S > .8, torch.nan, S), torch.where(S > .8, torch.inf, S)):
        with pytest.raises(ValueError): positives(bad)
    for same in (torch.ones(3, 3).bool(), SAME[:2]):
        with pytest.raises(ValueError): positives(S, same)


def test_check_negatives():
    "two words are known, any other is a ValueError"
    check_negatives("hardest"); check_negatives("all")
    with pytest.raises(ValueError): check_negatives("hard")


def test_triplet():
    "by hand: rows cost 0.1, 0.3 and 0, columns 0, 0.4 and 0"
    close(triplet(S, .2), .1 + .3 + .4)


def test_triplet__loop():
    "both forms, scores of both signs, against a loop over queries and rivals"
    for scores in (S, NEGATIVE, SCORES):
        for negatives in ("hardest", "all"): close(triplet(scores, .3, negatives), by_loop(scores, .3, negatives, torch.eye(len(scores))), 1e-9)


def test_triplet__same_image():
    "two captions of one picture are never rivals"
    close(triplet(S, .2, same_image=SAME), by_loop(S, .2, "hardest", SAME), 1e-9)
    close(triplet(S, .2, "all", SAME), by_loop(S, .2, "all", SAME), 1e-9)


def test_triplet__unknown():
    "an unknown kind of negatives: ValueError"
    with pytest.raises(ValueError): triplet(S, .2, "some")


def test_Triplet():
    "the same as an object with its settings; its warm-up form is the mean over all rivals"
    close(Triplet(margin=.3)(SCORES), by_loop(SCORES, .3, "hardest", torch.eye(5)), 1e-9)
    close(Triplet(margin=.3).warm_up(SCORES), by_loop(SCORES, .3, "all", torch.eye(5)) / 4, 1e-9)
    close(Triplet(margin=.3, of="probability")(SCORES), by_loop(SCORES.sigmoid(), .3, "hardest", torch.eye(5)), 1e-9)
    close(Triplet(margin=.2).standstill(8), .4)


def test_Triplet__refused():
    "a negative margin, or a word that nobody knows: ValueError"
    for settings in ({"margin": -.1}, {"margin": math.inf}, {"negatives": "some"}, {"of": "logit"}):
        with pytest.raises(ValueError): Triplet(**settings)


def bce_by_loop(z, negatives, same):
    total, n = 0., len(z)
    for b in range(n):
        total += 2 * math.log1p(math.exp(-z[b, b]))
        for others in ([z[b, k] for k in range(n) if not same[b, k]], [z[k, b] for k in range(n) if not same[k, b]]):
            costs = [math.log1p(math.exp(x)) for x in others]
            if costs: total += max(costs) if negatives == "hardest" else sum(costs) / len(costs)
    return total


def test_matching_bce():
    "Eq. 14 with its minus sign: the right pair counts twice, then the hardest rival of each side"
    close(matching_bce(SCORES), bce_by_loop(SCORES, "hardest", torch.eye(5)), 1e-9)


def test_matching_bce__all():
    "the mean over all rivals, and two captions of one picture that are none"
    for negatives in ("hardest", "all"):
        close(matching_bce(SCORES, negatives), bce_by_loop(SCORES, negatives, torch.eye(5)), 1e-9)
        close(matching_bce(S, negatives, SAME), bce_by_loop(S, negatives, SAME), 1e-9)


def test_matching_bce__far():
    "logits of 200: no infinity, and the slope is still there"
    z = torch.tensor([[-200., 200.], [0., 3.]], dtype=torch.float64, requires_grad=True)
    loss = matching_bce(z)
    loss.backward()
    assert loss.isfinite(), "the loss of a logit of 200 is not finite: take softplus, not the logarithm of a sigmoid"
    close(z.grad[0], [-2., 2.], 1e-6)


def test_MatchingBCE():
    "as an object; warm-up with all rivals; at a standstill four times log 2"
    close(MatchingBCE()(SCORES), bce_by_loop(SCORES, "hardest", torch.eye(5)), 1e-9)
    close(MatchingBCE().warm_up(SCORES), bce_by_loop(SCORES, "all", torch.eye(5)), 1e-9)
    close(MatchingBCE().standstill(7), 4 * math.log(2))
    close(MatchingBCE()(S, SAME), bce_by_loop(S, "hardest", SAME), 1e-9)


def test_InfoNCE():
    "cross-entropy over rows and over columns; another caption of the same picture is out of the sum"
    target = torch.arange(5)
    expected = sum(torch.nn.functional.cross_entropy(z / .5, target, reduction="sum") for z in (SCORES, SCORES.T))
    close(InfoNCE(.5)(SCORES), expected, 1e-9)
    kept = S.masked_fill(SAME & ~torch.eye(3).bool(), -torch.inf)
    expected = sum(torch.nn.functional.cross_entropy(z, torch.arange(3), reduction="sum") for z in (kept, kept.T))
    close(InfoNCE()(S, SAME), expected, 1e-9)


def test_make_loss():
    "a loss by its name, with its settings; unknown names and settings are a ValueError"
    assert make_loss("triplet", margin=.5).margin == .5
    for name, settings in (("tripled", {}), ("triplet", {"margins": .5})):
        with pytest.raises(ValueError): make_loss(name, **settings)
