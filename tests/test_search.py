"""Search: a shortlist by cheap vectors, ranked by the matcher; what it keeps, and what it refuses."""

import builtins
import hashlib
import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cmr.attention import SCAN
from cmr.camp import CAMP
from cmr.data import ImageCaptions, Vocabulary
from cmr.encoders import Fragments
from cmr.fast import encode_all, score_all
from cmr.files import read_tensors, write_tensors
from cmr.imram import IMRAM
from cmr.matcher import VSE
from cmr.recall import report
from cmr.saving import load, save
from cmr.search import (
    Gallery,
    Shortlist,
    ask,
    ask_with_image,
    fingerprint,
    fit_maps,
    image_row,
    learn_maps,
    open_gallery,
    pooled,
    recall_kept,
    show_hits,
    summary_vectors,
    write_gallery,
)
from cmr.search.gallery import data_digest, read_file
from cmr.shelf import DVSA
from cmr.similarity import l2_normalize

MODELS = {"vse": (VSE, {}), "scan t-i": (SCAN, {"pooling": "lse"}), "scan i-t": (SCAN, {"direction": "image"}), "dvsa": (DVSA, {}),
          "imram": (IMRAM, {"direction": "full", "variant": "released"}), "camp": (CAMP, {}),
          "text-imram": (IMRAM, {"direction": "text", "steps": 2})}
WORDS = ["a", "red", "blue", "green", "dog", "cat", "bird", "runs", "sits"]


def make_split(n: int = 12, seed: int = 0, masked: bool = True) -> ImageCaptions:
    "Random regions, some of them absent, and two or three captions an image of different lengths."
    rng = np.random.default_rng(seed)
    mask = rng.random((n, 5)) > 0.3
    mask[:, 0] = True
    owner = np.sort(np.concatenate([np.arange(n), np.arange(n), np.arange(0, n, 2)]))
    captions = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in owner]
    features, names = rng.normal(size=(n, 5, 6)).astype("float32"), [f"image-{i}" for i in range(n)]
    return ImageCaptions(features, captions, owner, names, mask=mask if masked else None)


def make_model(name: str, seed: int = 0):
    "In float64: what differs by rounding differs by 1e-12, and no ranking depends on it."
    torch.manual_seed(seed)
    kind, args = MODELS[name]
    return kind(6, 4 + len(WORDS), 8, 5, **args).double().eval()


def close(a, b, tolerance: float = 1e-10): torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


VOCABULARY, SPLIT = Vocabulary(WORDS), make_split()


@pytest.fixture(params=MODELS)
def made(request):
    "A model, the encoded split and all scores."
    model = make_model(request.param)
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    return model, images, captions, score_all(model, images, captions, progress=False)


# ranking

def test_a_shortlist_of_all_is_the_full_ranking(made):
    model, images, captions, table = made
    for gallery, query, scores in ((Gallery(model, images), captions, table.T), (Gallery(model, captions, "captions"), images, table)):
        n = scores.shape[1]
        expected = scores.sort(dim=1, descending=True, stable=True)
        for shortlist in (None, n, n + 7):
            found, rows = gallery.search(query, shortlist, n)
            close(found, expected.values)
            assert torch.equal(rows, expected.indices)


def test_a_shortlist_is_ranked_by_the_matcher(made):
    model, images, captions, table = made
    for gallery, query, scores in ((Gallery(model, images), captions, table.T), (Gallery(model, captions, "captions"), images, table)):
        found, rows = gallery.search(query, 5, 3)
        near = gallery.index.nearest(summary_vectors(query), 5).sort(1).values
        expected, at = scores.gather(1, near).sort(dim=1, descending=True, stable=True)
        assert torch.equal(rows, near.gather(1, at)[:, :3])
        close(found, expected[:, :3])


def test_vse_loses_nothing():
    model = make_model("vse")
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    assert torch.equal(Gallery(model, images).search(captions, 3, 3)[1], model.score(images, captions).T.argsort(1, descending=True)[:, :3])


def test_order_and_company_change_nothing(made):
    model, images, captions, _ = made
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    whole, mixed = Gallery(model, images), Gallery(model, images[order])
    assert torch.equal(order[mixed.search(captions, 6, 3)[1]], whole.search(captions, 6, 3)[1])
    one_by_one = torch.cat([whole.search(captions[q], 6, 3)[1] for q in range(len(captions))])
    assert torch.equal(one_by_one, whole.search(captions, 6, 3)[1])


