"The course as assignments: what students get, what teachers get, packages to fill in, and that docs/teaching.md speaks of chapters as they are."

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from tables import COURSE, ROOT, SESSIONS, source
from test_exercises import matchers_as_before, run, spaces  # noqa: F401 (a fixture)
from test_mistakes import cell_of, edition, given, module_from

TEACHING = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Everything but the solutions' outputs."
    out = tmp_path_factory.mktemp("edition")
    edition.build(out, run=False)
    return out


def files(folder): return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_build_is_the_same(made, tmp_path):
    edition.build(tmp_path, run=False)
    assert files(tmp_path) == files(made)


def test_every_notebook_is_valid(made):
    for path in made.rglob("*.ipynb"):
        book = nbformat.read(path, as_version=4)
        nbformat.validate(book)
        ids = [c["id"] for c in book["cells"]]
        assert len(ids) == len(set(ids)), f"cells of one id in {path.name}"


def test_widgets_go_along(made):
    "Chapters import them from beside themselves."
    for readers in ("student", "instructor"): assert (made / readers / "nbs/widgets.py").read_bytes() == (ROOT / "nbs/widgets.py").read_bytes()


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_students_have_stub_check_and_hint_and_no_solution(path, made):
    cells = json.loads((made / "student" / "nbs" / path.name).read_text(encoding="utf-8"))["cells"]
    text = "\n".join(map(source, cells))
    assert not re.search(r"<summary>\s*Solution", text)
    for e in edition.exercises(path):
        assert e.stub.split("# your turn")[0].strip() in text and e.rest in text and e.solution not in text
        after = text[text.index(f"#| exercise: {e.name}\n"):]
        assert re.search(r"<summary>\s*Hint\s*</summary>", after), f"no hint to {e.name}"
    assert text.count("<details>") == text.count("</details>")


def test_the_instructors_cells_end_with_right():
    path = next(path for path in COURSE if path.stem == "02_similarity")
    cells = edition.instructor(path)["cells"]
    for e in edition.exercises(path):
        cell = next(c for c in cells if f"exercise: {e.name}\n" in source(c))
        assert e.solution in source(cell) and "".join(cell["outputs"][0]["text"]).endswith("Right.\n")


def cleared(text, begin, end, stub):
    "As nbgrader's ClearSolutions does it."
    return re.sub(rf"^( *){begin}.*?{end}$", rf"\1{stub}", text, flags=re.MULTILINE | re.DOTALL)


def same(a, b): return ast.dump(ast.parse(a)) == ast.dump(ast.parse(b))


def test_nbgraders_cells(made):
    "Schema 3: an answer cell and a locked cell with points for each exercise, ids unique, and what is released is the stub."
    seen = set()
    for path in COURSE:
        if not edition.exercises(path): continue
        book = json.loads((made / "nbgrader" / "source" / edition.session_of(path) / path.name).read_text(encoding="utf-8"))
        marked = [c for c in book["cells"] if "nbgrader" in c["metadata"]]
        assert len(marked) == 2 * len(edition.exercises(path))
        for answer, check, e in zip(marked[::2], marked[1::2], edition.exercises(path)):
            for cell in (answer, check):
                about = cell["metadata"]["nbgrader"]
                assert {"schema_version", "grade_id", "grade", "solution", "locked", "task", "cell_type"} <= about.keys() and about["schema_version"] == 3
                assert re.fullmatch(r"[\w-]+", about["grade_id"]) and about["grade_id"] not in seen
                seen.add(about["grade_id"])
            assert answer["metadata"]["nbgrader"]["solution"] and not answer["metadata"]["nbgrader"]["grade"]
            about = check["metadata"]["nbgrader"]
            assert about["grade"] and about["locked"] and about["points"] == e.points > 0
            assert same(cleared(source(answer), "### BEGIN SOLUTION", "### END SOLUTION", "raise NotImplementedError"), e.stub), e.name


def test_nbgraders_own_validator(made):
    "Where nbgrader is installed (it is no requirement)."
    pytest.importorskip("nbgrader")
    from nbgrader.nbgraderformat import read
    from nbgrader.preprocessors import CheckCellMetadata, ClearSolutions
    for path in (made / "nbgrader").rglob("*.ipynb"):
        book = read(str(path), as_version=4)
        CheckCellMetadata().preprocess(book, {})
        released, _ = ClearSolutions().preprocess(book, {})
        assert "BEGIN SOLUTION" not in "".join(c["source"] for c in released["cells"])


