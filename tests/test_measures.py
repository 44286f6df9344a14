"Measures of the whole truth against literal readings, and what no model may gain from."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr.recall import report
from cmr.world.measures import at_r, blind, plausibility, right_images, truth_report, winoground
from cmr.world.scenes import make_split, truth, twin_accuracy


def literal_at_r(row, right):
    "One query: its answers in order, ties with the wrong ones in front, one place after the other."
    order = sorted(range(len(row)), key=lambda n: (-row[n], right[n]))
    count, found, total = sum(right), 0, 0.0
    for place, n in enumerate(order[:count], start=1):
        if right[n]:
            found += 1
            total += found / place
    return total / count, found / count


def literal_winoground(scores, own, twin):
    "Pair by pair: the n-th caption of a scene with the n-th of its twin."
    told = []
    for i, j in enumerate(twin):
        if j <= i: continue
        for a, b in zip([c for c, o in enumerate(own) if o == i], [c for c, o in enumerate(own) if o == j], strict=True):
            text = scores[i][a] > scores[i][b] and scores[j][b] > scores[j][a]
            image = scores[i][a] > scores[j][a] and scores[j][b] > scores[i][b]
            told.append((text, image, text and image))
    return [100 * sum(column) / len(told) for column in zip(*told, strict=True)]


@given(shape=st.tuples(st.integers(1, 6), st.integers(1, 8)), tied=st.booleans(), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_at_r(shape, tied, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 2, shape).astype(np.float32) if tied else rng.standard_normal(shape)
    right = rng.random(shape) < 0.4
    right[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = True
    expected = [literal_at_r(row, own) for row, own in zip(scores.tolist(), right.tolist(), strict=True)]
    assert np.stack(at_r(scores, right), axis=1) == pytest.approx(np.array(expected))
    assert (np.array(at_r(np.zeros(shape), right)) <= np.array(at_r(right.astype(float), right))).all()          # ties never help
    assert (np.array(at_r(right.astype(float), right)) == 1).all()


def test_one_right_answer_is_recall_at_1():
    scores, own = np.random.default_rng(0).standard_normal((20, 20)), np.eye(20, dtype=bool)
    mean, precision = at_r(scores, own)
    assert 100 * mean.mean() == pytest.approx(report(scores, np.arange(20)).text_r1) and np.array_equal(mean, precision)


@pytest.mark.parametrize("scores", [np.ones((2, 2)), np.full((2, 3), np.nan), np.ones(3), np.float64(1)])
def test_at_r_refuses(scores):
    with pytest.raises(ValueError, match="must be of one shape and finite"): at_r(scores, np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="a right one in each row"): at_r(np.ones((2, 3)), np.eye(2, 3, -1, bool))


def test_winoground():
    rng, own, twin = np.random.default_rng(0), np.arange(40) // 5, np.array([1, 0, -1, 4, 3, -1, 7, 6])
    for scores in (rng.standard_normal((8, 40)), rng.integers(0, 3, (8, 40))):
        assert winoground(scores, own, twin) == pytest.approx(literal_winoground(scores.tolist(), own, twin))
        assert winoground(scores, own, twin)[2] <= min(winoground(scores, own, twin)[:2])
    assert np.isnan(winoground(scores, own, np.full(8, -1))).all()
    assert winoground(np.zeros((8, 40)), own, twin) == (0, 0, 0)
    scores = torch.tensor(scores)
    assert winoground(scores, own, twin) == winoground(scores.numpy(), own, twin) and twin_accuracy(scores, own, twin) == twin_accuracy(scores.numpy(), own, twin)
    half = np.array([1, -1, -1, 4, -1, -1, 7, -1])                                  # each pair is named by one of its two
    assert winoground(scores, own, half) == winoground(scores, own, twin) == winoground(scores, own, np.array([-1, 0, -1, -1, 3, -1, -1, 6]))


@pytest.mark.parametrize("measure", [winoground, twin_accuracy, lambda scores, own, twin: blind(scores)])
def test_no_number_comes_of_scores_that_are_none(measure):
    for bad in (np.nan, np.inf):
        scores = np.eye(4)
        scores[0, 0] = bad
        with pytest.raises(ValueError, match=r"scores\[0, 0\] is"): measure(scores, np.arange(4), np.array([1, 0, 3, 2]))


def test_twins_are_paired_one_to_one():
    for measure in (winoground, twin_accuracy):
        with pytest.raises(ValueError, match="twins with 1 and 2 captions"): measure(np.eye(2, 3), [0, 1, 1], [1, 0])
        with pytest.raises(ValueError, match=r"twin has shape \(2,\), scores are of 3 pictures"): measure(np.eye(3), [0, 1, 2], [1, 0])


@pytest.fixture(scope="module")
def split(): return make_split("test-measures", 30, progress=False)


def test_truth_report(split):
    table, own, twin = truth(split, progress=False), np.repeat(np.arange(30), 5), np.array([e.twin for e in split])
    right = right_images(table, own)
    assert [r[0] for r in right] == own.tolist() and all(sorted(r) == np.flatnonzero(table[:, c]).tolist() for c, r in enumerate(right))
    scores = np.random.default_rng(0).standard_normal(table.shape) + 1.5 * table
    found = truth_report(scores, split, progress=False)
    assert found.recall == report(scores, right)
    assert (found.text_map_r, found.text_r_precision) == pytest.approx([100 * x.mean() for x in at_r(scores, table)])
    assert (found.image_map_r, found.image_r_precision) == pytest.approx([100 * x.mean() for x in at_r(scores.T, table.T)])
    assert (found.winoground_text, found.winoground_image, found.winoground_group) == winoground(scores, own, twin)
    assert "Winoground" in str(found) and "without the picture" in str(found)
    with pytest.raises(ValueError, match="the scenes hold 30 pictures and 150 captions"): truth_report(scores[:, :9], split)


def test_nothing_is_won_without_the_picture(split):
    "Whatever a caption scores by itself, twins are a coin's toss; but a language model finds shuffled words."
    own, twin = np.repeat(np.arange(30), 5), np.array([e.twin for e in split])
    captions, rng = [c.text for e in split for c in e.captions], np.random.default_rng(0)
    natural = plausibility(captions, captions)
    for by_caption in (natural, rng.standard_normal(150), np.arange(150.0)):
        unseen = np.tile(by_caption, (30, 1))
        assert np.array_equal(blind(unseen), unseen) or np.allclose(blind(unseen), unseen, rtol=1e-12)
        assert twin_accuracy(unseen, own, twin) <= 50 and winoground(unseen, own, twin) == (0, 0, 0)
    shuffled = plausibility(captions, [" ".join(rng.permutation(c.split())) for c in captions])
    assert np.mean(natural > shuffled) > 0.95
    assert blind(np.arange(6.0).reshape(2, 3)).tolist() == [[1.5, 2.5, 3.5]] * 2


def test_plausibility_by_hand():
    "Two captions read: 'a cat' and 'a dog'. Words a caption can start from or go on with: a, cat, dog, and the edge, and one for any other."
    found = plausibility(["a cat", "A dog"], ["a cat", "dog a"])
    assert found == pytest.approx([np.mean(np.log([3 / 7, 2 / 7, 2 / 6])), np.mean(np.log([1 / 7, 1 / 6, 1 / 7]))])
