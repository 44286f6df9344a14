"""docs/explorer.html: what it holds, and that what it shows is what torch computes, for all of its 120 pairs."""

import base64
import io
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmr.lens import brightness
from cmr.world.scenes import is_true

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs/tools"))
import browser  # noqa: E402
import explorer  # noqa: E402

PAGE = ROOT / "docs/explorer.html"
needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "it is there")
OTHER = (0, 1, 4.5, 20, 40)  # inverse temperatures that the model was not trained with: both ends of the page's slider, and between them


@pytest.fixture(scope="module")
def shown():
    return explorer.gather(torch.float64)


@pytest.fixture(scope="module")
def drawn(shown):
    "Each picture's red, as it is drawn, and which thing each of its regions shows."
    return [(explorer.draw(e.scene, grain=0)[..., 0], explorer.picture_json(e, b, [0])["shows"]) for e, b in zip(shown.entries, shown.boxes)]


@pytest.fixture(scope="module")
def tab():
    "The page in Chromium, opened from the disk, and all that it asked for from elsewhere."
    with browser.a_browser() as chromium:
        tab = chromium.new_page(viewport={"width": 1180, "height": 860})
        tab.wrong = []
        tab.on("request", lambda request: None if request.url.startswith(("file://", "data:")) else tab.wrong.append(request.url))
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.goto(PAGE.as_uri())
        tab.wait_for_selector("html[data-ready=yes]", state="attached")  # by no text that is evaluated: the page forbids it
        yield tab


def held(text):
    "The page without its data, and the data."
    found = re.search(r'(<script type="application/json" id="data">)(.*?)(</script>)', text, re.S)
    return text.replace(found[2], ""), json.loads(found[2])


def numbers(node):
    "Base64 as float32, pictures as pixels, everything else as it is."
    if isinstance(node, dict):
        kept = {k: v for k, v in node.items() if k in ("text", "words", "kind", "things", "lambda")}
        return {k: kept[k] if k in kept else numbers(v) for k, v in node.items()}
    if isinstance(node, list): return [numbers(v) for v in node]
    if not isinstance(node, str): return node
    if node.startswith("data:"): return np.asarray(Image.open(io.BytesIO(base64.b64decode(node.split(",")[1]))).convert("RGB")).astype(float)
    return np.frombuffer(base64.b64decode(node), "<f4")


def same(a, b):
    "Whether two pages' data agree: text to the letter, numbers to 1e-5."
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, float)): return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, atol=1e-5, rtol=0))
    return a == b


def test_the_page_is_small_and_needs_nothing_else():
    text = PAGE.read_text(encoding="utf-8")
    assert PAGE.stat().st_size <= 2_000_000 and (ROOT / "docs/explorer.png").stat().st_size <= 300_000
    frame, _ = held(text)
    assert not re.search(r"https?:|//[\w.]+\.\w+/|@import|\bfetch\(|XMLHttpRequest|WebSocket|<link|<iframe|<script[^>]*\ssrc", frame)
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href|url)\s*[=(]\s*"([^"]*)"', frame))
    assert "default-src 'none'" in frame                              # a browser refuses whatever else it might ask for
    assert set(re.findall(r"@media \(prefers-color-scheme: (\w+)\)", frame)) == {"dark"} and 'lang="en"' in frame


def test_the_page_is_what_the_command_makes():
    made, again = explorer.page(), explorer.page()
    assert made == again
    ours, theirs = held(made), held(PAGE.read_text(encoding="utf-8"))
    assert ours[0] == theirs[0], "docs/tools/explorer_page.html changed: python docs/tools/explorer.py"
    assert same(numbers(ours[1]), numbers(theirs[1])), "the sample or its model changed: python docs/tools/explorer.py"


def test_pairs_are_what_the_page_calls_them(shown):
    assert len(shown.pairs) == 120 and len({(c, i) for c, i, _ in shown.pairs}) == 120
    assert Counter(kind for _, _, kind in shown.pairs) == {"matching": 40, "twin": 24, "wrong": 56}
    assert {i for _, i, kind in shown.pairs if kind == "matching"} == set(range(24))
    for c, i, kind in shown.pairs:
        own, place = divmod(shown.captions[c][0], 5)
        assert is_true(shown.entries[own].captions[place].meaning, shown.entries[i].scene) == (kind == "matching")
        assert (i == shown.entries[own].twin) == (kind == "twin") and (i == own) == (kind == "matching")


def test_a_pair_alone_is_the_models_score(shown):
    for p, (c, i, _) in enumerate(shown.pairs):
        alone = explorer.Fragments(shown.captions[c][3][None], torch.ones(1, len(shown.captions[c][2]), dtype=torch.bool))
        image = explorer.Fragments(shown.images.values[i:i + 1], shown.images.mask[i:i + 1])
        assert float(explorer.torch_steps(shown, p)[1].mean(1).sum()) == pytest.approx(float(shown.model.score(image, alone).detach()), abs=1e-12)