def test_equal_scores_come_in_the_gallerys_order():
    "Whole numbers: a product of them is exact, so that equal scores are equal to the bit."
    model = VSE(6, 4 + len(WORDS), 4, 5).double()
    images, captions = (Fragments(torch.tensor(rows).double()[:, None], torch.ones(len(rows), 1, dtype=torch.bool))
                        for rows in (torch.eye(4).tolist(), [[4, 1, 3, 2], [1, 2, 3, 4], [7, -1, 0, 3]]))
    twice = Fragments.cat([images, images])
    for shortlist in (None, 8):
        rows = Gallery(model, twice).search(captions, shortlist, 8)[1]
        assert rows.tolist() == [[0, 4, 2, 6, 3, 7, 1, 5], [3, 7, 2, 6, 1, 5, 0, 4], [0, 4, 3, 7, 2, 6, 1, 5]]
    same = Fragments.cat([images[:1]] * 6)
    assert Gallery(model, same).search(captions, 6, 4)[1].tolist() == [[0, 1, 2, 3]] * len(captions)
    some = Gallery(model, same).search(captions, 4, 3)[1]
    assert torch.equal(some, some.sort(1).values)


def test_asking_for_more_than_there_is_gives_all():
    model = make_model("vse")
    images, captions = encode_all(model, make_split(3), VOCABULARY, progress=False)
    assert Gallery(model, images).search(captions, None, 10)[1].shape == (len(captions), 3)


def test_the_model_stays_in_its_mode_and_no_graph_is_kept():
    model = make_model("imram").train()
    gallery = open_gallery(model, SPLIT, VOCABULARY)
    scores, _ = gallery.search(ask(model, VOCABULARY, "a red dog"), 5, 2)
    assert model.training and not scores.requires_grad and not gallery.fragments.values.requires_grad


@pytest.mark.parametrize("side", ["images", "captions"])
def test_the_model_stays_in_its_mode_after_an_error(side, tmp_path):
    broken = make_split()
    broken.features[3] = np.nan
    for mode in (True, False):
        model = make_model("imram").train(mode)
        model.encode_captions = lambda *args: (_ for _ in ()).throw(ValueError("no captions today"))
        for action in (partial(open_gallery, model, broken, VOCABULARY, side),
                       partial(open_gallery, model, broken, VOCABULARY, side, tmp_path / "g"),
                       partial(ask, model, VOCABULARY, "a red dog"), partial(ask_with_image, model, broken, 3)):
            with pytest.raises(ValueError, match="NaN or infinity|no captions today"): action()
            assert all(module.training is mode for module in model.modules()) and not list(tmp_path.iterdir())


# vectors

def test_the_mean_is_the_matcher_that_looks_everywhere_alike():
    for name, steps in (("scan t-i", 1), ("text-imram", 2)):
        model = make_model(name)
        kind, args = MODELS[name]
        args = {**args, "inverse_temperature": 1e-9, **({"pooling": "mean"} if kind is SCAN else {})}
        blind = kind(6, 4 + len(WORDS), 8, 5, **args).double()
        blind.load_state_dict(model.state_dict())
        images, captions = encode_all(blind, SPLIT, VOCABULARY, progress=False)
        mean = captions.values.sum(1) / captions.lengths[:, None]
        off = score_all(blind, images, captions, progress=False) - steps * summary_vectors(images).double() @ mean.T
        assert off.abs().max() < steps * (2**-23 + 1e-8)


def test_padding_changes_no_vector():
    images, _ = encode_all(make_model("scan t-i"), SPLIT, VOCABULARY, progress=False)
    maps = torch.randn(25, 3)
    for map in (None, maps): close(summary_vectors(images.padded(9), map), summary_vectors(images, map), 1e-5)
    close(pooled(images, block=5), pooled(images))
    real = images.values[3][images.mask[3]]
    close(pooled(images)[3], torch.cat([real.mean(0), real.amax(0), real.amin(0), torch.ones(1).double()]))