def test_otters_blocks(made):
    "Raw cells in the order that `otter assign` wants, and what is released is the stub."
    names = ["BEGIN QUESTION", "BEGIN SOLUTION", "END SOLUTION", "BEGIN TESTS", "END TESTS", "END QUESTION"]
    for path in COURSE:
        if not edition.exercises(path): continue
        cells = json.loads((made / "otter" / edition.session_of(path) / path.name).read_text(encoding="utf-8"))["cells"]
        raw = [(k, source(c)) for k, c in enumerate(cells) if c["cell_type"] == "raw"]
        assert raw[0][1].startswith("# ASSIGNMENT CONFIG")
        assert [text.split("\n")[0] for _, text in raw[1:]] == [f"# {name}" for name in names] * len(edition.exercises(path))
        for n, e in enumerate(edition.exercises(path)):
            (head, question), (start, _) = raw[1 + 6 * n], raw[2 + 6 * n]
            assert question == f"# BEGIN QUESTION\nname: {e.question}\npoints: {e.points}\nall_or_nothing: true" and start == head + 1
            kept = "\n".join(line for line in source(cells[start + 1]).splitlines() if not line.endswith(("# BEGIN PROMPT", "# END PROMPT")))
            assert same(re.sub(r"^ *# BEGIN SOLUTION NO PROMPT.*?# END SOLUTION\n?", "", kept, flags=re.MULTILINE | re.DOTALL), e.stub), e.name


def test_an_open_exercise_gets_no_points(monkeypatch):
    "Both graders' tests pass with the solution and fail with the stub, which lets the notebook itself run on."
    path = next(path for path in COURSE if path.stem == "02_similarity")
    monkeypatch.chdir(path.parent)
    for e in edition.exercises(path):
        for check in (f"{e.rest}\n{e.strict}", f"{e.without_attempt}\n{e.strict}"):
            run(f"{e.solution}\n{check}", dict(spaces(path)[cell_of(e)]), e.name)
            with pytest.raises(NotImplementedError): run(f"{e.stub}\n{check}", dict(spaces(path)[cell_of(e)]), e.name)


# ---- packages

def test_each_session_that_builds_something_has_a_package(made):
    assert [path.name for path in sorted((made / "sessions").iterdir())] == [f"session_{n}" for n in SESSIONS]
    for path in made.rglob("mine/*.py"): compile(path.read_text(encoding="utf-8"), path.name, "exec")


@pytest.mark.parametrize("session", edition.sessions())
def test_the_empty_package_fails_everywhere(session, made, monkeypatch):
    monkeypatch.setenv("PACKAGE", "mine")
    try:
        module_from("mine", "", __path__=[])
        for module in edition.sessions()[session]:
            module_from(f"mine.{module}", (made / "sessions" / session / "mine" / f"{module}.py").read_text(encoding="utf-8"))
            for name, tests in given(session, module).items():
                assert name in edition.asked(module), f"{name} is tested, and {module} has nothing of that name"
                for test in tests:
                    with pytest.raises(NotImplementedError): test()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "mine"]: del sys.modules[name]


def pytest_of(folder, **environment):
    command = [sys.executable, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}).stdout


def test_the_package_at_work(made, tmp_path):
    "The reference passes; the empty one, a wrong line and a line taken from the course say what and where."
    folder = made / "sessions" / "session_1"
    assert " passed" in (said := pytest_of(folder, PACKAGE="cmr")) and "failed" not in said
    said = pytest_of(folder)
    assert " passed" not in said and "cosine (line" in said and "isn't written yet" in said
    assert "What it should do: Cosine of every query with every response (IMRAM Eq. 3)" in said and 'Where: Chapter 2, "' in said
    module = folder / "mine" / "similarity.py"
    kept = module.read_text(encoding="utf-8")
    try:
        module.write_text(kept + "\n\ndef inverse_lengths(x): return x.norm(dim=-1)\n\n\nfrom cmr.similarity import wide\n", encoding="utf-8")
        said = pytest_of(folder)
    finally: module.write_text(kept, encoding="utf-8")
    assert "inverse_lengths is not right: yours 5 at [0], expected 0.2 at [0]" in said or "inverse_lengths is not right: yours [5" in said
    assert "wide in mine/similarity.py is the course's own: write yours" in said


# ---- docs/teaching.md

def page(session):
    "A session's page."
    title = f"## Session {session}" if session in SESSIONS else "## The home project"
    return TEACHING[TEACHING.index(title):].split("\n## ")[0] if title == TEACHING[:len(title)] else re.split(r"\n## (?!\d)", TEACHING[TEACHING.index(title) + 3:])[0]


def headings(path):
    "Headings of a chapter, without numbers and marks."
    return [re.sub(r"[`*]", "", found).strip() for c in edition.notebook(path)["cells"] if c["cell_type"] == "markdown" for found in edition.HEADING.findall(source(c))]


def test_the_sheets_are_up_to_date():
    assert edition.teaching() == TEACHING, "run: python docs/tools/edition.py --teaching"
    for session in [f"session_{n}" for n in SESSIONS] + ["home"]: assert f"<!-- sheet of {session} -->" in TEACHING


@pytest.mark.parametrize("session", SESSIONS)
def test_a_sessions_page(session):
    "Seventy-five minutes without a gap, and every part of a page is there."
    text = page(session)
    for part in ("**Goal.**", "**To have run beforehand.**", "**Questions for the room**", "**Usual misunderstandings", "**Exercises.**", "**Short of time?**", "**Assessment.**"):
        assert part in text, f"session {session} has no {part}"
    minutes = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+)-(\d+) \|", text, re.MULTILINE)]
    assert minutes[0][0] == 0 and minutes[-1][1] == 75 and all(a[1] == b[0] for a, b in zip(minutes, minutes[1:]))


