"The yardstick against a literal one, and against everything that has fooled others."

import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from math import comb, erf, pi, sqrt

import literal_recall as literal
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr.data.answers import as_array, check_image_of_caption, check_scores, fold, right_pairs, row_blocks
from cmr.recall import (
    RECALLS,
    Comparison,
    Report,
    compare,
    hits,
    intervals,
    ranks,
    recall_at,
    recalls,
    report,
    resample,
    signs,
    times_taken,
)

HAND = np.array([[0.90, 0.20, 0.40, 0.10, 0.30], [0.50, 0.60, 0.55, 0.20, 0.10], [0.30, 0.70, 0.20, 0.65, 0.60]])
OWNERS = np.array([0, 0, 1, 2, 2])


def world(seed, images=None, tied=True):
    "Scores full of ties, or none, and one to six captions an image, in any order."
    rng = np.random.default_rng(seed)
    images = images or int(rng.integers(1, 15))
    owners = rng.permutation(np.repeat(np.arange(images), rng.integers(1, 7, images)))
    shape = (images, len(owners))
    return (rng.integers(-2, 3, shape) if tied else rng.standard_normal(shape)).astype(np.float32), owners


def test_by_hand():
    text, image = ranks(HAND, OWNERS)
    assert text.tolist() == [0, 1, 1] and image.tolist() == [0, 2, 0, 0, 0]
    r = report(HAND, OWNERS)
    assert r.text_r1 == pytest.approx(100 / 3) and r.image_r1 == 80 and r.rsum == pytest.approx(100 / 3 + 480)
    assert (r.text_median, r.image_median, r.text_mean, r.image_mean) == pytest.approx((2, 1, 5 / 3, 7 / 5))
    assert [recall_at(image, k) for k in (1, 2, 3)] == [80, 80, 100]


@given(captions=st.lists(st.integers(1, 6), min_size=1, max_size=14), tied=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_literal(captions, tied, seed):
    "Any number of images, one to six captions each in any order, scores with and without ties."
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.repeat(np.arange(len(captions)), captions))
    shape = (len(captions), len(owners))
    scores = rng.integers(-2, 3, shape).astype(np.float32) if tied else rng.standard_normal(shape, np.float32)
    text, image = ranks(scores, owners)
    assert (text.tolist(), image.tolist()) == literal.ranks(scores, owners)
    found = asdict(report(scores, owners, draws=0))
    assert found.pop("intervals") is None and found == pytest.approx(literal.report(scores, owners))


@pytest.mark.parametrize("make", [np.asarray, lambda a: a.astype(np.float64), lambda a: a.astype(np.float16), lambda a: a.astype(np.int8),
                                  np.asfortranarray, torch.tensor, lambda a: torch.tensor(a).bfloat16(), lambda a: torch.tensor(a).half(),
                                  lambda a: torch.tensor(a, requires_grad=True), lambda a: torch.tensor(a).T.contiguous().T])
def test_any_kind_of_matrix(make):
    scores, owners = world(3, images=9)
    for own in (owners, owners.astype(np.int32), torch.tensor(owners), owners.tolist()):
        assert report(make(scores), own) == report(scores, owners)


def test_read_only_file(tmp_path):
    scores, owners = world(4, images=6)
    np.save(tmp_path / "scores.npy", scores)
    assert report(np.load(tmp_path / "scores.npy", mmap_mode="r"), owners) == report(scores, owners)


def test_blocks_change_nothing(monkeypatch):
    scores, owners = world(5, images=14)
    whole = ranks(scores, owners)
    for cells in (1, 50, 100):
        monkeypatch.setattr(row_blocks, "__defaults__", (cells,))
        assert sum(1 for _ in row_blocks(scores)) > 1
        assert all(np.array_equal(a, b) for a, b in zip(ranks(scores, owners), whole, strict=True))
    scores[-1, -1] = np.nan
    with pytest.raises(ValueError, match=rf"scores\[13, {len(owners) - 1}\] is nan"): check_scores(scores)


