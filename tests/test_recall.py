"The yardstick against a literal one, and against everything that has fooled others."

import os
import subprocess
import sys
from dataclasses import asdict

import literal_recall as literal
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr.recall import Report, as_array, check_image_of_caption, check_scores, fold, ranks, recall_at, report, row_blocks

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
    assert asdict(report(scores, owners)) == pytest.approx(literal.report(scores, owners))


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
    assert list(asdict(report(HAND, OWNERS))) == [*names, "rsum", "text_median", "image_median", "text_mean", "image_mean"]
    shown = str(Report(*range(1, 12)))
    assert shown.count("\n") == 3 and "R@sum 7.0" in shown
    assert all(word in shown for word in ("text retrieval", "image retrieval", "median", "mean"))
    assert all(type(v) is float for v in asdict(report(torch.tensor(HAND), OWNERS, folds=1)).values())


def test_as_array_copies_nothing():
    t = torch.zeros(3, 4)
    assert np.shares_memory(as_array(t), t.numpy()) and np.shares_memory(as_array(HAND), HAND)


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
    "5,000 x 25,000: under 2 GB beside the matrix (0.02 GB, and 0.3 s, when this was written)."
    done = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert float(done.stdout) < 2e6