def test_fitted_maps_minimise_the_squared_error():
    g = torch.Generator().manual_seed(0)
    I, C = (Fragments(torch.randn(n, 3, 2, generator=g), torch.ones(n, 3, dtype=torch.bool)) for n in (30, 40))
    scores = torch.randn(30, 40, generator=g)
    X, Y = pooled(I).double(), pooled(C).double()
    maps = fit_maps(I, C, scores, width=7, ridge=1e-12)
    best = torch.linalg.pinv(X) @ scores.double() @ torch.linalg.pinv(Y).T
    torch.testing.assert_close((maps["images"] @ maps["captions"].T).double(), best, atol=1e-4, rtol=1e-3)
    errors = []
    for width in (1, 2, 4, 7):
        maps = fit_maps(I, C, scores, width, ridge=1e-12)
        errors.append(float((summary_vectors(I, maps["images"]) @ summary_vectors(C, maps["captions"]).T - scores).square().sum()))
    assert errors == sorted(errors, reverse=True)
    low = torch.linalg.svd(X @ best @ Y.T)
    assert errors[1] == pytest.approx(float((((low.U[:, :2] * low.S[:2]) @ low.Vh[:2]) - scores).square().sum()), rel=1e-3)


def test_maps_learnt_from_scores_fit_them_better_than_the_mean():
    model = make_model("imram")
    split = make_split(80, seed=5)
    maps = learn_maps(model, split, VOCABULARY, images=60, width=16, progress=False)
    again = learn_maps(model, split, VOCABULARY, images=60, width=16, progress=False)
    for side in maps: close(maps[side], again[side], 1e-5)
    assert maps["images"].shape == maps["captions"].shape == (25, 16)
    images, captions = encode_all(model, make_split(60, seed=6), VOCABULARY, progress=False)
    table = score_all(model, images, captions, progress=False)
    fitted = (summary_vectors(captions, maps["captions"]) @ summary_vectors(images, maps["images"]).T).double()
    mean = (summary_vectors(captions) @ summary_vectors(images).T).double()
    explained = [float(torch.corrcoef(torch.stack([cheap.flatten(), table.T.flatten()]))[0, 1]) for cheap in (fitted, mean)]
    assert explained[0] > max(explained[1], 0.95)


# the shortlist

def test_faiss_and_the_product_agree():
    g = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn(300, 16, generator=g), torch.randn(20, 16, generator=g)
    fast, plain = Shortlist(vectors), Shortlist(vectors, exact=True)
    if fast.index is None: pytest.skip("faiss is not installed")
    assert plain.index is None
    for k in (1, 10, 300, 1000): assert torch.equal(fast.nearest(queries, k), plain.nearest(queries, k))


def test_without_faiss_it_is_the_product(monkeypatch):
    real = builtins.__import__
    def absent(name, *args, **kwargs):
        if name == "faiss": raise ImportError("no faiss here")
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, "__import__", absent)
    vectors = l2_normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(1)))
    short = Shortlist(vectors)
    assert short.index is None
    assert torch.equal(short.nearest(vectors, 1)[:, 0], torch.arange(50))


def test_double_and_noncontiguous_vectors_are_taken():
    vectors = torch.randn(8, 30, generator=torch.Generator().manual_seed(2)).double().T
    assert torch.equal(Shortlist(vectors).nearest(vectors[:3], 4), Shortlist(vectors, exact=True).nearest(vectors[:3], 4))


# what is lost

def tables(queries=40, n=25, seed=0):
    g = torch.Generator().manual_seed(seed)
    full = torch.rand(queries, n, generator=g)
    return full, full + torch.rand(queries, n, generator=g), torch.arange(queries)[:, None] % n == torch.arange(n)


def test_what_is_kept_grows_with_the_shortlist():
    full, cheap, right = tables()
    found = recall_kept(full, cheap, right, range(1, 26))
    for a, b in zip(found, found[1:]): assert a.best <= b.best and a.top10 <= b.top10
    assert found[-1].best == found[-1].top10 == 100 and all(k.r1 <= k.r5 <= k.r10 for k in found)


def test_kept_by_counting():
    full, cheap, right = tables(7, 12, 3)
    for kept in recall_kept(full, cheap, right, (1, 3, 6, 12)):
        best, top, first = 0, 0, 0
        for q in range(7):
            looked_at = set(cheap[q].argsort(descending=True)[:kept.size].tolist())
            ranking = full[q].argsort(descending=True).tolist()
            best += ranking[0] in looked_at
            top += len(looked_at & set(ranking[:10]))
            first += bool(right[q, next(n for n in ranking if n in looked_at)])
        assert (kept.best, kept.top10, kept.r1) == pytest.approx((100 * best / 7, 100 * top / 70, 100 * first / 7))