def test_order_of_captions_and_images():
    scores, owners = world(6, images=10)
    text, image = ranks(scores, owners)
    rng = np.random.default_rng(0)
    captions, images = rng.permutation(len(owners)), rng.permutation(10)
    moved_text, moved_image = ranks(scores[images][:, captions], np.argsort(images)[owners[captions]])
    assert np.array_equal(moved_text, text[images]) and np.array_equal(moved_image, image[captions])


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_a_constant_matrix_is_no_better_than_chance(value):
    owners = np.arange(500) // 5
    for scores in (np.full((100, 500), value, np.float32), torch.full((100, 500), value)):
        r = report(scores, owners)
        assert [r.text_r1, r.text_r5, r.text_r10, r.image_r1, r.image_r5, r.image_r10, r.rsum] == [0] * 7
        assert (r.text_median, r.image_median) == (496, 100)
        assert report(scores, owners, folds=5).rsum == 0


def test_ties_with_other_images_count_and_own_ones_do_not():
    owners = np.array([0, 0, 1])
    assert ranks(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), owners)[0].tolist() == [0, 0]
    assert ranks(np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), owners)[0].tolist() == [1, 0]
    assert ranks(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]), owners)[1].tolist() == [1, 1, 0]


def test_rounding_to_few_values_never_helps():
    "A model that gives coarse scores, as in 16 bits, gains nothing by its ties."
    rng = np.random.default_rng(1)
    owners = np.arange(250) // 5
    fine = rng.standard_normal((50, 250)) + 2 * (owners == np.arange(50)[:, None])
    for steps in (20, 4, 1):
        coarse = np.floor(fine * steps) / steps
        kept = report(coarse, owners), report(fine, owners)
        greater = (coarse > coarse[owners, np.arange(250)]).sum(0)       # the rule that forgives ties
        assert kept[0].image_r1 <= recall_at(greater, 1)
        assert kept[0].rsum <= kept[1].rsum + 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (1, 4), (2, 2)])
def test_not_finite_is_refused(bad, where):
    scores = HAND.copy()
    scores[where] = bad
    for made in (scores, scores.astype(np.float32), torch.tensor(scores), torch.tensor(scores).half()):
        for ask in (check_scores, lambda s: ranks(s, OWNERS), lambda s: report(s, OWNERS), lambda s: report(s, OWNERS, folds=3)):
            with pytest.raises(ValueError, match=r"scores\[\d, \d\] is -?(nan|inf)"): ask(made)


@pytest.mark.parametrize(("owners", "said"), [
    (OWNERS[:4], "names 4 captions, scores have 5 columns"), (OWNERS + 1, "images 1 to 3"), (OWNERS - 1, "images -1 to 1"),
    (OWNERS / 1, "integers"), (OWNERS[:, None], "integers"),
    ([0, 0, 0, 2, 2], "1 images have no caption, the first is image 1"), ([], "integers")])
def test_bad_owners(owners, said):
    for ask in (lambda: ranks(HAND, owners), lambda: report(HAND, owners), lambda: check_image_of_caption(owners, HAND.shape)):
        with pytest.raises(ValueError, match=said): ask()


@pytest.mark.parametrize("scores", [HAND[0], HAND[None], HAND[:0], HAND[:, :0]])
def test_bad_shapes(scores):
    for ask in (check_scores, lambda s: ranks(s, OWNERS), lambda s: report(s, OWNERS), lambda s: report(s, OWNERS, folds=2)):
        with pytest.raises(ValueError, match="must be a matrix"): ask(scores)


@pytest.mark.parametrize(("scores", "kind"), [(HAND.tolist(), "list"), (None, "NoneType"), (HAND * 1j, "complex128"), (torch.tensor(HAND * 1j), "torch.complex128"),
                                              (HAND.astype(object), "object"), (HAND.astype(str), "<U")])
