"What `cmr.lens` draws, and what objects show of themselves in a notebook."

from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from test_search import VOCABULARY, make_model
from torch.testing import assert_close

import cmr
from cmr.cards import card
from cmr.encoders import Fragments
from cmr.lens import Look, brightness, frame, heat, light, look, mistakes, plane, salient_shares, show_look, show_sum, show_words
from cmr.recall import report
from cmr.search import Gallery
from cmr.world import drawing

BOXES = [[0, 0, .5, 1], [.5, 0, 1, .5]]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_pictures_need_not_be_square():
    "x is a fraction of the width, y of the height."
    found = brightness([1., 2.], BOXES, (2, 4))
    assert_close(found, np.array([[.5, .5, 1, 1], [.5, .5, 0, 0]]))
    assert_close(heat([1., 2.], BOXES, (2, 4)), np.array([[1, 1, 2, 2], [1, 1, np.nan, np.nan]]), equal_nan=True)


@pytest.mark.parametrize("old, new", [("] += a", "] = a"), ("canvas[y0:y1, x0:x1]", "canvas[x0:x1, y0:y1]"), ("total / count.clip(1)", "total"), ("np.nan", "0")])
def test_a_planted_bug_in_a_canvas_is_seen(old, new):
    "Boxes that don't add up, x and y exchanged, a sum for a mean, 0 where nothing is."
    text = Path(drawing.__file__).read_text(encoding="utf-8")
    assert old in text
    wrong = {"__name__": "wrong"}
    exec(text.replace(old, new), wrong)
    boxes = [[0, 0, .5, 1], [0, 0, 1, .5]]  # the left half, the upper half
    def found(names): return np.stack([names["brightness"]([.2, .6], boxes, (2, 4)), names["heat"]([.2, .6], boxes, (2, 4))])
    assert_close(found(vars(drawing)), np.array([[[1, 1, .75, .75], [.25, .25, 0, 0]], [[.4, .4, .6, .6], [.2, .2, np.nan, np.nan]]]), equal_nan=True)
    assert not np.allclose(found(wrong), found(vars(drawing)), equal_nan=True)


@pytest.mark.parametrize("fade, dark", [(0, 30), (255, 208)])  # 100 * .3 + fade * .7, cut to whole numbers
def test_light_fades_where_nothing_looks(fade, dark):
    ax = plt.figure().gca()
    light(ax, np.full((2, 4, 3), 100, np.uint8), BOXES, [0., 1.], fade)
    shown = ax.images[0].get_array()
    assert shown[0, 3].tolist() == [100] * 3 and shown[1, 0].tolist() == [dark] * 3


def test_frame_stands_at_the_box():
    ax = plt.figure().gca()
    frame(ax, np.zeros((10, 20, 3)), [.5, 0, 1, .5])
    assert [patch.get_bbox().bounds for patch in ax.patches] == [(9.5, -.5, 10, 5)] * 2


def test_a_row_for_each_step_and_a_column_for_each_chosen_word():
    seen = Look(torch.eye(2).expand(3, 2, 2), torch.arange(6.).view(3, 2))
    fig = show_look(np.zeros((4, 8, 3), np.uint8), BOXES, seen, ["red", "ring"], [1])
    assert [(ax.get_ylabel(), ax.get_xlabel()) for ax in fig.axes] == [("step 1", "1.00"), ("step 2", "3.00"), ("step 3", "5.00")]
    assert fig.axes[0].get_title() == "ring" and not fig.axes[1].get_title()
    assert len(show_words([("a", np.zeros((4, 4, 3)), BOXES, seen.weights[0], seen.scores[0])] * 2, ["red", "ring"]).axes) == 4


def test_pieces_of_a_bar_add_up_to_the_score():
    ax = plt.figure().gca()
    show_sum(ax, {"one": Look(torch.ones(2, 2, 1), torch.tensor([[.5, .7], [.2, .2]]))})
    assert_close([patch.get_width() for patch in ax.patches], [.6, .2], atol=1e-6, rtol=0)
    assert ax.texts[-1].get_text() == "= 0.80"


