"""The course, the workshop, the documents and the reference as a site that opens from disk: `python docs/tools/site.py --out build/site`.

Notebooks are shown with the outputs they were committed with; nothing is run. Nothing on a page asks a network for anything."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "docs" / "site"
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(SETTINGS)]
import reference  # noqa: E402
from tables import COURSE, SESSIONS, WORKSHOP  # noqa: E402  which session reads what is said there

FENCED = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")  # [words](target), not an image
IMAGE = re.compile(r"!\[[^\]]*\]\(([^()\s]+)\)")
README, EXPLORER = Path("README.md"), Path("docs/explorer.html")
ROOMS = {"world": "drawn scenes and their truth", "data": "captions, features, vocabularies", "fast": "scores without needless work",
         "training": "the loop, recipes, comparisons", "search": "large collections", "shelf": "other models, and the authors' weights"}


def normal(path: Path) -> Path: return Path(os.path.normpath(path))


def relinked(text: str, at: Path, pages: set[Path]) -> tuple[str, set[Path]]:
    "Markdown whose links lead to pages of the site or to files beside them, and those files; a link to a folder becomes its words."
    beside = set()
    def link(found: re.Match) -> str:
        words, (path, _, anchor) = found[1], found[2].partition("#")
        if "://" in path or path.startswith("mailto:"): return found[0]
        target = normal(at.parent / unquote(path)) if path else at
        if target == README: path = os.path.relpath("index.md", at.parent)
        if target in pages: return f"[{words}]({path}{anchor and '#' + reference.anchor(unquote(anchor))})"
        if not (ROOT / target).is_file(): return words
        beside.add(target)
        return f'<a href="{path}">{words}</a>'
    return "".join(part if n % 2 else LINK.sub(link, part) for n, part in enumerate(FENCED.split(text))), beside


def shown(notebook: dict, relink) -> dict:
    "A notebook as the site shows it: set-up cells left out, hidden sources folded, every figure with words for who can't see it."
    heading, kept = "", []
    for cell in notebook["cells"]:
        text, about = "".join(cell["source"]), cell["metadata"]
        if cell["cell_type"] == "markdown":
            heading = next(iter(re.findall(r"^#+ (.*)", text, re.MULTILINE)[-1:]), heading)
            kept.append({**cell, "source": relink(text)})
        elif not re.match(r"#\| *hide\b", text):
            folded = ["hide-input"] if about.get("jupyter", {}).get("source_hidden") else []
            own = about.get("mystnb", {})
            image = {"alt": f"A figure of the section {heading!r}. The text around it says what it shows.", **own.get("image", {})}
            kept.append({**cell, "metadata": {"tags": [*about.get("tags", []), *folded], "mystnb": {**own, "image": image}}})
    return {**notebook, "cells": kept}


def contents(notebooks: list[Path], documents: list[Path]) -> str:
    "The bar at the side: sessions, the home project, the workshop by room, the documents."
    course = [p for p in notebooks if p.parent.name == "nbs"]
    parts = {f"Session {n}": [p for p in course if p.name[:2] in numbers.split()] for n, numbers in SESSIONS.items()}
    parts["At home"] = [p for p in course if not any(p in pages for pages in parts.values())]
    parts["Workshop"] = [f"nbs/{room}/index" for room in ROOMS if any(p.parent.name == room for p in notebooks)]
    parts["Documents"] = [*documents, "reference/index"]
    return "".join(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(map(str, pages)) + "\n```\n"
                   for caption, pages in parts.items() if pages)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def stage(src: Path, notebooks: list[Path], documents: list[Path], modules: dict) -> None:
    "Everything that Sphinx reads, laid out as in the repository, so that relative links hold; README is the front page."
    pages, beside, pictures = {*notebooks, *documents, README}, {EXPLORER}, set()
    def relink(text, at):
        text, files = relinked(text, at, pages)
        beside.update(files)
        pictures.update(normal(at.parent / image) for image in IMAGE.findall(text) if "://" not in image)
        return text
    for path in notebooks:
        notebook = json.loads((ROOT / path).read_text(encoding="utf-8"))
        put(src / path, json.dumps(shown(notebook, lambda text, at=path: relink(text, at))))
    for room, about in ROOMS.items():
        inside = [p.stem for p in notebooks if p.parent.name == room]
        if inside: put(src / "nbs" / room / "index.md", f"# {room}: {about}\n" + reference.CONTENT.format("\n".join(inside)))
    for path in documents: put(src / path, relink((ROOT / path).read_text(encoding="utf-8"), path))
    put(src / "index.md", relink((ROOT / README).read_text(encoding="utf-8"), README) + contents(notebooks, documents))
    reference.write(src / "reference", modules)
    for path, to in [*((p, src / "_beside" / p) for p in beside), *((p, src / p) for p in pictures)]:
        to.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_file(): shutil.copy(ROOT / path, to)


def mathjax() -> Path:
    "One script that sets mathematics, fonts included: from a package, so that no page needs a network."
    home = next(iter(importlib.util.find_spec("mathjax").submodule_search_locations))
    return Path(home, "static", "mathjax", "es5", "tex-svg-full.js")


def everything() -> tuple[list[Path], list[Path], dict]:
    "All notebooks, all documents, and all modules with the notebooks that write them."
    notebooks, documents = ([p.relative_to(ROOT) for p in paths] for paths in ([*COURSE, *WORKSHOP], sorted((ROOT / "docs").glob("*.md"))))
    written = {re.sub(r"^\d+_", "", p.relative_to("nbs").with_suffix("").as_posix()): p for p in notebooks}
    return notebooks, documents, reference.modules(ROOT / "cmr", written)


def build(out: Path, notebooks: list[Path], documents: list[Path], modules: dict) -> list[str]:
    "Build the site of these pages into `out`; what Sphinx complained about."
    from sphinx.cmd.build import build_main
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        src, html, log = work / "source", work / "html", work / "warnings.txt"
        stage(src, notebooks, documents, modules)
        stopped = build_main([str(given) for given in ("-q", "-j", 2, "-c", SETTINGS, "-d", work / "kept", "-w", log, src, html)])
        if stopped: raise SystemExit(f"Sphinx stopped with {stopped}")
        shutil.copytree(src / "_beside", html, dirs_exist_ok=True)
        shutil.copy(mathjax(), html / "_static" / "mathjax.js")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(html, out)
        return [line.replace(str(src), "") for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]


class Page(HTMLParser):
    "What a page asks for, links to, can be linked to, and shows without words."

    def __init__(self, text: str):
        super().__init__()
        self.asks, self.links, self.anchors, self.wordless = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = {key: value or "" for key, value in attrs}
        if "id" in given: self.anchors.add(given["id"])
        if "href" in given: (self.asks if tag == "link" else self.links).append(given["href"])
        if "src" in given: self.asks.append(given["src"])
        self.asks += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style", ""))
        if tag == "img" and re.search(r"^$|\.(png|jpe?g|svg)$", given.get("alt", "")): self.wordless.append(given.get("src", "")[:80])


def faults(out: Path) -> list[str]:
    "What is wrong with a built site: requests to elsewhere, dead links, missing anchors, pictures without words."
    found, pages = [], {path: Page(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("*.html"))}
    for path, page in pages.items():
        wrong = [f"asks for {target[:80]}" for target in page.asks if re.match(r"(?:https?:)?//", target)]
        wrong += [f"no words for {source}" for source in page.wordless]
        for target in [*page.links, *page.asks]:
            if re.match(r"[a-z]+:|//", target): continue
            file, _, anchor = target.partition("#")
            to = normal(path.parent / unquote(file.partition("?")[0])) if file else path
            if not to.exists(): wrong.append(f"dead link {target}")
            elif anchor and to in pages and unquote(anchor) not in pages[to].anchors: wrong.append(f"no anchor {target}")
        found += [f"{path.relative_to(out).as_posix()}: {what}" for what in wrong]
    styles = [path for path in out.rglob("*.css") if re.search(r"@import|url\(['\"]?(?:https?:)?//", path.read_text(encoding="utf-8"))]
    return found + [f"{path.relative_to(out).as_posix()}: asks for something from elsewhere" for path in styles]


def main() -> None:
    "Build, look for faults, and say where it is."
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="the folder to build into; what is in it goes")
    out, clock = options.parse_args().out, time.perf_counter()
    wrong = [*build(out, *everything()), *faults(out)]
    for line in wrong: print(line, file=sys.stderr)
    pages, size = len([*out.rglob("*.html")]), sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"{pages} pages, {size / 1e6:.0f} MB, in {time.perf_counter() - clock:.0f} s: open {out / 'index.html'}")
    if wrong: raise SystemExit(f"{len(wrong)} faults")


if __name__ == "__main__": main()
