"""The interface, VSE, tiles within their bound, and models that survive being saved."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref

import literal_matcher as literal
import numpy as np
import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cmr
from cmr.captions import Vocabulary
from cmr.data import ImageCaptions
from cmr.encoders import Fragments, RegionEncoder, WordEncoder
from cmr.matcher import (
    MATCHERS,
    VSE,
    Matcher,
    _default_bytes,
    _tile_bytes,
    encode_all,
    load,
    matcher_class,
    save,
    score_all,
    standardise_from,
    tile_shape,
)

F64 = torch.float64
WORDS = ["a", "red", "blue", "star", "ring", "above"]


class BestWord(Matcher):
    "A matcher with tables: each word takes its best region."

    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 8, word_dim: int = 4):
        super().__init__()
        self.image_encoder, self.text_encoder = RegionEncoder(region_dim, embed_dim), WordEncoder(vocab_size, embed_dim, word_dim)

    def score(self, images, captions):
        z = torch.einsum("imd,cnd->icmn", images.values, captions.values)
        best = z.masked_fill(~images.mask[:, None, :, None], -torch.inf).amax(2)
        return (best * captions.mask).sum(2) / captions.lengths


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def vocabulary():
    return Vocabulary(WORDS)


def raw(images=7, captions=11, m=5, n=6, f=4):
    mask = torch.arange(m) < torch.randint(1, m + 1, (images, 1))
    lengths = torch.randint(1, n + 1, (captions,))
    return torch.randn(images, m, f), torch.randint(4, 10, (captions, n)), lengths, mask


def model_of(kind, dtype=torch.float32):
    return kind(4, 10, embed_dim=8, word_dim=4).to(dtype)


def a_split(images=23, per_image=(1, 4), f=4, m=5):
    generator = np.random.default_rng(0)
    mask = np.arange(m) < generator.integers(1, m + 1, (images, 1))
    features = generator.normal(size=(images, m, f)).astype(np.float32) * mask[:, :, None]
    owner = np.repeat(np.arange(images), generator.integers(*per_image, images))
    captions = [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in owner]
    return ImageCaptions(features, captions, owner, mask=mask)


# --- VSE and the interface

def test_vse_is_its_equation():
    model = model_of(VSE, F64)
    features, tokens, lengths, mask = raw()
    got = model(features.double(), tokens, lengths, mask)
    expected = [[literal.vse(model, f[a].double().tolist(), t[:n].tolist()) for t, n in zip(tokens, lengths)] for f, a in zip(features, mask)]
    assert (got - torch.tensor(expected, dtype=F64)).abs().max() < 1e-10


@pytest.mark.parametrize("kind", [VSE, BestWord])
def test_padding_and_order_change_nothing(kind):
    model = model_of(kind, F64)
    features, tokens, lengths, mask = raw()
    features = features.double()
    scores = model(features, tokens, lengths, mask)
    wide = torch.full((7, 9, 4), torch.nan, dtype=F64)
    wide[:, :5] = features.masked_fill(~mask[:, :, None], torch.nan)
    padded = model(wide, torch.nn.functional.pad(tokens, (0, 3), value=99), lengths, torch.nn.functional.pad(mask, (0, 4)))
    assert torch.allclose(padded, scores, atol=1e-12)
    i, c = torch.randperm(7), torch.randperm(11)
    assert torch.allclose(model(features[i], tokens[c], lengths[c], mask[i]), scores[i][:, c], atol=1e-12)
    single = torch.cat([model(features[k:k + 1, :mask[k].sum()], tokens, lengths) for k in range(7)])
    assert torch.allclose(single, scores, atol=1e-12)


def test_vse_gradients():
    model = VSE(4, 10, embed_dim=3, word_dim=2).double()
    features, tokens, lengths, mask = raw(2, 3, n=4)
    names, weights = zip(*model.named_parameters())
    weights = [w.detach().clone().requires_grad_() for w in weights]
    assert torch.autograd.gradcheck(
        lambda *w: torch.func.functional_call(model, dict(zip(names, w)), (features.double(), tokens, lengths, mask)), weights)


def test_shape_of_vse_fragments():
    model = model_of(VSE)
    features, tokens, lengths, mask = raw()
    images, captions = model.encode_images(features, mask), model.encode_captions(tokens, lengths)
    assert images.values.shape == (7, 1, 8) and captions.values.shape == (11, 1, 8)
    assert images.mask.all() and captions.mask.all()
    assert torch.allclose(images.values.norm(dim=2), torch.ones(7, 1)) and torch.allclose(captions.values.norm(dim=2), torch.ones(11, 1))
    assert (model.region_dim, model.vocab_size, model.device.type) == (4, 10, "cpu")


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match="region_dim=7"):
        model_of(VSE)(torch.zeros(2, 3, 7), torch.tensor([[4]]), torch.tensor([1]))


def test_register():
    assert matcher_class("VSE") is matcher_class("vse") is VSE and MATCHERS["bestword"] is BestWord
    for name in ("SCAN", "imram"): assert matcher_class(name) is getattr(cmr, name.upper())
    with pytest.raises(ValueError, match="unknown matcher 'clip': choose one of .*imram.*scan.*vse"): matcher_class("clip")
    with pytest.raises(NotImplementedError, match="must define score"): Matcher().score(None, None)


def test_import_stays_light():
    code = ("import sys, cmr; print(sorted({'torch', 'nbdev', 'IPython', 'jupyter', 'matplotlib'} & set(sys.modules)))\n"
            "import cmr.matcher; print(sorted({'nbdev', 'IPython', 'jupyter', 'fastcore'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["[]", "[]"]


# --- tiles

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
    for bound in np.geomspace(300 if kind is VSE else 3000, 2e6, 25).astype(int).tolist():
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


@pytest.mark.parametrize("name,engine", [("VSE", None), ("BestWord", None), ("SCAN", False), ("SCAN", True), ("IMRAM", False), ("IMRAM", True)])
@pytest.mark.parametrize("tile", [(15, 25), (8, 7), (2, 3), (1, 1)])
def test_measured_memory_stays_within_the_bound(name, engine, tile):
    "Copies of both sides, what `score` makes of them, and its scores, counted at every operation; in the plain form and by the engine."
    model = matcher_class(name)(4, 10, embed_dim=32, word_dim=4).eval()
    if engine is not None: model.engine = engine
    features, tokens, lengths, mask = raw(images=30, captions=50, m=12, n=9)
    with torch.no_grad(): images, captions = model.encode_images(features, mask), model.encode_captions(tokens, lengths)
    bound = _tile_bytes(model, images, captions, *tile)
    result_and_order = 30 * 50 * 4 + 50 * 8 * 3
    with PeakMemory(images.values, images.mask, captions.values, captions.mask, *model.parameters()) as memory:
        score_all(model, images, captions, max_bytes=bound, progress=False)
    assert memory.peak - result_and_order <= bound
    assert tile_shape(model, images, captions, bound) != (30, 50)


def test_one_pair_must_fit():
    model, images, captions = fragments(BestWord, torch.float32)
    need = 4 * (5 * 8 + 6 * 8 + 1 + model.floats_per_pair(5, 6))
    assert tile_shape(model, images, captions, need) == (1, 1)
    with pytest.raises(ValueError, match=f"needs about {need:,} bytes, max_bytes is {need - 1:,}"):
        score_all(model, images, captions, max_bytes=need - 1)
    with pytest.raises(ValueError, match="max_bytes is 0"): score_all(model, images, captions, max_bytes=0)


@pytest.mark.parametrize("name,engine", [("SCAN", False), ("SCAN", True), ("IMRAM", False), ("IMRAM", True)])
def test_one_pair_must_fit_in_both_forms(name, engine):
    kind = matcher_class(name)
    model, images, captions = fragments(kind, torch.float32)
    model.engine = engine
    need = 4 * (5 * 8 + 6 * 8 + 1 + model.floats_per_tile(1, 1, 5, 6))
    assert tile_shape(model, images, captions, need) == (1, 1)
    whole = score_all(model, images, captions, max_bytes=2**24, progress=False)
    assert torch.allclose(score_all(model, images, captions, max_bytes=need, progress=False), whole, atol=1e-5)
    with pytest.raises(ValueError, match=f"needs about {need:,} bytes, max_bytes is {need - 1:,}: allow more"):
        score_all(model, images, captions, max_bytes=need - 1)


def test_the_default_bound(monkeypatch):
    "A quarter of what is free, at most 32 MiB on a CPU for a form that fills tables, 256 MiB for the engine; no tile above 2^18 pairs."
    free = 2**40
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": free}))
    scan = matcher_class("SCAN")(4, 10, embed_dim=8, word_dim=4)
    assert _default_bytes(scan) == 2**28 and _default_bytes(model_of(BestWord)) == 2**25
    scan.engine = False
    assert _default_bytes(scan) == 2**25
    free = 2**20
    assert _default_bytes(scan) == 2**18
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
    with pytest.raises(ValueError, match="caption 0: caption of unknown words"): encode_all(model_of(VSE), a_split(), Vocabulary(["other"]))


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

@pytest.mark.parametrize("name", ["VSE", "SCAN", "IMRAM", "BestWord"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_round_trip(name, dtype, tmp_path, vocabulary):
    model = matcher_class(name)(4, 10, embed_dim=8, word_dim=4).to(dtype)
    model.image_encoder.standardise(torch.randn(4), torch.rand(4) + 0.1)
    save(model, vocabulary, tmp_path / "deep" / "er")
    assert sorted(p.name for p in (tmp_path / "deep" / "er").iterdir()) == ["config.json", "model.safetensors", "vocab.json"]
    assert json.loads((tmp_path / "deep" / "er" / "config.json").read_text())["matcher"] == name
    features, tokens, lengths, mask = raw()
    expected = model(features.to(dtype), tokens, lengths, mask)
    for again in (load(tmp_path / "deep" / "er")[0], type(model).from_pretrained(tmp_path / "deep" / "er"), cmr.load(str(tmp_path / "deep" / "er"))[0]):
        assert type(again) is type(model) and not again.training
        assert torch.equal(again(features.to(dtype), tokens, lengths, mask), expected)
    assert load(tmp_path / "deep" / "er")[1] == vocabulary


def test_vocabulary_options_are_kept(tmp_path):
    vocabulary = Vocabulary(WORDS, marks=True, max_words=5)
    save(model_of(VSE), vocabulary, tmp_path)
    assert load(tmp_path)[1] == vocabulary


def test_the_mixin_can_save_too(tmp_path, vocabulary):
    model = model_of(VSE)
    model.save_pretrained(tmp_path)
    vocabulary.save(tmp_path / "vocab.json")
    again = VSE.from_pretrained(tmp_path)
    assert torch.equal(again.image_encoder.project.weight, model.image_encoder.project.weight)


@pytest.fixture
def saved(tmp_path, vocabulary):
    save(model_of(VSE), vocabulary, tmp_path / "model")
    return tmp_path / "model"


def test_missing(saved, tmp_path):
    for call in (load, Matcher.from_pretrained):
        with pytest.raises(FileNotFoundError, match="no saved matcher in .*nowhere.*config.json.*cmr train"): call(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no saved matcher"): VSE.from_pretrained(tmp_path / "nowhere")
    for name in ("vocab.json", "model.safetensors", "config.json"):
        (saved / name).unlink()
        with pytest.raises(FileNotFoundError, match=name): load(saved)


@pytest.mark.parametrize("keep", [0, 5, 40, 400, -1])
def test_truncated_weights(saved, keep):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut short"): load(saved)


def test_damaged_config(saved):
    for text, message in (("{", "is damaged"), ("{}", 'needs "matcher"'), ('{"matcher": "clip"}', "unknown matcher"),
                          ('{"matcher": "VSE"}', "config.json does not fit VSE"),
                          ('{"matcher": "VSE", "region_dim": 5, "vocab_size": 10}', "model.safetensors holds weights of another model")):
        (saved / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message): load(saved)


def test_another_vocabulary(saved):
    for words in (WORDS[:-1], WORDS[::-1]):
        Vocabulary(words).save(saved / "vocab.json")
        with pytest.raises(ValueError, match="vocab.json .* is not the vocabulary"): load(saved)
    with pytest.raises(ValueError, match="9 words, this model was built for 10"): save(model_of(VSE), Vocabulary(WORDS[:-1]), saved)


def test_another_class(saved):
    with pytest.raises(ValueError, match="holds a VSE, not a BestWord"): BestWord.from_pretrained(saved)


def test_full_disk_keeps_the_old_model(saved, vocabulary):
    code = ("import resource, sys; from cmr.matcher import VSE, save; from cmr.captions import Vocabulary\n"
            "model = VSE(4, 10, embed_dim=64); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
            f"save(model, Vocabulary({WORDS!r}), sys.argv[1])")
    pytest.importorskip("resource", reason="file size limits are a Unix matter")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    done = subprocess.run([sys.executable, "-c", code, str(saved)], check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "OSError" in done.stderr and "what was saved there before is still whole" in done.stderr
    assert str(saved) in done.stderr
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before  # not even the config of the new one
    load(saved)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_while_saving_twenty_times(tmp_path, vocabulary):
    "Two models are saved in turn by a process that is killed at a random moment: what is there is one of the two, whole."
    folder, dice = tmp_path / "model", random.Random(0)
    models = [VSE(4, 10, embed_dim=256, word_dim=4) for _ in range(2)]
    save(models[0], vocabulary, folder)
    seen = set()
    for n in range(200):
        if n >= 20 and len(seen) == 2: break                                   # on a busy machine a child may need more than one chance
        child = os.fork()
        if child == 0:
            while True:
                for model in models: save(model, vocabulary, folder)
        time.sleep(dice.uniform(0.005, 0.06) * (1 + n / 20))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load(folder)[0].state_dict()
        same = [all(torch.equal(found[k], v) for k, v in model.state_dict().items()) for model in models]
        assert sum(same) == 1
        seen.add(same.index(True))
    assert seen == {0, 1}
    save(models[0], vocabulary, folder)
    assert not list(folder.glob(".*")), "what killed runs left is cleared away"
