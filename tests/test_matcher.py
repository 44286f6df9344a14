"""The interface, VSE, the registry, and what `check_matcher` finds."""

import subprocess
import sys

import literal_matcher as literal
import pytest
import torch
from sample_matcher import BestWord, model_of, raw

import cmr
from cmr.classes import Portable, instructions
from cmr.encoders import Fragments
from cmr.matcher import MODELS, VSE, Matcher, register, same_code
from cmr.saving import create_model, import_models, list_models, model_class
from cmr.testing import check_matcher

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


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


def test_import_stays_light():
    code = ("import sys, cmr; print(sorted({'torch', 'nbdev', 'IPython', 'jupyter', 'matplotlib'} & set(sys.modules)))\n"
            "import cmr.matcher; print(sorted({'nbdev', 'IPython', 'jupyter', 'fastcore'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["[]", "[]"]


# --- tiles


# --- the registry

def test_models_by_name():
    assert model_class("VSE") is model_class("vse") is VSE and MODELS["bestword"] is BestWord
    for name in ("SCAN", "imram", "camp", "Pvse"): assert model_class(name) is getattr(cmr, name.upper())
    assert {"bestword", "camp", "cmpm", "devise", "dvsa", "imram", "order", "pvse", "scan", "vse", "vsrn"} <= set(list_models())
    with pytest.raises(ValueError, match="unknown model 'clip': choose one of .*imram.*scan.*vse"): model_class("clip")
    with pytest.raises(NotImplementedError, match="must define score"): Matcher().score(None, None)


def test_create_model():
    model = create_model("imram", 6, 12, embed_dim=8, steps=2)
    assert type(model) is cmr.IMRAM and (model.steps, model.region_dim, model.vocab_size, model.config["embed_dim"]) == (2, 6, 12, 8)
    with pytest.raises(ValueError, match="vse takes no argument steps: it knows embed_dim, word_dim"): create_model("vse", 6, 12, steps=2)


def test_a_second_class_of_one_name_is_refused():
    with pytest.raises(ValueError, match="there is a model BestWord already .in sample_matcher."):
        @register
        class BestWord(Matcher): pass
    for home in ("cmr.matcher", "cmr.attention"):  # whether the package's own was imported before or not
        name = {"cmr.matcher": "VSE", "cmr.attention": "SCAN"}[home]
        with pytest.raises(ValueError, match=f"there is a model {name} already .in {home}."): register(type(name, (Matcher,), {}))
    assert model_class("scan") is cmr.SCAN and model_class("bestword").__module__ == "sample_matcher"


def test_a_readers_class_shadows_nothing(tmp_path):
    "Not registered, a class is nobody's rival, whatever it is called; run again in its own place, it replaces itself."
    from cmr.data import Vocabulary

    class VSE(Matcher):  # noqa: F811
        def score(self, images, captions): return images.values[:, 0] @ captions.values[:, 0].T
    cmr.save(model_of(cmr.VSE), Vocabulary(["a", "red", "blue", "star", "ring", "above"]), tmp_path)
    assert type(cmr.load(tmp_path)[0]) is cmr.VSE is not VSE
    first, second = (type("Mine", (Matcher,), {"n": n, "__module__": "notebook"}) for n in (1, 2))
    try:
        register(first)
        assert register(second) is second and MODELS["mine"] is second
        with pytest.raises(ValueError, match="already"): register(type("Mine", (Matcher,), {"__module__": "elsewhere"}))
    finally: MODELS.pop("mine", None)


def test_the_chapters_own_class_written_again_is_no_second_one():
    import inspect
    import textwrap
    import types
    chapter = types.ModuleType("chapter")
    chapter.__dict__.update(vars(sys.modules["cmr.matcher"]), __name__="chapter")
    exec(compile(textwrap.dedent(inspect.getsource(cmr.VSE)), "chapter", "exec"), chapter.__dict__)
    assert chapter.VSE is not cmr.VSE and same_code(chapter.VSE, cmr.VSE) and MODELS["vse"] is cmr.VSE


def test_dir_shows_the_public_names():
    assert {"IMRAM", "CAMP", "train", "evaluate", "load", "save", "list_models", "create_model", "Recipe", "register"} <= set(dir(cmr))


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ImportError, match="no module 'not_there'"): import_models(["not_there"])


# --- check_matcher

@pytest.mark.parametrize("name", ["vse", "scan", "imram", "camp", "cmpm", "devise", "dvsa", "order", "pvse", "vsrn", "hardassignment", "bestword"])
def test_every_registered_model_passes(name):
    assert set(check_matcher(model_class(name))) >= {"padding", "order", "tiles", "gradient", "save and load", "bf16", "two processes"}


def test_all_registered_models_stand_in_the_list_above():
    import_models()
    assert {name for name, cls in MODELS.items() if cls.__module__.startswith("cmr.")} == {"vse", "scan", "imram", "camp", "cmpm", "devise", "dvsa", "order", "pvse", "vsrn", "hardassignment"}


