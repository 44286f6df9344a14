"""The first ten seconds: what `cmr demo` finds, draws and leaves, from the repository and from a wheel in an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from test_cli import call

from cmr.cli import demo
from cmr.search.explain import Search

ROOT = Path(__file__).parent.parent
ASKED = "a striped green square carries a yellow frame"


def test_demo_finds_the_scene_before_its_twin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call("demo").splitlines()
    assert [line.split()[-1] for line in said[1:3]] == ["sample-2", "sample-3"] and said[0].startswith(f"“{ASKED}” among 24 pictures")
    assert said[-1] == "Next: cmr train" and "demo.png" in said[-2]
    assert os.listdir() == ["demo.png"] and Path("demo.png").read_bytes()[:4] == b"\x89PNG"


def test_demo_draws_every_word_where_it_looked():
    found = Search(demo.SAMPLE / "imram", demo.SAMPLE, "sample")(ASKED, 3)
    figure = demo.show_found(found)
    above, below = (axes for axes in zip(*[iter(figure.axes)] * 8))
    assert [ax.get_title().split("\n")[0] for ax in above if ax.images] == ["1. sample-2", "2. sample-3", "3. sample-9"]
    assert [ax.get_title().split("\n")[0] for ax in below] == ASKED.split() and ASKED in figure.get_suptitle()
    picture, green = above[0].images[0].get_array(), below[2].images[0].get_array()
    y, x = (picture.astype(int) @ [-1, 2, -1] > 120).nonzero()                  # the green square
    assert green[y, x].sum() > .9 * picture[y, x].sum() and green.sum() < .5 * picture.sum()
    plt.close("all")


def test_demo_writes_a_page_where_asked(tmp_path):
    said = call("demo", "a yellow star", "--out", tmp_path / "star.html", "--top", 2, "--quiet")
    assert "no picture here matches well" in said and "<svg" in (tmp_path / "star.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("words, message", [(["zebra"], "unknown words only"), ([""], "empty"), (["a star", "--out", "x.txt"], "ends in .png or .html"),
                                            (["a red star " * 20], "60 words: 40 at most")])
def test_demo_says_in_a_line_what_cannot_be(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call("demo", *words, code=2)
    assert message in said and said.strip().splitlines()[-1].startswith("Error: ") and not os.listdir()


def test_demo_from_a_wheel_in_an_empty_folder(tmp_path):
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    source.mkdir(), empty.mkdir()
    for name in ("cmr", "data/sample", "setup.py", "settings.ini", "pyproject.toml", "MANIFEST.in", "README.md"):  # nothing is built in the tree
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).symlink_to(ROOT / name)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel: wheel.extractall(site)
    assert len(list(site.rglob("sample.h5"))) == 1
    run = "import sys, cmr.cli.demo as d; print(d.SAMPLE); from cmr.cli import app; app(['demo'], prog_name='cmr')"
    said = subprocess.run([sys.executable, "-c", run], cwd=empty, env={**os.environ, "PYTHONPATH": str(site)}, check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[0] == str(site / "cmr" / "sample") and "sample-2" in said and os.listdir(empty) == ["demo.png"]
