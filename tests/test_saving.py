"""Models that survive being saved, killed while they are saved, sent to a hub and fetched from one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelHubMixin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sample_matcher import WORDS, BestWord, a_split, model_of, raw

import cmr
from cmr.data.vocabulary import Vocabulary
from cmr.files import read_tensors
from cmr.imram import IMRAM
from cmr.matcher import VSE, Matcher
from cmr.saving import create_model, fetch, import_models, load, model_class, save

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


def untied(folder):
    "The weights without the digests of config.json and vocab.json, as earlier versions wrote them."
    tensors, _ = read_tensors(folder / "model.safetensors", "weights")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change(folder, **settings):
    "Put something else into config.json."
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


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
    with pytest.raises(ValueError, match="model.safetensors is (damaged or cut short|empty|a text file|a binary file)"): load(saved)


def test_damaged_config(saved):
    untied(saved)
    for text, message in (("{", "config.json is not the config.json of a saved model"), ("{}", 'with "matcher": "VSE".*Field required'),
                          ('{"matcher": "clip"}', "config.json: unknown model 'clip'"), ('{"matcher": 5}', "matcher: .*found 5"),
                          ('{"matcher": "VSE"}', "config.json is not a config.json of VSE: region_dim: Field required"),
                          ('{"matcher": "VSE", "region_dim": 5, "vocab_size": 10}', "model.safetensors holds weights of another model")):
        (saved / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message) as refused: load(saved)
        assert "\n" not in str(refused.value)


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


# --- config.json and weights are held against each other, and against the class

ROUTES = {"load": load, "the class": VSE.from_pretrained, "any class": Matcher.from_pretrained,
          "huggingface's own": lambda where: ModelHubMixin.from_pretrained.__func__(VSE, where)}


def refusal(folder, route=load):
    "What a model is refused with: one line, whatever is wrong."
    with pytest.raises(ValueError) as refused: route(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_no_weight_is_made_up(saved, route):
    "Half of the weights missing: refused, where huggingface's mixin fills in random numbers."
    tensors, _ = read_tensors(saved / "model.safetensors", "weights")
    for about in (None, {"format": "pt"}):
        save_file({name: x for name, x in tensors.items() if "text" in name}, saved / "model.safetensors", about)
        assert "model.safetensors holds weights of another model" in (said := refusal(saved, route)) and "image_encoder" in said and "is missing" in said
    save_file(tensors, saved / "model.safetensors")
    assert all(torch.equal(x, tensors[name]) for name, x in VSE.from_pretrained(saved).state_dict().items())


@pytest.mark.parametrize(("change_of", "message"), [
    (lambda t: {**t, "more": torch.zeros(2)}, "more is none of VSE's"), (lambda t: {}, "is missing"),
    (lambda t: {**t, "image_encoder.project.weight": torch.zeros(8, 5)}, r"project.weight has shape \(8, 5\), expected \(8, 4\)"),
    (lambda t: {**t, "image_encoder.project.bias": torch.full((8,), torch.nan)}, "NaN or infinity in image_encoder.project.bias"),
    (lambda t: {**t, "image_encoder.project.bias": torch.full((8,), torch.inf)}, "NaN or infinity in image_encoder.project.bias"),
    (lambda t: {**t, "image_encoder.project.bias": torch.zeros(8, dtype=torch.int64)}, "project.bias holds int64, expected float32"),
    (lambda t: {**t, "image_encoder.project.bias": torch.zeros(8, dtype=torch.complex64)}, "project.bias holds complex64, expected float32"),
    (lambda t: {**t, "image_encoder.project.bias": torch.zeros(8, dtype=torch.float8_e4m3fn)}, "project.bias holds float8_e4m3fn"),
    (lambda t: {**t, "image_encoder.project.bias": torch.zeros(8, dtype=torch.float64)}, "in float32 and float64: save them in one precision")])
def test_weights_are_held_against_the_model(saved, change_of, message):
    import re
    tensors, about = read_tensors(saved / "model.safetensors", "weights")
    save_file(change_of(tensors), saved / "model.safetensors", {"format": "pt"})
    assert re.search(message, refusal(saved))


@pytest.mark.parametrize(("key", "value", "message"), [
    ("region_dim", "3", "region_dim: Input should be a valid integer, found '3'"), ("region_dim", 3.7, "found 3.7"), ("region_dim", True, "found True"),
    ("region_dim", None, "found None"), ("region_dim", 2**70, "does not fit VSE"), ("region_dim", -4, "does not fit VSE"),
    ("embed_dim", 10**12, "holds weights of another model|does not fit VSE"), ("vocab_size", 10**12, "holds weights of another model"), ("word_dim", [4], "word_dim"),
    ("matcher", "IMRAM", "holds weights of another model"), ("matcher", ["VSE"], "matcher"), ("matcher", "\x1b[31m\n", "unknown model")])
def test_kinds_and_sizes_in_a_config(saved, key, value, message):
    import re
    untied(saved)
    change(saved, **{key: value})
    assert re.search(message, said := refusal(saved)) and "\x1b" not in said


def test_more_steps_than_make_sense(tmp_path, vocabulary):
    save(model_of(IMRAM), vocabulary, tmp_path)
    untied(tmp_path)
    for steps, message in ((101, "steps=101: at most 100"), (10**30, "at most 100"), (0, "at least 1"), (2.0, "steps: .*found 2.0")):
        change(tmp_path, steps=steps)
        with pytest.raises(ValueError, match=message): load(tmp_path)
    with pytest.raises(ValueError, match="at most 100"): create_model("imram", 4, 10, steps=10**6)
    change(tmp_path, steps=3, inverse_temperature=float("inf"))
    with pytest.raises(ValueError, match="inverse_temperature"): load(tmp_path)
    change(tmp_path, inverse_temperature=9)                            # a whole number is a number
    assert load(tmp_path)[0].config["inverse_temperature"] == 9


def test_a_config_that_declares_a_million_layers(tmp_path, vocabulary):
    save(create_model("vsrn", 4, 10, embed_dim=8, word_dim=4), vocabulary, tmp_path)
    untied(tmp_path)
    change(tmp_path, layers=10**9)
    assert "more than" in refusal(tmp_path)


def test_files_of_two_models_are_not_taken_for_one(saved, tmp_path, vocabulary):
    "The three files belong together: any of them of another model, of the same shapes or not, is refused."
    other = tmp_path / "other"
    save(create_model("ordermatcher" if "ordermatcher" in cmr.list_models() else "bestword", 4, 10, embed_dim=8, word_dim=4), Vocabulary(WORDS[::-1]), other)
    for name in ("config.json", "model.safetensors", "vocab.json"):
        before = (saved / name).read_bytes()
        (saved / name).write_bytes((other / name).read_bytes())
        refusal(saved)
        (saved / name).write_bytes(before)
    load(saved)
    change(saved, word_dim=5)
    assert "config.json is not the one that model.safetensors was saved with" in refusal(saved)


def test_killed_between_renames(tmp_path, vocabulary, monkeypatch):
    "Another model saved over one, cut off before each rename: the old one, the new one, or refused; while one model trains, never refused."
    renames, real = [0], os.replace

    class Killed(BaseException): pass

    def replace(a, b):
        renames[0] -= 1
        if renames[0] < 0: raise Killed
        real(a, b)
    first, later, another = model_of(VSE), model_of(VSE), create_model("imram", 4, 10, embed_dim=8, word_dim=4)
    for new, words, refused in ((later, WORDS, 0), (another, WORDS[::-1], 2)):
        found = []
        for n in range(6):                                               # os.replace is called five times, some of them for partial files
            folder = tmp_path / f"{refused}{n}"
            save(first, vocabulary, folder)
            renames[0] = n
            monkeypatch.setattr(os, "replace", replace)
            try: save(new, Vocabulary(words), folder)
            except Killed: pass
            monkeypatch.setattr(os, "replace", real)
            try: model = load(folder)[0].state_dict()
            except ValueError: found.append("refused")
            else: found.append(["old", "new"][[all(torch.equal(x, y) for x, y in zip(model.values(), m.state_dict().values())) for m in (first, new)].index(True)])
            save(new, Vocabulary(words), folder)                       # and saving again heals it
            assert type(load(folder)[0]) is type(new) and not list(folder.glob(".*"))
        assert found[0] == "old" and found[-1] == "new" and found.count("refused") == refused


def test_the_same_weights_give_the_same_bytes(tmp_path, vocabulary):
    from cmr.saving import write_model
    model, seen = model_of(VSE), set()
    state = model.state_dict()
    for n in range(20):
        order = random.Random(n).sample(sorted(state), len(state))
        model.state_dict = lambda order=order: {name: state[name] for name in order}
        write_model(model, tmp_path / str(n), vocabulary)
        seen.add(tuple((tmp_path / str(n) / name).read_bytes() for name in ("config.json", "model.safetensors", "vocab.json")))
    assert len(seen) == 1


def test_a_model_without_vocabulary_leaves_none_of_an_earlier_one(saved):
    model_of(VSE).save_pretrained(saved)
    assert not (saved / "vocab.json").exists() and VSE.from_pretrained(saved).vocabulary is None


def test_models_that_came_with_the_course_still_load():
    load(Path(__file__).parent.parent / "data" / "sample" / "imram")


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["matcher", "region_dim", "vocab_size", "embed_dim", "word_dim", "steps", "direction", "bidirectional"]) | st.text(max_size=6), value=anything)
def test_any_value_in_any_member_of_a_config(tmp_path_factory, key, value, vocabulary):
    folder = tmp_path_factory.getbasetemp() / "any-config"
    if not folder.exists():
        save(model_of(IMRAM), vocabulary, folder)
        untied(folder)
    before = (folder / "config.json").read_bytes()
    try:
        change(folder, **{key: value})
        try: load(folder)
        except (ValueError, OSError) as problem: assert "\n" not in str(problem) and "config.json" in str(problem)
    finally: (folder / "config.json").write_bytes(before)


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


# --- modules of one's own

@pytest.mark.parametrize(("content", "said"), [(b"def f(:\n", "SyntaxError"), ("word = 'caf\xe9'\n".encode("latin-1"), "SyntaxError"), (b"raise SystemExit(7)", "SystemExit: 7"),
                                               (b"import sys; sys.exit()", "SystemExit"), (b"1 / 0", "ZeroDivisionError"), (b"import nowhere_at_all", "ModuleNotFoundError"),
                                               (b"raise KeyError('a\\nb')", "KeyError"), (b"class Odd(BaseException): pass\nraise ValueError", "ValueError"), (b"\0", "null byte")])
def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch, content, said):
    from typer.testing import CliRunner

    from cmr.cli import app
    (tmp_path / "broken_module.py").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)
    done = CliRunner().invoke(app, ["evaluate", "nothing", "--import", "broken_module"])
    lines = done.output.strip().splitlines()
    assert done.exit_code == 2 and len(lines) == 1 and "'broken_module'" in lines[0] and said in lines[0], done.output
    for name in ("", ".x", "nowhere_at_all", "a/b"):
        with pytest.raises(ImportError, match="module"): import_models([name])


def test_an_installed_package_that_cannot_be_imported_is_named(monkeypatch):
    from importlib.metadata import EntryPoint

    from cmr import saving
    monkeypatch.setattr(saving, "entry_points", lambda group: [EntryPoint("odd", "nowhere_at_all.models:Odd", group)])
    with pytest.raises(ImportError, match="nowhere_at_all"): import_models()


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
    (tmp_path / "runs" / "scenes-imram" / "best").mkdir(parents=True)
    (tmp_path / "models" / "small").mkdir(parents=True)
    for where in ("runs/mistyped", "nowhere", "a/b/c", tmp_path / "x", "./a", "../a", "~/a", "/a/b", "a/best", "data/imram", "a/model.safetensors", r"runs\x",
                  "model/small", "a//b", "-x/y", "a/b/", "a\nb/c", "x" * 200):
        with pytest.raises(FileNotFoundError, match="no folder"): fetch(where)
    for where, near in (("runs/scenes-imran", "runs/scenes-imram"), ("run/scenes-imram", "runs/scenes-imram"), ("model/small", "models/small")):
        with pytest.raises(FileNotFoundError, match=f"did you mean {near}"): cmr.load(where)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"file is a file \(.*, no saved model: give its folder"): cmr.load("file")
    with pytest.raises(ValueError, match="no option strict"): VSE.from_pretrained("runs/scenes-imram", strict=False)


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
    untied(saved)
    (saved / "config.json").write_text(json.dumps({**config, "colour": "red"}))
    with pytest.raises(ValueError, match="config.json does not fit VSE: VSE takes no argument colour: it knows embed_dim, word_dim"): load(saved)


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


def test_a_flipped_bit_in_the_weights_is_found(tmp_path):
    model = VSE(4, 6, embed_dim=8, word_dim=5)
    cmr.save(model, Vocabulary(["a", "b"]), tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: its numbers"): cmr.load(tmp_path)
