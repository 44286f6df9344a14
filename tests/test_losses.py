"Both losses against literal ones, their gradients, what they refuse; and the same as objects with settings."

import math
from dataclasses import FrozenInstanceError, dataclass

import literal_losses as literal
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from cmr.losses import (
    LOSSES,
    InfoNCE,
    Loss,
    MatchingBCE,
    Triplet,
    check_negatives,
    make_loss,
    matching_bce,
    positives,
    register_loss,
    triplet,
)

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
    one_image = torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="a batch of 3 with no negatives"): triplet(S, negatives=kind, same_image=one_image)


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
    same = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 1]])
    assert torch.equal(positives(S, same), same.bool())


@kinds
@pytest.mark.parametrize("seed", range(8))
def test_matching_bce_literally(kind, seed):
    logits, same = 4 * random(7, seed) - 2, shared(7, 4, seed)
    assert matching_bce(logits, kind, same).item() == pytest.approx(literal.matching_bce(logits, kind, same.tolist()), abs=1e-10)
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


@st.composite
def batches(draw):
    "Scores with ties (whole numbers) and pictures that some pairs share; two at least are told apart."
    image = draw(st.lists(st.integers(0, 3), min_size=2, max_size=6).filter(lambda found: len(set(found)) > 1))
    B = len(image)
    scores = draw(st.lists(st.integers(-3, 3), min_size=B * B, max_size=B * B))
    return torch.tensor(scores, dtype=torch.float64).view(B, B), torch.tensor(image)[:, None] == torch.tensor(image)


@settings(max_examples=60, deadline=None)
@given(batches())
def test_ties_and_shared_pictures(batch):
    scores, same = batch
    for kind in KINDS:
        assert triplet(scores, 0.5, kind, same).item() == pytest.approx(literal.triplet(scores, 0.5, kind, same.tolist()), abs=1e-10)
        assert matching_bce(scores, kind, same).item() == pytest.approx(literal.matching_bce(scores, kind, same.tolist()), abs=1e-10)
        for loss in (triplet, matching_bce):
            x = scores.clone().requires_grad_()
            loss(x, negatives=kind, same_image=same).backward()
            off = same & ~torch.eye(len(same), dtype=torch.bool)
            assert torch.isfinite(x.grad).all() and (x.grad[off] == 0).all() and (x.grad[~same] >= 0).all() and (x.grad.diag() <= 0).all()


@kinds
@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5])
def test_triplet_object_is_its_function(kind, margin):
    scores, same = random(7, 1), shared(7, 4, 1)
    loss = Triplet(margin, kind)
    assert torch.equal(loss(scores), triplet(scores, margin, kind))
    assert torch.equal(loss(scores, same), triplet(scores, margin, kind, same))
    assert gradcheck(lambda s: loss(s, same), scores.requires_grad_()) and gradcheck(lambda s: loss.warm_up(s, same), scores)


@kinds
def test_matching_object_is_its_function(kind):
    logits, same = 4 * random(7, 2) - 2, shared(7, 4, 2)
    loss = MatchingBCE(kind)
    assert torch.equal(loss(logits, same), matching_bce(logits, kind, same)) and torch.equal(loss(logits), matching_bce(logits, kind))
    assert torch.equal(loss.warm_up(logits, same), matching_bce(logits, "all", same))
    assert gradcheck(lambda z: loss.warm_up(z, same), logits.requires_grad_())