def test_scores_are_real_numbers(scores, kind):
    for ask in (check_scores, lambda s: report(s, OWNERS), lambda s: report(s, OWNERS, folds=2)):
        with pytest.raises(ValueError, match=f"array or a tensor of real numbers; got {kind}"): ask(scores)
    for good in (HAND > 0, HAND.astype("uint8"), torch.tensor(HAND).bfloat16()): check_scores(good)


@pytest.mark.parametrize("folds", [0, -1, 2, 4])
def test_folds_that_do_not_divide(folds):
    with pytest.raises(ValueError, match=f"{folds} folds don't divide 3 images"): report(HAND, OWNERS, folds=folds)


@pytest.mark.parametrize("shuffled", [False, True])
def test_folds_are_reports_of_their_own(shuffled):
    scores, owners = world(8, images=12, tied=False)
    if not shuffled: owners = np.sort(owners)
    single = []
    for first in range(0, 12, 4):
        own = [c for c, image in enumerate(owners) if first <= image < first + 4]
        single.append(literal.report(scores[first:first + 4][:, own], [owners[c] - first for c in own]))
    folded = asdict(report(scores, owners, folds=3))
    assert list(folded.pop("intervals")) == list(RECALLS)
    assert folded == pytest.approx({key: sum(r[key] for r in single) / 3 for key in folded})
    parts = ("text_r1", "text_r5", "text_r10", "image_r1", "image_r5", "image_r10")
    assert folded["rsum"] == pytest.approx(sum(folded[key] for key in parts))
    part, _ = fold(scores, np.sort(owners), 4, 4)
    assert np.shares_memory(part, scores)


def test_one_image():
    r = report(np.zeros((1, 3)), [0, 0, 0])
    assert r.rsum == 600 and r.text_median == r.image_median == 1


def test_fields_and_table():
    names = [f"{side}_r{k}" for side in ("text", "image") for k in (1, 5, 10)]
    assert list(asdict(report(HAND, OWNERS))) == [*names, "rsum", "text_median", "image_median", "text_mean", "image_mean", "intervals"]
    shown = str(Report(*range(1, 12)))
    assert shown.count("\n") == 3 and "R@sum 7.0" in shown
    assert all(word in shown for word in ("text retrieval", "image retrieval", "median", "mean"))
    found = asdict(report(torch.tensor(HAND), OWNERS, folds=1))
    ends = [end for pair in found.pop("intervals").values() for end in pair]
    assert len(ends) == 14 and all(type(v) is float for v in (*found.values(), *ends))


def test_the_table_with_intervals():
    "The same lines, with the interval behind each recall, in print behind R@sum; without intervals nothing is behind it."
    found = report(HAND, OWNERS)
    low, high = found.intervals["image_r1"]
    assert f"80.0 [{low:.1f}, {high:.1f}]" in found.table() and found.table().count("[") == 7 and found.table().count("\n") == 3
    plain = replace(found, intervals=None)
    assert "[" not in plain.table() and plain.table().split() == str(plain).split()
    low, high = found.intervals["rsum"]
    assert str(found).split() == [*str(plain).split(), f"[{low:.1f},", f"{high:.1f}]"]                   # printed, R@sum has its own
    assert pickle.loads(pickle.dumps(found)) == found == plain and pickle.loads(pickle.dumps(found)).intervals == found.intervals
    assert hash(found) == hash(plain)


def test_as_array_copies_nothing():
    t = torch.zeros(3, 4)
    assert np.shares_memory(as_array(t), t.numpy()) and np.shares_memory(as_array(HAND), HAND)


# several right images for a caption

