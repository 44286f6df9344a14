"The site of course, workshop and documents; links, anchors, headings and alternative texts of what it is made of."

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from tables import COURSE, FOLDED, NBS, ROOT, WORKSHOP, cells, name, source
from tool import tool

NOTEBOOKS, DOCUMENTS = [*COURSE, *WORKSHOP], [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED, CODE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL), re.compile(r"`[^`\n]*`")
TARGET = re.compile(r"\]\(([^()\s]*(?:\([^()]*\))?[^()\s]*)\)|(?:href|src)=\"([^\"]*)\"")
HEADING, SHORTEST = re.compile(r"^(#{1,6}) +(.+?)\s*$", re.MULTILINE), 25  # an alternative text says what is to be seen

every_text = pytest.mark.parametrize("path", [*NOTEBOOKS, *DOCUMENTS], ids=lambda p: name(p) if NBS in p.parents else p.name)
every_chapter = pytest.mark.parametrize("path", COURSE, ids=name)


def text(path: Path) -> str:
    "The markdown of a notebook or a document, without code blocks."
    whole = "\n\n".join(source(c) for c in cells(path, "markdown")) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    return FENCED.sub("", whole)


def headings(markdown: str) -> list[tuple[int, str]]: return [(len(marks), words) for marks, words in HEADING.findall(markdown)]


def anchors(path: Path) -> set[str]:
    "What can stand behind # : in a notebook the heading with dashes, as JupyterLab has it; in a document GitHub's form of it."
    plain = [re.sub(r"[*`]|\]\([^)]*\)|\[", "", words) for _, words in headings(text(path))]
    if path.suffix == ".ipynb": return {words.replace(" ", "-") for words in plain}
    return {re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for words in plain} | set(re.findall(r"id=\"([^\"]+)\"", text(path)))


def dead(markdown: str, path: Path) -> list[str]:
    "Links of a text at `path` that lead nowhere; of addresses elsewhere only the form is looked at."
    found = []
    for target in ("".join(pair) for pair in TARGET.findall(CODE.sub("`code`", markdown))):
        address = urlparse(target)
        if address.scheme or target.startswith("//"):
            if not re.fullmatch(r"https?://[\w-]+(\.[\w-]+)*\.[a-z]{2,}(:\d+)?(/.*)?|mailto:\S+@\S+", target): found.append(target)
            continue
        file = (path.parent / unquote(address.path)).resolve() if address.path else path
        if not file.exists() or ROOT not in [file, *file.parents]: found.append(target)
        elif address.fragment and file.suffix in (".md", ".ipynb") and unquote(address.fragment) not in anchors(file): found.append(target)
    return found


def jumps(markdown: str) -> list[str]:
    "Headings out of order: one of the first rank, at the head, and none that skips a rank."
    ranks = headings(markdown)
    found = [] if ranks and ranks[0][0] == 1 else ["no title"]
    found += [words for k, (rank, words) in enumerate(ranks) if k and rank == 1]
    return found + [words for (before, _), (rank, words) in zip(ranks, ranks[1:]) if rank > before + 1]


def wordless(notebook: list[dict]) -> list[str]:
    "Code cells that show a figure without an alternative text of at least a short sentence."
    found = []
    for cell in notebook:
        figure = any(kind.startswith("image/") for out in cell.get("outputs", []) for kind in out.get("data", {}))
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        if figure and len(alt.strip()) < SHORTEST: found.append(f"{cell.get('id')}: {source(cell).splitlines()[-1][:60]}")
    return found


def missing_parts(markdown: str, number: int, exercises: set[str]) -> list[str]:
    "Exercises and chapters that a text names and that don't exist; sections only of the text's own chapter (others are the papers')."
    sections = {words.split()[0] for _, words in headings(markdown)}
    named = re.findall(r"\b[Ee]xercises? (\d+\.\d+)(?: and (\d+\.\d+))?", markdown)
    found = [f"exercise {n}" for pair in named for n in pair if n and n not in exercises]
    found += [f"chapter {n}" for n in re.findall(r"\b[Cc]hapters? (\d+)\b", markdown) if int(n) >= len(COURSE)]
    own = re.findall(rf"\b[Ss]ections? ({number}\.\d+)\b(?! of)", markdown) if number > 4 else []  # the papers' sections are 1 to 4
    return found + [f"section {n}" for n in own if n not in sections]


EXERCISES = {n for path in COURSE for n in re.findall(r"^### Exercise (\d+\.\d+)", text(path), re.MULTILINE)}


@every_text
def test_links(path):
    "No dead link, no missing anchor."
    assert not dead(text(path), path)


@every_text
def test_headings_are_in_order(path):
    assert not jumps(text(path))


@every_text
def test_what_a_text_names_exists(path):
    number = int(path.name[:2]) if path in COURSE else 0
    assert not missing_parts(text(path), number, EXERCISES)


@every_chapter
def test_figures_have_alternative_texts(path):
    "A reader who can't see a figure is told what it shows."
    assert not wordless(cells(path, "code"))


@every_text
def test_pictures_in_texts_have_alternative_texts(path):
    assert "![](" not in text(path)