def test_all_of_it_is_the_report(made):
    _, _, _, table = made
    owner = torch.as_tensor(SPLIT.image_of_caption)
    right = owner[:, None] == torch.arange(SPLIT.n_images)
    whole = report(table, owner)
    text, image = recall_kept(table, table, right.T, [len(owner)])[0], recall_kept(table.T, table.T, right, [SPLIT.n_images])[0]
    assert (text.r1, text.r5, text.r10) == pytest.approx((whole.text_r1, whole.text_r5, whole.text_r10))
    assert (image.r1, image.r5, image.r10) == pytest.approx((whole.image_r1, whole.image_r5, whole.image_r10))


def test_ties_count_against_the_right_answer():
    equal, right = torch.zeros(1, 3), torch.tensor([[False, True, False]])
    kept = recall_kept(equal, torch.tensor([[1., 3., 2.]]), right, (1, 2, 3))
    assert [k.r1 for k in kept] == [100, 0, 0] and [k.r5 for k in kept] == [100, 100, 100]


# on disk

def content(path):
    "What a gallery's file says about itself, and the bytes of its arrays."
    about, names, arrays = read_file(path)
    return about, names, {name: (x.dtype, tuple(x.shape), x.contiguous().view(torch.uint8).numpy().tobytes()) for name, x in arrays.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_gallery_comes_back_from_its_file(name, tmp_path):
    model = make_model(name)
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    table = score_all(model, images, captions, progress=False)
    maps = fit_maps(images, captions, table, width=3)
    for side, query, map in (("images", captions, None), ("captions", images, maps)):
        path = tmp_path / side
        made = open_gallery(model, SPLIT, VOCABULARY, side, path, map)
        opened = open_gallery(make_model(name), SPLIT, VOCABULARY, side, path)
        in_memory = open_gallery(model, SPLIT, VOCABULARY, side, None, map)
        assert made.names == opened.names == (SPLIT.ids if side == "images" else SPLIT.captions) and len(made) == len(opened)
        close(in_memory.fragments.values, (images if side == "images" else captions).values)
        for other in (opened, in_memory):
            assert bool(other.maps) == bool(map)
            for a, b in zip(made.search(query, 4, 3), other.search(query, 4, 3)): close(a, b)
        opened.save(tmp_path / "again")
        assert content(tmp_path / "again") == content(path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def write_as_before(path, gallery):
    "The file that versions with a header of their own wrote: the arrays in the order values, vectors, maps, mask."
    kinds = {torch.float32: "F32", torch.float64: "F64", torch.bool: "BOOL"}
    maps = {f"map.{side}": x for side, x in (gallery.maps or {}).items()}
    parts = {"values": gallery.fragments.values, "vectors": gallery.vectors, **maps, "mask": gallery.fragments.mask}
    about = {"gallery": "1", "side": gallery.side, "model": fingerprint(gallery.model), "matcher": type(gallery.model).__name__,
             "data": gallery.data, "names": json.dumps(gallery.names)}
    header, at, numbers = {"__metadata__": about}, 0, b""
    for name, x in parts.items():
        numbers += x.contiguous().view(torch.uint8).numpy().tobytes()
        header[name], at = {"dtype": kinds[x.dtype], "shape": list(x.shape), "data_offsets": [at, len(numbers)]}, len(numbers)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


def test_a_file_of_an_earlier_version_opens(tmp_path):
    model = make_model("imram")
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    maps = fit_maps(images, captions, score_all(model, images, captions, progress=False), width=3)
    gallery = open_gallery(model, SPLIT, VOCABULARY, "images", None, maps)
    write_as_before(tmp_path / "old", gallery)
    opened = open_gallery(model, SPLIT, VOCABULARY, "images", tmp_path / "old")
    gallery.save(tmp_path / "new")
    opened.save(tmp_path / "again")
    assert content(tmp_path / "new") == content(tmp_path / "again")
    (old, *arrays), (new, *others) = content(tmp_path / "old"), content(tmp_path / "new")
    assert arrays == others and old == new.model_copy(update={"digest": None})         # the digest is new


def test_fingerprints_are_those_of_earlier_versions():
    "Class, settings and weights. CAMP's settings then held where its captions are cut."
    for name, more in (("imram", {}), ("camp", {"max_words": 50})):
        model = make_model(name)
        found = hashlib.sha256(json.dumps([type(model).__name__, {**model.config, **more}], sort_keys=True).encode())
        for key, x in sorted(model.state_dict().items()): found.update(f"{key} {x.dtype} {tuple(x.shape)}".encode() + x.numpy().tobytes())
        assert fingerprint(model) == found.hexdigest()[:16]


def test_a_gallery_of_other_images_in_the_middle_is_refused(tmp_path):
    model, other = make_model("vse"), make_split()
    open_gallery(model, SPLIT, VOCABULARY, "images", tmp_path / "g")
    assert data_digest(make_split()) == data_digest(SPLIT)
    other.features[5, 0, 0] += 1
    with pytest.raises(ValueError, match="gallery of other data, or of an earlier version.*delete it and encode the gallery again"):
        open_gallery(model, other, VOCABULARY, "images", tmp_path / "g")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype, tmp_path):
    model = make_model("scan t-i")
    images, _ = encode_all(model, SPLIT, VOCABULARY, progress=False)
    gallery = Gallery(model, images.to(dtype))
    gallery.save(tmp_path / "g")
    opened = Gallery.load(tmp_path / "g", model)
    assert opened.fragments.values.dtype == dtype and torch.equal(opened.fragments.values, gallery.fragments.values)
    assert torch.equal(opened.fragments.mask, images.mask)
    assert torch.equal(opened.vectors, gallery.vectors) and opened.vectors.dtype == torch.float32


def test_blocks_may_be_of_any_size(tmp_path):
    model = make_model("imram")
    images, _ = encode_all(model, SPLIT, VOCABULARY, progress=False)
    files = []
    for size in (1, 5, 12):
        write_gallery(tmp_path / str(size), model, (images[n:n + size] for n in range(0, 12, size)), SPLIT.ids)
        files.append(Gallery.load(tmp_path / str(size), model))
    for file in files: assert torch.equal(file.fragments.values, images.values) and torch.equal(file.fragments.mask, images.mask)
    for other in files[1:]: close(other.vectors, files[0].vectors, 1e-6)


def test_another_models_gallery_is_refused(tmp_path):
    model = make_model("imram")
    open_gallery(model, SPLIT, VOCABULARY, "images", tmp_path / "g")
    other = make_model("imram", seed=1)
    hotter = IMRAM(6, 4 + len(WORDS), 8, 5, direction="full", variant="released", inverse_temperature=4.).double()
    hotter.load_state_dict(model.state_dict())
    for stranger in (other, hotter, make_model("vse")):
        with pytest.raises(ValueError, match="gallery of another model"): Gallery.load(tmp_path / "g", stranger)
    with pytest.raises(ValueError, match="gallery of the other side"): open_gallery(model, SPLIT, VOCABULARY, "captions", tmp_path / "g")
    with pytest.raises(ValueError, match="gallery of other data"):
        open_gallery(model, make_split(seed=9), VOCABULARY, "images", tmp_path / "g")


def test_a_saved_model_keeps_its_fingerprint(tmp_path):
    model = make_model("imram")
    save(model, VOCABULARY, tmp_path / "model")
    assert fingerprint(load(tmp_path / "model")[0]) == fingerprint(model)
    with torch.no_grad(): next(model.parameters()).view(-1)[0] += 1e-12
    assert fingerprint(load(tmp_path / "model")[0]) != fingerprint(model)


def test_damaged_and_foreign_files_are_named(tmp_path):
    model, path = make_model("vse"), tmp_path / "g"
    with pytest.raises(FileNotFoundError, match="no gallery at"): Gallery.load(path, model)
    open_gallery(model, SPLIT, VOCABULARY, "images", path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"pickle"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name} is (damaged or cut short|a binary file|empty|a text file)"): Gallery.load(path, model)
    save_file({"values": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is no gallery"): Gallery.load(path, model)
    save_file({name: torch.zeros(2) for name in ("values", "vectors", "mask")}, path, {"gallery": "1"})
    with pytest.raises(ValueError, match="is not a gallery: side: Field required"): Gallery.load(path, model)


@pytest.mark.parametrize(("name", "change", "message"), [
    ("values", lambda x: x[:, :, 0], "array values: torch.float64 of shape"), ("values", lambda x: x[:-1], r"expected torch.float32 of shape \(N=12"),
    ("values", lambda x: x.long(), "int64"), ("values", lambda x: x * torch.nan, "array values: NaN or infinity"), ("mask", lambda x: x.float(), "array mask: torch.float32"),
    ("mask", lambda x: x[:, :1].repeat(1, 9), "array mask"), ("mask", lambda x: x & False, "array mask: row 0 has no fragment"), ("vectors", lambda x: x[:3], "array vectors"),
    ("vectors", lambda x: x / 0, "NaN or infinity"), ("map.images", lambda x: x[:-1], "array map.images"), ("map.captions", lambda x: x[:, :2], "array map.captions"),
    ("map.captions", lambda x: None, "one map of two")])
def test_members_are_held_against_each_other(name, change, message, tmp_path):
    model, path = make_model("imram"), tmp_path / "g"
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    maps = fit_maps(images, captions, score_all(model, images, captions, progress=False), width=3)
    open_gallery(model, SPLIT, VOCABULARY, "images", path, maps)
    parts, about = read_tensors(path, "a gallery")
    parts = {key: x.clone() for key, x in parts.items()}
    parts[name] = change(parts[name])
    write_tensors(path, {key: x for key, x in parts.items() if x is not None}, about)
    with pytest.raises(ValueError, match=message) as refused: Gallery.load(path, model)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("names", "message"), [("[]", "array values"), ("{}", "not a list of names"), ("[1]", "found 1"), ("", "not a list of names"), ("[" * 10**5, "names"),
                                                (json.dumps(["a"] * 13), "N=13"), (json.dumps([None] * 12), "found None")])
def test_names_of_a_gallery(names, message, tmp_path):
    model, path = make_model("vse"), tmp_path / "g"
    open_gallery(model, SPLIT, VOCABULARY, "images", path)
    parts, about = read_tensors(path, "a gallery")
    write_tensors(path, parts, {**about, "names": names})
    with pytest.raises(ValueError, match=message) as refused: Gallery.load(path, model)
    assert "\n" not in str(refused.value)
    for key, value in (("side", "both"), ("gallery", "2")):
        write_tensors(path, parts, {**about, key: value})
        with pytest.raises(ValueError, match=f"{key}: "): Gallery.load(path, model)


@pytest.mark.parametrize("name", ["values", "vectors", "mask", "map.images", "map.captions"])
def test_a_flipped_bit_is_refused(name, tmp_path):
    "Also where all numbers are still finite and all shapes fit: else one row would silently answer as another."
    model, path = make_model("imram"), tmp_path / "g"
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    open_gallery(model, SPLIT, VOCABULARY, "images", path, fit_maps(images, captions, score_all(model, images, captions, progress=False), width=3))
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    start = 8 + size + json.loads(whole[8:8 + size])[name]["data_offsets"][0]
    path.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1:])
    with pytest.raises(ValueError, match="its numbers are not those that were written.*delete it and encode") as refused: Gallery.load(path, model)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    path.write_bytes(whole)
    assert len(Gallery.load(path, model)) == 12