def test_sections_that_the_timetables_name_exist():
    "In a timetable's last column: a chapter's number, then beginnings of its headings in quotes."
    missing = []
    for row in re.findall(r"^\| \d+-\d+ \|.*\|$", TEACHING, re.MULTILINE):
        for number, names in re.findall(r"\b(\d\d),((?:[^|;]*?\"[^\"]+\")+)", row.split("|")[3] + ";" + row.split("|")[3][:0]):
            known = headings(next(path for path in COURSE if path.name.startswith(number)))
            missing += [f"{number}: {name}" for name in re.findall(r'"([^"]+)"', names) if not any(h.startswith(name.rstrip(". ")) for h in known)]
    assert not missing, missing


def test_exercises_that_pages_name_exist_with_their_minutes():
    known = {e.number: e.minutes for path in COURSE for e in edition.exercises(path)}
    for line in re.findall(r"^\*\*Exercises\.\*\*.*?(?=\n\n)", TEACHING, re.MULTILINE | re.DOTALL):
        found = re.findall(r"\b(\d+\.\d) \((\d+)", line)
        assert found
        for number, minutes in found: assert known[number] == int(minutes), f"{number} takes {known[number]} minutes in its chapter, {minutes} in docs/teaching.md"
    assert not set(re.findall(r"[Ee]xercises? (\d+\.\d)", TEACHING)) - known.keys() - {"17.3"}


def chapter(number): return next(path for path in COURSE if path.name.startswith(number))


def test_sections_that_the_text_names_exist():
    "Beside the timetables: a chapter's number and beginnings of its headings in quotes, where a figure is, a cell, or where reading stops."
    named = [(number, name) for number, names in re.findall(r'\b(\d\d),?(?: up to(?: and with)?| to)? ((?:(?:, | to | and )?"[^"]+")+)', TEACHING)
             for name in re.findall(r'"([^"]+)"', names)]
    assert len(named) > 80
    missing = [f"{number}: {name}" for number, name in named if not any(h.startswith(name.rstrip(". ")) for h in headings(chapter(number)))]
    assert not missing, missing


@pytest.mark.parametrize("session", [*SESSIONS, "home"])
def test_a_misunderstanding_says_what_clears_it_up(session):
    "A figure, a cell, a table or a text of a chapter; what stands in backquotes there is in that chapter."
    found = page(session).split("**Usual misunderstandings")[1].split("\n\n")[0].split("\n- ")[1:]
    assert len(found) > 3
    for line in found:
        assert re.search(r"\((?:figure|cells?|table|text): \d\d, \"|\(head of \d\d", line), f"{line} points nowhere"
        text = "\n".join(source(c) for n in re.findall(r"\b(\d\d)(?=, \")", line) for c in edition.notebook(chapter(n))["cells"])
        for name in re.findall(r"`([^`]+)`", line): assert name in text, f"{name} is in no chapter that is named beside it"


@pytest.mark.parametrize("session", SESSIONS)
def test_every_stop_has_a_question_and_every_question_a_stop(session):
    text = page(session)
    stops = set(re.findall(r"^\| (\d+-\d+) \|[^|]*\*\*Stop", text, re.MULTILINE))
    asked = text.split("**Questions for the room**")[1].split("\n\n")[0].split("\n- ")[1:]
    minutes = [re.match(r"\*\w+, (\d+-\d+)\b[^:]*: ", line) for line in asked]
    assert all(minutes), [line for line, m in zip(asked, minutes) if not m]
    assert {m[1] for m in minutes} == stops
    for line in [*asked, *text.split("**To take home**")[1].split("\n\n")[0].split("\n- ")[1:]]: assert re.search(r"[?.]\* [*\w]", line.replace("\n", " ")), f"no answer: {line}"


@pytest.mark.parametrize("session", SESSIONS)
def test_reading_before_stops_before_what_is_predicted(session):
    "Apart from the idea, no section of a timetable is read before."
    text = page(session)
    for number, stop in re.findall(r'(\d\d) up to "([^"]+)"', text.split("To read before:")[1].split("After:")[0]):
        order = headings(chapter(number))
        stop = next(k for k, heading in enumerate(order) if heading.startswith(stop))
        for row in re.findall(r"^\| \d+-\d+ \|.*\|$", text, re.MULTILINE):
            for where in re.findall(rf'\b{number}, ((?:(?:, | to | and )?"[^"]+")+)', row):
                for name in re.findall(r'"([^"]+)"', where):
                    place = next(k for k, heading in enumerate(order) if heading.startswith(name))
                    assert place >= stop or name in ALLOWED, f"{number}: {name} is read before and asked in class"


ALLOWED = {"The idea", "Three things that stay with us", "Boxes filled with weights", "Three regions, two words"}  # asked again with the page shut
