"The functions behind chapter 11's sliders: one slider moved changes what is drawn, by the chapter's equations."

import math
import sys

import matplotlib.pyplot as plt
import pytest
import torch
from tables import NBS, cells, source

from cmr.fusion import GATES, gate, gated

CELLS = [cell for cell in cells(NBS / "11_fusion.ipynb", "code") if "widget" in cell["metadata"].get("tags", [])]


def run(shown):
    "The widget's cell, run as in the notebook; what it displays is put into a list."
    names = {"plt": plt, "torch": torch, "gate": gate, "gated": gated, "display": shown.append}
    exec(source(CELLS[0]), names)
    return names


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield run([])
    plt.close("all")


def lines(here, **settings):
    "All points of all lines that are drawn."
    plt.close("all")
    here["draw_meeting"](**settings)
    return torch.cat([torch.as_tensor(line.get_xydata().copy()).flatten() for ax in plt.gcf().axes for line in ax.lines])


def test_one_short_cell_with_a_folded_source_and_no_kept_output():
    assert len(CELLS) == 1 and len(source(CELLS[0]).splitlines()) < 40
    assert CELLS[0]["metadata"]["jupyter"] == {"source_hidden": True} and not CELLS[0]["outputs"]


@pytest.mark.parametrize("length", [.5, 1.5, 3.])
@pytest.mark.parametrize("angle", [-180, -70, 0, 90, 100])
def test_the_fused_word_is_equation_9(here, angle, length):
    x, y = here["word"].tolist()
    turn = math.radians(angle) + math.atan2(y, x)
    sent = length * math.cos(turn), length * math.sin(turn)
    products = [a * b for a, b in zip((x, y), sent)]
    for kind in GATES:
        found, g, fused = here["meet"](angle, length, kind)
        expected = [1 / (1 + math.exp(-p)) for p in (products if kind == "element" else [sum(products)])]
        ends = [max(0, h * (w + s)) + w for h, w, s in zip(2 * expected, (x, y), sent)]
        for some, right in ((found, sent), (g, expected), (fused, ends)): assert some.tolist() == pytest.approx(right, abs=1e-5)


def test_what_the_chapter_says(here):
    "The scalar gate is one half at 90 degrees, whatever the length; a message against the word leaves it where it is."
    for length in (1., 3.):
        g = here["meet"]([-91, -90, -89, 89, 90, 91], length, "scalar")[1][:, 0]
        assert g[[1, 4]].tolist() == pytest.approx([.5, .5], abs=1e-6) and (g[[2, 3]] > .5).all() and (g[[0, 5]] < .5).all()
        assert here["meet"](180, 3., "element")[2].tolist() == here["word"].tolist()
    by_feature = here["meet"](100, 1.5, "element")[1]
    assert by_feature[0] < .5 < by_feature[1]


@pytest.mark.parametrize("moved", [{"angle": 110}, {"length": 2.}])
def test_a_slider_changes_the_picture(here, moved):
    start = {"angle": 100, "length": 1.5}
    assert torch.equal(lines(here, **start), lines(here, **start))
    assert not torch.allclose(lines(here, **start), lines(here, **start | moved), atol=.01)


def test_sliders_call_the_drawing(monkeypatch):
    "Two sliders and the picture, drawn again with the slider's value when one is moved."
    pytest.importorskip("ipywidgets")
    import ipywidgets
    drawn, shown = [], []
    monkeypatch.setattr(ipywidgets, "interactive_output", lambda f, sliders: (
        [s.observe(lambda _: drawn.append({k: s.value for k, s in sliders.items()}), "value") for s in sliders.values()], ipywidgets.Output())[1])
    run(shown)
    angle, length, _ = shown[0].children
    angle.value, length.value = 30, 2.5
    assert drawn == [{"angle": 30, "length": 1.5}, {"angle": 30, "length": 2.5}]


def test_without_ipywidgets_there_is_a_line_of_text(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    run([])
    assert "need ipywidgets" in capsys.readouterr().out
