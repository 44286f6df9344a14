"The sliders of chapters 07, 08 and 09: each one changes the picture, and what is drawn are cmr's numbers."

import math
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from shown_widgets import moved, opened, place, widgets
from test_exercises import run

from cmr.attention import attend
from cmr.lens import light, look
from cmr.memory import Distill

pytest.importorskip("ipywidgets")


@pytest.fixture(scope="module")
def plane(): return opened("07_attention")


@pytest.fixture(scope="module")
def gate(): return opened("08_memory")


@pytest.fixture(scope="module")
def word(): return opened("09_imram")


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(("name", "value"), [("“ball”", 60), ("“box”", 91), ("region ball", 20), ("region box", 100), ("region sky", 150), ("lambda", 9.),
                                             ("Eq. 4 over", "responses"), ("Eq. 4 over", "off")])
def test_every_control_of_the_plane_changes_the_picture(plane, name, value):
    before, after = moved(plane[1][name], value)
    assert before != after


def tips(ax): return {line.get_label(): torch.tensor(line.get_xydata()[-1]) for line in ax.lines}


def heights(ax): return torch.tensor([[bar.get_height() for bar in group] for group in ax.containers], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_the_plane_shows_what_attend_gives(seed):
    "Weights as bars, contexts as dashed lines; Eq. 4 over the responses and switched off are worked out here again."
    drawing = np.random.default_rng(seed)
    angles, lam = [int(a) for a in drawing.integers(1, 180, 5)], float(drawing.uniform(0, 20))
    points = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles], dtype=torch.float64)
    X, Y = points[:2], points[2:]
    context, weights = attend(X[None, None], Y[None], *(torch.ones(1, n, dtype=torch.bool) for n in (2, 3)), lam)
    z = X @ Y.T
    rows = z.clamp(min=0) / z.clamp(min=0).norm(dim=1, keepdim=True).clamp(min=1e-12)
    for over, expected in {"queries": weights[0, 0], "responses": (lam * rows).softmax(1), "off": (lam * z).softmax(1)}.items():
        widgets.show_plane(*angles, lam, over)
        left, right = plt.gcf().axes
        assert (heights(right) - expected).abs().max() < 1e-6  # points are rounded to 1e-9, and lambda is at most 20
        ends, found = tips(left), expected @ Y
        for i, name in enumerate(widgets.WORDS):
            assert (ends[name] - X[i]).abs().max() < 1e-8 and (ends[f"context of {name}"] - found[i]).abs().max() < 1e-6
        if over == "queries": assert (found - context[0, 0]).abs().max() < 1e-12


def test_what_the_text_says_about_the_plane():
    "Ball at 89 degrees still looks at the ball, box at 91 looks at the sky; without Eq. 4 neither does."
    def best(ball, box, over):
        widgets.show_plane(ball, box, 0, 53, 180, 4., over)
        return heights(plt.gcf().axes[1]).argmax(1).tolist()
    assert best(37, 90, "queries") == best(89, 90, "queries") == [0, 1] and best(37, 91, "queries") == [0, 2]
    assert best(37, 90, "off") == best(37, 90, "responses") == best(89, 90, "off") == best(37, 91, "off") == [1, 1]


def test_controls_of_the_gate(gate):
    "One slider for both features until the box is unticked; then each has its own."
    controls = gate[1]
    first, second, one = controls["gate"], controls["feature 2"], controls["one gate for both features"]
    for control, value in ((first, .9), (second, .9)):
        before, after = moved(control, value)
        assert (before != after) == (control is first)
    second.value = .1
    before, after = moved(one, False)
    assert before != after
    one.value = False
    before, after = moved(second, .9)
    assert before != after
    second.value, one.value = .5, True


@pytest.mark.parametrize("g", [(.5, .5), (.2, .9), (.881, .119)])
def test_the_new_query_is_that_of_distill(gate, g):
    "A memory unit with the chapter's proposal, and with a gate that its bias holds at g."
    names = gate[0]
    unit = Distill(2)
    with torch.no_grad():
        unit.linear.weight.copy_(names["W_o"]); unit.linear.bias.copy_(names["b_o"])
        unit.gate.weight.zero_(); unit.gate.bias.copy_(torch.logit(torch.tensor(g)))
        x, c = torch.tensor([1., 0.]), torch.tensor([0., 1.])
        assert torch.equal(x, names["x"])
        proposal, expected = torch.tanh(names["W_o"] @ torch.cat([x, c])), unit(x, c)
    widgets.show_gate(x, names["proposal"], *g, False)
    ax, = plt.gcf().axes
    ends = tips(ax)
    for name, v in (("query x", x), ("proposal o", proposal), ("new query x*", expected)): assert (ends[name] - v).abs().max() < 1e-6
    said = ax.get_title().split("cosine ")[1].split()
    for number, v in zip((said[0], said[3]), (x, proposal)): assert abs(float(number) - torch.cosine_similarity(expected, v, dim=0)) <= .005 + 1e-6


