"""Open in a real browser what is meant for one, use it, and keep pictures of it.

    python docs/tools/browser.py build/screens            # explorer, the chapters with widgets in JupyterLab, the site if it was made
    python docs/tools/browser.py build/screens explorer   # one of explorer, lab, site

Needs Playwright for Python and a Chromium of the machine's own; nothing is fetched from anywhere."""

import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SIZES = {"desk": (1180, 860), "phone": (390, 844)}   # pixels
OFFLINE = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")


def chromium():
    "Where this machine has a Chromium, or None."
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def missing(*modules):
    "Why nothing can be driven here, or an empty text."
    for module in ("playwright", *modules):
        if find_spec(module) is None: return f"{module} is not installed: pip install -c constraints.txt {module}"
    return "" if chromium() else "there is no Chromium on this machine (chromium, chromium-browser or google-chrome)"


@contextmanager
def a_browser():
    "Chromium without a window, and without names of other machines."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(OFFLINE))
        try: yield browser
        finally: browser.close()
