"The reference as markdown: a page per module, from signatures, docstrings and the comments beside arguments; and one of the command line."

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

EMPTY = inspect.Parameter.empty
CONTENT = "\n```{{toctree}}\n:maxdepth: 1\n\n{}\n```\n"


def anchor(words: str) -> str:
    "The anchor that a heading gets on the page: `3.2 Folds` and `3.2-Folds` are both 32-folds."
    plain = re.sub(r"[*`$]|\]\([^)]*\)", "", re.sub(r"(?<!\w)_|_(?!\w)", "", words)).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def prose(text: str | None) -> str:
    "A docstring or a comment as markdown: what would be read as a tag, emphasis or mathematics is plain; code stays code."
    parts = re.split(r"(`[^`]*`)", inspect.cleandoc(text or "").replace("\n", " "))
    return "".join(part if n % 2 else re.sub(r"([<$*_\[\]])", r"\\\1", part) for n, part in enumerate(parts))


def python(text: str) -> str:
    "Python as one would write it: `Path` where a repr has `<class 'pathlib.Path'>`, and no quotes around a type."
    return re.sub(r"<(?:class|function|enum) '?(?:[\w<>]+\.)*(\w+)[^>]*>", r"\1", re.sub(r"(: |-> )'([^']*)'", r"\1\2", text))


def table(rows: list[tuple], *head: str) -> list[str]:
    "Lines of a markdown table."
    return ["| " + " | ".join(str(field).replace("|", r"\|") for field in row) + " |" for row in (head, ("---",) * len(head), *rows)] + [""]


def coded(thing) -> str:
    "A type or a default in a table; nothing where there is none."
    if thing is EMPTY: return ""
    return f"`{thing if isinstance(thing, str) else inspect.formatannotation(thing)}`"


def arguments(given: dict) -> list[str]:
    "The table of a function's arguments, if it has any."
    rows = [(f"`{name}`", coded(of["anno"]), "" if of["default"] is EMPTY else f"`{python(repr(of['default']))}`", prose(of["docment"]))
            for name, of in given.items() if name not in ("self", "cls", "return")]
    back = given.get("return")
    if back and (back["docment"] or back["anno"] not in (EMPTY, None, "None")):
        rows.append(("*returns*", coded(back["anno"]), "", prose(back["docment"])))
    return table(rows, "argument", "type", "default", "") if len(given.keys() - {"self", "cls", "return"}) else []


def entry(name: str, thing, level: int = 2) -> list[str]:
    "One function or class: signature, docstring, arguments; a class's methods below it."
    from fastcore.docments import docments
    head, function = [f"{'#' * level} {name}", ""], getattr(thing, "__func__", thing)
    if isinstance(thing, property): return [*head, prose(thing.__doc__), ""]
    try: given, signature = docments(function, full=True), str(inspect.signature(function))
    except (ValueError, TypeError, OSError): given, signature = {}, ""  # no source of its own, as an exception
    shown = python(re.sub(r"(?<=\()self(, )?", "", signature))
    lines = [*head, "```python", f"{name}{shown}", "```", "", prose(function.__doc__), "", *arguments(given)]
    for key, value in vars(thing).items() if inspect.isclass(thing) else ():
        method = inspect.isroutine(value) or isinstance(value, property)
        if method and not key.startswith("_") and value.__doc__: lines += entry(f"{name}.{key}", value, level + 1)
    return lines


def module_page(name: str, notebook: Path | None) -> str:
    "The reference of one module; `notebook` is the one that writes it."
    module = importlib.import_module(name)
    lines = [f"# {name}", "", prose(module.__doc__), ""]
    if notebook: lines += [f"Written by the notebook [{notebook.stem}](../{notebook.as_posix()}), which explains and checks it.", ""]
    own = [key for key, value in vars(module).items() if not key.startswith("_") and getattr(value, "__module__", "") == name]
    for key in getattr(module, "__all__", own):
        thing = getattr(module, key)
        home = str(getattr(thing, "__module__", name))
        if inspect.ismodule(thing): continue
        if home != name and key in getattr(sys.modules.get(home), "__all__", ()) and home.startswith("cmr."):
            lines.append(f"- [`{key}`]({home}.md#{anchor(key)})")
        elif callable(thing) and hasattr(thing, "__name__"): lines += ["", *entry(key, thing)]
        elif len(repr(thing)) < 300: lines += ["", f"## {key}", "", "```python", f"{key} = {python(repr(thing))}", "```", ""]
    return "\n".join(lines) + "\n"


def commands(command, words: str = "cmr") -> list[str]:
    "The command line: a table of options per command, from what its `--help` reads."
    if hasattr(command, "commands"):
        return [line for name, inner in command.commands.items() for line in commands(inner, f"{words} {name}")]
    def default(of): return "" if of.default is None or callable(of.default) or "Sentinel" in repr(of.default) else f"`{of.default}`"
    rows = [(f"`{' / '.join([*of.opts, *of.secondary_opts])}`", default(of), prose(getattr(of, "help", ""))) for of in command.params]
    parts = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))  # one that begins with \b keeps its lines
    said = [f"```text\n{part.replace(chr(8), '').strip()}\n```\n" if part.startswith("\b") else prose(part) + "\n" for part in parts]
    return [f"## {words}", "", *said, *table(rows, "option", "default", "")]


def modules(package: Path, notebooks: dict[str, Path]) -> dict[str, Path | None]:
    "Every module of the package but the command line's, with the notebook that writes it; `notebooks` by module, as data/sampling."
    found = {}
    for path in package.rglob("*.py"):
        short = path.relative_to(package).with_suffix("").as_posix()
        if path.name in ("_modidx.py", "__main__.py") or short.startswith("cli/"): continue
        found[("cmr." + short.replace("/", ".")).removesuffix(".__init__")] = notebooks.get(short)
    return dict(sorted(found.items()))


def write(where: Path, found: dict[str, Path | None]) -> None:
    "Write the pages of these modules, the command line's and their index into a folder."
    import typer

    from cmr.cli import app
    pages = {name: module_page(name, notebook) for name, notebook in found.items()}
    pages["command_line"] = "# The command line\n\n" + "\n".join(commands(typer.main.get_command(app)))
    pages["index"] = "# Reference\n\nWhat each module exports, with the comments beside its arguments.\n" + CONTENT.format("\n".join(pages))
    where.mkdir(parents=True)
    for name, text in pages.items(): (where / f"{name}.md").write_text(text, encoding="utf-8")