@given(captions=st.lists(st.integers(1, 4), min_size=2, max_size=9), tied=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_several_right_images(captions, tied, seed):
    "A truth table, lists and sets agree with the literal reading; one right image each is the usual way, to the bit."
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.repeat(np.arange(len(captions)), captions))
    shape = (len(captions), len(owners))
    scores = rng.integers(-2, 3, shape).astype(np.float32) if tied else rng.standard_normal(shape, np.float32)
    table = (rng.random(shape) < 0.3) | (np.arange(len(captions))[:, None] == owners)
    lists = [[owner, *(i for i in np.flatnonzero(table[:, c]).tolist() if i != owner)] for c, owner in enumerate(owners.tolist())]
    for given_as in (table, torch.tensor(table), lists, list(map(set, lists))):
        assert tuple(r.tolist() for r in ranks(scores, given_as)) == literal.ranks_of_several(scores, list(map(set, lists)))
    alone = np.arange(len(captions))[:, None] == owners
    assert report(scores, alone) == report(scores, [[int(owner)] for owner in owners]) == report(scores, owners)
    assert report(scores, alone).intervals == report(scores, owners).intervals
    assert report(scores, table, draws=0).image_r1 >= report(scores, owners, draws=0).image_r1                # more answers are right


def test_captions_are_counted_with_their_first_right_image():
    counted = [hits(HAND, [[0], own, [1], [2], [2]])[0, :, 6].tolist() for own in ([0, 1], [1, 0])]
    assert counted == [[2, 1, 2], [1, 2, 2]]


@pytest.mark.parametrize(("right", "said"), [
    ([[0], [], [1], [2], [2]], "1 captions have no right answer, the first is 1"), ([[0], [0], [0], [2], [2]], "1 images have no right answer"),
    ([[0], [3], [1], [2], [2]], r"image_of_caption\[1\] holds 3: images are integers, 0 to 2"), ([[0], [-1], [1], [2], [2]], "holds -1"),
    ([[0], [0.0], [1], [2], [2]], "holds 0.0"), ([[0], [True], [1], [2], [2]], "holds True"), ([[0], [0, 0], [1], [2], [2]], "stands twice"),
    ([[0], [0], [1], [2]], r"\(3, 4\), scores are \(3, 5\)"), (np.ones((5, 3), bool), r"\(5, 3\), scores are \(3, 5\)"),
    (np.ones(5, bool), r"\(5,\)"), (np.zeros((3, 5), bool), "3 images have no right answer")])
def test_bad_right_images(right, said):
    for ask in (ranks, report, lambda scores, right: right_pairs(right, scores.shape)):
        with pytest.raises(ValueError, match=said): ask(HAND, right)


def test_folds_would_part_right_images():
    with pytest.raises(ValueError, match="3 folds would part a caption"): report(HAND, [[0], [0, 1], [1], [2], [2]], folds=3)


# how sure a recall is

