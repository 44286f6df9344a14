"A wrong answer costs three lines: what came, what was expected, and a folded hint."

import linecache

import numpy as np
import pytest
import torch
from fastcore.test import test_eq as equal_to

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


@pytest.mark.parametrize("check", [lambda f: close(f(), 5), lambda f: equal_to(f(), 5), lambda f: close(torch.as_tensor(f()).sum(), 1)])
def test_a_forgotten_return_is_said(check):
    with pytest.raises(NotYet) as caught: attempt(lambda: None, check, hint="h")
    assert caught.value.found == "your function returned nothing: is there a return?"


def test_what_came_and_what_was_expected_of_fastcores_checks():
    "Three lines, as others of theirs that compare; a longer message keeps its first line, and a class is not wrapped."
    for answer, expected, line in (([1], [2], "yours [1], expected [2]"), ("a", "b", "yours a, expected b"), ((1, 2), (2, 1), "yours (1, 2), expected (2, 1)")):
        with pytest.raises(NotYet) as caught: attempt(lambda answer=answer: answer, lambda f, expected=expected: equal_to(f(), expected), hint="h")
        assert caught.value.found == line and len(caught.value._render_traceback_()) == 2
    with pytest.raises(NotYet) as caught: attempt(lambda: "x" * 900, lambda f: equal_to(f(), "y"), hint="h")
    assert len(caught.value.found) < 330

    class Mine:
        "A reader's class."
    attempt(Mine, lambda cls: equal_to(isinstance(cls(), Mine), True), hint="h")


def test_the_function_that_is_checked_keeps_its_name():
    def mine(x, y=2): return x + y
    attempt(mine, lambda f: equal_to((f.__name__, f(1), f(1, y=3)), ("mine", 3, 4)), hint="h")