@needs_browser
@pytest.mark.parametrize("inverse_temperature", [None, *OTHER])
def test_the_pages_program_agrees_with_torch(shown, tab, inverse_temperature):
    "Weights and scores of every word at every step, 120 of 120 pairs."
    value = inverse_temperature if inverse_temperature is not None else tab.evaluate("TRAINED")
    ours = json.loads(tab.evaluate("value => JSON.stringify(pairs.map((_, p) => steps(p, value).map(step => [step.weights, step.scores])))", value))
    agree = 0
    for p, found in enumerate(ours):
        weights, scores = explorer.torch_steps(shown, p, inverse_temperature)
        for k, (w, s) in enumerate(found):
            np.testing.assert_allclose(w, weights[k].numpy(), atol=1e-3, rtol=0)
            np.testing.assert_allclose(s, scores[k].numpy(), atol=1e-3, rtol=0)
        agree += 1
    assert agree == 120


SHOWN = """([caption, choice, step, word]) => {
  const select = document.getElementById('caption');
  if (+select.value !== caption) { select.value = caption; select.dispatchEvent(new Event('change')); }
  document.querySelector(`#choices input[value='${choice}']`).click();
  document.querySelector(`#step input[value='${step}']`).click();
  document.querySelectorAll('.word')[word].click();
  const all = selector => [...document.querySelectorAll(selector)].map(e => e.textContent), red = document.getElementById('canvas').getContext('2d').getImageData(0, 0, 128, 128).data;
  return JSON.stringify({words: all('.word small'), totals: all('.total'), shares: all('#shares .row b'), best: all('.mark').findIndex(text => text), verdict: all('#verdict')[0],
    lambda: all('#lambda-is')[0], label: document.getElementById('canvas').getAttribute('aria-label'), pixels: Array.from(red.filter((_, i) => i % 4 == 0 && (i >> 2) % 8 == 3 && (i >> 11) % 2))});
}"""


def said(text):
    "Numbers as the page writes them."
    return float(text.replace("\N{MINUS SIGN}", "-").replace(" %", ""))


def expected_pixels(red, boxes, weights):
    "Red of every eighth pixel of every other block of eight rows."
    lit, at = brightness(weights, boxes, 128), np.arange(128 * 128)
    return np.floor(red * (.25 + .75 * lit)).reshape(-1)[(at % 8 == 3) & ((at * 4 >> 11) % 2 == 1)]


@needs_browser
@pytest.mark.parametrize("inverse_temperature", [9, 20])
def test_what_is_shown_is_what_torch_computes(shown, drawn, tab, inverse_temperature):
    "All 120 pairs through the page's own controls: numbers under words, scores, bars, the lit picture."
    tab.evaluate("value => { const s = document.getElementById('lambda'); s.value = value; s.dispatchEvent(new Event('input')); }", inverse_temperature)
    for p, (c, i, _) in enumerate(shown.pairs):
        k, word = p % 3, p % len(shown.captions[c][2])
        page = json.loads(tab.evaluate(SHOWN, [c, p % 3, k + 1, word]))
        three = [explorer.torch_steps(shown, q, inverse_temperature) for q in range(p - p % 3, p - p % 3 + 3)]
        (weights, scores), totals = three[p % 3], [float(s.mean(1).sum()) for _, s in three]
        np.testing.assert_allclose([said(t) for t in page["words"]], scores[k].numpy(), atol=.006)         # two digits
        np.testing.assert_allclose([said(t) for t in page["totals"]], totals, atol=.0015)                  # three
        assert page["best"] == int(np.argmax(totals)) and float(page["lambda"]) == inverse_temperature
        assert ("has the highest score" in page["verdict"]) and ("\N{CHECK MARK}" in page["verdict"]) == (page["best"] == 0)
        shares = sorted((100 * sum(w for w, thing in zip(weights[k, word].tolist(), drawn[i][1]) if thing == t) for t in range(len(shown.entries[i].scene.things))), reverse=True)
        np.testing.assert_allclose([said(t) for t in page["shares"]], [*shares, 100 - sum(shares)], atol=.6)
        assert f"\N{LEFT DOUBLE QUOTATION MARK}{shown.captions[c][2][word]}\N{RIGHT DOUBLE QUOTATION MARK} looks at in step {k + 1}" in page["label"]
        wanted = expected_pixels(drawn[i][0], shown.boxes[i], weights[k, word])
        assert len(page["pixels"]) == len(wanted) and np.abs(np.array(page["pixels"]) - wanted).max() <= 1
    assert not tab.wrong, tab.wrong


@needs_browser
def test_the_pages_own_check(tab):
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.click("#check")
    assert tab.inner_text("#checked").startswith("120 of 120 pairs agree to 0.001")
    code = tab.inner_text("#code")
    assert code == tab.evaluate("document.getElementById('model').textContent.trim()") and code.count("\n") < 30 and "function look(" in code


@needs_browser
def test_a_wrong_program_is_caught(shown, tab):
    "A planted error, no normalising over the words, changes weights by more than 1e-3 in every pair."
    found = json.loads(tab.evaluate("JSON.stringify(pairs.map(pair => pair.cosines.map(row => softmax(row.map(s => TRAINED * Math.max(s, 0))))))"))
    assert all(np.abs(np.array(found[p]) - explorer.torch_steps(shown, p)[0][0].numpy()).max() > 1e-3 for p in range(120))
