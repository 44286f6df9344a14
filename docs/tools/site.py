"""The course, the workshop, the documents and the reference as a site that opens from disk: `python docs/tools/site.py --out build/site`.

Notebooks are shown with the outputs they were committed with; nothing is run. Nothing on a page asks a network for anything."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
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
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from tables import COURSE, NBS, NUMBERED, SESSIONS, WORKSHOP  # noqa: E402  what a session reads is said there

SETTINGS, FENCED = ROOT / "docs" / "site", re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")  # [words](target), not an image
ROOMS = {"world": "drawn scenes and their truth", "data": "captions, features, vocabularies", "fast": "scores without the work that cancels",
         "training": "the loop, recipes, comparisons", "search": "large collections", "shelf": "other models, and the authors' weights"}


def slug(words: str) -> str:
    "The anchor that a heading gets on the page: `3.2 Folds` and `3.2-Folds` are both 32-folds."
    plain = re.sub(r"[*`$]|\]\([^)]*\)", "", re.sub(r"(?<!\w)_|_(?!\w)", "", words)).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def relinked(text: str, at: Path, pages: set[Path], extra: set[Path], pictures: set[Path]) -> str:
    "Markdown whose links lead to pages of the site, or to files laid beside them (added to `extra`; `pictures` gets its images); a link to a folder is its words alone."
    def link(found: re.Match) -> str:
        words, (path, _, anchor) = found[1], found[2].partition("#")
        if "://" in path or path.startswith("mailto:"): return found[0]
        target = Path(os.path.normpath(at.parent / unquote(path))) if path else at
        if target == Path("README.md"): path = os.path.relpath("index.md", at.parent)
        if target in pages: return f"[{words}]({path}{'#' + slug(unquote(anchor)) if anchor else ''})"
        if not (ROOT / target).is_file(): return words
        extra.add(target)
        return f'<a href="{path}">{words}</a>'
    for image in re.findall(r"!\[[^\]]*\]\(([^()\s]+)\)", text):
        if "://" not in image: pictures.add(Path(os.path.normpath(at.parent / image)))
    return "".join(part if n % 2 else LINK.sub(link, part) for n, part in enumerate(FENCED.split(text)))


def staged(notebook: dict, relink) -> dict:
    "A notebook as the site shows it: set-up cells left out, hidden sources folded, every figure with words for those who can't see it."
    heading, kept = "", []
    for cell in notebook["cells"]:
        text, meta = "".join(cell["source"]), cell["metadata"]
        if cell["cell_type"] == "markdown":
            heading = next(iter(re.findall(r"^#+ (.*)", text, re.MULTILINE)[-1:]), heading)
            kept.append({**cell, "source": relink(text)})
        elif not re.match(r"#\| *hide\b", text):
            folded = ["hide-input"] if meta.get("jupyter", {}).get("source_hidden") else []
            image = {"alt": f"A figure of the section {heading!r}; the text around it says what it shows.", **meta.get("mystnb", {}).get("image", {})}
            kept.append({**cell, "metadata": {**meta, "tags": [*meta.get("tags", []), *folded], "mystnb": {**meta.get("mystnb", {}), "image": image}}})
    return {**notebook, "cells": kept}


def toctree(pages: list, caption: str = "", **options) -> str:
    "A table of contents for the bar at the side."
    lines = [f":{key}: {value}" for key, value in {"caption": caption, "hidden": "", "maxdepth": 1, **options}.items() if key != "caption" or value]
    return "\n".join(["", "```{toctree}", *lines, "", *map(str, pages), "```", ""])


def anno(kind) -> str:
    "A type as a table cell."
    if kind in (inspect.Parameter.empty, inspect.Signature.empty): return ""
    return "`" + (kind if isinstance(kind, str) else inspect.formatannotation(kind)).replace("|", r"\|") + "`"


def code(text: str) -> str:
    "Python as one would write it: `Path` where a repr has `<class 'pathlib.Path'>`."
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations that are kept as strings
    return re.sub(r"<(?:class|function|enum) '?(?:[\w<>]+\.)*(\w+)[^>]*>", r"\1", text)


def entry(name: str, thing, level: int = 2) -> str:
    "One function or class of the reference: signature, docstring, and a table of the arguments with their comments."
    from fastcore.docments import docments
    function = getattr(thing, "__func__", thing)
    lines = [f"{'#' * level} {name}", ""]
    if isinstance(thing, property): return "\n".join([*lines, prose(thing.__doc__), ""])
    try: given, signature = docments(function, full=True), str(inspect.signature(function))
    except (ValueError, TypeError, OSError): given, signature = {}, ""  # no source of its own, as an exception
    lines += ["```python", f"{name}{code(re.sub(r'(?<=[(])self(, )?', '', signature))}", "```", "", prose(function.__doc__), ""]
    rows = [(key, anno(of["anno"]), "" if of["default"] is inspect.Parameter.empty else f"`{code(repr(of['default']))}`".replace("|", r"\|"), prose(of["docment"]).replace("|", r"\|"))
            for key, of in given.items() if key not in ("self", "cls") and (key != "return" or of["docment"] or of["anno"] is not inspect.Parameter.empty)]
    if any(key != "return" for key, *_ in rows):
        lines += ["| argument | type | default | |", "|---|---|---|---|", *(f"| {'*returns*' if key == 'return' else f'`{key}`'} | {kind} | {default} | {said} |" for key, kind, default, said in rows), ""]
    if inspect.isclass(thing):
        own = [(key, value) for key, value in vars(thing).items() if not key.startswith("_") and (inspect.isroutine(value) or isinstance(value, (property, classmethod, staticmethod)))]
        lines += [entry(f"{name}.{key}", value, level + 1) for key, value in own if getattr(value, "__doc__", None)]
    return "\n".join(lines)


def prose(text: str | None) -> str:
    "A docstring or a comment as markdown: what would be read as a tag or as mathematics is plain."
    parts = re.split(r"(`[^`]*`)", inspect.cleandoc(text or "").replace("\n", " "))
    return "".join(part if n % 2 else re.sub(r"([<$*_\[\]])", r"\\\1", part) for n, part in enumerate(parts))


def commands(app, words: str = "cmr") -> str:
    "The command line as tables of options, from what `--help` reads."
    if hasattr(app, "commands"): return "\n".join(commands(app.commands[name], f"{words} {name}") for name in app.commands)
    lines = [f"## {words}", "", prose(app.help), "", "| option | default | |", "|---|---|---|"]
    for of in app.params:
        default = "" if of.default is None or callable(of.default) or "Sentinel" in repr(of.default) else f"`{of.default}`".replace("|", r"\|")
        lines.append(f"| `{' / '.join([*of.opts, *of.secondary_opts])}` | {default} | {prose(getattr(of, 'help', '')).replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, ""])


def module_page(name: str, notebook: Path | None) -> str:
    "The reference of one module."
    module = importlib.import_module(name)
    lines = [f"# {name}", "", prose(module.__doc__), ""]
    if notebook: lines += [f"Written by the notebook [{notebook.stem}](../{notebook.as_posix()}), which explains and checks it.", ""]
    names = getattr(module, "__all__", None) or [key for key, value in vars(module).items() if not key.startswith("_") and getattr(value, "__module__", "") == name]
    for key in names:
        thing = getattr(module, key)
        home = getattr(thing, "__module__", name)
        if inspect.ismodule(thing): continue
        if home != name and str(home).startswith("cmr.") and key in getattr(sys.modules[home], "__all__", ()): lines += [f"- [`{key}`]({home}.md#{slug(key)})"]
        elif callable(thing) and hasattr(thing, "__name__"): lines += ["", entry(key, thing)]
        elif len(repr(thing)) < 300: lines += ["", f"## {key}", "", "```python", f"{key} = {code(repr(thing))}", "```", ""]
    return "\n".join(lines) + "\n"


def modules() -> dict[str, Path | None]:
    "Every module of the package, and the notebook that writes it."
    notebooks = {re.sub(r"^\d+_", "", p.relative_to(NBS).with_suffix("").as_posix()): p.relative_to(ROOT) for p in [*COURSE, *WORKSHOP]}
    found = {}
    for path in sorted((ROOT / "cmr").rglob("*.py")):
        short = path.relative_to(ROOT / "cmr").with_suffix("").as_posix()
        if path.name not in ("_modidx.py", "__main__.py") and not short.startswith("cli/"):
            found[("cmr." + short.replace("/", ".")).removesuffix(".__init__")] = notebooks.get(short)
    return dict(sorted(found.items()))


def write_reference(where: Path) -> list[str]:
    "A page per module and one of the command line; their names."
    import typer

    from cmr.cli import app
    where.mkdir(parents=True, exist_ok=True)
    pages = {name: module_page(name, notebook) for name, notebook in modules().items()}
    pages["command_line"] = "# The command line\n\n" + commands(typer.main.get_command(app))
    for name, text in pages.items(): (where / f"{name}.md").write_text(text, encoding="utf-8")
    (where / "index.md").write_text("# Reference\n\nWhat each module exports, with the comments beside its arguments.\n" + toctree(list(pages), hidden="") .replace(":hidden: \n", ""), encoding="utf-8")
    return list(pages)


def contents(notebooks: set[Path], documents: list[Path], reference: bool) -> str:
    "The bar at the side: sessions, the home project, the workshop by room, the reference, the documents."
    course = [p.relative_to(ROOT) for p in COURSE if p.relative_to(ROOT) in notebooks]
    taught = {n: [p for p in course if p.name[:2] in numbers.split()] for n, numbers in SESSIONS.items()}
    parts = [toctree(pages, f"Session {n}") for n, pages in taught.items() if pages]
    parts.append(toctree([p for p in course if not any(p in pages for pages in taught.values())], "At home"))
    rooms = [f"nbs/{room}/index" for room in ROOMS if any(p.parent.name == room for p in notebooks)]
    parts += [toctree(rooms, "Workshop")] if rooms else []
    parts.append(toctree([*documents, *(["reference/index"] if reference else [])], "Documents"))
    return "".join(parts)


def stage(src: Path, notebooks: list[Path], documents: list[Path], reference: bool = True) -> None:
    "Everything that Sphinx reads, laid out as in the repository, so that relative links hold."
    pages, extra, pictures = {*notebooks, *documents, Path("README.md")}, {Path("docs/explorer.html")}, set()
    def relink_at(at): return lambda text: relinked(text, at, pages, extra, pictures)
    for path in notebooks:
        (src / path).parent.mkdir(parents=True, exist_ok=True)
        (src / path).write_text(json.dumps(staged(json.loads((ROOT / path).read_text(encoding="utf-8")), relink_at(path))), encoding="utf-8")
    for room, about in ROOMS.items():
        inside = [p.stem for p in notebooks if p.parent.name == room]
        if inside: (src / "nbs" / room / "index.md").write_text(f"# {room}: {about}\n" + toctree(inside).replace(":hidden: \n", ""), encoding="utf-8")
    (src / "docs").mkdir()
    for path in documents: (src / path).write_text(relink_at(path)((ROOT / path).read_text(encoding="utf-8")), encoding="utf-8")
    if reference: write_reference(src / "reference")
    front = relink_at(Path("README.md"))((ROOT / "README.md").read_text(encoding="utf-8"))
    (src / "index.md").write_text(front + contents({*notebooks}, documents, reference), encoding="utf-8")
    for path, to in [*((path, src / "_beside" / path) for path in extra), *((path, src / path) for path in pictures)]:
        if not (ROOT / path).is_file(): continue
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, to)


def build(out: Path, notebooks: list[Path] | None = None, documents: list[Path] | None = None, reference: bool = True) -> list[str]:
    "Build the site, whole or some of it, into `out`; what Sphinx complained about."
    from sphinx.cmd.build import build_main
    notebooks = [p.relative_to(ROOT) for p in [*COURSE, *WORKSHOP]] if notebooks is None else notebooks
    documents = [p.relative_to(ROOT) for p in sorted((ROOT / "docs").glob("*.md"))] if documents is None else documents
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        src, html, log = work / "source", work / "html", work / "warnings.txt"
        src.mkdir()
        stage(src, notebooks, documents, reference)
        stopped = build_main(["-q", "-b", "html", "-c", str(SETTINGS), "-d", str(work / "kept"), "-w", str(log), "-j", str(min(2, os.cpu_count() or 1)), str(src), str(html)])
        if stopped: raise SystemExit(f"Sphinx stopped with {stopped}")
        shutil.copytree(src / "_beside", html, dirs_exist_ok=True)
        shutil.copy(mathjax(), html / "_static" / "mathjax.js")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(html, out)
        return [line.replace(str(src), "") for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]


def mathjax() -> Path:
    "One script that sets mathematics, fonts included: from a package, so that no page needs a network."
    return Path(next(iter(importlib.util.find_spec("mathjax").submodule_search_locations))) / "static" / "mathjax" / "es5" / "tex-svg-full.js"


class Page(HTMLParser):
    "What a page asks for, links to, can be linked to, and shows without words."

    def __init__(self, text: str):
        super().__init__()
        self.asks, self.links, self.anchors, self.wordless = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if given.get("id"): self.anchors.add(given["id"])
        if tag == "a" and given.get("href"): self.links.append(given["href"])
        if tag == "link" and given.get("href"): self.asks.append(given["href"])
        if tag != "a" and given.get("src"): self.asks.append(given["src"])
        if given.get("style"): self.asks += re.findall(r"url\(['\"]?([^'\")]+)", given["style"])
        if tag == "img" and (not given.get("alt") or re.search(r"\.(png|jpe?g|svg)$", given["alt"])): self.wordless.append(given.get("src", "?")[:80])


def faults(out: Path) -> list[str]:
    "What is wrong with the pages of a built site: requests to elsewhere, dead links, missing anchors, pictures without words."
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("*.html")) if "_static" not in path.parts}
    found = []
    for path, page in pages.items():
        name = path.relative_to(out).as_posix()
        found += [f"{name}: asks for {target[:80]}" for target in page.asks if re.match(r"(?:https?:)?//", target)]
        found += [f"{name}: no words for {src}" for src in page.wordless]
        for target in [*page.links, *page.asks]:
            if re.match(r"[a-z]+:|//", target): continue
            file, _, anchor = target.partition("#")
            to = Path(os.path.normpath(path.parent / unquote(file.partition("?")[0]))) if file else path
            if not to.exists(): found.append(f"{name}: dead link {target}")
            elif anchor and to in pages and unquote(anchor) not in pages[to].anchors: found.append(f"{name}: no anchor {target}")
    styles = [path for path in out.rglob("*.css") if re.search(r"@import|url\(['\"]?(?:https?:)?//", path.read_text(encoding="utf-8"))]
    return found + [f"{path.relative_to(out)}: asks for something from elsewhere" for path in styles]


def main() -> None:
    "Build, look for faults, and say where it is."
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="the folder to build into")
    given = options.parse_args()
    clock = time.perf_counter()
    wrong = build(given.out)
    wrong += faults(given.out)
    for line in wrong: print(line, file=sys.stderr)
    pages, size = len([*given.out.rglob("*.html")]), sum(p.stat().st_size for p in given.out.rglob("*") if p.is_file())
    print(f"{pages} pages, {size / 1e6:.0f} MB, in {time.perf_counter() - clock:.0f} s: open {given.out / 'index.html'}")
    if wrong: raise SystemExit(f"{len(wrong)} faults")


if __name__ == "__main__": main()
