"The functions behind chapter 11's sliders: one slider moved changes what is drawn, by the chapter's equations."

import math
import sys

import matplotlib.pyplot as plt
import pytest
import torch
from shown_widgets import tagged, widgets
from tables import source

from cmr.fusion import GATES

CELLS = tagged("11_fusion")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def lines(**settings):
    "All points of all lines that are drawn."
    plt.close("all")
    widgets.draw_meeting(**settings)
    return torch.cat([torch.as_tensor(line.get_xydata().copy()).flatten() for ax in plt.gcf().axes for line in ax.lines])


def test_one_short_cell_whose_source_is_seen_and_no_kept_output():
    assert len(CELLS) == 1 and len(source(CELLS[0]).splitlines()) < 6
    assert "jupyter" not in CELLS[0]["metadata"] and not CELLS[0]["outputs"]


@pytest.mark.parametrize("length", [.5, 1.5, 3.])
@pytest.mark.parametrize("angle", [-180, -70, 0, 90, 100])
def test_the_fused_word_is_equation_9(angle, length):
    x, y = widgets.WORD.tolist()
    turn = math.radians(angle) + math.atan2(y, x)
    sent = length * math.cos(turn), length * math.sin(turn)
    products = [a * b for a, b in zip((x, y), sent)]
    for kind in GATES:
        found, g, fused = widgets.meet(angle, length, kind)
        expected = [1 / (1 + math.exp(-p)) for p in (products if kind == "element" else [sum(products)])]
        ends = [max(0, h * (w + s)) + w for h, w, s in zip(2 * expected, (x, y), sent)]
        for some, right in ((found, sent), (g, expected), (fused, ends)): assert some.tolist() == pytest.approx(right, abs=1e-5)


def test_what_the_chapter_says():
    "The scalar gate is one half at 90 degrees, whatever the length; a message against the word leaves it where it is."
    for length in (1., 3.):
        g = widgets.meet([-91, -90, -89, 89, 90, 91], length, "scalar")[1][:, 0]
        assert g[[1, 4]].tolist() == pytest.approx([.5, .5], abs=1e-6) and (g[[2, 3]] > .5).all() and (g[[0, 5]] < .5).all()
        assert widgets.meet(180, 3., "element")[2].tolist() == widgets.WORD.tolist()
    by_feature = widgets.meet(100, 1.5, "element")[1]
    assert by_feature[0] < .5 < by_feature[1]


@pytest.mark.parametrize("moved", [{"angle": 110}, {"length": 2.}])
def test_a_slider_changes_the_picture(moved):
    start = {"angle": 100, "length": 1.5}
    assert torch.equal(lines(**start), lines(**start))
    assert not torch.allclose(lines(**start), lines(**start | moved), atol=.01)


def test_sliders_call_the_drawing(monkeypatch):
    "Two sliders and the picture, drawn again with the slider's value when one is moved."
    pytest.importorskip("ipywidgets")
    import ipywidgets
    drawn, shown = [], []
    monkeypatch.setattr(ipywidgets, "interactive_output", lambda f, sliders: (
        [s.observe(lambda _: drawn.append({k: s.value for k, s in sliders.items()}), "value") for s in sliders.values()], ipywidgets.Output())[1])
    monkeypatch.setattr("IPython.display.display", shown.append)
    exec(source(CELLS[0]), {})
    angle, length, _ = shown[0].children
    angle.value, length.value = 30, 2.5
    assert drawn == [{"angle": 30, "length": 1.5}, {"angle": 30, "length": 2.5}]


def test_without_ipywidgets_there_is_a_line_of_text(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    exec(source(CELLS[0]), {})
    assert "pip install ipywidgets" in capsys.readouterr().out