@kinds
def test_of_probability(kind):
    "CAMP Eq. 12 ranks m, the sigmoid of a logit: value and gradient."
    logits, same = (8 * random(6, 3) - 4).requires_grad_(), shared(6, 4, 3)
    loss = Triplet(0.3, kind, "probability")
    assert loss(logits, same).item() == pytest.approx(literal.triplet(logits.detach().sigmoid(), 0.3, kind, same.tolist()), abs=1e-10)
    assert gradcheck(lambda z: loss(z, same), logits)
    assert not torch.allclose(loss(logits, same), Triplet(0.3, kind)(logits, same))
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match="NaN or infinity"): loss(torch.tensor([[bad, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_are_widened_before_the_sigmoid(dtype):
    logits = (8 * torch.rand(32, 32, generator=torch.Generator().manual_seed(0))).to(dtype)
    loss = Triplet(of="probability")(logits)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(Triplet(of="probability")(logits.double()).item(), rel=1e-5)


@pytest.mark.parametrize("of", ["score", "probability"])
def test_warm_up_of_triplet(of):
    "All rivals over their number, so that it is on the scale of the hardest form; a loss over all rivals is there already."
    scores, same = random(8, 6), shared(8, 5, 6)
    values = scores.sigmoid() if of == "probability" else scores
    for mask in (None, same):
        everyone = literal.triplet(values, 0.3, "all", mask if mask is None else mask.tolist())
        assert Triplet(0.3, "hardest", of).warm_up(scores, mask).item() == pytest.approx(everyone / 7, abs=1e-10)
        assert Triplet(0.3, "all", of).warm_up(scores, mask).item() == pytest.approx(everyone, abs=1e-10)


SOME = [Triplet(), Triplet(0.7), Triplet(0.1, "all"), Triplet(0.4, of="probability"), Triplet(0.4, "all", "probability"),
        MatchingBCE(), MatchingBCE("all")]


@pytest.mark.parametrize("loss", SOME, ids=repr)
@pytest.mark.parametrize("batch", [2, 5, 32])
def test_standstill(loss, batch):
    "Where all scores are equal a pair pays the standstill; the warm-up stands at the same level."
    equal = torch.zeros(batch, batch, dtype=torch.float64)
    assert loss.standstill(batch) == pytest.approx(loss(equal).item() / batch, rel=1e-6)
    assert loss.warm_up(equal).item() / batch == pytest.approx(loss.standstill(batch), rel=1e-6)
    if isinstance(loss, Triplet): assert loss(equal + 3).item() / batch == pytest.approx(loss.standstill(batch), rel=1e-6)


def test_standstill_by_hand():
    assert Triplet(0.2).standstill(128) == pytest.approx(0.4) and Triplet(0.2, "all").standstill(128) == pytest.approx(0.4 * 127)
    assert MatchingBCE().standstill(7) == pytest.approx(4 * math.log(2)) == MatchingBCE("all").standstill(99)


@pytest.mark.parametrize("margin", [-0.1, math.inf, -math.inf, math.nan])
def test_margins_that_are_refused(margin):
    with pytest.raises(ValueError, match="margin=.*from 0 up"): Triplet(margin)


def test_settings_that_are_refused():
    for name in ("hard", "", None, "ALL"):
        for make in (check_negatives, lambda name: Triplet(negatives=name), MatchingBCE):
            with pytest.raises(ValueError, match='choose "hardest" or "all"'): make(name)
    for of in ("logit", "", None, "Score"):
        with pytest.raises(ValueError, match='choose "score" or "probability"'): Triplet(of=of)
    with pytest.raises(FrozenInstanceError): Triplet().margin = 0.5
    assert Triplet() == Triplet(0.2, "hardest", "score") != Triplet(0.3) and len({Triplet(), Triplet(0.2), MatchingBCE()}) == 2


@pytest.mark.parametrize("seed", range(4))
def test_info_nce_literally(seed):
    z, same = 4 * random(6, seed) - 2, shared(6, 4, seed)
    for t in (.1, 1, 2): assert InfoNCE(t)(z, same).item() == pytest.approx(literal.info_nce(z, t, same.tolist()), rel=1e-10)


def test_gradients_of_info_nce():
    same = shared(5, 3, 1)
    assert gradcheck(lambda z: InfoNCE(.5)(z, same), (random(5, 1).requires_grad_(),))


def test_info_nce_without_rivals_in_a_row_and_with_huge_scores():
    loss = InfoNCE()
    same = torch.eye(3, dtype=torch.bool)
    same[0] = same[:, 0] = True
    z = (1e3 * random(3, 3)).requires_grad_()
    value = loss(z, same)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()
    with pytest.raises(ValueError, match="no negatives"): loss(z, torch.ones(3, 3, dtype=torch.bool))


def test_standstill_of_info_nce():
    assert InfoNCE(.3).standstill(7) == pytest.approx(2 * math.log(7))


def test_make_loss():
    assert make_loss("triplet") == Triplet() and make_loss("matching_bce") == MatchingBCE()
    assert make_loss("triplet", margin=0.1, negatives="all", of="probability") == Triplet(0.1, "all", "probability")
    with pytest.raises(ValueError, match="unknown loss 'hinge': choose one of info_nce, matching_bce, .*triplet"): make_loss("hinge")
    with pytest.raises(ValueError, match="the loss matching_bce has no margin: it has negatives"): make_loss("matching_bce", margin=0.2)
    with pytest.raises(ValueError, match="has no of_, tau: it has margin, negatives, of"): make_loss("triplet", tau=1, of_="score")
    with pytest.raises(ValueError, match='choose "hardest" or "all"'): make_loss("triplet", negatives="some")
    with pytest.raises(ValueError, match="margin=-1"): make_loss("triplet", margin=-1)


@pytest.fixture
def no_more_losses():
    "What a test registers is forgotten after it."
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)


@pytest.mark.usefixtures("no_more_losses")
def test_a_loss_of_ones_own():
    "A class with a value of its own has a warm-up, a standstill and a name; without settings it needs to be no dataclass."
    @register_loss("lead")
    class Lead(Loss):
        def __call__(self, scores, same_image=None): return (1 - scores.diag()).sum()

    loss = make_loss("lead")
    assert isinstance(loss, Lead) and loss.standstill(6) == pytest.approx(1.0)
    assert torch.equal(loss.warm_up(S), loss(S)) and loss(S).item() == pytest.approx(1.2)
    with pytest.raises(ValueError, match="the loss lead has no margin"): make_loss("lead", margin=0.2)
    with pytest.raises(NotImplementedError, match=r"Loss must define __call__\(scores, same_image\)"): Loss()(S)


@pytest.mark.usefixtures("no_more_losses")
def test_a_second_loss_of_one_name_is_refused():
    before = LOSSES["triplet"]

    def write(name, doc, module):
        return dataclass(frozen=True)(type(name, (Loss,), {"__doc__": doc, "__module__": module, "__qualname__": name}))

    for cls in (write("Mine", "Mine.", "__main__"), write("Triplet", "A reader's own.", "__main__")):
        with pytest.raises(ValueError, match="a loss 'triplet' is there already: choose another name"): register_loss("triplet")(cls)
    assert LOSSES["triplet"] is before
    for _ in range(2): register_loss("mine")(write("Mine", "Its cell is run again, changed or not.", "__main__"))
    again = write("Triplet", before.__doc__, "__main__")                      # the chapter that writes the package's own class
    assert register_loss("triplet")(again) is again


def test_the_packages_loss_written_again_by_its_chapter_is_no_rival():
    again = type("Triplet", (Triplet,), {"__module__": "chapter", "__doc__": Triplet.__doc__, "__qualname__": "Triplet"})
    assert register_loss("triplet")(again) is again and LOSSES["triplet"] is Triplet


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature=.*above 0"): make_loss("info_nce", temperature=temperature)
