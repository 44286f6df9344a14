"""Open in a real browser what is meant for one, use it, and keep pictures of it.

    python docs/tools/browser.py build/screens            # explorer, the chapters with widgets in JupyterLab, the site if it was made
    python docs/tools/browser.py build/screens explorer   # one of explorer, lab, site

Needs Playwright for Python and a Chromium of the machine's own; nothing is fetched from anywhere. Stops where something is wrong."""

import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
SIZES = {"desk": (1366, 860), "phone": (390, 844)}   # pixels
SCHEMES = ("light", "dark")
OFFLINE = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
NEARBY = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "ws://127.0.0.1:")
PATIENCE = 300                                        # seconds for a chapter's slowest cells on a busy machine
KEPT = ("index", "search", "07_attention")            # pages of the site of which a picture is kept
LEFT_OUT = (".git", ".venv", "runs", "build", "dist", "__pycache__", ".*_cache", "*.egg-info", ".ipynb_checkpoints")


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


@contextmanager
def a_tab(browser, size="desk", scheme="light"):
    "A tab that notes what it asked for elsewhere and which of its scripts failed; AssertionError at the end if there is anything."
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == "phone")
    tab, wrong = context.new_page(), []
    tab.on("request", lambda request: None if request.url.startswith(NEARBY) else wrong.append(f"asked for {request.url}"))
    tab.on("pageerror", lambda error: wrong.append(f"a script failed: {error}"))
    try:
        yield tab
        assert not wrong, wrong
    finally: context.close()


def pixels(where):
    "What a tab, or a part of one, looks like: (h, w, 3)."
    return np.asarray(Image.open(io.BytesIO(where.screenshot(animations="disabled"))).convert("RGB")).astype(int)


def differs(before, after, least=30):
    "Whether at least so many pixels changed visibly."
    return before.shape != after.shape or int((np.abs(before - after).max(-1) > 24).sum()) >= least


def fits_its_width(tab):
    "Whether the page can't be scrolled sideways."
    return tab.evaluate("() => { scrollTo(9999, 0); const far = scrollX; scrollTo(0, 0); return far <= 1; }")


def lightness(tab):
    "Mean of the page's background colour, 0 to 255."
    return sum(map(float, re.findall(r"[\d.]+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])) / 3


# The explorer

def changes(tab, act, selector=".picture"):
    "Whether something that is done changes what a part of the page looks like."
    before = pixels(tab.locator(selector))
    act()
    return differs(before, pixels(tab.locator(selector)))


def explorer(browser, out, size, scheme):
    "Use docs/explorer.html by mouse or finger and by keyboard. AssertionError where the picture doesn't follow."
    with a_tab(browser, size, scheme) as tab:
        tab.goto((ROOT / "docs/explorer.html").as_uri())
        tab.wait_for_selector("html[data-ready=yes]", state="attached")
        assert fits_its_width(tab) and (lightness(tab) > 128) == (scheme == "light")
        word = tab.locator(".word").last
        assert changes(tab, word.tap if size == "phone" else word.hover), "another word, the same picture"
        assert changes(tab, lambda: tab.locator(".steps label").nth(2).click()), "another step, the same picture"
        tab.locator(".word[tabindex='0']").focus()
        assert changes(tab, lambda: [tab.keyboard.press("ArrowLeft") for _ in range(3)]), "arrow keys don't go from word to word"
        tab.locator("#lambda").focus()
        assert changes(tab, lambda: tab.keyboard.press("Home")), "another temperature, the same picture"
        tab.keyboard.press("End")
        assert changes(tab, lambda: tab.locator(".choices label").nth(2).click()), "another picture, the same picture"
        assert changes(tab, lambda: tab.locator("#forth").click(), "#words"), "the next sentence has the same words"
        assert tab.evaluate("[...document.images].every(i => i.alt && i.naturalWidth) && !!document.querySelector('canvas').ariaLabel")
        tab.screenshot(path=out / f"explorer-{size}-{scheme}.png", full_page=True)


# The site

def site_pages(folder):
    "The first page, search, and every page that shows a notebook or the package."
    return sorted(p for p in folder.rglob("*.html") if not {"_static", "_sources", "_modules"} & set(p.relative_to(folder).parts))


def site(browser, out, folder, size, scheme):
    "Open each page of the site, on a phone in light colours, and a few in every look. AssertionError where one asks for a network, or is too wide."
    with a_tab(browser, size, scheme) as tab:
        for path in site_pages(folder):
            name = path.relative_to(folder).with_suffix("").as_posix().replace("/", "-")
            if (size, scheme) != ("phone", "light") and not any(part in name for part in KEPT): continue
            tab.goto(path.as_uri(), wait_until="load")
            assert fits_its_width(tab), f"{name} is wider than {size}"
            whole = tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth || i.loading == 'lazy')")
            assert whole, f"{name} lacks a picture"
            if any(part in name for part in KEPT): tab.screenshot(path=out / f"site-{name}-{size}-{scheme}.png")


def site_widths(browser, path):
    "Open a page in windows of many widths. AssertionError where it has to be scrolled sideways, or its text leaves the window."
    with a_tab(browser) as tab:
        tab.goto(path.as_uri(), wait_until="load")
        tab.wait_for_function("!document.querySelector('.math') || document.querySelector('mjx-container')")
        assert not tab.evaluate("document.querySelectorAll('mjx-merror').length"), f"{path.name}: an equation that can't be read"
        for width in (390, 720, 760, 800, 1024, 1080, 1100, 1280, 1320, 1366, 1400, 1460, 1480, 1920):
            tab.set_viewport_size({"width": width, "height": 800})
            right = tab.evaluate("document.querySelector('article').getBoundingClientRect().right")
            assert fits_its_width(tab) and right <= width, f"{path.name}: text ends at {right:.0f} in a window of {width}"


# The chapters in JupyterLab

def chapters():
    "Chapters with widgets: {path: numbers of the cells}."
    found = {}
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [n for n, cell in enumerate(cells) if "widget" in cell["metadata"].get("tags", [])]
        if tagged: found[path.relative_to(ROOT).as_posix()] = tagged
    return found


def a_copy(folder):
    "The repository as it stands, in a folder of its own; large data are lent by links."
    patterns = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(ROOT, folder, ignore=lambda at, names: {*patterns(at, names), *(["data"] if Path(at) == ROOT else [])})
    shutil.copytree(ROOT / "data/sample", folder / "data/sample")
    for other in (ROOT / "data").iterdir():
        if other.is_dir() and other.name != "sample": (folder / "data" / other.name).symlink_to(other)


def settings(folder):
    "Settings of JupyterLab: every cell is in the page, no news are asked for."
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    files = {"config/labconfig/page_config.json": quiet,
             "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"}}
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(values), encoding="utf-8")