@pytest.mark.parametrize("direction, asks, answers", [("text", "captions", "images"), ("image", "images", "captions")])
@pytest.mark.parametrize("cls, more", [(cmr.SCAN, {}), (cmr.IMRAM, {"steps": 2})])
def test_who_looks(cls, more, direction, asks, answers, ragged):
    "Either side may ask; padding changes nothing; the scores' means add up to the model's score."
    torch.manual_seed(0)
    model = cls(5, 9, embed_dim=4, word_dim=3, direction=direction, **more).double()
    images, captions = ragged([4, 2]), ragged([1, 3], seed=1)
    seen = look(model, images[1], captions[0], direction)
    lengths = {"images": 2, "captions": 1}
    assert seen.weights.shape == (more.get("steps", 1), lengths[asks], lengths[answers])
    assert_close(seen.scores.mean(1).sum(), model.score(images, captions)[1, 0].detach())
    with pytest.raises(TypeError, match="look here, not"): look(model, images[1], captions[0], {"text": "image", "image": "text"}[direction])


def test_salient_words():
    seen = Look(torch.ones(1, 3, 1), torch.tensor([[.9, .5, .5]]))
    shares = salient_shares([seen, seen], [["a", "b", "b"], ["b", "a", "a"]], str.upper)
    assert {name: found.tolist() for name, found in shares.items()} == {"A": [pytest.approx(100 / 3)], "B": [pytest.approx(100 / 3)]}


def test_plane_keeps_variance_and_sign():
    values = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([3., 2., 1., 1., .1, .1])
    found, turned = plane(values), plane(values + 7)
    spread = torch.linalg.eigvalsh(values.T.cov())
    assert_close(found.var(0), spread.flip(0)[:2])
    assert_close(found, turned)


def test_mistakes_come_in_the_order_of_their_size():
    scores = torch.tensor([[.5, .2, .1, .4], [.4, .3, .9, .4]])
    assert mistakes(scores, [0, 0, 0, 0]) == [(2, 0, 1), (1, 0, 1)]  # the last one is a tie


# what a notebook shows

class Tags(HTMLParser):
    "Opens and closes, and all text."
    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.seen = [], "", set()
        self.feed(page)
    def handle_starttag(self, tag, attrs): self.open.append(tag); self.seen.add(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data): self.text += data + " "


def fine(page):
    "Its text, if every tag is closed and it is small and nothing but a table."
    tags = Tags(page)
    assert not tags.open and tags.seen <= {"div", "b", "table", "tr", "th", "td"} and len(page) < 2000
    return tags.text


def test_cards_escape():
    assert "<script>" not in card("<script>", [("<b>", "&")], ["<i>"]) and "<script> <i> <b> & " in fine(card("<script>", [("<b>", "&")], ["<i>"]))


def test_a_report_shows_its_recalls():
    found = fine(report(np.eye(12), np.arange(12))._repr_html_())
    assert "R@sum 600.0" in found and "text retrieval" in found and "100.0 [100.0, 100.0]" in found


def test_fragments_show_sizes(ragged):
    text = fine(ragged([3, 1, 4])._repr_html_())
    assert "1 to 4 of 4" in text and "float64, cpu" in text
    assert "none" in fine(Fragments(torch.zeros(0, 2, 3), torch.ones(0, 2, dtype=torch.bool))._repr_html_())


def test_a_model_shows_its_arguments():
    model = make_model("imram")
    assert "IMRAM" in (text := fine(model._repr_html_())) and "steps=" in text and f"{sum(p.numel() for p in model.parameters()):,}" in text
    model.vocabulary = VOCABULARY
    assert f"{len(VOCABULARY)} words" in fine(model._repr_html_())


def test_a_gallery_shows_what_it_holds(ragged):
    gallery = Gallery(make_model("scan t-i"), ragged([2, 2], d=8, dtype=torch.float32), names=["<b>a</b>", "b"])
    assert "<b>a" not in gallery._repr_html_() and "2 images" in (text := fine(gallery._repr_html_())) and "<b>a</b>, b" in text
