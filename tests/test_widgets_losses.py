"The functions behind chapter 6's square of scores: one number changed changes terms, gradient and picture."

import sys

import matplotlib.pyplot as plt
import pytest
import torch
from literal_losses import triplet as literal
from shown_widgets import tagged, widgets
from tables import NBS, cells, source

from cmr.losses import triplet

CODE = cells(NBS / "06_losses.ipynb", "code")
WIDGETS = tagged("06_losses")
BEFORE = ("import matplotlib", "S = torch.tensor", "from widgets import show_scores", "def gradient(")
S = [[.60, .45, .20], [.30, .70, .65], [.45, .35, .50]]


@pytest.fixture
def here(monkeypatch):
    "The widget's cell after those it needs, run as in the notebook; `drawn` has a line for each picture."
    drawn, shown = [], []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(seen()))
    monkeypatch.setattr("IPython.display.display", shown.append)
    names = {"torch": torch, "triplet": triplet, "shown": shown, "drawn": drawn, "terms": widgets.terms}
    for cell in CODE:
        if cell in WIDGETS or source(cell).startswith(BEFORE): exec(source(cell), names)
    drawn.clear()
    if shown:
        controls, names["picture"] = shown[0].children
        square, choices = controls.children
        names["boxes"], (names["margin"], names["choice"]) = square.children, choices.children
    yield names
    plt.close("all")


def seen():
    "Everything that the last figure says: numbers in the squares, titles and terms; the colours."
    axes = plt.gcf().axes
    said = [[text.get_text() for text in ax.texts + ax.get_xticklabels() + ax.get_yticklabels()] + [ax.get_title()] for ax in axes]
    return said, [ax.images[0].get_array().tolist() for ax in axes]


def squares(seed, size=3):
    return torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_short_cell_whose_source_is_seen_and_no_kept_output():
    assert len(WIDGETS) == 1 and len(source(WIDGETS[0]).splitlines()) < 6
    assert "jupyter" not in WIDGETS[0]["metadata"] and not WIDGETS[0]["outputs"]


@pytest.mark.parametrize("negatives", ["hardest", "all"])
@pytest.mark.parametrize("margin", [0., .2, .5])
def test_terms_are_equation_13(here, margin, negatives):
    count = max if negatives == "hardest" else sum
    for scores in (torch.tensor(S, dtype=torch.float64), *map(squares, range(5))):
        rows, columns = here["terms"](scores, margin, negatives)
        s = scores.tolist()
        others = [[k for k in range(3) if k != b] for b in range(3)]
        assert rows.tolist() == pytest.approx([count(max(0, margin - s[b][b] + s[b][k]) for k in others[b]) for b in range(3)], abs=1e-12)
        assert columns.tolist() == pytest.approx([count(max(0, margin - s[b][b] + s[k][b]) for k in others[b]) for b in range(3)], abs=1e-12)
        assert float(rows.sum() + columns.sum()) == pytest.approx(literal(scores, margin, negatives), abs=1e-12)


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_the_gradient_is_the_slope(here, negatives):
    "Central differences of the literal loss; it is piecewise straight, so they are exact but for rounding, 1e-16 / 1e-6."
    for scores in map(squares, range(5)):
        found = here["gradient"](negatives, scores, .2)
        for at in torch.eye(9, dtype=torch.float64).view(9, 3, 3) * 1e-6:
            slope = (literal(scores + at, .2, negatives) - literal(scores - at, .2, negatives)) / 2e-6
            assert float(found[at > 0]) == pytest.approx(slope, abs=1e-7)


def test_what_the_chapter_says(here):
    "At 0.66 the terms of row 0 and column 0 vanish, and with them four numbers of the gradient change."
    edited = torch.tensor(S)
    edited[0, 0] = .66
    rows, columns = here["terms"](edited)
    assert rows[0] == columns[0] == 0 and float(rows.sum() + columns.sum()) == pytest.approx(.65, abs=1e-6)
    assert here["gradient"]("hardest", edited).tolist() == [[0, 0, 0], [0, -1, 2], [1, 0, -2]]


def test_each_control_changes_the_picture(here):
    pytest.importorskip("ipywidgets")
    boxes, margin, choice = here["boxes"], here["margin"], here["choice"]
    widgets.draw_loss(torch.tensor([box.value for box in boxes]).view(3, 3), here["gradient"])
    start = here["drawn"].pop()
    assert start[0][0][-1] == "Rows add 0.35, columns 0.40: loss 0.75"
    for control, value in ((boxes[0], .66), (margin, .3), (choice, "all")):
        before, control.value = control.value, value
        moved = here["drawn"][-1]
        assert moved[0][0] != start[0][0] and moved[0][1] != start[0][1] and moved[1][1] != start[1][1], control
        control.value = before
        assert here["drawn"][-1] == start


def test_one_widget_is_displayed(here):
    pytest.importorskip("ipywidgets")
    assert len(here["shown"]) == 1 and here["picture"] in here["shown"][0].children


def test_without_ipywidgets_there_is_a_line_of_text(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    exec(source(WIDGETS[0]), {"S": torch.tensor(S), "gradient": None})
    assert "pip install ipywidgets" in capsys.readouterr().out
