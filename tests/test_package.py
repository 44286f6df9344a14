"""What an installed package promises: one version, a quick and light import, modules that match the notebooks' rooms."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import cmr

ROOT = Path(__file__).parent.parent
ROOMS = ["similarity", "scenes", "recall", "regions", "captions", "data", "encoders", "losses", "engine", "matcher", "training", "attention", "memory", "imram", "aggregation", "fusion", "camp", "baselines", "search"]


def test_version_is_the_one_of_settings():
    settings = configparser.ConfigParser(delimiters=("=",))
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert cmr.__version__ == settings["DEFAULT"]["version"]


def test_import_is_quick_and_brings_neither_nbdev_nor_jupyter():
    code = ("import sys, time; start = time.perf_counter(); import cmr; cmr.IMRAM; took = time.perf_counter() - start; "
            "print(took, *({'nbdev', 'IPython', 'jupyterlab', 'ipywidgets'} & set(sys.modules)))")
    said = subprocess.run([sys.executable, "-c", "import cmr, sys; print('torch' in sys.modules)"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
    assert len(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()) == 1


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_up(room):
    "A module imports only modules above it in the list of rooms."
    import ast
    allowed = set(ROOMS[:ROOMS.index(room)])
    for node in ast.walk(ast.parse((ROOT / "cmr" / f"{room}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level == 1 or (node.module or "").startswith("cmr.")):
            name = (node.module or "").removeprefix("cmr.")
            assert name in allowed, f"{room} imports {name}"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"): cmr.nothing  # noqa: B018