def start_lab(home, port, token):
    "The server's process; everything that it reads or writes is in one folder."
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "share", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
               "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "PYTHONPATH": "course"}
    own = {**{key: str(home / name) for key, name in folders.items()}, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home / 'course'}", "--LabApp.extension_manager=readonly"]
    if hasattr(os, "geteuid") and os.geteuid() == 0: options.append("--allow-root")
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(home / "log", "w") as log: return subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log, cwd=home)


@contextmanager
def a_lab():
    "JupyterLab on a free port of this machine, over a copy of the repository: its address, token included."
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home, token = Path(folder), secrets.token_hex(16)
        a_copy(home / "course"); settings(home)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = start_lab(home, port, token)
        try:
            wait(lambda: answers(f"http://127.0.0.1:{port}/api?token={token}", server, home / "log"), 90, "JupyterLab does not start")
            yield f"http://127.0.0.1:{port}/lab?token={token}"
        finally:
            server.terminate()
            try: server.wait(20)
            except subprocess.TimeoutExpired: server.kill()


def answers(address, server, log):
    "Whether a server answers yet. AssertionError if it ended."
    assert server.poll() is None, log.read_text()[-2000:]
    try: return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError: return False


def wait(happened, seconds, otherwise):
    "Ask every fifth of a second until something happened. AssertionError with what to say otherwise."
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < until, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(.2)
    return found


OPEN = """async path => {
  const panel = await jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  (window.panels ??= {})[path] = panel; await panel.context.ready; await panel.sessionContext.ready;
}"""
STATUS = "path => panels[path].sessionContext.session?.kernel?.status"
RUN = """path => { jupyterapp.shell.activateById(panels[path].id); (window.ran ??= {})[path] = 0;
  jupyterapp.commands.execute('notebook:run-all-cells').then(() => ran[path] = 1, error => ran[path] = String(error)); }"""
CELLS = """path => JSON.stringify(panels[path].content.widgets.map(({model}, n) => ({
  n, type: model.type, source: model.sharedModel.getSource(), count: model.executionCount ?? null,
  errors: (model.type == 'code' ? model.outputs.toJSON() : []).filter(o => o.output_type == 'error')
    .map(o => o.ename + ': ' + o.evalue)})))"""
SHOW = """([path, n]) => {
  const {node} = panels[path].content.widgets[n]; node.dataset.used = n; node.scrollIntoView({block: 'start'}); }"""
CLOSE = """async path => {
  const panel = panels[path]; await panel.sessionContext.shutdown(); await panel.context.save(); panel.dispose(); delete panels[path]; }"""
KIND = "e => e.classList.contains('noUi-handle') ? 'slider' : e.tagName == 'SELECT' ? 'select' : e.type || 'buttons'"
CONTROLS = ".noUi-handle, select, input[type=number], input[type=text], input[type=checkbox], .widget-toggle-buttons, .widget-radio-box"


