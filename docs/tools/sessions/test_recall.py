"Given tests of session 2: chapter 3."

import numpy as np
import pytest
from adapters import compare, count_hits, fold_ranks, hits, intervals, ranks, recall_at, recalls, report, report_of, signs, times_taken

from cmr.exercise import close

S = np.array([[.9, .2, .8, .1, .3], [.3, .4, .1, .7, .2], [.2, .6, .5, .1, .6]])  # three pictures, five captions
OWN = np.array([0, 0, 1, 1, 2])
NOISE = np.random.default_rng(0).random((10, 50))
FIVE = np.arange(50) // 5


def test_recall_at():
    "ranks count from 0, so rank 0 is among the first 1; the answer is in percent"
    close(recall_at(np.array([0, 1, 2, 9]), 1), 25)
    close(recall_at(np.array([0, 1, 2, 9]), 3), 75)


def by_hand(scores, own):
    text = [sum(s >= max(row[own == i]) for s in row[own != i]) for i, row in enumerate(scores)]
    return text, [sum(column >= column[i]) - 1 for i, column in zip(own, scores.T)]


def test_ranks():
    "how many wrong answers score as high as the best right one, in both directions"
    for scores, own in ((S, OWN), (NOISE, FIVE), (-NOISE, FIVE)):
        for found, expected in zip(ranks(scores, own), by_hand(scores, own)): close(found, expected)


def test_ranks__ties():
    "a tie counts against the model: all scores equal is the worst"
    close(ranks(np.ones((3, 5)), OWN)[0], [3, 3, 4])
    close(ranks(np.ones((3, 5)), OWN)[1], [2] * 5)


def test_ranks__nan():
    "nan is refused with a ValueError, for nothing ever beats it"
    with pytest.raises(ValueError): ranks(np.where(S > .8, np.nan, S), OWN)


def test_report_of():
    "recalls in percent, their sum, and median and mean rank counted from 1"
    found = report_of(np.array([0, 4, 9]), np.array([0, 0, 5, 20]))
    close([found.text_r1, found.text_r5, found.text_r10], [100 / 3, 200 / 3, 100], 1e-4)
    close([found.image_r1, found.image_r5, found.image_r10], [50, 50, 75])
    close([found.rsum, found.text_median, found.image_median, found.text_mean, found.image_mean], [375, 5, 3.5, 16 / 3, 7.25], 1e-4)


def test_fold_ranks():
    "each fold's pictures meet only the captions of their own fold"
    parts = fold_ranks(NOISE, FIVE, folds=2)
    for part, block in zip(parts, (NOISE[:5, :25], NOISE[5:, 25:])):
        for found, expected in zip(part[:2], by_hand(block, FIVE[:25])): close(found, expected)
    assert len(parts) == 2


def test_fold_ranks__refused():
    "folds that don't divide the pictures: ValueError"
    with pytest.raises(ValueError): fold_ranks(NOISE, FIVE, folds=3)


PARTS = [(np.array([0, 5, 12]), np.array([0, 0, 6, 30]), np.array([0, 1, 1, 2]))]
HITS = [[[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1]]]


def test_count_hits():
    "by picture: its own search within 1, 5 and 10; how many of its captions are; how many captions it has"
    close(count_hits(PARTS), HITS)


def test_hits():
    "what the ranks of a score matrix give"
    found, (text, image) = hits(NOISE, FIVE), ranks(NOISE, FIVE)
    close(found.shape, [1, 10, 7])
    close(found.sum((0, 1)), [*((text < k).sum() for k in (1, 5, 10)), *((image < k).sum() for k in (1, 5, 10)), 50])


def test_recalls():
    "hits over queries, captions counted one by one; the mean of the folds; the last is the sum of six"
    close(recalls(np.array(HITS, float), np.ones((1, 1, 3)))[0], [100 / 3, 100 / 3, 200 / 3, 50, 50, 75, 925 / 3], 1e-4)
    close(recalls(np.array(HITS, float), np.array([[[2., 1., 0.]]]))[0, :4], [200 / 3, 200 / 3, 100, 75], 1e-4)
    close(recalls(np.array(HITS * 2, float), np.array([[[1., 0, 0], [0, 0, 1.]]]))[0, 0], 50)


def test_times_taken():
    "n draws with replacement from a fold's n: counts that add up to n, and seldom all 1"
    found = times_taken(np.random.default_rng(0), (20, 2, 30))
    close(found.shape, [20, 2, 30])
    close(found.sum(-1), np.full((20, 2), 30))
    assert found.max() > 2 and not (found == 1).all(-1).any(), "drawn without putting back"


def test_intervals():
    "95% of resampled recalls: they enclose the recall, and are wider for few pictures"
    few, many = hits(NOISE, FIVE), np.tile(hits(NOISE, FIVE), (1, 50, 1))
    low, high = intervals(few, 400)["image_r5"]
    alone = recalls(few, np.ones((1, 1, 10)))[0, 4]
    assert low <= alone <= high, f"{alone} is not between {low} and {high}"
    narrow = intervals(many, 400)["image_r5"]
    assert narrow[1] - narrow[0] < (high - low) / 3, "500 pictures give an interval of about a seventh of that of ten"


def test_intervals__95():
    "of hits drawn by a fair coin over 400 pictures the interval reaches about 4.9 points to each side"
    coin = np.zeros((1, 400, 7)); coin[0, ::2, :6] = 1; coin[..., 6] = 1
    low, high = intervals(coin, 2000)["text_r1"]
    close([low, high], [45.1, 54.9], .8)


def test_report():
    "both directions of one matrix, and intervals where they are asked for"
    found, (text, image) = report(NOISE, FIVE, draws=0), ranks(NOISE, FIVE)
    close([found.text_r1, found.text_r10, found.image_r5], [100 * np.mean(text < 1), 100 * np.mean(text < 10), 100 * np.mean(image < 5)])
    assert found.intervals is None and set(report(NOISE, FIVE, draws=50).intervals) >= {"text_r1", "rsum"}


def test_report__folds():
    "with folds, the mean of the folds' reports"
    parts = [report(NOISE[k:k + 5, 5 * k:5 * k + 25], FIVE[:25], draws=0) for k in (0, 5)]
    close(report(NOISE, FIVE, folds=2, draws=0).rsum, np.mean([p.rsum for p in parts]), 1e-4)


def test_signs():
    "heads and tails as 1 and -1, about as many of each"
    found = signs(np.random.default_rng(0), (50, 1, 40))
    assert set(np.unique(found)) == {-1, 1} and abs(found.mean()) < .1


def test_compare():
    "a minus b, an interval around it, and a p that is small for models that differ and large for equal ones"
    good = NOISE + 2 * (np.arange(10)[:, None] == FIVE)
    found = compare(good, NOISE, FIVE, draws=500)["rsum"]
    close(found.difference, found.a - found.b)
    assert found.difference > 0 and found.low <= found.difference <= found.high and found.p < .01
    same = compare(NOISE, NOISE, FIVE, draws=500)["rsum"]
    close([same.difference, same.low, same.high, same.p, same.d], [0, 0, 0, 1, 0])


def test_compare__refused():
    "models that were asked about different pictures or captions: ValueError"
    other = np.array([0] * 6 + list(FIVE[6:]))                          # as many captions, one of them belongs elsewhere
    for asked in (hits(NOISE[:5, :25], FIVE[:25]), hits(NOISE, other)):
        with pytest.raises(ValueError): compare(hits(NOISE, FIVE), asked)