def test_the_gates_ends(gate):
    "Closed it is the proposal, open the query."
    for g, name in ((0., "proposal o"), (1., "query x")):
        widgets.show_gate(gate[0]["x"], gate[0]["proposal"], g, .3, True)
        ends = tips(plt.gcf().axes[0])
        assert torch.equal(ends["new query x*"], ends[name])


@pytest.mark.parametrize(("name", "value"), [("scene", 15), ("caption", 3), ("word", 6), ("step", 2)])
def test_every_control_of_the_steps_changes_the_picture(word, name, value):
    before, after = moved(word[1][name], value)
    assert before != after


def test_words_are_those_of_the_caption(word):
    "Another scene or caption brings its own words, and any of them can be chosen."
    names, controls = word
    for scene, caption in ((15, 1), (23, 4), (2, 0)):
        controls["scene"].value, controls["caption"].value = scene, caption
        words = names["tokens_of"](names["sample"].captions[5 * scene + caption])
        assert names["sample"].image_of_caption[5 * scene + caption] == scene
        assert [w for w, _ in controls["word"].options] == words
        plt.close("all")
        controls["word"].value = len(words) - 1
        assert plt.gcf()._suptitle.get_text().endswith(f"[{words[-1]}]")


def test_the_overlay_is_that_of_the_lens(word):
    "Pixels and scores, for a few scenes, captions, words and steps."
    names = word[0]
    for scene, caption, j, step in ((2, 0, 3, 1), (2, 0, 3, 2), (15, 1, 2, 3), (0, 4, 0, 2)):
        c = 5 * scene + caption
        seen = look(names["model"], names["pictured"][[scene]], names["written"][[c]])
        widgets.draw_word(*names["look_at"](scene, c), j, step)
        left, right = plt.gcf().axes
        other = plt.figure().add_subplot()
        light(other, names["draw"](names["entries"][scene].scene, grain=0), names["sample"].boxes[scene], seen.weights[step - 1, j])
        assert np.array_equal(left.images[0].get_array(), other.images[0].get_array())
        *grey, chosen, point = right.lines
        assert np.array_equal(np.stack([line.get_ydata() for line in grey]), seen.scores.T)
        assert np.array_equal(chosen.get_ydata(), seen.scores[:, j]) and point.get_xydata().tolist() == [[step, float(seen.scores[step - 1, j])]]
        assert all(right.get_ylim()[0] < y < right.get_ylim()[1] for y in seen.scores.flatten().tolist())


def test_pictures_keep_their_size(gate, word):
    "However the controls stand, the page doesn't jump: a figure's tight box is the figure."
    (x, o), look_at = map(gate[0].get, ("x", "proposal")), word[0]["look_at"]
    for show, settings in ((widgets.show_plane, [(37, 90, 0, 53, 180, 4., "queries"), (180, 0, 90, 90, 0, 20., "responses")]),
                           (widgets.show_gate, [(x, o, 0., 0., True), (x, o, 1., 0., False)]),
                           (widgets.draw_word, [(*look_at(2, 10), 3, 1), (*look_at(15, 76), 20, 3)])):
        for values in settings:
            show(*values)
            fig = plt.gcf()
            fig.canvas.draw()
            assert np.allclose(fig.get_tightbbox().bounds, (0, 0, *fig.get_size_inches()), atol=.02), values


@pytest.mark.parametrize("stem", ["07_attention", "08_memory", "09_imram"])
def test_without_ipywidgets_there_is_a_line_of_text(stem, monkeypatch, request):
    namespace = request.getfixturevalue({"07": "plane", "08": "gate", "09": "word"}[stem[:2]])[0]
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert "pip install ipywidgets" in run(place(stem)[2], dict(namespace), stem)
    assert place(stem)[2].count("\n") < 5
