"""The course as assignments: `python docs/tools/edition.py --out build/edition`. What comes out, and how a teacher uses it, stands in docs/edition.md."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import test_exercises  # noqa: E402 (how an exercise is read and run stands in one place)
from tables import COURSE, EXERCISE, SESSIONS, source  # noqa: E402

GIVEN_TESTS = Path(__file__).parent / "sessions"                       # test_MODULE.py and conftest.py
SOLUTION = re.compile(r"<details>\s*<summary>\s*Solution\s*</summary>.*?</details>\n?", re.DOTALL)
HEADING = re.compile(r"^#{1,4} (?:[\d.]+ )?(.*)$", re.MULTILINE)       # its number is no part of it
POINTS = {"Easy": 1, "Medium": 2, "Hard": 3}
KEPT = {"dataclass", "property", "classmethod", "staticmethod", "no_grad"} # decorators that a stub keeps; the others make a name known to the package
CHDIR = """# The chapter reads the course's data: where they lie, beside the installed package or in CMR_COURSE.
import os, cmr
os.chdir(os.path.join(os.environ.get("CMR_COURSE") or os.path.dirname(os.path.dirname(cmr.__file__)), "nbs"))"""


def session_of(path: Path) -> str: return next((f"session_{n}" for n, chapters in SESSIONS.items() if path.name[:2] in chapters.split()), "home")


# ---- exercises

@dataclass(frozen=True)
class Exercise:
    "One exercise: its cell in three parts, its folded solution, and what its heading says."
    path: Path
    name: str
    number: str      # "6.1"
    title: str
    level: str       # Easy, Medium or Hard
    minutes: int
    middle: bool     # stands in the middle of its chapter, which then builds the answer itself
    stub: str        # with the mark above it
    rest: str        # check and attempt
    solution: str

    @property
    def points(self) -> int: return 1 if self.middle else POINTS[self.level]

    @property
    def question(self) -> str: return f"{self.path.stem[:2]}-{self.name}"

    @property
    def strict(self) -> str:
        "The check alone, called on the answer: it raises for an open exercise as well."
        call = next(node.value for node in ast.parse(self.rest).body if isinstance(node, ast.Expr) and getattr(getattr(node.value, "func", None), "id", "") == "attempt")
        check = ast.get_source_segment(self.rest, call.args[1])
        return f"{check}({self.name})" if check.isidentifier() else f"({check})({self.name})"

    @property
    def without_attempt(self) -> str:
        "What the check needs."
        lines = self.rest.splitlines()
        node = next(node for node in ast.parse(self.rest).body if isinstance(node, ast.Expr) and "attempt" in ast.dump(node))
        return "\n".join(lines[:node.lineno - 1] + lines[node.end_lineno:]).strip()


def definition(text: str, name: str) -> ast.FunctionDef | ast.ClassDef:
    return next(node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name)


@cache
def exercises(path: Path) -> list[Exercise]:
    "Those of a chapter, in its order."
    found, cells = [], test_exercises.cells(path)
    for k, (kind, text) in enumerate(cells):
        if kind != "code" or not EXERCISE.search(text): continue
        name, before = EXERCISE.search(text)[1], "\n".join(words for kind, words in cells[:k] if kind == "markdown")
        number, title = re.findall(r"^#+ Exercise (\S+): (.*)$", before, re.MULTILINE)[-1]
        level, minutes = re.findall(r"\*(Easy|Medium|Hard), (\d+) minutes", before)[-1]
        rest = test_exercises.without(text, name)
        node = definition(text, name)
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        stub = f"#| exercise: {name}\n" + "\n".join(text.splitlines()[first - 1:node.end_lineno])
        stub = stub if stub.endswith("your turn") else f"{stub} # your turn"
        found.append(Exercise(path, name, number, title, level, int(minutes), not re.search(r"^## (?:[\d.]+ )?Exercises", before, re.MULTILINE),
                              stub, EXERCISE.sub("", rest).strip(), test_exercises.solution(path, k).strip()))
    return found


def bodies(node: ast.FunctionDef | ast.ClassDef) -> ast.FunctionDef:
    "The function that a stub leaves open: itself, or the method of a class that raises."
    if isinstance(node, ast.FunctionDef): return node
    return next(method for method in node.body if isinstance(method, ast.FunctionDef) and "NotImplementedError" in ast.dump(method))


def written(e: Exercise, begin: str, end: str, prompt: bool) -> str:
    "The stub's head, then the solution's body between two marks: what both graders take out again."
    stub = bodies(definition(e.stub, e.name))
    head = e.stub.splitlines()[:stub.body[-1].lineno - 1]
    lines, whole = e.solution.splitlines(), definition(e.solution, e.name)
    answer = whole if isinstance(whole, ast.FunctionDef) else next(m for m in whole.body if getattr(m, "name", "") == stub.name)
    start = answer.body[0]
    body = [" " * start.col_offset + lines[start.lineno - 1][start.col_offset:], *lines[start.lineno:whole.end_lineno]]
    if start.lineno == answer.lineno: body = [" " * (answer.col_offset + 4) + lines[start.lineno - 1][start.col_offset:]]
    space = " " * (stub.col_offset + 4)
    asked = [f'{space}""" # BEGIN PROMPT', f"{space}raise NotImplementedError # your turn", f'{space}""" # END PROMPT'] if prompt else []
    return "\n".join([*head, *asked, space + begin, *body, space + end])


