"Every exercise of every notebook: its stub lets the notebook run on, its solution is right, nonsense and typical wrong answers get the hint."

import __future__

import ast
import contextlib
import dis
import io
import json
import re
import runpy
import sys
import warnings
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType

import matplotlib.pyplot as plt
import pytest
from tables import COURSE, NBS, WORKSHOP
from tables import name as notebook_name

from cmr.losses import LOSSES
from cmr.matcher import MODELS

NOTEBOOKS = [*COURSE, *WORKSHOP]
sys.path.append(str(NBS))  # a notebook's kernel finds what lies beside it, such as widgets.py


@pytest.fixture(autouse=True, scope="module")
def matchers_as_before():
    "Matchers that notebooks define are registered like all others; other tests must not find them."
    yield
    for known in (MODELS, LOSSES):
        for name in [name for name, cls in known.items() if cls.__module__.startswith("notebook_")]: del known[name]


@pytest.fixture(autouse=True)
def in_its_folder(request, monkeypatch):
    "A notebook runs where it lies."
    if hasattr(request.node, "callspec"): monkeypatch.chdir(request.node.callspec.params["path"].parent)


def wrong_answers(path, name):
    "Code of typical wrong answers to an exercise, from tests/wrong_answers."
    file = Path(__file__).parent / "wrong_answers" / f"{notebook_name(path).replace('/', '_')}.py"
    found = runpy.run_path(str(file))["WRONG"].get(name, []) if file.is_file() else []
    return [found] if isinstance(found, str) else found


MARK = re.compile(r"^#\| *exercise: *(\S+)", re.MULTILINE)


@cache
def cells(path):
    "(kind, source) of every cell, without the ones marked as not to be run by tests; `%` and `!` lines left out."
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if not re.search(r"^#\| *notest", source, re.MULTILINE): found.append((cell["cell_type"], re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)))
    return found


def exercises():
    "(notebook, exercise name, index of its cell)"
    return [pytest.param(path, name, k, id=f"{notebook_name(path)}::{name}")
            for path in NOTEBOOKS for k, (kind, source) in enumerate(cells(path)) if kind == "code" for name in MARK.findall(source)]


def answer(path, k):
    "The markdown that follows an exercise's cell, up to the next code cell."
    after = cells(path)[k + 1:]
    stop = next((n for n, (kind, _) in enumerate(after) if kind == "code"), len(after))
    return "\n".join(source for _, source in after[:stop])


def solution(path, k):
    "The folded solution's code, or None."
    folded = re.search(r"<summary>\s*Solution\s*</summary>.*?```python\n(.*?)```", answer(path, k), re.DOTALL)
    return folded and folded[1]


def codes(code):
    "A code object and all those inside it."
    return [code, *(inner for c in code.co_consts if isinstance(c, CodeType) for inner in codes(c))]


class Names:
    "Which global names a piece of code reads, defines (functions, classes, modules, or parts of something), gives values to, and changes by a call."

    def __init__(self, source):
        tree = ast.parse(source)
        top = compile(tree, "cell", "exec")
        steps = [(step.opname, step.argval) for code in codes(top) for step in dis.get_instructions(code)]
        self.read = {name for op, name in steps if op in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")}
        stored = {step.argval for step in dis.get_instructions(top) if step.opname in ("STORE_NAME", "STORE_GLOBAL")}
        blocks = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        rest = [node for node in tree.body if node not in blocks]
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        defined = {node.name for node in blocks} | {(a.asname or a.name).split(".")[0] for node in imports for a in node.names}
        self.values = stored - defined
        self.defined = defined.union(patched(tree), *map(parts_set, rest))
        self.changed = set().union(*map(called, rest))


def owner(node):
    "The name in front of dots and brackets: `a` of `a.b[0].c`."
    while isinstance(node, (ast.Attribute, ast.Subscript)): node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def parts_set(top):
    "Names of which a statement sets a part: `a.b = 1`, `a[0] = 1`."
    return set().union(*(owner(node) for node in ast.walk(top) if isinstance(getattr(node, "ctx", None), ast.Store)
                         and isinstance(node, (ast.Attribute, ast.Subscript))))


def called(top):
    "Names of which a statement calls a method for its effect: `a.append(1)`."
    return set().union(*(owner(node.value.func) for node in ast.walk(top) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
                         and isinstance(node.value.func, ast.Attribute)))


def patched(tree):
    "Classes that get a method from outside: `@patch def method(self: TheClass)`."
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and "patch" in "".join(map(ast.dump, node.decorator_list))]
    return {name.id for f in functions for a in f.args.args[:1] if a.annotation for name in ast.walk(a.annotation) if isinstance(name, ast.Name)}


@cache
def code_cells(path):
    "{index: (source, Names)} of the code cells that are no exercises."
    return {k: (source, Names(source)) for k, (kind, source) in enumerate(cells(path)) if kind == "code" and not MARK.search(source)}


