"A wrong answer costs three lines: what came, what was expected, and a folded hint."

import linecache

import numpy as np
import pytest
import torch

from cmr.exercise import NotYet, attempt, close


def said(answer, expected, tolerance=1e-6):
    with pytest.raises(NotYet) as caught: attempt(lambda: answer, lambda f: close(f(), expected, tolerance), hint="Count again.")
    return caught.value


def test_both_values_and_no_traceback():
    found = said([0, 1, 1], [0, 1])
    assert found._render_traceback_()[0] == "Not yet. yours [0, 1, 1], expected [0, 1]: shape (3,) instead of (2,)"
    assert len(found._render_traceback_()) <= 2 and "Count again." not in "".join(found._render_traceback_()) and str(found).endswith("Hint: Count again.")
    assert found.__context__ is None and found.__cause__ is None


@pytest.mark.parametrize(("answer", "expected", "line"), [
    (.25, .5, "yours 0.25, expected 0.5"),
    ([[1., 2.5]], [[1., 2.25]], "yours [[1. , 2.5]], expected [[1. , 2.25]]"),
    (torch.ones(40), torch.ones(40).index_fill(0, torch.tensor(7), 3.), "yours 1 at [7], expected 3 at [7]"),
    (float("nan"), 1, "yours nan, expected 1"),
    (np.zeros((3, 9)), np.zeros((9, 3)), "yours an array, expected an array: shape (3, 9) instead of (9, 3)")])
def test_values(answer, expected, line): assert said(answer, expected).found == line


def test_a_late_digit_is_seen(): assert "1.0000001" in said(1.0000001, 1., 1e-9).found


def test_the_readers_own_error_has_its_line():
    def check(f): close(f(2), 3)
    with pytest.raises(NotYet, match=r"TypeError: unsupported .* \(line \d+ of <lambda>\)"): attempt(lambda x: x + "a", check, hint="h")


def test_a_bare_assertion_is_quoted():
    lines = ["def check(f):\n", "    assert f(2) > 3  # two doubled\n"]
    linecache.cache["a cell"] = (sum(map(len, lines)), None, lines, "a cell")  # as a notebook's cells are kept
    space = {}
    exec(compile("".join(lines), "a cell", "exec"), space)  # noqa: S102
    with pytest.raises(NotYet, match=r"This doesn't hold: f\(2\) > 3\n"): attempt(lambda x: x, space["check"], hint="h")


def test_a_stub_lets_the_notebook_run_on(capsys):
    def stub(): raise NotImplementedError
    attempt(stub, lambda f: f(), hint="h")
    assert capsys.readouterr().out == "Not attempted yet.\n"