def test_no_number_is_left_unchecked(tmp_path, monkeypatch):
    "A gallery is read in pieces, and all of them are."
    from cmr.search import gallery
    model, path = make_model("imram"), tmp_path / "g"
    real = gallery.pieces
    monkeypatch.setattr(gallery, "pieces", lambda x: real(x, 7))
    open_gallery(model, SPLIT, VOCABULARY, "images", path)
    parts, about = read_tensors(path, "a gallery")
    parts = {key: x.clone() for key, x in parts.items()}
    parts["values"][-1, -1, -1] = torch.inf
    write_tensors(path, parts, about)
    with pytest.raises(ValueError, match="array values: NaN or infinity"): Gallery.load(path, model)
    assert gallery.content_digest(parts) == (monkeypatch.undo(), gallery.content_digest(parts))[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_gallery_of_another_precision_answers(dtype, tmp_path):
    model = make_model("imram").float()
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    Gallery(model, images.to(dtype)).save(tmp_path / "g")
    scores, rows = Gallery.load(tmp_path / "g", model).search(captions, 5, 3)
    assert scores.dtype == torch.float32 and rows.shape == (len(captions), 3) and torch.allclose(scores, Gallery(model, images).search(captions, 5, 3)[0], atol=.2)


@pytest.mark.parametrize(("array", "said"), [
    (np.zeros((5, 8, 8, 2), np.uint8), r"\(5, 8, 8, 2\)"), (np.zeros((5, 8, 0, 3), np.uint8), "is empty"), (np.zeros((5, 8, 8), np.uint8), "3 axes"),
    (np.zeros((5, 8, 8, 3)), "floating point"), (np.zeros((5, 8, 8, 3), np.uint16), "uint16"), (np.zeros((4, 8, 8, 3), np.uint8), "4 pictures for 5 images"),
    (np.array([{"a": 1}]), "Python objects"), (np.array(["a"]), "text"), (None, "is a folder"), (b"", "is empty"), (b"\x89PNG\r\n", "a picture"), (b"half", "cut short"),
    (b"many", "cut short")])
def test_pictures_are_pictures(array, said, tmp_path):
    from cmr.cli.search import open_pictures
    path = tmp_path / "test_pictures.npy"
    if array is None: path.mkdir()
    elif isinstance(array, np.ndarray): np.save(path, array, allow_pickle=True)
    elif array in (b"half", b"many"):
        np.save(path, np.zeros((5, 8, 8, 3), np.uint8))
        path.write_bytes(path.read_bytes()[:-1] if array == b"half" else path.read_bytes().replace(b"(5, 8, 8, 3), }         ", b"(1000000000, 8, 8, 3), }"))
    else: path.write_bytes(array)
    with pytest.raises(ValueError, match=said) as refused: open_pictures(tmp_path, "test", 5)
    assert "test_pictures.npy" in str(refused.value) and "allow_pickle=True" not in str(refused.value) and "\n" not in str(refused.value)


def test_leftovers_of_killed_writings_are_removed(tmp_path):
    from cmr.files import HOST
    model = make_model("vse")
    for name in (f".g.blocks.{HOST}.4194305.part", f".g.{HOST}.4194305.part"): (tmp_path / name).write_bytes(b"half")
    open_gallery(model, SPLIT, VOCABULARY, "images", tmp_path / "g")
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


def test_room_for_a_gallery_is_asked_for_first(tmp_path, monkeypatch):
    import shutil
    from types import SimpleNamespace
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="MB left: make room"): open_gallery(make_model("vse"), SPLIT, VOCABULARY, "images", tmp_path / "g")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_writing_leaves_the_old_file(tmp_path):
    model, path = make_model("vse"), tmp_path / "g"
    images, _ = encode_all(model, SPLIT, VOCABULARY, progress=False)
    open_gallery(model, SPLIT, VOCABULARY, "images", path)
    before = path.read_bytes()
    def broken():
        yield images[:4]
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write_gallery(path, model, broken(), SPLIT.ids)
    for blocks, rows in (([images[:4]], 4), ([], 0), ([images, images], 24)):
        with pytest.raises(ValueError, match=f"{rows} rows for 12 names"): write_gallery(path, model, iter(blocks), SPLIT.ids)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# questions and pictures