def needed(path, k, code):
    "Cells before `k` that make, import or change anything the code reads, and all that those read in their turn."
    before = {n: names for n, (_, names) in code_cells(path).items() if n < k}
    values = set().union(*(names.values for names in before.values()))
    wanted, chosen = Names(code).read, set()
    while True:
        more = {n for n, names in before.items() if (names.defined | names.values | (names.changed & values)) & wanted} - chosen
        if not more: return chosen
        chosen |= more
        wanted = wanted.union(*(before[n].read for n in more))


@cache
def spaces(path):
    "{index of an exercise: the namespace its cell finds}, each cell that any exercise needs having run once, in order."
    marked = [k for k, (kind, source) in enumerate(cells(path)) if kind == "code" and MARK.search(source)]
    chosen = set().union(*(needed(path, k, cells(path)[k][1] + "\n" + (solution(path, k) or "")) for k in marked))
    module = ModuleType(f"notebook_{notebook_name(path).replace('/', '_')}")                   # known by name, so that what it defines can be pickled
    namespace, found = sys.modules.setdefault(module.__name__, module).__dict__, {}
    for n in sorted({*chosen, *marked}):
        if n in marked: found[n] = dict(namespace)
        else: run(code_cells(path)[n][0], namespace, f"{path.name}[{n}]")
    return found


def run(source, namespace, name):
    "Execute notebook code quietly, without a screen; returns what it printed."
    said = io.StringIO()
    plt.switch_backend("Agg")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source, name, "exec", flags=__future__.annotations.compiler_flag), namespace)  # noqa: S102 (the project's own notebooks)
    plt.close("all")
    return said.getvalue()


def without(source, name):
    "An exercise's cell without its stub."
    tree = ast.parse(source)
    lines = source.splitlines()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            return "\n".join(lines[:first - 1] + lines[node.end_lineno:])
    raise AssertionError(f"the cell of exercise {name} defines nothing called {name}")


NONSENSE = """
class {name}:
    def __new__(cls, *args, **kwargs): return None
"""


@pytest.mark.parametrize(("path", "name", "k"), exercises())
def test_exercise(path, name, k):
    "Stub, solution and nonsense, each in the cell as the reader has it."
    stub, solved = cells(path)[k][1], solution(path, k)
    assert re.search(r"<summary>\s*Hint\s*</summary>", answer(path, k)), "no folded hint below the exercise"
    assert solved, "no folded solution with a python block below the exercise"
    rest = without(stub, name)
    namespace = spaces(path)[k]
    assert "Not attempted yet." in run(stub, dict(namespace), f"{name} stub")
    assert "Right." in run(solved + "\n" + rest, dict(namespace), f"{name} solution")
    wrong = [NONSENSE.format(name=name), *wrong_answers(path, name)]
    assert len(wrong) > 1, f"no typical wrong answer to {name} in tests/wrong_answers"
    for n, code in enumerate(wrong):
        with pytest.raises(AssertionError, match="Not yet"): run(code + "\n" + rest, dict(namespace), f"{name} wrong answer {n}")


def test_every_exercise_is_graded_by_attempt():
    "A cell that is marked calls attempt; a stub that raises NotImplementedError to the reader is marked."
    for path in NOTEBOOKS:
        for kind, source in cells(path):
            if kind == "code" and MARK.search(source): assert "attempt(" in source, f"{path.name}: {MARK.search(source)[1]} is never checked"
            if kind == "code" and "your turn" in source: assert MARK.search(source), f"{path.name}: a stub without '#| exercise: NAME'"


def test_names_are_found():
    "The reading of code on which the above stands."
    names = Names("import numpy as np\nfrom a.b import c as d\nx = [k for k in y]\nz.w[0] = 1\nlog.append(2)\nlen(r.size())\n@patch\ndef m(self: K): pass\ndef f(p): return g + p")
    assert (names.defined, names.values, names.changed) == ({"np", "d", "f", "m", "K", "z"}, {"x"}, {"log"})
    assert {"y", "g", "z", "log"} <= names.read and not {"x", "p"} & names.read


def test_attempt(capsys):
    "Not written, wrong by value, wrong by error, wrong in PyTorch's own way, right."
    from cmr.exercise import attempt

    def check(f): assert f(2) == 4

    def stub(x): raise NotImplementedError

    attempt(stub, check, hint="square it")
    attempt(lambda x: x * x, check, hint="square it")
    assert capsys.readouterr().out.split("\n")[:2] == ["Not attempted yet.", "Right."]

    def unsupported(x): raise NotImplementedError("Could not run 'aten::foo' with arguments from the 'CPU' backend")

    for wrong in (lambda x: x + 1, lambda x: None, lambda x: x["no"], unsupported):
        with pytest.raises(AssertionError, match="Not yet[.](.|\n)*Hint: square it$"): attempt(wrong, check, hint="square it")