@pytest.mark.parametrize("folds", [1, 3])
def test_a_sample_of_images_takes_their_captions_along(folds):
    scores, owners = world(11, images=12)
    found, rng = hits(scores, owners, folds), np.random.default_rng(0)
    weights = rng.multinomial(12 // folds, np.full(12 // folds, folds / 12), (4, folds))
    for row, taken in zip(recalls(found, weights), weights.reshape(4, 12).tolist(), strict=True):
        parts, n = [], 12 // folds
        for first in range(0, 12, n):
            own = [c for c, image in enumerate(owners) if first <= image < first + n]
            part = literal.ranks(scores[first:first + n][:, own], [owners[c] - first for c in own])
            parts.append(literal.recalls(part, [owners[c] - first for c in own], taken[first:first + n]))
        assert row == pytest.approx(np.mean(parts, axis=0))
    whole = report(scores, owners, folds)
    assert recalls(found, np.ones((1, folds, 12 // folds)))[0] == pytest.approx([getattr(whole, name) for name in RECALLS])
    assert whole.intervals == intervals(found) and all(low <= high for low, high in whole.intervals.values())


def test_samples_are_of_the_right_size_and_repeat():
    found = hits(*world(12, images=8))
    assert np.array_equal(resample(found, 50, seed=3), resample(found, 50, seed=3)) and not np.array_equal(resample(found, 50), resample(found, 50, 1))
    ones = np.ones((2, 4, 7))                                              # always a hit: 100 in each sample, so no image is lost or doubled
    assert (resample(ones, 20) == [100] * 6 + [600]).all() and intervals(ones)["rsum"] == [600, 600]


def test_draws():
    "Each sample has as many images as its fold, whatever the block; coins are fair and stand alone."
    rng = np.random.default_rng(0)
    taken, coins = times_taken(rng, (300, 2, 7)), signs(rng, (300, 2, 7))
    assert (taken.sum(-1) == 7).all() and taken.shape == (300, 2, 7) and set(np.unique(coins)) == {-1, 1}
    assert np.abs(taken.mean(0) - 1).max() < 4 * sqrt((1 - 1 / 7) / 300) and np.abs(coins.mean(0)).max() < 4 / sqrt(300)


@pytest.mark.parametrize("folds", [1, 2])
def test_p_is_the_share_of_all_swaps(folds):
    "Ten thousand random swaps against all 2^10, four standard errors wide. Folds: hits or scores, the same."
    scores, owners = world(13, images=10, tied=False)
    other = scores + np.random.default_rng(1).standard_normal(scores.shape).astype(np.float32)
    found, reports = compare(scores, other, owners, folds), [report(x, owners, folds, draws=0) for x in (scores, other)]
    assert found == compare(hits(scores, owners, folds), hits(other, owners, folds)) and list(found) == list(RECALLS)
    assert [x.difference for x in found.values()] == pytest.approx([getattr(reports[0], name) - getattr(reports[1], name) for name in RECALLS])
    if folds > 1: return
    true = literal.p_of_every_swap(literal.ranks(scores, owners), literal.ranks(other, owners), owners.tolist())
    for x, p in zip(found.values(), true, strict=True): assert abs(x.p - p) <= 4 * sqrt(p * (1 - p) / 10_000) + 1e-4


def test_effect_size_is_the_mean_by_the_standard_deviation():
    "Of single images' differences, as the bootstrap sees them; every image here has as many captions."
    owners, rng = np.arange(600) // 3, np.random.default_rng(0)
    a, b = (rng.standard_normal((200, 600)) + signal * (owners == np.arange(200)[:, None]) for signal in (2.5, 2.0))
    each = (hits(a, owners) - hits(b, owners))[0, :, :6] / [1, 1, 1, 3, 3, 3]
    each = np.concatenate([each, each.sum(1, keepdims=True)], 1)
    assert [x.d for x in compare(a, b, owners).values()] == pytest.approx(each.mean(0) / each.std(0), rel=0.04)  # 1 / sqrt(2 * 10,000) is 0.7%


def test_a_difference_that_no_image_doubts_has_no_finite_effect_size():
    all_right = np.eye(8)
    found = compare(all_right, -all_right, np.arange(8))
    assert found["text_r1"].difference == 100 and found["text_r1"].d == np.inf and compare(-all_right, all_right, np.arange(8))["rsum"].d == -np.inf
    assert all(x.d == 0 for x in compare(all_right, all_right, np.arange(8)).values())


def test_the_difference_of_a_model_and_itself():
    scores, owners = world(14, images=9)
    same = compare(scores, scores, owners, draws=200)
    assert all((x.difference, x.low, x.high, x.p, x.d) == (0, 0, 0, 1, 0) for x in same.values())
    other = world(14, images=9, tied=False)[0]
    one, two = compare(scores, other, owners), compare(other, scores, owners)
    for x, y in zip(one.values(), two.values(), strict=True):
        assert (x.a, x.b, x.p, x.low, x.high) == pytest.approx((y.b, y.a, y.p, -y.high, -y.low)) and x.d == pytest.approx(-y.d)
    assert isinstance(one, Comparison)
    lines = str(one).splitlines()
    assert len(lines) == 8 and lines[-1].startswith("R@sum") and lines[1].startswith("text R@1") and "95% interval" in lines[0]


def test_what_cannot_be_compared():
    scores, owners = world(15, images=8)
    with pytest.raises(ValueError, match="differ in images, captions or folds"): compare(hits(scores, owners), hits(scores, owners, 2))
    with pytest.raises(ValueError, match="differ in images, captions or folds"): compare(hits(scores, owners), hits(HAND, OWNERS))
    with pytest.raises(ValueError, match="differ in images, captions or folds"): compare(hits(HAND, OWNERS), hits(HAND, [0, 1, 1, 2, 2]))
    with pytest.raises(ValueError, match="image_of_caption"): compare(scores, scores)


IMAGES, SIGNAL, DIFFICULTY = 100, 2.2, 1.0
CAPTIONS = np.arange(5 * IMAGES) // 5


def normal(x): return 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))


def population():
    """The recalls of a world without end, by integration: scores are noise, own captions have SIGNAL more, and an image's own
    difficulty u with it. P(rank < K) is that of a binomial count of wrong answers; for text the best of five is ahead."""
    grid = np.linspace(-7, 7, 701)
    step, density = grid[1] - grid[0], np.exp(-grid**2 / 2) / sqrt(2 * pi)

    def among(x, wrong):
        q = 1 - normal(x)
        return np.stack([sum(comb(wrong, j) * q**j * (1 - q)**(wrong - j) for j in range(k)) for k in (1, 5, 10)])
    found, sparse = np.zeros(6), slice(None, None, 10)
    for u, weight in zip(grid[sparse], density[sparse] * step * 10, strict=True):
        x = grid + SIGNAL + DIFFICULTY * u
        found[:3] += weight * (among(x, 5 * (IMAGES - 1)) * 5 * normal(grid)**4 * density * step).sum(1)
        found[3:] += weight * (among(x, IMAGES - 1) * density * step).sum(1)
    return 100 * np.append(found, found.sum())


def drawn_hits(rng, models=1):
    "Hits of so many equally good models on one drawn world: its images have the same difficulty for all of them."
    difficulty = DIFFICULTY * rng.standard_normal(IMAGES)
    for _ in range(models):
        scores = rng.standard_normal((IMAGES, len(CAPTIONS)))
        scores[CAPTIONS, np.arange(len(CAPTIONS))] += (SIGNAL + difficulty)[CAPTIONS]
        yield hits(scores, CAPTIONS)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """In 400 drawn worlds 93 to 97% of all intervals hold the population's recalls, whose values are known by integration, and so do
    R@sum's; single recalls have 4 standard errors. (6,000 worlds, seeds 5 and 6: R@sum 94.5, single ones 93.8 to 95.0.)
    Captions resampled as if each stood alone hold it far less often (6,000 worlds: 81.2)."""
    rng, truth, held, naive = np.random.default_rng(0), population(), np.zeros(7), 0
    seen = []
    for _ in range(400):
        found, = drawn_hits(rng)
        low, high = np.array(list(intervals(found).values())).T
        held += (low <= truth) & (truth <= high)
        seen.append(recalls(found, np.ones((1, 1, IMAGES)))[0])
        share = found[0, :, 3].sum() / len(CAPTIONS)                       # of captions, each by itself: a binomial count
        ends = np.percentile(100 * rng.binomial(len(CAPTIONS), share, 1000) / len(CAPTIONS), (2.5, 97.5))
        naive += ends[0] <= truth[3] <= ends[1]
    error = np.std(seen, axis=0) / sqrt(400)
    assert (np.abs(np.mean(seen, axis=0) - truth) < 4 * error).all()           # the truth is the truth
    held /= 4
    assert 93 <= held.mean() <= 97 and 93 <= held[6] <= 97, held
    assert (np.abs(held - 95) < 4 * 100 * sqrt(0.95 * 0.05 / 400)).all(), held
    assert naive / 4 < 88, naive / 4


def p_of(a, b, seed):
    "The p of `compare`, without its intervals."
    apart = np.concatenate([(a - b)[..., :6], a[..., 6:]], -1)
    seen = np.abs(recalls(apart, np.ones((1, 1, IMAGES)))) - 1e-7
    return (1 + (np.abs(resample(apart, 500, seed, signs)) >= seen).sum(0)) / 501


def test_equal_models_are_seldom_told_apart():
    """Of 4,000 pairs of equally good models at most 6% differ at the 5% level, in each recall: three standard errors over 5%. (Of 500,
    which have a standard error of 1%, seeds 0 to 3 gave 3.8, 6.2, 7.8 and 7.0% for R@sum; of 2,000 each 4.6, 5.9, 5.4.)"""
    rng, rejected = np.random.default_rng(0), np.zeros(7)
    for seed in range(4000):
        a, b = drawn_hits(rng, 2)
        rejected += p_of(a, b, seed) <= 0.05
    rejected /= 40
    assert (rejected <= 6).all() and rejected[6] > 2, rejected                 # a test that never rejects would be no test


def test_a_better_model_is_found():
    "One that finds every third image's caption at once, where the other is left to its luck."
    a, = drawn_hits(np.random.default_rng(3))
    better = a.copy()
    better[0, ::3, :3] = 1
    found = compare(better, a)["text_r1"]
    assert found.p < 0.01 and found.low > 0 and found.d > 0.2


def test_the_command_prints_intervals_and_differences():
    "One model: the report's table. Several: R@sum's interval, and what each gains on the first."
    from pathlib import Path

    from typer.testing import CliRunner

    from cmr.cli import app
    from cmr.data import open_split
    from cmr.saving import load
    from cmr.training import evaluate
    sample = Path(__file__).parent.parent / "data" / "sample"
    split, (model, vocabulary) = open_split(sample, "sample"), load(sample / "imram")
    expected, scores = evaluate(model, split, vocabulary, progress=False)
    use = ["--data", str(sample), "--split", "sample", "--device", "cpu"]
    said = CliRunner().invoke(app, ["evaluate", str(sample / "imram"), *use]).output
    assert expected.table() in said and "over images" in said and "gallery stays" in said
    said = CliRunner().invoke(app, ["evaluate", str(sample / "imram"), str(sample / "imram"), *use]).output
    low, high = expected.intervals["rsum"]
    assert said.count(f"[{low:.1f}, {high:.1f}]") == 3 and said.count("[+0.0, +0.0]") == 2 and said.count("1.0000") == 2


FULL_SIZE = """
import resource
import numpy as np, torch
from cmr.recall import report
scores = np.random.default_rng(0).standard_normal((5000, 25000), dtype=np.float32)
report(scores[:100, :500], np.arange(500) // 5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folds in (1, 5): found = report(torch.from_numpy(scores), np.arange(25000) // 5, folds)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read as Linux gives it")
def test_full_size():
    "5,000 x 25,000: under 2 GB beside the matrix (0.1 GB when this was written)."
    done = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert float(done.stdout) < 2e6


def test_several_right_images_as_arrays():
    scores, right = np.random.default_rng(3).random((3, 4)), [[0, 1], [1], [2, 0], [2]]
    for make in (np.array, torch.tensor, set, tuple): assert report(scores, [make(one) for one in right]) == report(scores, right)
    assert report(scores, [[0, 1], 1, {2, 0}, np.int64(2)]) == report(scores, right)
    for bad, said in (([[0], 1.5, [1], [2]], "holds 1.5"), ([[0], [1], [2], "a"], "holds 'a'"), ([[0], [1], [2], None], "holds None")):
        with pytest.raises(ValueError, match=said): report(scores, bad)
