"A catalogue of typical mistakes: the check of an exercise catches each of them, the given tests of a session's package catch those that concern it and planted bugs."

import ast
import runpy
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tables import COURSE, ROOT
from test_exercises import matchers_as_before, run, spaces, wrong_answers  # noqa: F401 (a fixture)
from test_exercises import cells as exercise_cells

from cmr.encoders import Fragments


def by_path(name, path):
    "A module from a file that is in no package."
    spec = spec_from_file_location(name, path)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


edition = sys.modules.get("edition") or by_path("edition", ROOT / "docs" / "tools" / "edition.py")
BUGS = runpy.run_path(str(Path(__file__).parent / "mistakes" / "bugs.py"))["BUGS"]
EXERCISES = [pytest.param(e, id=f"{e.number}-{e.name}") for path in COURSE for e in edition.exercises(path)]


def cell_of(e):
    "Number of the exercise's cell among those that tests run."
    return next(k for k, (kind, text) in enumerate(exercise_cells(e.path)) if kind == "code" and f"exercise: {e.name}\n" in text)


@pytest.mark.parametrize("e", EXERCISES)
def test_the_students_check_catches_every_typical_mistake(e, monkeypatch):
    monkeypatch.chdir(e.path.parent)
    cells = ["".join(c["source"]) for c in edition.student(e.path)["cells"] if c["cell_type"] == "code"]
    shown = next(text for text in cells if f"exercise: {e.name}\n" in text)
    assert e.rest in shown and e.solution not in "\n".join(cells)
    wrong = wrong_answers(e.path, e.name)
    assert wrong, f"no typical mistake for {e.name}"
    for n, code in enumerate(wrong):
        with pytest.raises(AssertionError, match="Not yet"): run(code + "\n\n" + e.rest, dict(spaces(e.path)[cell_of(e)]), f"{e.name} mistake {n}")


# ---- the packages of the sessions, in this process

def module_from(name, text, **known):
    "A module from source, known by its name."
    module = sys.modules[name] = ModuleType(name)
    module.__dict__.update(known, __package__=name.rpartition(".")[0])
    exec(compile(text, name, "exec"), module.__dict__)  # noqa: S102 (the project's own source)
    return module


@cache
def given(session, module):
    "{name: its given tests}, which call what lies in the package `mine`."
    module_from("adapters", edition.adapters(session))
    found = {}
    for key, value in vars(module_from(f"given_{module}", (edition.GIVEN_TESTS / f"test_{module}.py").read_text(encoding="utf-8"))).items():
        if key.startswith("test_"): found.setdefault(key.removeprefix("test_").split("__")[0], []).append(value)
    return found


SESSION = {module: session for session, modules in edition.sessions().items() for module in modules}


@pytest.fixture
def mine(monkeypatch):
    "A maker of the course's own code as a student's package; changed: {module: source} in place of its own."
    monkeypatch.setenv("PACKAGE", "mine")
    def make(session, changed=None):
        module_from("mine", "", __path__=[])
        for module in edition.sessions()[session]:
            text = (changed or {}).get(module) or edition.stubs(module, session, filled=True)
            module_from(f"mine.{module}", text)
    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]: del sys.modules[name]


def caught(tests):
    "Whether any of these tests fails."
    for test in tests:
        torch.manual_seed(0)
        try: test()
        except (Exception, pytest.fail.Exception): return True  # noqa: BLE001 (a student's code may raise anything, and pytest.raises fails)
    return False


@pytest.mark.parametrize("session", edition.sessions())
def test_right_code_passes_as_a_students_package(session, mine):
    mine(session)
    for module in edition.sessions()[session]:
        for tests in given(session, module).values():
            for test in tests: test()


