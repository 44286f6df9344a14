"""Models that survive being saved, killed while they are saved, sent to a hub and fetched from one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import huggingface_hub
import pytest
import torch
from sample_matcher import WORDS, BestWord, a_split, model_of, raw

import cmr
from cmr.data.vocabulary import Vocabulary
from cmr.matcher import VSE, Matcher
from cmr.saving import load, model_class, save

F64 = torch.float64


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


@pytest.fixture
def vocabulary():
    return Vocabulary(WORDS)


@pytest.mark.parametrize("name", ["VSE", "SCAN", "IMRAM", "BestWord"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_round_trip(name, dtype, tmp_path, vocabulary):
    model = model_class(name)(4, 10, embed_dim=8, word_dim=4).to(dtype)
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


@pytest.fixture
def saved(tmp_path, vocabulary):
    save(model_of(VSE), vocabulary, tmp_path / "model")
    return tmp_path / "model"


def test_missing(saved, tmp_path):
    for call in (load, Matcher.from_pretrained):
        with pytest.raises(FileNotFoundError, match="no folder .*nowhere"): call(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no folder"): VSE.from_pretrained(tmp_path / "nowhere")
    for name in ("vocab.json", "model.safetensors", "config.json"):
        (saved / name).unlink()
        with pytest.raises(FileNotFoundError, match=name): load(saved)


@pytest.mark.parametrize("keep", [0, 5, 40, 400, -1])
def test_truncated_weights(saved, keep):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut short"): load(saved)


def test_damaged_config(saved):
    for text, message in (("{", "is damaged"), ("{}", 'needs "matcher"'), ('{"matcher": "clip"}', "unknown model"),
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
    code = ("import resource, sys; from cmr.matcher import VSE; from cmr.saving import save; from cmr.data.vocabulary import Vocabulary\n"
            "model = VSE(4, 10, embed_dim=64); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
            f"save(model, Vocabulary({WORDS!r}), sys.argv[1])")
    pytest.importorskip("resource", reason="file size limits are a Unix matter")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    done = subprocess.run([sys.executable, "-c", code, str(saved)], check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "OSError" in done.stderr and "what was there before is still whole" in done.stderr
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


# --- the hub

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A hub that is a folder: owner/name/FILE. What isn't there raises what the real one raises."
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    def missing(kind, text):
        problem = kind.__new__(kind)
        Exception.__init__(problem, text)
        return problem

    def download(repo_id, filename, **options):
        path = tmp_path / "hub" / repo_id / filename
        if not path.parent.is_dir(): raise missing(RepositoryNotFoundError, f"no repository {repo_id}")
        if not path.is_file(): raise missing(EntryNotFoundError, f"no {filename} in {repo_id}")
        return str(path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_from_the_hub_by_name(hub, vocabulary):
    model = model_of(VSE)
    model.vocabulary = vocabulary
    model.save_pretrained(hub / "someone" / "small-vse")             # what push_to_hub uploads
    assert {"config.json", "model.safetensors", "vocab.json"} <= {path.name for path in (hub / "someone" / "small-vse").iterdir()}
    for again in (VSE.from_pretrained("someone/small-vse"), Matcher.from_pretrained("someone/small-vse"), cmr.load("someone/small-vse")[0]):
        assert torch.equal(again.image_encoder.project.weight, model.image_encoder.project.weight) and again.vocabulary == vocabulary
    assert cmr.load("someone/small-vse")[1] == vocabulary


def test_what_the_hub_has_not_is_said(hub, vocabulary):
    with pytest.raises(FileNotFoundError, match="no folder someone/nothing, and the hub gave no model"): VSE.from_pretrained("someone/nothing")
    model_of(VSE).save_pretrained(hub / "someone" / "bare")           # never trained: no vocabulary
    assert VSE.from_pretrained("someone/bare").vocabulary is None
    with pytest.raises(FileNotFoundError, match="without its vocabulary"): cmr.load("someone/bare")


def test_a_mistyped_folder_asks_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for where in ("runs/mistyped", "nowhere", "a/b/c", tmp_path / "x"):
        with pytest.raises(FileNotFoundError, match="no folder"): cmr.load(where)


def test_saved_by_the_mixin_and_loaded_here(tmp_path, vocabulary):
    model = model_of(VSE)
    model.vocabulary = vocabulary
    model.save_pretrained(tmp_path / "a")
    again, words = cmr.load(tmp_path / "a")
    again.save_pretrained(tmp_path / "b")                              # a loaded model knows its vocabulary
    assert words == vocabulary == cmr.load(tmp_path / "b")[1]


def test_arguments_of_earlier_versions_are_understood(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "engine": True, "max_words": 50}))
    assert "engine" not in load(saved)[0].config
    (saved / "config.json").write_text(json.dumps({**config, "colour": "red"}))
    with pytest.raises(ValueError, match="config.json does not fit VSE.*colour"): load(saved)


# --- a model's own vocabulary

class Reversed(Vocabulary):
    "Reads a caption from its end."
    def encode(self, caption): return super().encode(caption)[::-1]


def test_a_model_may_have_a_vocabulary_class_of_its_own(tmp_path, vocabulary):
    from cmr.matcher import MODELS, register
    from cmr.training.checkpoints import make_vocabulary
    from cmr.training.recipes import Recipe

    @register
    class Backwards(BestWord): vocabulary_class = Reversed
    try:
        words = make_vocabulary(Recipe("own", "backwards", min_count=1), a_split())
        assert type(words) is Reversed and words.encode("a red star") == Vocabulary(words.words).encode("star red a")
        save(Backwards(4, len(words)), words, tmp_path)
        assert type(cmr.load(tmp_path)[1]) is Reversed
    finally: MODELS.pop("backwards", None)