def test_the_rules_catch():
    "Each of them can fail."
    at = ROOT / "docs" / "results.md"
    for bad in ("[a](nowhere.md)", "[a](#no-such-heading)", "[a](../README.md#nothing)", "[a](htps://example.org)", "[a](https://example)", "[a](../../elsewhere)"):
        assert dead(bad, at), bad
    for good in ("[a](../README.md#the-course)", "[a](https://example.org/x_(y))", "`[a](nowhere.md)`", "[a](../nbs/00_index.ipynb)"):
        assert not dead(good, at), good
    assert jumps("## no title") and jumps("# a\n\n### b") and jumps("# a\n\n# b") and not jumps("# a\n\n## b\n\n### c\n\n## d")
    assert missing_parts("see exercise 99.1 and chapter 40", 0, EXERCISES) == ["exercise 99.1", "chapter 40"]
    assert missing_parts("## 7.1 a\n\nsection 7.9 and section 7.1", 7, EXERCISES) == ["section 7.9"]
    figure = {"metadata": {}, "source": ["plot()"], "outputs": [{"data": {"image/png": "x"}}]}
    assert wordless([figure]) and not wordless([{**figure, "metadata": {"mystnb": {"image": {"alt": "A line that rises to the right."}}}}])


@pytest.fixture(scope="module")
def site(): return tool("site")


@pytest.fixture(scope="module")
def built(site, tmp_path_factory):
    "A site of a chapter, a workshop notebook, a document and a module."
    pytest.importorskip("myst_nb", reason="for Python from 3.11 on")
    out, notebooks = tmp_path_factory.mktemp("site") / "site", [Path("nbs/02_similarity.ipynb"), Path("nbs/data/sampling.ipynb")]
    return out, site.build(out, notebooks, [Path("docs/teaching.md")], {"cmr.similarity": notebooks[0]})


def test_site_is_whole(site, built):
    "Sphinx has nothing to say, and nothing leads nowhere or asks for anything from elsewhere."
    out, warnings = built
    assert not warnings and not site.faults(out)
    for page in ("index", "search", "nbs/02_similarity", "nbs/data/sampling", "docs/teaching", "reference/cmr.similarity", "reference/command_line"):
        assert (out / f"{page}.html").is_file(), page
    assert "\b" not in (out / "reference" / "command_line.html").read_text(encoding="utf-8")
    assert (out / "searchindex.js").is_file() and (out / "_static" / "mathjax.js").stat().st_size > 1e6


def test_chapter_as_a_page(built):
    "Committed outputs, folded solutions, mathematics for the script, alternative texts; no set-up cells."
    page = (built[0] / "nbs" / "02_similarity.html").read_text(encoding="utf-8")
    chapter = NBS / "02_similarity.ipynb"
    assert page.count("<details") >= len(FOLDED.findall("\n".join(source(c) for c in cells(chapter, "markdown"))))
    assert 'class="math notranslate' in page and "mathjax.js" in page and "nbdev_export" not in page
    figures = sum(kind.startswith("image/") for c in cells(chapter, "code") for out in c["outputs"] for kind in out.get("data", {}))
    assert page.count('src="../_images/') == figures > 0


def test_reference_shows_comments_beside_arguments(built):
    page = (built[0] / "reference" / "cmr.similarity.html").read_text(encoding="utf-8")
    said = re.search(r"^def l2_normalize\(.*?# ([^\n]+)", (ROOT / "cmr" / "similarity.py").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    assert 'id="l2-normalize"' in page and re.split("[`;,]", said)[0].strip() in page and "../nbs/02_similarity.html" in page


def test_faults_are_found(site, tmp_path):
    "A page with one of each."
    (tmp_path / "a.html").write_text('<img src="https://example.org/x.png" alt="x"><a href="b.html">b</a><a href="#c">c</a><img src="a.html" alt="../x.png">', encoding="utf-8")
    (tmp_path / "a.css").write_text("@import url(https://example.org/font.css);", encoding="utf-8")
    found = "\n".join(site.faults(tmp_path))
    for what in ("asks for https", "dead link b.html", "no anchor #c", "no words for a.html", "a.css: asks"): assert what in found


def test_links_are_led_to_pages(site):
    "To a page with its anchor, to a file laid beside the pages, to a folder: words alone; code is left as it is."
    at, pages = Path("nbs/data/x.ipynb"), {Path("docs/benchmarks.md"), Path("README.md"), Path("nbs/data/x.ipynb")}
    read, beside = site.relinked("[a](../../docs/benchmarks.md#camp) [b](../../README.md#the-course) [c](../../results) [d](../../LICENSE) [e](#Is-it-here?)\n```\n[f](g)\n```", at, pages)
    assert read == '[a](../../docs/benchmarks.md#camp) [b](../../index.md#the-course) c <a href="../../LICENSE">d</a> [e](#is-it-here)\n```\n[f](g)\n```'
    assert beside == {Path("LICENSE")}


def test_hidden_sources_are_folded(site):
    made = {"cells": [{"cell_type": "code", "metadata": meta, "source": [text], "outputs": []}
                      for meta, text in (({"jupyter": {"source_hidden": True}}, "1"), ({}, "2"), ({}, "#| hide\n3"))]}
    shown = site.shown(made, str)["cells"]
    assert [c["metadata"]["tags"] for c in shown] == [["hide-input"], []] and json.dumps(shown)


def test_reference_reads_like_python(site):
    ref = site.reference
    assert ref.python("f(x: 'Path' = <class 'pathlib.Path'>) -> 'int'") == "f(x: Path = Path) -> int"
    assert ref.prose("a <b> of `<c>`, 5 $") == r"a \<b> of `<c>`, 5 \$" and ref.anchor("3.2 Folds") == ref.anchor("3.2-Folds") == "32-folds"
    def twice(x: int = 2): "Twice it."  # noqa: E704
    assert "| `x` | `int` | `2` |" in "\n".join(ref.entry("twice", twice))