def test_questions():
    model = make_model("scan t-i")
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    close(ask(model, VOCABULARY, SPLIT.captions[4]).values, captions[4].trimmed().values)
    close(ask_with_image(model, SPLIT, "image-5").values, images[5].values)
    assert image_row(SPLIT, 7) == image_row(SPLIT, "image-7") == 7 and ask(model, VOCABULARY, "a zebra runs").lengths.tolist() == [3]
    for bad, message in (("", "empty"), (" \n", "empty"), ("zebra", "unknown words only")):
        with pytest.raises(ValueError, match=message): ask(model, VOCABULARY, bad)
    for bad in ("nobody", 12, -1, "1.5"):
        with pytest.raises(ValueError, match="no image|no row"): ask_with_image(model, SPLIT, bad)


def test_an_id_is_an_id(tmp_path):
    "A number is a row only where ids are the rows' numbers; --image 4 of ids 2, 5, 8 is refused, naming those near it."
    from typer.testing import CliRunner

    from cmr.cli import app
    from cmr.data import write_split
    model = VSE(6, 4 + len(WORDS), 8, 5)
    save(model, VOCABULARY, tmp_path / "model")
    rng = np.random.default_rng(0)
    for split, ids in (("test", ["2", "5", "8", "11", "14"]), ("dev", None)):
        write_split(tmp_path / f"{split}.h5", rng.normal(size=(5, 3, 6)).astype("float32"), ["a red dog\x1b[31m"] * 5, np.arange(5), ids=ids)

    def said(split, *more):
        done = CliRunner().invoke(app, ["search", str(tmp_path / "model"), *more, "--data", str(tmp_path), "--split", split, "--top", "1", "--device", "cpu"])
        return done.exit_code, done.output.strip()
    status, text = said("test", "--image", "4")
    assert status == 2 and "no image '4'" in text and "5, 2, 8" in text and "--row" in text and len(text.splitlines()) == 1
    for split, words in (("test", ("--image", "5")), ("test", ("--row", "4")), ("dev", ("--image", "4")), ("dev", ("--row", "0"))):
        status, text = said(split, *words)
        assert status == 0 and "a red dog" in text and "\x1b" not in text
    assert said("test", "--image", "5")[1] == said("test", "--row", "1")[1]
    for split, words, message in (("dev", ("--image", "5"), "no image '5'"), ("dev", ("--row", "5"), "no row 5"), ("test", ("a dog", "--row", "1"), "one of them"),
                                  ("test", (), "one of them"), ("test", ("zebra",), "unknown words only")):
        status, text = said(split, *words)
        assert status == 2 and message in text


