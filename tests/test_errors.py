"""The error budget against a judge that asks everything by trying."""

import itertools

import numpy as np
import pytest

from cmr.world.errors import KINDS, error_budget, why_false, without
from cmr.world.scenes import is_true, make_split


@pytest.fixture(scope="module")
def entries():
    return make_split("budget", 12, seed=3, progress=False)


def test_a_claim_is_false_for_a_reason_exactly_where_it_is_false(entries):
    seen = set()
    for a, b in itertools.product(entries, entries):
        for caption in a.captions:
            kinds = why_false(caption.meaning, b.scene)
            seen |= set(kinds)
            assert (kinds == ()) == is_true(caption.meaning, b.scene)
            assert all(is_true(without(caption.meaning, kind), b.scene) for kind in kinds if kind != "several")
            if kinds == ("several",): assert not any(is_true(without(caption.meaning, kind), b.scene) for kind in KINDS)
    assert {"colour", "relation", "several"} <= seen


def test_shares_of_a_random_order_add_up_and_agree_with_counting(entries):
    captions = [caption.meaning for entry in entries for caption in entry.captions]
    own = np.repeat(np.arange(len(entries)), [len(entry.captions) for entry in entries])
    scores = np.random.default_rng(0).normal(size=(len(entries), len(captions)))
    found = error_budget(scores, entries)
    for row in found.values(): assert sum(row.values()) == pytest.approx(100)
    first = scores.argmax(0)
    assert found["image"]["right"] == pytest.approx(100 * np.mean(first == own))
    true = [is_true(captions[c], entries[i].scene) for c, i in enumerate(first)]
    assert found["image"]["right"] + found["image"]["also true"] == pytest.approx(100 * np.mean(true))


def test_scores_that_are_none_are_refused(entries):
    with pytest.raises(ValueError, match="the scenes hold 12 pictures"): error_budget(np.zeros((12, 3)), entries)
    with pytest.raises(ValueError, match="no rank can be trusted"): error_budget(np.full((12, 60), np.nan), entries)
