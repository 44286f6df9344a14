"""A real browser uses what is meant for one: the explorer, the chapters with widgets in JupyterLab, the site. Pictures are kept in build/screens."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tool import tool

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs/tools"))
import browser as driver  # noqa: E402

WHY_NOT = driver.missing("jupyterlab", "ipywidgets")
WITH_WIDGETS = driver.chapters()
LOOKS = [(size, scheme) for size in driver.SIZES for scheme in driver.SCHEMES]
SITE = ROOT / "build/site"
needs_browser = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it is there")


@pytest.fixture(scope="module")
def out():
    folder = ROOT / "build/screens"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def chromium():
    with driver.a_browser() as found: yield found


@pytest.fixture(scope="module")
def lab(chromium):
    with driver.a_lab() as address, driver.a_tab(chromium) as tab: yield driver.Lab(tab, address, WITH_WIDGETS)


def test_chapters_with_widgets_are_found():
    assert {"06", "07", "08", "09", "11"} <= {Path(path).name[:2] for path in WITH_WIDGETS}


def test_what_counts_as_another_picture():
    white = np.full((20, 30, 3), 255)
    dot, faint = white.copy(), white - 10
    dot[5:11, 5:11] = 0
    assert driver.differs(white, dot) and driver.differs(white, white[:10])
    assert not driver.differs(white, white) and not driver.differs(white, faint)  # a breath of anti-aliasing is no change


@needs_browser
@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_explorer_is_used(chromium, out, size, scheme):
    driver.explorer(chromium, out, size, scheme)


@needs_browser
def test_a_picture_that_does_not_follow_is_noticed(chromium, out):
    with driver.a_tab(chromium) as tab:
        tab.set_content("<button>none</button><p class='picture'>the same</p>")
        assert not driver.changes(tab, lambda: tab.click("button"))
        assert driver.changes(tab, lambda: tab.evaluate("document.querySelector('p').textContent = 'something else by far'"))


@needs_browser
def test_a_page_that_asks_for_a_network_is_noticed(chromium):
    with pytest.raises(AssertionError, match="asked for http://elsewhere"), driver.a_tab(chromium) as tab:
        tab.set_content("<img src='http://elsewhere.invalid/a.png'>")


@needs_browser
@pytest.mark.parametrize("path", WITH_WIDGETS)
def test_chapter_in_jupyterlab(lab, out, path):
    "It runs to its end without an error, and each control of its widgets changes the picture."
    assert all(lab.use(path, WITH_WIDGETS[path], out))


@needs_browser
def test_site_fits_a_window_of_any_width(chromium, tmp_path):
    "A chapter with equations and a document with tables."
    pytest.importorskip("myst_nb", reason="for Python from 3.11 on")
    tool("site").build(tmp_path / "site", [Path("nbs/09_imram.ipynb")], [Path("docs/teaching.md")], {})
    for page in ("nbs/09_imram", "docs/teaching"): driver.site_widths(chromium, tmp_path / "site" / f"{page}.html")


@needs_browser
@pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="build/site is not there: make site")
@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_site_is_read(chromium, out, size, scheme):
    driver.site(chromium, out, SITE, size, scheme)
