"""What an installed package promises: one version, a quick and light import, rooms whose arrows point one way, classes that are whole."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from tables import attached, package_numbers

import cmr

ROOT = Path(__file__).parent.parent
FLOORS = [  # from the ground up: a module imports from floors below its own, or from its own room
    "files documented cards bars", "data.answers", "similarity recall exercise", "data.vocabulary data.extractors data.sampling", "data.datasets data.captions data.feature_files data.importers data.check data.photos data.download data.published", "world.scenes world.regions world.measures world.errors world.drawing", "encoders", "losses classes", "matcher",
    "attention aggregation memory", "imram fusion", "camp", "fast.sparse", "fast.engine fast.camp_engine fast.scoring", "shelf.baselines shelf.released", "lens", "shelf.assignment", "saving",
    "training.recipes training.distributed training.checkpoints training.loop training.compare training.twins training.reproduce training.track", "search.gallery search.qdrant search.mining search.words search.calibration search.explain", "testing", "cli"]
FLOOR = {module: n for n, modules in enumerate(FLOORS) for module in modules.split()}
UPWARDS = {("matcher", "saving"), ("matcher", "shelf.released")}  # `Portable`'s one-line methods, which import when they are called
MODULES = sorted(path for path in (ROOT / "cmr").rglob("*.py") if path.name not in ("__init__.py", "_modidx.py"))


def dotted(path):
    found = ".".join(path.relative_to(ROOT / "cmr").with_suffix("").parts)
    return "cli" if found.startswith("cli.") else found


def imports(path):
    "Modules of the package that a module imports, at its top or inside a function."
    here = ["cmr", *path.relative_to(ROOT / "cmr").parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*here[:len(here) - node.level + 1], *([node.module] if node.module else [])]) if node.level else node.module or ""
            if base.split(".")[0] == "cmr": yield from ([f"{base}.{alias.name}" for alias in node.names] if base == "cmr" else [base])
        elif isinstance(node, ast.Import): yield from (alias.name for alias in node.names if alias.name.startswith("cmr."))


def test_version_is_the_one_of_settings():
    settings = configparser.ConfigParser(delimiters=("=",))
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert cmr.__version__ == settings["DEFAULT"]["version"]


def test_import_is_quick_and_brings_neither_nbdev_nor_jupyter():
    code = "import sys; import cmr; cmr.IMRAM; print(*({'nbdev', 'IPython', 'jupyterlab', 'ipywidgets', 'fastcore'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", "import cmr, sys; print('torch' in sys.modules)"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_arrows_point_one_way(path):
    "A module imports only from floors below, or from its own room."
    module = dotted(path)
    for name in imports(path):
        target = name.removeprefix("cmr.")
        target = next((known for known in (target, target.rpartition(".")[0]) if known in FLOOR), target)
        if target == "cmr" or name in ("cmr.MODEL_HOMES", "cmr.__version__") or target == module or (module, target) in UPWARDS: continue
        room = target.split(".")[0]
        floor = FLOOR.get(target, max((n for m, n in FLOOR.items() if m.split(".")[0] == room), default=None))
        assert floor is not None, f"{module} imports {name}, which no floor has"
        same = module.split(".")[0] == room and "." in module
        assert same or floor < FLOOR[module] or (floor == FLOOR[module] and module == "cli"), f"{module} imports {name}, which lies above it"


def test_classes_are_whole():
    "No method is attached to a class from outside it, and functions are short."
    for path in MODULES: assert not attached(ast.parse(path.read_text(encoding="utf-8"))), path
    found = package_numbers()
    # 7,400 was the bound when the package was models, engine, training and search; the doors for other people's files, photographs, search with its reasons and intervals came after it (13,900); the lens, demo, push, trackers, files of settings and sweeps after that
    assert found["lines, without blank ones, nbdev's marks and its index"] <= 14_700 and found["median of their lines"] < 10 and found["longest, commands of the command line left out"] <= 45, found


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"): cmr.nothing  # noqa: B018


def test_every_public_name_is_there():
    for name in cmr.__all__: assert getattr(cmr, name) is not None
