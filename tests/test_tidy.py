"One rule for saved notebooks: run again, they are as they were."

import copy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "docs/tools"))
pytest.importorskip("nbclient")
import tidy  # noqa: E402


def stream(text): return {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}


def notebook(outputs, tags=()):
    cell = {"cell_type": "code", "id": "a1", "execution_count": 7, "metadata": {"tags": list(tags), "scrolled": True, "mystnb": {"x": 1}}, "outputs": outputs, "source": ["1\n"]}
    return {"cells": [cell], "metadata": {"widgets": {"state": 1}, "kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def test_what_changes_from_run_to_run_goes():
    found = tidy.tidy(notebook([stream("a"), stream("\nb\n"), stream("10%\r20%\r"), {"output_type": "display_data", "data": {tidy.WIDGET: {}}, "metadata": {}}]))
    cell = found["cells"][0]
    assert cell["outputs"] == [stream("a\nb\n")] and cell["execution_count"] is None and "widgets" not in found["metadata"]
    assert cell["metadata"] == {"mystnb": {"x": 1}, "tags": []}


def test_a_widgets_cell_keeps_no_output(): assert not tidy.tidy(notebook([stream("a")], ["widget"]))["cells"][0]["outputs"]


def test_twice_is_once_and_the_hook_does_the_same():
    once = tidy.tidy(notebook([stream("a"), stream("b")]))
    model = {"type": "notebook", "content": notebook([stream("a"), stream("b")])}
    tidy.before_save(model)
    assert tidy.tidy(copy.deepcopy(once)) == once == model["content"]


def test_committed_notebooks_are_tidy():
    "Of every notebook: no widget's output, no bar that redrew itself, no stream in pieces."
    import json
    for path in (Path(__file__).parent.parent / "nbs").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tidied = tidy.tidy(json.loads(path.read_text(encoding="utf-8")))["cells"]
        assert [cell.get("outputs") for cell in cells] == [cell.get("outputs") for cell in tidied], path