@pytest.mark.parametrize(("module", "name"), [pytest.param(module, name, id=f"{module}.{name}") for module in SESSION for name in edition.asked(module)])
def test_a_planted_bug_is_caught(module, name, mine):
    session, planted = SESSION[module], BUGS[module].get(name)
    assert planted, f"no planted bug for {module}.{name} in tests/mistakes/bugs.py"
    text = edition.stubs(module, session, filled=True)
    node = edition.definition(text, name)
    lines = text.splitlines(keepends=True)
    before, own, after = ("".join(part) for part in (lines[:node.lineno - 1], lines[node.lineno - 1:node.end_lineno], lines[node.end_lineno:]))
    for old, new, what in planted:
        assert old in own, f"{module}.{name} has no {old!r} any more: plant this bug anew ({what})"
        changed = before + own.replace(old, new) + after
        ast.parse(changed)
        mine(session, {module: changed})
        assert caught(given(session, module)[name]), f"the given tests of {name} don't notice: {what}"


# An exercise whose answer is a piece of the package: {name: (module, its name there, tests it can be held to, how it becomes that piece)}
def as_triplet(f): return lambda scores, margin=.2, negatives="hardest": f(scores, margin, negatives == "hardest")


def as_region_encoder(f):
    class RegionEncoder(torch.nn.Module):
        def __init__(self, region_dim, embed_dim, normalise=True):
            super().__init__()
            self.project = torch.nn.Linear(region_dim, embed_dim)

        def forward(self, features, mask): return Fragments(f(features, mask, self.project.weight, self.project.bias), mask)

    return RegionEncoder


def as_pooling(f):
    class FragmentPooling(torch.nn.Module):
        def __init__(self, dim, attention=True, branches=1):
            super().__init__()
            self.scorer = torch.nn.Linear(dim, 1, bias=False)

        def forward(self, x, mask): return torch.stack([f(one, self.scorer.weight[0], real) for one, real in zip(x, mask)])

    return FragmentPooling


def as_gate(f): return lambda x, message, gates="element": f(x, message)[gates == "scalar"]


CONCERNED = {
    "my_ranks": ("recall", "ranks", ["test_ranks", "test_ranks__ties"], None),
    "encode_regions": ("encoders", "RegionEncoder", ["test_RegionEncoder", "test_RegionEncoder__padding"], as_region_encoder),
    "triplet": ("losses", "triplet", ["test_triplet", "test_triplet__loop"], as_triplet),
    "matching_bce": ("losses", "matching_bce", ["test_matching_bce", "test_matching_bce__far"], None),
    "sharpen": ("attention", "sharpen", ["test_sharpen"], None),
    "attend": ("attention", "attend", ["test_attend", "test_attend__padding"], None),
    "Distill": ("memory", "Distill", ["test_Distill"], None),
    "match_steps": ("imram", "match_steps", ["test_match_steps", "test_match_steps__last"], None),
    "both_gates": ("fusion", "gate", ["test_gate__both"], as_gate),
    "pooled": ("camp", "FragmentPooling", ["test_FragmentPooling"], as_pooling)}


def test_every_exercise_that_writes_a_piece_of_the_package_is_concerned():
    "By name, at least: chapters that ask for an exported name."
    asked = {name for module in SESSION for name in edition.asked(module)}
    assert {e.name for path in COURSE for e in edition.exercises(path)} & asked <= CONCERNED.keys()


@pytest.mark.parametrize("name", CONCERNED)
def test_the_given_tests_catch_typical_mistakes_as_well(name, mine, monkeypatch):
    module, piece, tests, adapt = CONCERNED[name]
    e = next(e for path in COURSE for e in edition.exercises(path) if e.name == name)
    monkeypatch.chdir(e.path.parent)
    chosen = [test for test in given(SESSION[module], module)[piece] if test.__name__ in tests]
    assert len(chosen) == len(tests), f"the given tests of {piece} are called otherwise now"

    def put_in(code):
        mine(SESSION[module])
        space = dict(spaces(e.path)[cell_of(e)])
        run(code, space, name)
        made = space[name] if adapt is None else adapt(space[name])
        made.__module__ = f"mine.{module}"
        setattr(sys.modules[f"mine.{module}"], piece, made)

    put_in(e.solution)
    for test in chosen: test()
    found = []
    for code in wrong_answers(e.path, name):
        put_in(code)
        found.append(caught(chosen))
    assert any(found), f"none of {len(found)} typical mistakes in {name} is caught"
