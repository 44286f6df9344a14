"""Search that explains itself: places, what is new, words and regions, pages, and what is refused."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cmr
from cmr.cli import app
from cmr.data import Vocabulary, open_split
from cmr.data import extractors as known_extractors
from cmr.data.extractors import GridExtractor, Preprocessing, create_extractor, register_extractor
from cmr.data.photos import extract
from cmr.saving import save
from cmr.search import Search, ask
from cmr.search.calibration import fit_calibration, write_calibration
from cmr.search.explain import html_of
from cmr.search.words import looks

WORDS = Vocabulary(["a", "red", "blue", "green", "dog", "cat", "runs", "sits"])
MODELS = {"scan": {"direction": "text", "pooling": "mean"}, "imram": {"direction": "text", "steps": 2}, "camp": {}, "vse": {}, "dvsa": {}}


class Means(torch.nn.Module):
    "Mean colours of cells of 4 x 4 pixels; counts its pictures."
    seen = 0

    def forward(self, x):
        if len(x) and x.abs().sum(): Means.seen += len(x)
        return torch.nn.functional.avg_pool2d(x, 4)


@pytest.fixture(autouse=True, scope="module")
def means():
    @register_extractor("explained")
    def make(detail="", pretrained=True): return GridExtractor("explained", Means(), Preprocessing(12, "bilinear", (0,) * 3, (1,) * 3), 3, "none")
    yield
    known_extractors.MAKERS.pop("explained")


def model_of(name, width=3, **settings):
    torch.manual_seed(0)
    model = cmr.create_model(name, width, len(WORDS), embed_dim=8, word_dim=6, **MODELS[name], **settings).eval()
    model.vocabulary = WORDS
    if width == 3: model.extractor = create_extractor("explained").info
    return model


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for n, name in enumerate(("red.png", "green <b>.png", "more/blue.png", "grey.png")):
        noise = np.random.default_rng(n).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_pictures_answers_as_the_model_does(name, photos):
    model = model_of(name)
    found = Search((model, WORDS), photos, progress=False)("a red dog runs", top=4)
    made = extract(photos, photos.parent / "features.h5", create_extractor("explained"), progress=False)
    scores = model.score(model.encode_images(torch.from_numpy(made.features[:].astype(np.float32))), ask(model, WORDS, "a red dog runs"))[:, 0]
    assert [hit.name for hit in found.hits] == [made.ids[row] for row in scores.argsort(descending=True)]
    assert np.allclose([hit.score for hit in found.hits], scores.sort(descending=True).values.detach(), atol=1e-4)
    for hit in found.hits:
        assert hit.words.words == ["a", "red", "dog", "runs"] and hit.words.how
        assert name == "vse" and not hit.words.scores or len(hit.words.scores) == 4 and len(hit.words.weights) == 4 and len(hit.words.weights[0]) == len(hit.boxes)


@pytest.mark.parametrize("name", ["scan", "imram"])
def test_the_words_add_up_to_the_score(name):
    model = model_of(name).double()
    image = model.encode_images(torch.rand(1, 9, 3, dtype=torch.float64))
    caption = model.encode_captions(torch.tensor([[4, 5, 8, 0]]), torch.tensor([3]))
    assert abs((looks(model, image, caption)[0].mean() - model.score(image, caption)).item()) < 1e-10


def test_only_what_is_new_is_encoded(photos, monkeypatch):
    model, encoded = model_of("scan"), []
    plain = type(model).encode_images
    monkeypatch.setattr(type(model), "encode_images", lambda self, features, mask=None: encoded.append(len(features)) or plain(self, features, mask))
    def search(): return [hit.name for hit in Search((model, WORDS), photos, progress=False)("a dog").hits]
    Means.seen = 0
    first = search()
    assert (Means.seen, encoded, len(first)) == (4, [4], 4)
    monkeypatch.setattr("cmr.search.explain.create_extractor", lambda *_, **__: pytest.fail("nothing is new"))
    assert search() == first and encoded == [4]
    monkeypatch.undo()
    monkeypatch.setattr(type(model), "encode_images", lambda self, features, mask=None: encoded.append(len(features)) or plain(self, features, mask))
    Image.new("RGB", (20, 20), "white").save(photos / "white.png")
    (photos / "red.png").unlink()
    assert sorted(search()) == sorted({*first, "white.png"} - {"red.png"}) and Means.seen == 5 and encoded == [4, 1]
    shutil.copy(photos / "grey.png", photos / "again.png")                # another name, the same content: known
    assert len(search()) == 5 and Means.seen == 5 and encoded == [4, 1]
    other = model_of("vse")                                               # another model: its own gallery, the same features
    assert len(Search((other, WORDS), photos, progress=False)("a dog").hits) == 5 and Means.seen == 5


def test_other_pictures_and_damaged_ones(photos):
    model = model_of("scan")
    Search((model, WORDS), photos, progress=False)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.warns(UserWarning, match="broken.jpg"): found = Search((model, WORDS), photos, progress=False)("a dog")
    assert len(found.hits) == 4
    for path in photos.rglob("*.png"): path.unlink()
    (photos / "broken.jpg").unlink()
    Image.new("RGB", (9, 9)).save(photos / "new.png")
    assert [hit.name for hit in Search((model, WORDS), photos, progress=False)("a dog").hits] == ["new.png"]


def test_a_damaged_cache_is_said_or_made_again(photos):
    model = model_of("scan")
    Search((model, WORDS), photos, progress=False)
    gallery, = (photos / ".cmr").glob("*.safetensors")
    gallery.write_bytes(gallery.read_bytes()[:200])
    with pytest.raises(ValueError, match="safetensors"): Search((model, WORDS), photos, progress=False)
    gallery.unlink()
    assert len(Search((model, WORDS), photos, progress=False)("a dog").hits) == 4


def test_a_search_that_was_stopped_between_two_files_mixes_nothing_up(photos, monkeypatch):
    "The gallery is new, the list beside it old: rows are not taken for those of other pictures."
    model = model_of("scan")
    Search((model, WORDS), photos, progress=False)
    seen, = (photos / ".cmr").glob("*.json")
    before = seen.read_bytes()
    (photos / "red.png").unlink()
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(photos / "a new one.png")
    Search((model, WORDS), photos, progress=False)
    seen.write_bytes(before)                                               # as if it had been killed before the list was written
    Image.fromarray(np.random.default_rng(10).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(photos / "another.png")
    found = Search((model, WORDS), photos, progress=False)("a red dog", top=5)
    fresh = Search((model, WORDS), photos, index=photos.parent / "elsewhere", progress=False)("a red dog", top=5)
    assert found.table() == fresh.table()


def test_another_model_that_searched_between_changes_no_names(photos):
    "Features belong to all models: a gallery that was made of other ones is made again."
    one, other = model_of("scan"), model_of("vse")
    first = Search((one, WORDS), photos, progress=False)("a dog").table()
    hidden = photos.parent / "grey.png"
    (photos / "grey.png").rename(hidden)
    Search((other, WORDS), photos, progress=False)
    hidden.rename(photos / "grey.png")                                     # the same size and time as before
    again = Search((one, WORDS), photos, progress=False)
    assert again("a dog").table() == first and [hit.name for hit in again("a dog").hits] == [again.images.names[hit.row] for hit in again("a dog").hits]


class Page(HTMLParser):
    "Tags and attributes of a page."
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attributes]


def test_the_page_stands_alone_and_escapes_what_comes_from_outside(photos, tmp_path):
    found = Search((model_of("scan"), WORDS), photos, progress=False)('a red dog <script>alert("1")</script>', top=4)
    page = Page(found.save(tmp_path / "found.html").read_text(encoding="utf-8"))
    assert page.tags.count("img") == 4 and "script" not in page.tags and "b" not in page.tags and "link" not in page.tags
    assert all(value.startswith("data:image/jpeg;base64,") for tag, key, value in page.attributes if key in ("src", "href"))
    assert {value for tag, key, value in page.attributes if key == "alt"} == {hit.name for hit in found.hits}
    words = [value for tag, key, value in page.attributes if tag == "span" and key == "tabindex"]
    assert len(words) == sum(len(hit.words.words) for hit in found.hits) and page.tags.count("rect") > 4
    assert found._repr_html_() in found.page() and "script" in found.unknown
    with pytest.raises(ValueError, match=r"ends in .html"): found.save(tmp_path / "found.txt")


def test_json_has_everything(photos):
    found = Search((model_of("imram"), WORDS), photos, progress=False)("a red zebra", top=2)
    said = json.loads(found.json())
    assert said["query"] == "a red zebra" and said["unknown"] == ["zebra"] and said["matches"] is None and len(said["hits"]) == 2
    hit = said["hits"][0]
    assert hit["words"] == ["a", "red", "zebra"] and hit["known"] == [True, True, False] and hit["probability"] is None
    assert len(hit["weights"]) == 3 and len(hit["weights"][0]) == len(hit["boxes"]) == 9 and max(hit["weights"][0]) == 1
    assert re.fullmatch(r" +1 +-?\d\.\d{3}  .*\n +2 .*", found.table())


def test_a_picture_asks(photos, tmp_path):
    model = model_of("scan")
    finder = Search((model, WORDS), photos, progress=False)
    found = finder(photos / "grey.png", top=2)
    assert found.finds == "pictures like it" and found.hits[0].name == "grey.png" and abs(found.hits[0].score - 1) < 1e-3
    model.extractor = None
    del finder.extractor
    with pytest.raises(ValueError, match="doesn't say who made"): finder(photos / "grey.png")


def test_features_and_galleries_are_places(photos, tmp_path):
    model, path = model_of("scan"), photos.with_suffix(".h5")
    extract(photos, path, create_extractor("explained"), progress=False)
    want = Search((model, WORDS), photos, progress=False)
    found = Search((model, WORDS), path)
    assert [hit.name for hit in found("a dog").hits] == [hit.name for hit in want("a dog").hits] and found("a dog").hits[0].picture() is not None
    want.images.save(tmp_path / "gallery.safetensors")
    assert Search((model, WORDS), tmp_path / "gallery.safetensors")("a dog").table() == want("a dog").table()
    with pytest.raises(ValueError, match="another model"): Search((model_of("vse"), WORDS), tmp_path / "gallery.safetensors")


def test_refusals(photos, tmp_path):
    model = model_of("scan")
    with pytest.raises(FileNotFoundError, match="nothing to search"): Search((model, WORDS), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture in"): Search((model, WORDS), tmp_path / "empty")
    finder = Search((model, WORDS), photos, progress=False)
    for query, message in (("", "empty"), ("zebra", "unknown words only")):
        with pytest.raises(ValueError, match=message): finder(query)
    with pytest.raises(ValueError, match="cmr calibrate"): finder("a dog", at_least=.5)
    wide = model_of("scan", width=5)
    with pytest.raises(ValueError, match="doesn't say who made"): Search((wide, WORDS), photos, progress=False)
    with pytest.raises(ValueError, match=r"has regions of 3 numbers, made by explained .*, the model was trained on 5"):
        Search((wide, WORDS), photos, extractor="explained", index=tmp_path / "cache", progress=False)
    other = model_of("scan")
    other.extractor = create_extractor("explained").info.model_copy(update={"digest": "0" * 64})
    with pytest.raises(ValueError, match="features were made by .* the model learned from"): Search((other, WORDS), photos, progress=False)


def test_a_data_folder_both_ways_and_a_calibration(tmp_path, whole, world):
    from cmr.saving import load
    from cmr.search.explain import load_any
    folder = tmp_path / "model"
    shutil.copytree(whole[0] / "best", folder)
    model, vocabulary = load(folder)
    finder, split = Search(folder, world, "test"), open_split(world, "test")
    found = finder(split.captions[0], top=6)
    assert len(found.hits) == 6 and found.matches is None and found.hits[0].probability is None
    asked = finder(2, top=3)
    assert asked.finds == "captions" and {hit.name for hit in asked.hits} <= set(split.captions)
    write_calibration(fit_calibration(model, open_split(world, "train"), vocabulary, captions=40, sizes=(8,)), folder)
    found = Search(folder, world, "test")(split.captions[0], top=6)
    sure = [hit.probability for hit in found.hits]
    assert all(0 <= p <= 1 for p in sure) and found.matches in (True, False) and "%" in found.table()
    kept = Search(folder, world, "test")(split.captions[0], top=6, at_least=1.0)
    assert kept.hidden == sum(p < 1 for p in sure) and len(kept.hits) + kept.hidden == 6
    found.matches = False
    assert "no picture here matches well; the nearest:" in found.notes and 'class=weak' in found.page()
    assert load_any(whole[0])[2] == whole[0] / "best"


def test_the_command(photos, tmp_path):
    model = model_of("scan")
    save(model, WORDS, tmp_path / "model")
    def call(*words, code=0):
        said = CliRunner().invoke(app, ["search", str(tmp_path / "model"), *map(str, words)])
        assert said.exit_code == code, said.output
        return said.output.replace("\n", " ") if code else said.output
    page = tmp_path / "found.html"
    assert "red.png" in call(photos, "a dog", "--html", page, "--index", tmp_path / "cache") and "<ol>" in page.read_text()
    assert not (photos / ".cmr").exists() and (tmp_path / "cache").is_dir()
    said = call(photos, "a dog", "--json", "--index", tmp_path / "cache")
    assert json.loads(said[said.index("{"):])["finds"] == "pictures"
    assert "grey.png" in call(photos, "--picture", photos / "grey.png", "--index", tmp_path / "cache")
    for words, message in (((photos,), "what is looked for"), ((photos, "a dog", "a cat"), "3 arguments"), ((photos, "a dog", "--picture", photos / "red.png"), "one of them"),
                           ((photos, "a dog", "--image", "3"), "one of them"), ((photos, "--row", 1, "--index", tmp_path / "cache"), "no data folder"),
                           ((photos, "a dog", "--html", "x.txt"), "ends in .html"), ((photos, "a dog", "--at-least", .5), "cmr calibrate"),
                           ((tmp_path / "no", "a dog"), "nothing to search"), ((photos, "a dog", "--data", tmp_path), "name one place"),
                           ((photos, "--picture", tmp_path / "no.png", "--index", tmp_path / "cache"), "no.png")):
        assert message in call(*words, code=2)


def test_qdrant_gives_the_same_answers(whole, world, tmp_path):
    pytest.importorskip("qdrant_client")
    folder, split = whole[0] / "best", open_split(world, "test")
    plain = Search(folder, world, "test")
    there = Search(folder, world, "test", store=(str(tmp_path / "store"), "cmr"))
    try: assert [hit.name for hit in there(split.captions[1]).hits] == [hit.name for hit in plain(split.captions[1]).hits]
    finally: there.close()


@pytest.mark.parametrize("odd, said", [(None, "sentences or pictures"), (3, "sentences or pictures"), (b"a dog", "sentences or pictures"),
                                       (["a dog", None], "sentences or pictures"), ("none.png", "none.png")])
def test_what_is_neither_a_sentence_nor_a_picture_is_not_encoded(odd, said):
    model = cmr.load("data/sample/imram")[0]
    with pytest.raises((ValueError, OSError), match=said): model.encode(odd)


def test_a_link_that_leads_nowhere_and_a_damaged_cache(photos, tmp_path):
    "Left out and said, as `cmr features` does; what was kept is made anew."
    (photos / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match="lost.png"): first = Search((model_of("scan"), WORDS), photos, progress=False)("a red dog", top=9)
    assert len(first.hits) == 4
    kept, = (photos / ".cmr").glob("*.h5")
    kept.write_text("damaged")
    with pytest.warns(UserWarning, match="is damaged, and is made anew"): again = Search((model_of("scan"), WORDS), photos, progress=False)("a red dog", top=9)
    assert [(hit.name, hit.score) for hit in again.hits] == [(hit.name, hit.score) for hit in first.hits]


def test_questions_that_cannot_be(photos):
    finder = Search((model_of("scan"), WORDS), photos, progress=False)
    for query, how, message in (("", {}, "an empty question"), (" \n", {}, "an empty question"), ("dog " * 300, {}, "1,200 characters: 1,000 at most"),
                                ("a dog", {"top": 0}, "top=0"), ("a dog", {"top": -1}, "top=-1")):
        with pytest.raises(ValueError, match=message): finder(query, **how)
    assert "height:720px" in html_of(replace(finder("a dog", top=1), hits=[replace(finder("a dog", top=1).hits[0], picture=lambda: Image.new("RGB", (1, 500)))]))


def test_options_that_a_place_has_no_use_for_are_refused(photos, tmp_path, whole, world):
    save(model_of("scan"), WORDS, tmp_path / "model")
    def refused(model, *words):
        said = CliRunner().invoke(app, ["search", str(model), *map(str, words)])
        assert said.exit_code == 2, said.output
        return " ".join(said.output.split())
    extract(photos, tmp_path / "photos.h5", create_extractor("explained"), progress=False)
    for option in (("--qdrant", tmp_path / "store"), ("--split", "train"), ("--fit",), ("--figure", "x.png"), ("--row", 1)):
        words = () if option[0] == "--row" else ("a dog",)
        assert f"no data folder: {option[0]} for such only" in refused(tmp_path / "model", photos, *words, *option)
        assert f"no data folder: {option[0]} for such only" in refused(tmp_path / "model", tmp_path / "photos.h5", *words, *option)
    assert not (photos / ".cmr").exists() and not (tmp_path / "store").exists()
    assert "nothing of it is kept" in refused(tmp_path / "model", tmp_path / "photos.h5", "a dog", "--index", tmp_path / "x.safetensors")
    asked = open_split(world, "test").captions[0]
    assert "say with --qdrant" in refused(whole[0], world, asked, "--collection", "zz")
    assert "--figure x.xyz: its name ends in" in refused(whole[0], world, asked, "--figure", "x.xyz")
    assert "name one of them" in refused(whole[0], world / "dev.h5", asked, "--split", "test")