# ---- notebooks

def cell(kind: str, text: str, about: str, **metadata) -> dict:
    "A new cell, with an id that is the same in every run."
    made = {"cell_type": kind, "id": hashlib.sha256(about.encode()).hexdigest()[:8], "metadata": metadata, "source": text.splitlines(keepends=True)}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


@cache
def notebook(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8"))


def write(book: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def edited(path: Path, at_exercise) -> dict:
    "The chapter without its folded solutions; in place of an exercise's cell, what at_exercise makes of it."
    book, known = notebook(path), {e.name: e for e in exercises(path)}
    made: list[dict] = []
    for c in book["cells"]:
        found = c["cell_type"] == "code" and EXERCISE.search(source(c))
        if found: made += at_exercise(known[found[1]], c)
        elif c["cell_type"] == "markdown": made.append(c | {"source": SOLUTION.sub("", source(c)).splitlines(keepends=True)})
        else: made.append(c)
    return book | {"cells": made}


def student(path: Path) -> dict: return edited(path, lambda e, c: [c])


def solved(e: Exercise) -> str: return f"#| exercise: {e.name}\n{e.solution}\n\n{e.rest}"


def said(e: Exercise) -> str:
    "What the solved cell prints, run after the cells that it needs; ValueError unless that ends with Right."
    here = os.getcwd()
    os.chdir(e.path.parent)
    try:
        k = next(k for k, (kind, text) in enumerate(test_exercises.cells(e.path)) if kind == "code" and f"exercise: {e.name}\n" in text)
        printed = test_exercises.run(solved(e), dict(test_exercises.spaces(e.path)[k]), f"{e.name} solution")
    finally: os.chdir(here)
    if not printed.endswith("Right.\n"): raise ValueError(f"the solution of {e.name} in {e.path.name} is not right: {printed}")
    return printed


def instructor(path: Path, run: bool = True) -> dict:
    "The chapter with its solutions put in, each run to Right."
    def answered(e: Exercise, c: dict) -> list[dict]:
        outputs = [{"output_type": "stream", "name": "stdout", "text": said(e).splitlines(keepends=True)}] if run else []
        return [c | {"source": solved(e).splitlines(keepends=True), "outputs": outputs}]
    return edited(path, answered)


def nbgrader(path: Path) -> dict:
    "As nbgrader's source: an answer cell and a locked cell with points for each exercise."
    def pair(e: Exercise, c: dict) -> list[dict]:
        def about(grade: bool, end: str) -> dict:
            found = {"grade": grade, "solution": not grade, "locked": grade, "task": False, "grade_id": e.question + end, "schema_version": 3, "cell_type": "code"}
            return {"nbgrader": found | ({"points": e.points} if grade else {})}
        checked = f"{e.rest}\n{e.strict} # without an answer this cell must fail: no points"
        answer = cell("code", written(e, "### BEGIN SOLUTION", "### END SOLUTION", False), f"nbgrader {e.question}", **about(False, ""))
        return [answer, cell("code", checked, f"nbgrader {e.question} test", tags=["raises-exception"], **about(True, "-test"))]
    return begun(edited(path, pair), path)


def begun(book: dict, path: Path, *first: dict) -> dict:
    "With a cell in front that goes where the chapter's data lie."
    return book | {"cells": [*first, cell("code", CHDIR, f"chdir {path.stem}"), *book["cells"]]}


def otter(path: Path) -> dict:
    "As `otter assign` reads it: raw cells around solution and tests."
    def question(e: Exercise, c: dict) -> list[dict]:
        def raw(text: str) -> dict: return cell("raw", text, f"otter {e.question} {text}")
        check = f"{e.without_attempt}\n\n" if e.without_attempt else ""
        strict = f"import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): {e.strict}" if "print(" in check else e.strict
        return [raw(f"# BEGIN QUESTION\nname: {e.question}\npoints: {e.points}\nall_or_nothing: true"), raw("# BEGIN SOLUTION"),
                cell("code", written(e, "# BEGIN SOLUTION NO PROMPT", "# END SOLUTION", True), f"otter {e.question} code"), raw("# END SOLUTION"),
                cell("code", e.rest, f"otter {e.question} attempt", tags=["raises-exception"]),
                raw("# BEGIN TESTS"), cell("code", check + strict, f"otter {e.question} test"), raw("# END TESTS"), raw("# END QUESTION")]
    head = cell("raw", f"# ASSIGNMENT CONFIG\nname: {path.stem}\nsolutions_pdf: false\nexport_cell: false\ninit_cell: false\ncheck_all_cell: true", f"otter {path.stem}")
    start = f'import os, otter\ngrader = otter.Notebook(os.path.abspath("{path.name}")) # by its full name: the next cell goes elsewhere'
    return begun(edited(path, question), path, head, cell("code", start, f"otter start {path.stem}"))


# ---- packages to fill in

def module_of(path: Path) -> str | None:
    "The module that a chapter writes, if it writes one."
    found = re.search(r"^#\| *default_exp (\w+)", "\n".join(source(c) for c in notebook(path)["cells"]), re.MULTILINE)
    return found and found[1]


@cache
def sessions() -> dict[str, dict[str, Path]]:
    "{session: {module: its chapter}} of the sessions that build something."
    found: dict[str, dict[str, Path]] = {}
    for path in COURSE:
        if session_of(path) != "home" and (module := module_of(path)) and (GIVEN_TESTS / f"test_{module}.py").is_file():
            found.setdefault(session_of(path), {})[module] = path
    return found


@cache
def asked(module: str) -> list[str]:
    "Names of a module that its given tests test, in its order: those become stubs, the others are given."
    tests = ast.parse((GIVEN_TESTS / f"test_{module}.py").read_text(encoding="utf-8"))
    tested = {node.name.removeprefix("test_").split("__")[0] for node in tests.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    return [node.name for node in ast.parse(code(module)).body if getattr(node, "name", None) in tested]


@cache
def code(module: str) -> str:
    "A module's source without nbdev's marks."
    text = (ROOT / "cmr" / f"{module}.py").read_text(encoding="utf-8")
    return re.sub(r"\n{3,}", "\n\n\n", re.sub(r"^# (?:%%|AUTOGENERATED).*\n", "", text, flags=re.MULTILINE))


def portable(text: str, session: str) -> str:
    "The same source outside the package: only modules of its own session are its neighbours, and nothing is registered."
    text = re.sub(r"^from \.(\w[\w.]*) import", lambda m: m[0] if m[1] in sessions()[session] else f"from cmr.{m[1]} import", text, flags=re.MULTILINE)
    text = re.sub(r"^from \. import", "from cmr import", text, flags=re.MULTILINE)
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        for d in getattr(node, "decorator_list", []):
            if not {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(d) if isinstance(n, (ast.Name, ast.Attribute))} & KEPT: lines[d.lineno - 1] = ""
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines) + "\n")


def emptied(text: str) -> str:
    "Every body after its docstring becomes `raise NotImplementedError`."
    lines = text.splitlines()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    inner = {id(n) for f in functions for n in ast.walk(f) if isinstance(n, ast.FunctionDef) and n is not f}
    for f in sorted(functions, key=lambda f: -f.lineno):
        if id(f) in inner: continue
        first, last, space = f.body[0], f.body[-1].end_lineno, " " * (f.col_offset + 4)
        if first.lineno == f.lineno or (isinstance(f.body[0], ast.Expr) is False and lines[first.lineno - 1][:first.col_offset].strip()):
            lines[first.lineno - 1:last] = [lines[first.lineno - 1][:first.col_offset] + "raise NotImplementedError"]
            continue
        said = ast.get_docstring(f) is not None
        keep = first.end_lineno if said else first.lineno - 1
        lines[keep:last] = [f"{space}raise NotImplementedError"]
    return "\n".join(lines)


def stubs(module: str, session: str, filled: bool = False) -> str:
    "A module with its tested functions and classes emptied (or filled, as a student would), the others imported from the course."
    text = portable(code(module), session)
    tree, lines = ast.parse(text), text.splitlines()
    open_names, kept, made, given = set(asked(module)), [], [], []
    for node in tree.body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        part = "\n".join(lines[first - 1:node.end_lineno])
        names = {node.name} if hasattr(node, "name") else {t.id for t in getattr(node, "targets", [getattr(node, "target", None)]) if isinstance(t, ast.Name)}
        names |= {t.id for tuple_ in getattr(node, "targets", []) if isinstance(tuple_, ast.Tuple) for t in tuple_.elts}
        if isinstance(node, (ast.Import, ast.ImportFrom)): kept.append(part)
        elif names & open_names: made.append(part if filled else emptied(part))
        elif names and not names <= {"__all__"}:
            inside = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & open_names
            if inside and not hasattr(node, "name"): made.append(part)               # a table of what is to be written
            else: given += sorted(names)
    if given: kept.append(f"from cmr.{module} import {', '.join(sorted(given))}  # given")
    about = ast.get_docstring(tree)
    return f'"""{about}"""\n\n' + "\n".join(kept) + "\n\n\n" + "\n\n\n".join(made) + "\n"


def section(path: Path, name: str) -> str:
    "Under which heading of its chapter an exported name is built."
    heading = ""
    for c in notebook(path)["cells"]:
        if c["cell_type"] == "markdown": heading = ([heading] + [found for found in HEADING.findall(source(c)) if not found.startswith("Exercise")])[-1]
        elif re.search(r"^#\| *export", source(c), re.MULTILINE) and re.search(rf"^(?:def|class) {name}\b", source(c), re.MULTILINE): return heading
    return "its cell with #| export"


ADAPTERS = '''"""What the given tests call. Is yours called otherwise, or does it live elsewhere? Then change its line here; the tests stay as they are.

PACKAGE=cmr runs the same tests on the course's own package, which passes."""

import importlib
import os

PACKAGE = os.environ.get("PACKAGE", "mine")


def yours(module: str, name: str):
    "An object of your package, looked up when it is called."
    found = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    if PACKAGE != "cmr" and getattr(found, "__module__", "").startswith("cmr."):
        raise AssertionError(f"{name} in {PACKAGE}/{module}.py is the course's own: write yours")
    return found
'''

ADAPTER = '''

def {name}(*args, **settings):
    """{about}

    Chapter {chapter}, "{section}" (nbs/{file})."""
    return yours("{module}", "{name}")(*args, **settings)
'''


def about(module: str, name: str) -> str:
    "The first sentence of a docstring in the package."
    return ((ast.get_docstring(definition(code(module), name)) or "").split("\n")[0].replace('"', "'") or f"as {name} of the course").rstrip()


def adapters(session: str) -> str:
    parts = [ADAPTER.format(name=name, module=module, about=about(module, name), chapter=int(path.name[:2]), section=section(path, name), file=path.name)
             for module, path in sessions()[session].items() for name in asked(module)]
    return ADAPTERS + "".join(parts)


README = """# {title}: write it yourself

`mine/` holds {count} functions and classes of {chapters}, with signatures and docstrings and without bodies. Fill them in, one after the other, in this order:

{listed}

`python -m pytest tests -q` tests what you have; `-k NAME` one of them; `-x` stops at the first that fails. A failure says which function it is, what it should do, and where its chapter builds it.
`PACKAGE=cmr python -m pytest tests -q` runs the same tests on the course's package, and all pass. `mine/` may import from `cmr` what another session builds, so nobody has to have finished the session before.
Change `tests/adapters.py` if your names differ; leave the tests as they are.
"""


def package(session: str, out: Path) -> None:
    "An empty package with its adapters and given tests."
    modules = sessions()[session]
    (out / "mine").mkdir(parents=True, exist_ok=True)
    (out / "tests").mkdir(exist_ok=True)
    (out / "mine" / "__init__.py").write_text('"Your implementation."\n', encoding="utf-8")
    for module in modules:
        (out / "mine" / f"{module}.py").write_text(stubs(module, session), encoding="utf-8")
        shutil.copyfile(GIVEN_TESTS / f"test_{module}.py", out / "tests" / f"test_{module}.py")
    shutil.copyfile(GIVEN_TESTS / "conftest.py", out / "tests" / "conftest.py")
    (out / "tests" / "adapters.py").write_text(adapters(session), encoding="utf-8")
    listed = "\n".join(f"- [ ] `{module}.{name}`: {about(module, name)}" for module in modules for name in asked(module))
    chapters = " and ".join(f"chapter {int(path.name[:2])} (`nbs/{path.name}`)" for path in modules.values())
    (out / "README.md").write_text(README.format(title=session.replace("_", " ").capitalize(), count=sum(len(asked(m)) for m in modules), chapters=chapters, listed=listed), encoding="utf-8")


# ---- all of it

def sheet(session: str) -> str:
    "The assessment sheet of a session: a row an exercise, and the package."
    rows = [f"| {e.number} {e.title} | {e.level.lower()}, {e.minutes} min | {e.points} | its cell prints `Right.` |" for path in COURSE if session_of(path) == session for e in exercises(path)]
    total = sum(e.points for path in COURSE if session_of(path) == session for e in exercises(path))
    modules = sessions().get(session, {})
    count = sum(len(asked(m)) for m in modules)
    if modules:
        rows.append(f"| Package of the session: {', '.join(f'`{m}`' for m in modules)} | {count} functions and classes | {2 * len(modules)} | its tests pass; half of them: half of the points |")
        total += 2 * len(modules)
    return "| What | | Points | Done when |\n|---|---|---|---|\n" + "\n".join(rows) + f"\n| Together | | {total} | |\n"


def teaching() -> str:
    "docs/teaching.md with its assessment sheets as the chapters have them now."
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    for session in (*(f"session_{n}" for n in SESSIONS), "home"):
        mark = rf"(<!-- sheet of {session} -->\n).*?(<!-- end of sheet -->)"
        text = re.sub(mark, lambda m: m[1] + sheet(session) + m[2], text, flags=re.DOTALL)  # noqa: B023 (called at once)
    return text


def build(out: Path, chapters: list[Path] = COURSE, run: bool = True) -> None:
    "Everything into one folder."
    for path in chapters:
        write(student(path), out / "student" / "nbs" / path.name)
        write(instructor(path, run), out / "instructor" / "nbs" / path.name)
        if not exercises(path): continue
        write(nbgrader(path), out / "nbgrader" / "source" / session_of(path) / path.name)
        write(otter(path), out / "otter" / session_of(path) / path.name)
    for readers in ("student", "instructor"): shutil.copy(ROOT / "nbs" / "widgets.py", out / readers / "nbs")  # what the chapters' widgets are
    for session in sessions(): package(session, out / "sessions" / session)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, help="folder to write to")
    options.add_argument("--only", default="", help="chapters, as 03,06; all where left out")
    options.add_argument("--no-run", action="store_true", help="don't run the solutions of the instructor's version")
    options.add_argument("--teaching", action="store_true", help="write the assessment sheets of docs/teaching.md again")
    given = options.parse_args()
    if given.teaching: (ROOT / "docs" / "teaching.md").write_text(teaching(), encoding="utf-8")
    if given.out:
        chapters = [path for path in COURSE if not given.only or path.name[:2] in given.only.split(",")]
        build(given.out, chapters, not given.no_run)
        print(f"{len(chapters)} chapters, {sum(len(exercises(p)) for p in chapters)} exercises, {len(sessions())} packages in {given.out}")


if __name__ == "__main__": main()
