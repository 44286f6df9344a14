"What every chapter has to be, read from the notebook files; nothing is run here."

import ast
import json
import re

import pytest
from tables import CHECK, COURSE, EXERCISE, MEASURED, ROOT, WORKSHOP, cells, course_table, head, name, numbers, source

NOTEBOOKS = [*COURSE, *WORKSHOP]
SOMEWHERE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|mnt|usr|opt|Users|content|kaggle|var|private)/|[A-Z]:\\\\|\b(?:localhost|127\.0\.0\.1|sandbox|as an AI|[Ii]ssue #\d+)\b")
COMMITTED_BYTES, LONGEST_CELL, CHECKED_SHARE = 1_000_000, 40, 0.25


def exports(path): return any(re.search(r"^#\| *export", source(c), re.MULTILINE) for c in cells(path, "code"))


def shown(cell):
    "Everything a cell shows as text: its source and its outputs' text."
    texts = [source(cell)]
    for out in cell.get("outputs", []):
        texts += ["".join(out.get("text", "")), *("".join(v) for k, v in out.get("data", {}).items() if k.startswith("text/")), *out.get("traceback", [])]
    return "\n".join(texts)


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
every_chapter = pytest.mark.parametrize("path", COURSE, ids=name)


@every_notebook
def test_small(path):
    "Under a megabyte, outputs included."
    assert path.stat().st_size < COMMITTED_BYTES


@every_notebook
def test_short_cells(path):
    "No code cell is longer than a screen."
    lengths = {n: source(c).count("\n") + 1 for n, c in enumerate(cells(path, "code"))}
    assert max(lengths.values()) <= LONGEST_CELL, {n: k for n, k in lengths.items() if k > LONGEST_CELL}


@every_notebook
def test_parses(path):
    "Every code cell is Python, but for its `%` and `!` lines."
    for cell in cells(path, "code"): ast.parse(re.sub(r"^\s*[%!].*$", "", source(cell), flags=re.MULTILINE))


@every_notebook
def test_outputs_are_committed(path):
    "A reader on a web page sees what the cells print: where a cell surely shows something, it is there; and no error is."
    for n, cell in enumerate(cells(path, "code")):
        assert not any(out["output_type"] == "error" for out in cell["outputs"]), f"code cell {n} shows an error"
        told = EXERCISE.search(source(cell)) or re.search(r"^print\(", source(cell), re.MULTILINE)
        if told and not re.search(r"^#\| *(notest|eval: *false)", source(cell), re.MULTILINE):
            assert cell["outputs"], f"code cell {n} has no output: run the notebook and keep its outputs"


@every_notebook
def test_numbered_equations_have_lines_that_a_site_can_show(path):
    "Lines end in \\cr: around two backslashes Sphinx puts a split, in which no number may stand, and the page shows the source instead."
    for cell in cells(path, "markdown"):
        for equation in re.findall(r"\$\$.*?\$\$", source(cell), re.DOTALL): assert "\\tag" not in equation or "\\\\" not in equation, equation


@every_notebook
def test_has_pictures(path):
    "At least one figure is kept in it."
    assert any({"image/png", "image/jpeg"} & {*out.get("data", {})} for c in cells(path, "code") for out in c["outputs"])


@every_notebook
def test_checked(path):
    "A quarter of the code cells of a chapter that exports have a check in them."
    if not exports(path): pytest.skip("exports nothing")
    code = [source(c) for c in cells(path, "code")]
    checked = sum(bool(CHECK.search(c)) for c in code)
    assert checked >= CHECKED_SHARE * len(code), f"{checked} of {len(code)}"


@every_notebook
def test_every_exported_name_is_used_in_a_check(path):
    "What a chapter exports stands in one of its checking cells."
    checking = "\n".join(source(c) for c in cells(path, "code") if CHECK.search(source(c)))
    for cell in cells(path, "code"):
        if not re.search(r"^#\| *export", source(cell), re.MULTILINE): continue
        for node in ast.parse(source(cell)).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                rest = checking.replace(source(cell), "")
                assert re.search(rf"\b{node.name}\b", rest), f"{node.name} is exported and never checked"


@every_chapter
def test_exercises(path):
    "Three to six exercises in a chapter that exports."
    if not exports(path): pytest.skip("not a chapter with exercises")
    assert 3 <= numbers(path)["exercises"] <= 6


@every_notebook
def test_cells_are_small(path):
    "Course: median at most 8 lines, one in twenty over 20, 110 columns, at most 60 minutes to read. Workshop: median at most 12."
    n = numbers(path)
    if path in WORKSHOP: assert n["median"] <= 12, n
    else: assert n["median"] <= 8 and n["over"] <= .05 and n["width"] <= 110 and n["minutes"] <= 60, n


def test_the_course_can_be_read_in_ten_hours():
    assert sum(numbers(path)["minutes"] for path in COURSE) <= 600


@every_notebook
def test_the_stated_reading_time_is_the_counted_one(path):
    stated = re.search(r"(\d+) minutes? to read", "\n".join(source(c) for c in cells(path)[:2]))
    assert stated and abs(int(stated[1]) - numbers(path)["minutes"]) <= 3, (stated and stated[0], numbers(path)["minutes"])


@every_notebook
def test_the_head_says_what_the_readme_says(path):
    "Minutes and seconds are written by `python tests/tables.py --write`."
    assert head(path, json.loads(MEASURED.read_text(encoding="utf-8"))["seconds"]) in "\n".join(source(c) for c in cells(path)[:2])


def test_the_readme_says_what_is_counted():
    "Its table is the one of `python tests/tables.py --write`."
    kept = json.loads(MEASURED.read_text(encoding="utf-8"))
    assert course_table(kept["seconds"], kept["about"]) in (ROOT / "README.md").read_text(encoding="utf-8")


@every_notebook
def test_frame(path):
    "Title, then a table that says what, after what, and how long; at the end a recap, a quiz with folded answers, further reading."
    text = "\n".join(source(c) for c in cells(path, "markdown"))
    first, second = (source(c) for c in cells(path)[:2])
    assert first.startswith("# ")
    for row in ("You will have built", "Before this", "Time"): assert f"**{row}**" in first + second, f"no row {row}"
    time = re.search(r"\*\*Time\*\* *\|(.*)", first + second)[1]
    assert re.search(r"\d+ minutes? to read; runs in \d+ s", time), f"the time row reads: {time}"
    if path in WORKSHOP or not exports(path): return
    for heading in ("## Exercises", "## Quiz", "## Further reading"): assert re.search(f"^{heading}", text, re.MULTILINE), f"no {heading}"
    assert "<summary>Answer</summary>" in text and "**A question for the room.**" in text


@every_notebook
def test_no_place(path):
    "Nothing of the machine it was written on."
    for n, cell in enumerate(cells(path)):
        found = SOMEWHERE.search(shown(cell))
        assert not found, f"cell {n}: {found[0]!r}"


def test_the_patterns_catch():
    "The checks above can fail."
    for bad in ("see /home/me/x", "open('/tmp/a')", "C:\\\\data", "http://localhost:8888", "in a sandbox"): assert SOMEWHERE.search(bad)
    for good in ("m/s", "a/tmp/b", "https://example.org/home/x", "3/4"): assert not SOMEWHERE.search(good)
    assert CHECK.search("test_close(a, b)") and not CHECK.search("latest = 3")


def test_reading_order():
    "Chapters have different numbers."
    assert len({path.name[:2] for path in COURSE}) == len(COURSE) > 0


LINK = re.compile(r"\]\(([^)#\s]+\.(?:ipynb|md|png))(?:#[^)]*)?\)")


@every_notebook
def test_links_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for target in LINK.findall(source(cell)):
            if "://" not in target: assert (path.parent / target).exists(), target
