"""A deck per session from the cells that chapters mark, one file each, without a network: `python docs/tools/slides.py --out build/slides`.

A cell is on a slide if its metadata say so (`slideshow.slide_type`: slide, subslide or fragment). Figures stand without their code."""

from __future__ import annotations

import argparse
import html
import importlib.util
import json
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "docs" / "site"
sys.path[:0] = [str(ROOT / "tests")]
from tables import COURSE, SESSIONS  # noqa: E402

MOST, SHOWN = 25, ("slide", "subslide", "fragment")
LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\((?!https?:)[^()\s]*\)")  # a deck is one file: a link to a chapter becomes its words


def kind(cell: dict) -> str:
    "What a cell is in the deck; '' where it isn't in it."
    marked = cell["metadata"].get("slideshow", {}).get("slide_type", "")
    return marked if marked in SHOWN else ""


def titles() -> dict[str, str]:
    "What the teaching notes call the sessions."
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    return {number: title for number, title in re.findall(r"^## Session (\d+): (.*)", text, re.MULTILINE)} | {"home": "The home project"}


def sessions() -> dict[str, list[Path]]:
    "Chapters by session, and what is left for home."
    taught = {str(n): [p for p in COURSE if p.name[:2] in numbers.split()] for n, numbers in SESSIONS.items()}
    return {**taught, "home": [p for p in COURSE if not any(p in chapters for chapters in taught.values())]}


def slide(cell: dict):
    "A marked cell as it stands on its slide: with its alternative text, and without its code if it shows something."
    cell = nbformat.from_dict(json.loads(json.dumps(cell)))
    if cell.cell_type == "markdown": cell.source = LINK.sub(r"\1", cell.source)
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    for out in cell.get("outputs", []):
        if "data" in out: out.metadata = {mime: {"alt": alt} for mime in ("image/png", "image/jpeg")}
    if cell.get("outputs"): cell.metadata["transient"] = {"remove_source": True}
    return cell


def under_headings(cells: list) -> list:
    "The marked cells of a chapter; a slide that has no heading of its own gets that of its section, in small."
    heading, found = "", []
    for cell in cells:
        own = re.findall(r"^#+ (.*)", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        heading = own[-1] if own else heading
        if not kind(cell): continue
        shown = slide(cell)
        if kind(cell) != "fragment" and not own:
            found.append(nbformat.v4.new_markdown_cell(f"### {heading}", metadata={"slideshow": shown.metadata.slideshow}))
            shown.metadata.slideshow = {"slide_type": "-"}  # it goes on the slide that the heading has begun
        found.append(shown)
    return found


def deck(session: str, chapters: list[Path]):
    "The marked cells of a session's chapters as one notebook, a title before them."
    title = titles().get(session, "")
    name = f"Session {session}" if session != "home" else "At home"
    first = nbformat.v4.new_markdown_cell(f"# {name}\n\n## {title}", metadata={"slideshow": {"slide_type": "slide"}})
    marked = [part for p in chapters for part in under_headings(nbformat.read(p, as_version=4).cells)]
    return nbformat.v4.new_notebook(cells=[first, *marked], metadata={"title": f"{name}: {title}", "language_info": {"name": "python"}})


def count(notebook) -> int: return sum(kind(cell) in ("slide", "subslide") for cell in notebook.cells)


def parts() -> dict[str, str]:
    "What a deck carries along: reveal.js and MathJax from the packages that bring them, and the styles."
    def home(package): return Path(next(iter(importlib.util.find_spec(package).submodule_search_locations)))
    reveal = home("sphinx_revealjs") / "_static" / "revealjs" / "dist"
    styles = [reveal / "reset.css", reveal / "reveal.css", reveal / "theme" / "white.css", SETTINGS / "slides" / "slides.css"]
    style = "\n".join(re.sub(r"@import [^;]*;", "", path.read_text(encoding="utf-8")) for path in styles)
    scripts = {"reveal": reveal / "reveal.js", "mathjax": home("mathjax") / "static" / "mathjax" / "es5" / "tex-svg-full.js"}
    return {"style": style, **{name: path.read_text(encoding="utf-8").replace("</script", "<\\/script") for name, path in scripts.items()}}


def page(notebook, carried: dict[str, str]) -> str:
    "A deck as one page of HTML."
    plain = {"exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = SlidesExporter(template_name="slides", extra_template_basedirs=[str(SETTINGS)], **plain)
    return exporter.from_notebook_node(notebook, {"deck": carried})[0]


def main() -> None:
    "Write the decks and a page that lists them."
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=ROOT / "build" / "slides", help="the folder to write into")
    out = options.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    carried, items = parts(), []
    for session, chapters in sessions().items():
        notebook = deck(session, chapters)
        slides = count(notebook)
        if slides > MOST: raise SystemExit(f"session {session} has {slides} slides, at most {MOST}: take marks from a chapter")
        (out / f"session_{session}.html").write_text(page(notebook, carried), encoding="utf-8")
        items.append(f'<li><a href="session_{session}.html">{html.escape(notebook.metadata.title)}</a> ({slides} slides)</li>')
        print(f"session_{session}.html: {slides} slides")
    head = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Slides</title>'
    keys = "<p>Arrow keys move, F fills the screen, O shows all slides, ?print-pdf after the address prints.</p>"
    (out / "index.html").write_text(f"{head}<h1>Slides</h1>{keys}<ul>{''.join(items)}</ul></html>\n", encoding="utf-8")


if __name__ == "__main__": main()