def test_pictures_of_hits():
    import matplotlib.pyplot as plt
    picture = np.zeros((4, 4, 3), np.uint8)
    fig = show_hits("a dog", [picture] * 3, [3, 2, 1], [False, True])
    assert [ax.spines["left"].get_visible() for ax in fig.axes] == [False, True, False]
    fig = show_hits(picture, ["a dog", "a cat"], [.5, .25], [True])
    assert [text.get_text() for text in fig.axes[1].texts] == ["0.50  a dog  ✓", "0.25  a cat"]
    plt.close("all")


# bad input

def test_bad_questions_and_galleries():
    model = make_model("scan t-i")
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    gallery = Gallery(model, images)
    for kwargs, message in (({"shortlist": 3, "top": 4}, "shortlist=3 is shorter than top=4"), ({"top": 0}, "at least one answer"),
                            ({"shortlist": 0, "top": 1}, "shorter")):
        with pytest.raises(ValueError, match=message): gallery.search(captions, **kwargs)
    with pytest.raises(ValueError, match="no query"): gallery.search(captions[:0])
    with pytest.raises(ValueError, match="the query is 3 wide, the gallery 8"):
        gallery.search(Fragments(captions.values[:, :, :3], captions.mask))
    with pytest.raises(ValueError, match="a gallery holds images or captions"): Gallery(model, images, "sounds")
    with pytest.raises(ValueError, match="a gallery holds images or captions"): open_gallery(model, SPLIT, VOCABULARY, "sounds")
    with pytest.raises(ValueError, match="nothing in this gallery"): Gallery(model, images[:0])
    with pytest.raises(ValueError, match="2 names for 12 images"): Gallery(model, images, names=["a", "b"])
    broken = Fragments(images.values.clone().fill_(float("nan")), images.mask)
    with pytest.raises(ValueError, match="NaN or infinity"): Gallery(model, broken)
    with pytest.raises(ValueError, match="at least one"): Shortlist(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"queries must be \(Q, 8\)"): gallery.index.nearest(torch.zeros(2, 3), 1)


def test_scores_that_are_not_numbers_are_refused():
    model = make_model("vse")
    images, captions = encode_all(model, SPLIT, VOCABULARY, progress=False)
    gallery = Gallery(model, images, vectors=summary_vectors(images))
    gallery.fragments.values[2] = float("nan")
    with pytest.raises(ValueError, match="nan"): gallery.search(captions[:1], None, 2)


def test_bad_tables():
    full, cheap, right = tables()
    with pytest.raises(ValueError, match="one shape"): recall_kept(full, cheap[:, :3], right, [1])
    with pytest.raises(ValueError, match="query 2 has no right answer"):
        recall_kept(full, cheap, right & (torch.arange(40) != 2)[:, None], [1])
    with pytest.raises(ValueError, match="nan"): recall_kept(full, cheap * float("nan"), right, [1])
    I = Fragments(torch.zeros(3, 2, 4), torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="3 images and 3 captions"): fit_maps(I, I, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="hits and"): show_hits("a", [], [1])
