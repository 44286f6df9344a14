"The search boxes of chapters 14 and 16: what one types changes the picture, and unknown words are named."

import contextlib
import io
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from PIL import Image
from shown_widgets import drawn, moved, place, tagged, widgets
from tables import NBS, cells, source
from test_exercises import run

import cmr

pytest.importorskip("ipywidgets")
BOTH = ["14_train_imram", "16_photographs"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def displayed(call, *given):
    "The controls of a widget, by what they say."
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", shown.append)
        call(*given)
    assert len(shown) == 1
    return {control.description: control for control in shown[0].children if hasattr(control, "value")}


def said(control, value):
    "What is printed, and what is drawn, once a control has another value; it is put back."
    plt.close("all")
    out, old = io.StringIO(), control.value
    with contextlib.redirect_stdout(out): control.value = value
    numbers = plt.get_fignums()
    control.value = old
    return out.getvalue(), numbers


@pytest.fixture(scope="module")
def finder():
    "The course's small model over ten drawn scenes, and their pictures by name."
    from cmr.data import open_split
    from cmr.search import Gallery
    from cmr.world.scenes import draw, load_entries
    model, vocabulary = cmr.load(NBS.parent / "data/sample/imram")
    split, entries = open_split(NBS.parent / "data/sample", "sample"), load_entries(NBS.parent / "data/sample/sample_scenes.json")
    images, _ = cmr.encode_all(model, split, vocabulary, progress=False)
    names = [f"scene{n}.png" for n in range(10)]
    found = SimpleNamespace(model=model, vocabulary=vocabulary, images=Gallery(model, images[list(range(10))], names=names))
    return found, {name.removesuffix(".png"): Image.fromarray(draw(entries[n].scene, grain=0)) for n, name in enumerate(names)}


@pytest.mark.parametrize("stem", BOTH)
def test_one_short_cell_whose_source_is_seen_and_no_kept_output(stem):
    found = tagged(stem)
    assert len(found) == 1 and len(source(found[0]).splitlines()) < 6
    assert "jupyter" not in found[0]["metadata"] and not found[0]["outputs"]


@pytest.mark.parametrize(("name", "value"), [("search", "a blue ring"), ("shortlist", 7)])
def test_every_control_of_the_shortlist_changes_the_picture(finder, name, value):
    before, after = moved(displayed(widgets.shorten_list, *finder)[name], value)
    assert before != after and before[0].startswith("'there is a red circle': the model looks at the 3 ")


def test_the_shortlist_shows_what_the_model_looked_at(finder):
    "As many pictures with a score as the slider says; they are the nearest, and the framed one is the best."
    search, sentence = finder[0], "there is a red circle"
    asked = cmr.search.ask(search.model, search.vocabulary, sentence)
    scores = dict(zip(finder[1], search.images.scores(asked)[0].tolist()))
    for length in (1, 4, 10):
        looked = widgets.draw_shortlist(*finder, sentence, length)
        axes = plt.gcf().axes
        titles = [ax.get_title() for ax in axes]
        assert titles[length:] == ["not looked at"] * (10 - length) and len(looked) == length
        assert looked == sorted(looked, key=lambda name: -scores[name])
        assert sorted(titles[:length]) == sorted(f"score {scores[name]:.2f}" for name in looked)
        framed, = (ax.get_title() for ax in axes if ax.patches)
        assert framed == f"score {scores[looked[0]]:.2f}"
    assert sorted(looked) == sorted(finder[1])


def test_an_unknown_word_is_named_by_the_shortlist(finder):
    box = displayed(widgets.shorten_list, *finder)["search"]
    text, figures = said(box, "zeppelins")
    assert "zeppelins" in text and not figures
    assert widgets.draw_shortlist(*finder, "zeppelins", 3) == []


def chapters_drawing():
    "`draw_found` of chapter 14 over the sample's scenes, as the chapter defines it."
    from cmr.data import open_split, tokenize
    from cmr.search import ask, show_hits
    from cmr.world.scenes import draw, load_entries
    model, words = cmr.load(NBS.parent / "data/sample/imram")
    split, entries = open_split(NBS.parent / "data/sample", "sample"), load_entries(NBS.parent / "data/sample/sample_scenes.json")
    images, _ = cmr.encode_all(model, split, words, progress=False)
    namespace = dict(cmr=cmr, plt=plt, model=model, words=words, images=images, tokenize=tokenize, ask=ask, full=False,
                     entries=entries, draw=draw, show_hits=show_hits)
    cell, = (source(c) for c in cells(NBS / "14_train_imram.ipynb", "code") if "def draw_found" in source(c))
    with contextlib.redirect_stdout(io.StringIO()): exec(cell, namespace)
    return namespace["draw_found"]


def test_the_box_of_chapter_14():
    "Another sentence, another picture with its five best; an unknown word is named and nothing is drawn."
    draw_found = chapters_drawing()
    box = displayed(widgets.type_sentence, draw_found, "a red heart and a blue star")["search"]
    before, after = moved(box, "a green square")
    assert before != after and before[0] == "a red heart and a blue star" and after[0] == "a green square"
    assert len(plt.gcf().axes) == 5
    text, figures = said(box, "a zeppelin")
    assert "never read zeppelin" in text and not figures
    plt.close("all")
    draw_found("a green square")
    assert drawn(plt.gcf()) == after


@pytest.mark.parametrize("stem", BOTH)
def test_without_ipywidgets_there_is_a_line_of_text(stem, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    given = dict(draw_found=None, own="", finders={"toy": None}, album={})
    assert "pip install ipywidgets" in run(place(stem)[2], given, stem)


def test_the_cells_hand_over_what_the_chapters_have(monkeypatch):
    "The names that each cell gives to its widget."
    given = {}
    monkeypatch.setattr(widgets, "type_sentence", lambda *found: given.update(a=found))
    monkeypatch.setattr(widgets, "shorten_list", lambda *found: given.update(b=found))
    run(place(BOTH[0])[2], dict(draw_found=1, own=2), "14")
    run(place(BOTH[1])[2], dict(finders={"toy": 3}, album=4), "16")
    assert given == {"a": (1, 2), "b": (3, 4)}
