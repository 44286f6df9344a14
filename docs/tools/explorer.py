"""Make docs/explorer.html: 120 pairs of a picture and a sentence, whose attention the page computes itself.

    python docs/tools/explorer.py             # writes the page, the same bytes each time
    python docs/tools/explorer.py --picture   # and docs/explorer.png, what it looks like (needs Playwright and Chromium)

The page is docs/tools/explorer_page.html with one line of data put in: pictures, vectors of words and regions, the memory
unit's weights, each pair's cosines. Everything else is computed in the page."""

import base64
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import cmr
from cmr.data import open_split
from cmr.encoders import Fragments
from cmr.imram import match_steps
from cmr.similarity import cosine
from cmr.world.regions import label_windows
from cmr.world.scenes import SIZE, draw, is_true, load_entries

DOCS = Path(__file__).parent.parent
SAMPLE = DOCS.parent / "data/sample"
FRAMED = .2                   # a region that frames its best thing less well than this shows no single thing
OF_TWINS, OF_OTHERS = 3, 1    # captions of a scene that has a twin, and of one that has none: 8 * 3 + 16 * 1, three pictures each


@dataclass
class Shown:
    "What the page shows, as torch has it."
    model: torch.nn.Module
    entries: list
    boxes: np.ndarray       # (I, 36, 4) in fractions of the picture
    images: Fragments       # (I, 36, d)
    captions: list          # of (number in the sample, text, words, vectors (n, d))
    pairs: list             # of (caption's place in `captions`, image, kind), three of each caption in a row


def pictures_of(scores, entries, own, caption):
    "A caption's three pictures: its own, then the twin's where there is one, then wrong ones: the best, and the worst."
    twin = entries[own].twin
    wrong = [i for i in np.argsort(-scores, kind="stable").tolist() if i not in (own, twin)]
    rest = [(twin, "twin"), (wrong[0], "wrong")] if twin >= 0 else [(wrong[0], "wrong"), (wrong[-1], "wrong")]
    assert not any(is_true(caption.meaning, entries[i].scene) for i, _ in rest)
    return [(own, "matching"), *rest]


def gather(dtype=torch.float32):
    "The 120 pairs, by the model that ships."
    model, vocabulary = cmr.load(SAMPLE / "imram")
    sample, entries = open_split(SAMPLE, "sample"), load_entries(SAMPLE / "sample_scenes.json")
    images, captions = cmr.encode_all(model, sample, vocabulary, progress=False)
    with torch.no_grad(): scores = model.score(images, captions).numpy()
    shown = Shown(model.to(dtype), entries, np.asarray(sample.boxes), Fragments(images.values.to(dtype), images.mask), [], [])
    for i, entry in enumerate(entries):
        for c in range(5 * i, 5 * i + (OF_TWINS if entry.twin >= 0 else OF_OTHERS)):
            words = vocabulary.decode(vocabulary.encode(sample.captions[c])).split()
            assert len(words) == int(captions.mask[c].sum()) and images.mask.all()
            for image, kind in pictures_of(scores[:, c], entries, i, entry.captions[c % 5]):
                shown.pairs.append((len(shown.captions), image, kind))
            shown.captions.append((c, sample.captions[c], words, captions.values[c, :len(words)].to(dtype)))
    return shown


@torch.no_grad()
def torch_steps(shown, pair, inverse_temperature=None):
    "One pair's steps as the model computes them: weights (K, n, 36), scores (K, n)."
    caption, image, _ = shown.pairs[pair]
    ram, words, regions = shown.model.ram["text"], shown.captions[caption][3][None], shown.images.values[image:image + 1]
    trained = ram.inverse_temperature
    query, response = (Fragments(x, torch.ones(x.shape[:2], dtype=torch.bool)) for x in (words, regions))
    try:
        ram.inverse_temperature = trained if inverse_temperature is None else inverse_temperature
        steps = list(match_steps(ram, query, response, shown.model.steps))
    finally: ram.inverse_temperature = trained
    return torch.stack([s.weights[0, 0] for s in steps]), torch.stack([s.scores[0, 0] for s in steps])


def floats(values):
    "Numbers as the page reads them: float32 in base64."
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def image_of(picture):
    "A picture (128, 128, 3) as an address that holds the picture itself."
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def name(thing):
    "A thing in words: the large striped blue square."
    return f"{thing.size} {thing.pattern} {thing.colour} {thing.shape}"


def picture_json(entry, boxes, vectors):
    "One picture: its pixels without grain, its regions, and the thing that each region shows (-1: no single one)."
    best, quality = label_windows(entry.scene, torch.tensor(boxes * SIZE))
    shows = torch.where(quality > FRAMED, best, -1).tolist()
    return {"src": image_of(draw(entry.scene, grain=0)), "boxes": np.round(boxes, 5).tolist(),
            "things": [name(t) for t in entry.scene.things], "shows": shows, "vectors": floats(vectors)}


def data(shown):
    "What the page holds, as json."
    model = shown.model
    ram = model.ram["text"]
    memory = {key: floats(value.detach()) for key, value in sorted(ram.memory.state_dict().items())}
    pairs = []
    for p, (caption, image, kind) in enumerate(shown.pairs):
        first = cosine(shown.captions[caption][3], shown.images.values[image])
        scores = torch_steps(shown, p)[1]
        pairs.append({"caption": caption, "picture": image, "kind": kind, "cosines": floats(first), "scores": floats(scores)})
    return {"dim": model.config["embed_dim"], "steps": model.steps, "lambda": ram.inverse_temperature, "memory": memory, "pairs": pairs,
            "pictures": [picture_json(e, b, v) for e, b, v in zip(shown.entries, shown.boxes, shown.images.values)],
            "captions": [{"text": text, "words": words, "vectors": floats(vectors)} for _, text, words, vectors in shown.captions]}


def page():
    "The page as text."
    template = (DOCS / "tools/explorer_page.html").read_text(encoding="utf-8")
    assert template.count("@DATA@") == 1
    return template.replace("@DATA@", json.dumps(data(gather()), separators=(",", ":")))


def picture():
    "docs/explorer.png: the page at desk width, in light colours, with a word that is telling."
    from browser import a_browser
    with a_browser() as browser:
        tab = browser.new_page(viewport={"width": 1180, "height": 915}, color_scheme="light")
        tab.goto((DOCS / "explorer.html").as_uri() + "#caption=12&word=3")
        tab.wait_for_selector("html[data-ready=yes]", state="attached")
        tab.screenshot(path=DOCS / "explorer.png")
    Image.open(DOCS / "explorer.png").convert("RGB").quantize(256, dither=Image.Dither.NONE).save(DOCS / "explorer.png", optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    (DOCS / "explorer.html").write_text(page(), encoding="utf-8", newline="\n")
    if "--picture" in sys.argv[1:]: picture()
