"The decks that are made from marked cells."

import re

import nbformat
import pytest
from tables import COURSE, SESSIONS, name
from tool import tool

slides = tool("slides")


def cell(kind, text, mark="slide", **more):
    made = nbformat.v4.new_markdown_cell(text) if kind == "markdown" else nbformat.v4.new_code_cell(text, outputs=more.pop("outputs", []))
    made.metadata.update(slideshow={"slide_type": mark}, **more)
    return made


@pytest.mark.parametrize("session", [*map(str, SESSIONS), "home"])
def test_deck_of_a_session(session):
    "One deck per session, at most 25 slides, and every chapter of the session in it."
    chapters = slides.sessions()[session]
    assert 1 < slides.count(slides.deck(session, chapters)) <= slides.MOST
    for path in chapters:
        assert "slide" in [slides.kind(c) for c in nbformat.read(path, as_version=4).cells], name(path)


def test_every_chapter_is_in_one_deck():
    found = [path for chapters in slides.sessions().values() for path in chapters]
    assert sorted(found) == COURSE and set(slides.titles()) == set(slides.sessions())


@pytest.fixture(scope="module")
def page():
    "A deck of four cells: text with a formula and a link, a figure, code that shows nothing, and a fragment."
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    figure = nbformat.v4.new_output("display_data", data={"image/png": dot, "text/plain": "<Figure>"})
    made = [cell("markdown", "## Equation 1\n\n$$a < b$$ and [chapter 7](07_attention.ipynb)"),
            cell("code", "secret = 1", outputs=[figure], mystnb={"image": {"alt": "One green dot."}}),
            cell("code", "plain = 2"), cell("markdown", "A question?", "fragment")]
    notebook = nbformat.v4.new_notebook(cells=slides.under_headings(made), metadata={"title": "A & B"})
    return slides.page(notebook, slides.parts())


def test_deck_is_one_file(page):
    "It asks for nothing: no address in a script, a style sheet or a picture, no import."
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?!data:)[^\"]*\"", body)
    assert not re.search(r"@import|url\(['\"]?(?!data:|['\"]?#)", body) and "unpkg" not in page and "cdnjs" not in body
    assert page.count("<script>") == page.count("</script>") == 3 and "Reveal.initialize" in page


def test_deck_shows_what_it_should(page):
    """Figures without code and with words; code that shows nothing stays; links to chapters are words; a fragment belongs to its slide;
    what has no heading stands under its section's."""
    body = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "secret" not in body and "plain" in body and 'alt="One green dot."' in body
    assert "$$a &lt; b$$" in body and "07_attention" not in body and "chapter 7" in body
    assert "<title>A &amp; B</title>" in page and body.count('class="fragment"') == 1
    assert len(re.findall(r"<section", body)) == 2 * 3 and body.count("<h3") == 2 and body.count("Equation 1") == 3


def test_too_many_slides_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(slides, "MOST", 1)
    monkeypatch.setattr("sys.argv", ["slides.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="session 1 has .* slides, at most 1"): slides.main()