class Lab:
    "JupyterLab in a tab. While one chapter is used, the next one runs already, and those that train run from the start."

    def __init__(self, tab, address, paths):
        self.tab, self.left, self.started = tab, list(paths), set()
        tab.goto(address)
        tab.wait_for_function("window.jupyterapp && jupyterapp.restored.then(() => true)", timeout=90_000)
        for path in paths:
            if "_train_" in path: self.start(path)

    def idle(self, path): return self.tab.evaluate(STATUS, path) == "idle"

    def start(self, path):
        "Open a chapter, wait for its kernel, run all of its cells."
        if path in self.started: return
        self.started.add(path); self.left = [p for p in self.left if p != path]
        self.tab.evaluate(OPEN, path)
        wait(lambda: self.idle(path), 90, f"{path}: no kernel")
        self.tab.evaluate(RUN, path)

    def finish(self, path):
        "Wait for the last cell; AssertionError names the cells that failed or never ran."
        self.start(path)
        if self.left: self.start(self.left[0])
        said = wait(lambda: self.tab.evaluate("path => ran[path]", path), PATIENCE, f"{path} does not come to its end")
        cells = json.loads(self.tab.evaluate(CELLS, path))
        failed = {cell["n"]: cell["errors"] for cell in cells if cell["errors"]}
        never = [cell["n"] for cell in cells if cell["type"] == "code" and cell["source"].strip() and cell["count"] is None]
        assert said == 1 and not failed and not never, f"{path}: {said}, errors {failed}, never run {never}"

    def use(self, path, cells, out):
        "Run a chapter to its end, and move everything that its widgets have. Gives how many controls each widget had."
        self.finish(path)
        self.tab.evaluate("path => jupyterapp.shell.activateById(panels[path].id)", path)
        counts = [self.move_all(path, n, out / f"lab-{Path(path).stem}-{n}") for n in cells]
        self.tab.evaluate(CLOSE, path)
        return counts

    def move_all(self, path, n, picture):
        "Move each control of a cell's widget; AssertionError where its picture stays as it was."
        self.tab.evaluate(SHOW, [path, n])
        cell = self.tab.locator(f".jp-Cell[data-used='{n}'] .jp-Cell-outputWrapper >> visible=true")
        wait(lambda: cell.locator(".jupyter-widgets").count(), 30, f"{path}, cell {n}: no widget is shown")
        shown = cell.locator(".jupyter-widgets .jp-OutputArea, .jupyter-widgets .widget-html-content, .jupyter-widgets .widget-image").last
        now = self.settled(path, shown)
        cell.screenshot(path=f"{picture}-before.png")
        controls = cell.locator(CONTROLS)
        count = wait(controls.count, 20, f"{path}, cell {n}: nothing to move")
        for k in range(count):
            moved = self.move(controls.nth(k))
            try: now = self.settled(path, shown, now)
            except AssertionError as error: raise AssertionError(f"cell {n}, {moved} number {k} moved: {error}") from None
        cell.screenshot(path=f"{picture}-after.png")
        return count

    def settled(self, path, shown, before=None):
        "What a widget shows once the kernel rests and two looks agree; AssertionError if that stays as it was before."
        def look():
            if not self.idle(path): return None
            first = pixels(shown); time.sleep(.15)
            rests = self.idle(path) and not differs(first, pixels(shown), 1)
            return [first] if rests and (before is None or differs(before, first)) else None
        return wait(look, 30, f"{path}: its widget shows no other picture")[0]

    def move(self, control):
        "Move one control as its kind allows, and say which it was."
        kind = control.evaluate(KIND)
        control.scroll_into_view_if_needed()
        if kind == "slider":
            at, most = (float(control.get_attribute(f"aria-value{end}")) for end in ("now", "max"))
            control.focus()
            for _ in range(3): self.tab.keyboard.press("ArrowRight" if at < most else "ArrowLeft")
        elif kind == "select": control.select_option(index=control.evaluate("e => (e.selectedIndex + 1) % e.options.length"))
        elif kind == "checkbox": control.click()
        elif kind == "number":
            value = float(control.input_value())
            control.fill(f"{value + (-.4 if value > 0 else .4):.2f}"); control.press("Enter")
        elif kind == "text": control.fill(another(control.input_value())); control.press("Enter")
        else: control.locator("button:not(.mod-active), input:not(:checked)").first.click()
        return kind


def another(sentence):
    "Another sentence for a search box."
    return "a blue ring" if "blue" not in sentence else "a red star"


def use_lab(browser, out, paths):
    "All chapters with widgets in turn: {path: controls moved}."
    found = chapters()
    with a_lab() as address, a_tab(browser) as tab:
        lab = Lab(tab, address, paths)
        return {path: lab.use(path, found[path], out) for path in paths}


def main(out, what=("explorer", "lab", "site")):
    "Everything, one line for each thing that went well."
    out.mkdir(parents=True, exist_ok=True)
    with a_browser() as browser:
        looks = [(size, scheme) for size in SIZES for scheme in SCHEMES]
        if "explorer" in what:
            for look in looks: explorer(browser, out, *look); print("explorer", *look, flush=True)
        if "lab" in what:
            for path, counts in use_lab(browser, out, list(chapters())).items(): print(path, f"{sum(counts)} controls moved", flush=True)
        if "site" in what and (ROOT / "build/site/index.html").is_file():
            for look in looks: site(browser, out, ROOT / "build/site", *look); print("site", *look, flush=True)


if __name__ == "__main__":
    if missing("jupyterlab"): sys.exit(missing("jupyterlab"))
    main(Path(sys.argv[1]), *([sys.argv[2:]] if sys.argv[2:] else []))
