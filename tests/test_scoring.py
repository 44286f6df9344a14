"""Whole splits encoded, everything scored in tiles, within a bound on memory."""

import weakref

import numpy as np
import psutil
import pytest
import torch
from sample_matcher import WORDS, BestWord, a_split, model_of, raw
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmr.attention import SCAN
from cmr.camp import CAMP
from cmr.data.vocabulary import Vocabulary
from cmr.encoders import Fragments
from cmr.fast import encode_all, floats_per_pair, score_all, tile_shape
from cmr.fast.scoring import default_bytes, tile_bytes
from cmr.imram import IMRAM
from cmr.matcher import VSE
from cmr.training import standardise_from

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


@pytest.fixture
def vocabulary():
    return Vocabulary(WORDS)


class PeakMemory(TorchDispatchMode):
    "Bytes of the tensors that are alive at once, counted at every operation (storages once, those known before not at all)."

    def __init__(self, *known):
        super().__init__()
        self.known, self.alive, self.now, self.peak = {t.untyped_storage().data_ptr() for t in known}, {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage().nbytes(): self.watch(t)
        self.peak = max(self.peak, self.now)
        return result

    def watch(self, t):
        where, size = t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()
        if where in self.known: return
        if self.alive.setdefault(where, 0) == 0: self.now += size
        self.alive[where] += 1
        weakref.finalize(t, self.leave, where, size)

    def leave(self, where, size):
        self.alive[where] -= 1
        if self.alive[where] == 0:
            self.now -= size
            del self.alive[where]


def fragments(kind, dtype, **sizes):
    model = model_of(kind, dtype)
    features, tokens, lengths, mask = raw(**sizes)
    return model, model.encode_images(features.to(dtype), mask), model.encode_captions(tokens, lengths)


@pytest.mark.parametrize("kind", [VSE, BestWord])
def test_tiles_change_nothing(kind):
    model, images, captions = fragments(kind, F64, images=13, captions=29)
    whole, shapes = model.score(images, captions), set()
    for bound in np.geomspace(300 if kind is VSE else 5000, 2e6, 25).astype(int).tolist():
        shapes.add(tile_shape(model, images, captions, bound))
        assert (score_all(model, images, captions, max_bytes=bound, progress=False) - whole).abs().max() < 1e-10
    assert len(shapes) > 6 and (13, 29) in shapes
    assert (score_all(model, images, captions) - whole).abs().max() < 1e-10  # the default bound


def test_fragments_of_other_widths():
    model, images, captions = fragments(BestWord, F64)
    whole = model.score(images, captions)
    ragged = Fragments.cat([captions[[k]].trimmed() for k in range(11)])
    assert (score_all(model, images.padded(40), ragged.padded(50), max_bytes=200_000) - whole).abs().max() < 1e-10


def test_a_score_that_depends_on_the_tile_is_noticed():
    class Centred(BestWord):
        def score(self, images, captions):
            scores = super().score(images, captions)
            return scores - scores.mean()

    model, images, captions = fragments(Centred, F64)
    assert (score_all(model, images, captions, max_bytes=8000) - model.score(images, captions)).abs().max() > 1e-3


FORMS = [(VSE, {}), (BestWord, {}), (SCAN, {}), (IMRAM, {}), (CAMP, {}), (CAMP, {"interaction": False}), (CAMP, {"variant": "released"})]


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("kind,args", FORMS, ids=str)
@pytest.mark.parametrize("tile,rows", [((15, 25), (30, 50)), ((8, 7), (30, 50)), ((2, 3), (7, 10)), ((1, 1), (4, 5))])
def test_measured_memory_stays_within_the_bound(kind, args, engine, tile, rows):
    "Copies of both sides, what `score` makes of them, and its scores, counted at every operation; in the plain form and by the engine."
    model = kind(4, 10, embed_dim=32, word_dim=4, **args).eval()
    features, tokens, lengths, mask = raw(images=rows[0], captions=rows[1], m=12, n=9)
    with torch.no_grad(): images, captions = model.encode_images(features, mask), model.encode_captions(tokens, lengths)
    bound = tile_bytes(model, images, captions, *tile, engine)
    result_and_order = rows[0] * rows[1] * 4 + rows[1] * 8 * 3
    with PeakMemory(images.values, images.mask, captions.values, captions.mask, *model.parameters()) as memory:
        score_all(model, images, captions, max_bytes=bound, progress=False, engine=engine)
    assert memory.peak - result_and_order <= bound
    assert tile_shape(model, images, captions, bound, engine) != rows


def test_one_pair_must_fit():
    model, images, captions = fragments(BestWord, torch.float32)
    need = 4 * (5 * 8 + 6 * 8 + 1 + floats_per_pair(model, 5, 6, 8))
    assert tile_shape(model, images, captions, need) == (1, 1)
    with pytest.raises(ValueError, match=f"needs about {need:,} bytes, max_bytes is {need - 1:,}"):
        score_all(model, images, captions, max_bytes=need - 1)
    with pytest.raises(ValueError, match="max_bytes is 0"): score_all(model, images, captions, max_bytes=0)


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize("kind", [SCAN, IMRAM, CAMP])
def test_one_pair_must_fit_in_both_forms(kind, engine):
    model, images, captions = fragments(kind, F64)
    need = tile_bytes(model, images, captions, 1, 1, engine)
    assert tile_shape(model, images, captions, need, engine) == (1, 1)
    whole = score_all(model, images, captions, max_bytes=2**24, progress=False)
    assert torch.allclose(score_all(model, images, captions, max_bytes=need, progress=False, engine=engine), whole, atol=1e-10)
    with pytest.raises(ValueError, match=f"needs about {need:,} bytes, max_bytes is {need - 1:,}: allow more"):
        score_all(model, images, captions, max_bytes=need - 1, engine=engine)


def test_the_default_bound(monkeypatch):
    "A quarter of what is free, at most 32 MiB on a CPU for a form that fills tables, 256 MiB for the engine; no tile above 2^18 pairs."
    free = 2**40
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": free}))
    scan = model_of(SCAN)
    assert default_bytes(scan) == 2**28 and default_bytes(model_of(BestWord)) == default_bytes(scan, engine=False) == 2**25
    free = 2**20
    assert default_bytes(scan) == 2**18
    model = model_of(VSE)
    many = Fragments(torch.zeros(1, 1, 8).expand(100_000, 1, 8), torch.ones(1, 1, dtype=torch.bool).expand(100_000, 1))
    a, b = tile_shape(model, many, many, 2**60)
    assert a * b <= 2**18 and 4 * a * b > 2**18


def test_mode_is_restored_and_no_gradient_kept():
    model, images, captions = fragments(VSE, torch.float32)
    for training in (True, False):
        model.train(training)
        assert not score_all(model, images, captions).requires_grad and model.training is training
        with pytest.raises(ValueError): score_all(model, images, captions, max_bytes=1)
        assert model.training is training
    empty = score_all(model, images, captions[:0])
    assert empty.shape == (7, 0)


# --- whole splits


@pytest.mark.parametrize("kind", [VSE, BestWord])
def test_encode_all(kind, vocabulary):
    split, model = a_split(), model_of(kind, F64)
    images, captions = encode_all(model, split, vocabulary, batch_size=4, progress=False)
    again = encode_all(model, split, vocabulary, batch_size=1000)
    assert torch.allclose(images.values, again[0].values, atol=1e-12) and torch.allclose(captions.values, again[1].values, atol=1e-12)
    assert (len(images), len(captions)) == (split.n_images, len(split)) and model.training
    scores = score_all(model, images, captions)
    for c in range(0, len(split), 5):
        i = int(split.image_of_caption[c])
        ids = torch.tensor([vocabulary.encode(split.captions[c])])
        alone = model(torch.from_numpy(split.regions(i))[None], ids, torch.tensor([ids.shape[1]]))
        assert abs(alone.item() - scores[i, c].item()) < 1e-10


def test_each_image_is_encoded_once(vocabulary):
    seen = []

    class Counting(VSE):
        def encode_images(self, features, mask=None):
            seen.append(len(features))
            return super().encode_images(features, mask)

    split = a_split(per_image=(5, 6))
    encode_all(model_of(Counting), split, vocabulary, batch_size=10)
    assert seen == [10, 10, 3] and len(split) == 115


def test_encode_all_names_the_file(vocabulary):
    split = a_split()
    split.features[7, 0, 1] = np.nan
    with pytest.raises(ValueError, match="memory: image 7, region 0"): encode_all(model_of(VSE), split, vocabulary, batch_size=5)


def test_standardise_from():
    split, model = a_split(images=200), model_of(VSE)
    split.features[:, :, 2] = 3.0  # a column that never varies
    split.features[~split.mask] = 1e6  # padding must not count
    standardise_from(model, split, batch_size=17, progress=False)
    x = torch.from_numpy(split.features[split.mask]).double()
    assert torch.allclose(model.image_encoder.shift.double(), x.mean(0), atol=1e-5)
    expected = x.std(0, correction=0)
    expected[2] = 1
    assert torch.allclose(model.image_encoder.scale.double(), expected, atol=1e-5)


# --- saving and loading