class Unmasked(BestWord):
    def score(self, images, captions): return torch.einsum("imd,cnd->icmn", images.values, captions.values).amax(2).mean(2)


class Unpadded(BestWord):
    def score(self, images, captions):  # zeros of padding take part in the maximum over regions
        return (torch.einsum("imd,cnd->icmn", images.values, captions.values).amax(2) * captions.mask).sum(2) / captions.lengths


class Centred(BestWord):
    def score(self, images, captions):
        scores = super().score(images, captions)
        return scores - scores.mean()


class Detached(BestWord):
    def score(self, images, captions): return super().score(images, captions).detach() + 0 * images.values.sum()


class Rooted(BestWord):
    def score(self, images, captions): return super().score(images, captions) + 0 * images.values.pow(2).sum(2).sqrt().sum()


class Forgetful(BestWord):
    def __init__(self, region_dim, vocab_size, embed_dim=8, word_dim=4):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.secret = torch.randn(1, dtype=F64)

    def score(self, images, captions): return super().score(images, captions) + self.secret.to(images.values.dtype)


class Transposed(BestWord):
    def score(self, images, captions): return super().score(images, captions).T


class WrongPairs(BestWord):
    def score_pairs(self, images, captions): return torch.einsum("pmd,pnd->pnm", images.values, captions.values).amax(2).mean(1)  # no mask


class Soft(BestWord):
    def logits(self, images, captions): return self.score(images, captions).mul(10).log_softmax(0)


class Running(BestWord):
    def __init__(self, region_dim, vocab_size, embed_dim=8, word_dim=4):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.norm = torch.nn.BatchNorm1d(embed_dim)

    def score(self, images, captions):
        values = self.norm(images.values.flatten(0, 1)).view_as(images.values) * images.mask[..., None]
        return super().score(Fragments(values, images.mask), captions)


class Cache(BestWord):
    "What is kept beside the weights, in no file, may come and go."
    def __init__(self, region_dim, vocab_size, embed_dim=8, word_dim=4):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.register_buffer("seen", None, persistent=False)
        self.register_buffer("empty", torch.full((3,), torch.nan), persistent=False)
        self.register_buffer("count", torch.ones(2, dtype=torch.bool))

    def score(self, images, captions):
        self.seen = images.values.detach()
        return super().score(images, captions)


class NoLoss(BestWord):
    def default_loss(self): return lambda scores, same_image=None: scores.sum()


class Masked(BestWord):
    def __init__(self, region_dim, vocab_size, embed_dim=8, word_dim=4):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.register_buffer("causal", torch.full((3, 3), -torch.inf).triu(1))


@pytest.mark.parametrize("cls,check,message", [
    (WrongPairs, "gradient", "`score_pairs` must give the same"), (Soft, "gradient", "must not depend on other pairs"), (NoLoss, "gradient", "default_loss must give"),
    (Running, "gradient", "scoring changes norm.running_mean, norm.running_var"), (Masked, "save and load", "persistent=False"),
    (Unmasked, "padding", "more padding changes the scores"), (Unpadded, "padding", "a pair alone, without padding"), (Centred, "order", "no row may depend on others"), (Centred, "tiles", "tiles of images"),
    (Detached, "gradient", "no weight gets a gradient: is `score` detached"), (Rooted, "gradient", "NaN or infinite"), (Forgetful, "save and load", "state outside"),
    (Transposed, "shapes", r"\(2, 6\) here, not \(6, 2\)"), (BestWord, "save and load", ""), (Cache, "gradient", "")])
def test_what_is_wrong_is_said(cls, check, message):
    if not message:
        check_matcher(cls, (check,))
        return
    with pytest.raises(AssertionError, match=message) as caught: check_matcher(cls, (check,))
    assert f"{cls.__name__} has 1 of 1 problems" in str(caught.value)


def test_the_matcher_of_the_docs(tmp_path, monkeypatch):
    "The file that docs/own_matcher.md shows passes every check."
    import re
    from pathlib import Path
    text = (Path(__file__).parent.parent / "docs" / "own_matcher.md").read_text(encoding="utf-8")
    (tmp_path / "matcher_of_the_docs.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        import matcher_of_the_docs
        assert len(check_matcher(matcher_of_the_docs.WeighedWords)) == 8
    finally: MODELS.pop("weighedwords", None)


def test_what_a_class_is_besides_its_equations():
    "Vocabulary and extractor are set by training and by `cmr.load`; code is compared by what it does."
    assert issubclass(Matcher, Portable) and (Portable.vocabulary, Portable.extractor) == (None, None)
    assert instructions(lambda a, b: a + b) != instructions(lambda a, b: a - b)
    assert instructions(lambda a, b: a + b) == instructions(lambda a, b: a + b)
