"Opens a chapter's widget as the chapter does, and gives its controls."

import contextlib
import sys

import matplotlib.pyplot as plt
import pytest
from tables import NBS, source
from tables import cells as all_cells
from test_exercises import cells, code_cells, needed, run

sys.path.append(str(NBS))  # a notebook's kernel finds what lies beside it
import widgets  # noqa: E402

__all__ = ["drawn", "moved", "opened", "place", "tagged", "widgets"]


def tagged(stem):
    "The cells of a chapter that show a widget."
    return [cell for cell in all_cells(NBS / f"{stem}.ipynb", "code") if "widget" in cell["metadata"].get("tags", [])]


def place(stem):
    "A chapter's path, and the number and source of its widget's cell."
    path, (cell,) = NBS / f"{stem}.ipynb", tagged(stem)
    return path, *next((k, text) for k, (kind, text) in enumerate(cells(path)) if kind == "code" and text == source(cell))


def opened(stem):
    "The namespace of a chapter after its widget's cell, and the controls by what they say."
    path, k, text = place(stem)
    shown, namespace = [], {}
    with contextlib.chdir(NBS), pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", shown.append)
        for n in sorted(needed(path, k, text)): run(code_cells(path)[n][0], namespace, f"{stem}[{n}]")
        said = run(text, namespace, stem)
    assert len(shown) == 1, said
    return namespace, {control.description: control for control in shown[0].children if hasattr(control, "value")}


def drawn(fig):
    "Everything that a figure shows, to be compared: lines, bars, pictures, texts."
    parts = [str(fig._suptitle and fig._suptitle.get_text())]
    for ax in fig.axes:
        parts += [line.get_xydata().round(6).tolist() for line in ax.lines] + [[p.get_bbox().bounds for p in ax.patches]]
        parts += [image.get_array().tobytes() for image in ax.images] + [ax.get_title(), [text.get_text() for text in ax.texts]]
    return parts


def moved(control, value):
    "The picture before a control is moved and after it; the control is put back."
    plt.close("all")
    old, control.value = control.value, value
    after = drawn(plt.gcf())
    control.value = old
    return drawn(plt.gcf()), after
