"""What a user types, and what comes back."""

import configparser
import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from tiny import digests, write_world
from typer.testing import CliRunner

import cmr.data
import cmr.training
import cmr.world
from cmr.cli import app
from cmr.cli.train import fitting
from cmr.data import open_split, write_split

QUICK = ["--recipe", "scenes", "--epochs", "1", "--batch-size", "8", "--embed-dim", "8", "--device", "cpu"]


def call(*words, code: int = 0) -> str:
    "Run a command; returns what it printed, on both streams."
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="cmr")
    assert result.exit_code == code, result.output
    assert code or "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    return out, call("train", "--data", world, "--out", out, *QUICK)


def test_version_is_that_of_settings():
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(Path(__file__).parent.parent / "settings.ini", encoding="utf-8")
    assert call("--version").strip() == f"cmr {parser['DEFAULT']['version']}"


@pytest.mark.parametrize(
    "words",
    [[], ["data"], ["data", "scenes"], ["data", "convert"], ["import"], ["import", "captions"], ["import", "checkpoint"], ["check"], ["train"], ["evaluate"], ["search"], ["compare"], ["ablate"], ["models"]],
)
def test_help_is_there_with_examples(words):
    output = call(*words, "--help")
    assert "Usage" in output and ("cmr " + " ".join(words)).strip() in output
    assert words in ([], ["data"], ["import"]) or "Examples" in output


def test_help_loads_neither_torch_nor_notebooks():
    code = "import sys, cmr.cli; print([name for name in ('torch', 'nbdev', 'IPython', 'h5py', 'matplotlib') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_train_says_what_it_does_and_what_to_type_next(run, world):
    out, said = run
    for words in (
        "Training imram",
        str(world),
        "recipe scenes",
        "by chance",
        "epoch 1: loss",
        "all epochs done",
        f"Next: cmr evaluate {out}",
    ):
        assert words in said.replace("\n", "") or words in said
    assert (out / "best" / "model.safetensors").is_file() and (out / "curves.png").is_file()


def test_evaluate_takes_a_run_or_a_model(run, world):
    out, _ = run
    of_run, of_model = (call("evaluate", folder, "--data", world) for folder in (out, out / "best"))
    assert of_run == of_model and "R@sum" in of_run and "split test" in of_run
    assert "mean of 2 folds" in call("evaluate", out, "--data", world, "--split", "dev", "--folds", 2)


def test_resume_needs_only_the_folder(world, tmp_path):
    call("train", "--data", world, "--out", tmp_path / "run", "--max-steps", 2, *QUICK)
    said = call("train", "--out", tmp_path / "run", "--resume")
    assert str(world) in said and "all epochs done: 1 epochs, 5 steps" in said
    assert "epoch 2: loss" in call("train", "--out", tmp_path / "run", "--resume", "--epochs", 2)
    assert "lr was" in call("train", "--out", tmp_path / "run", "--resume", "--lr", 0.5, code=2)


def test_options_reach_the_model(world, tmp_path):
    call(
        "train",
        "--data",
        world,
        "--out",
        tmp_path / "a",
        *QUICK,
        "--steps",
        2,
        "--direction",
        "text",
        "--memory",
        "gate",
        "--variant",
        "released",
        "--seed",
        3,
        "--lr",
        0.01,
    )
    recipe, data = cmr.training.read_recipe(tmp_path / "a")
    assert {"steps": 2, "direction": "text", "memory": "gate", "variant": "released", "embed_dim": 8}.items() <= recipe.args.items()
    assert (recipe.seed, recipe.lr, recipe.epochs, recipe.batch_size, data) == (3, 0.01, 1, 8, world)
    call("train", "--data", world, "--out", tmp_path / "b", *QUICK, "--model", "scan", "--pooling", "lse", "--direction", "image")
    recipe, _ = cmr.training.read_recipe(tmp_path / "b")
    assert recipe.matcher == "scan" and {"pooling": "lse", "direction": "image"}.items() <= recipe.args.items()


def test_without_data_the_scenes_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    def drawn(folder, seed, counts, progress):
        calls.append((folder, seed, counts))
        write_world(Path(folder))
    monkeypatch.setattr(cmr.world, "make_scenes", drawn)
    said = call("train", *QUICK)
    assert "drawing the built-in scenes into data/scenes" in said.replace("\\", "/") and Path("runs/scenes-imram/best").is_dir()
    call("train", "--model", "vse", *QUICK)
    assert calls == [(Path("data/scenes"), 0, {"train": 3000, "dev": 500, "test": 500})]
    call("evaluate", "runs/scenes-vse")
    call("data", "scenes", "--out", "few", "--seed", 4, "--train", 30, "--dev", 5, "--test", 6)
    assert calls[1:] == [(Path("few"), 4, {"train": 30, "dev": 5, "test": 6})]


def test_recipe_fits_the_data(world, tmp_path, monkeypatch):
    (tmp_path / "drawn").mkdir()
    write_world(tmp_path / "drawn")
    assert fitting(tmp_path / "drawn", "cpu") == "f8k-small"
    (tmp_path / "drawn" / "train_scenes.json").write_text("[]")
    assert fitting(tmp_path / "drawn", "cpu") == "scenes"
    captions, images = ["a dog"] * 4, np.arange(4)
    write_split(tmp_path / "train.h5", np.zeros((4, 2, 512), "float32"), captions, images)
    assert fitting(tmp_path, "cpu") == "f8k-small"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert fitting(tmp_path, None) == "imram-f8k"
    for count, name in ((29_000, "imram-f30k"), (113_287, "imram-coco")):
        monkeypatch.setattr(cmr.data.ImageCaptions, "n_images", count)
        assert fitting(tmp_path, None) == name
    (tmp_path / "train_scenes.json").write_text("[]")
    assert fitting(tmp_path, None) == "scenes"


def test_the_built_in_world_adds_its_own_report(run, world, tmp_path, monkeypatch):
    from cmr.world import scenes
    data = write_world(tmp_path)
    (data / "test_scenes.json").write_text("[]")
    monkeypatch.setattr(scenes, "load_entries", lambda path: [])  # scenes of another split are refused
    monkeypatch.setattr(scenes, "world_report", lambda scores, entries: f"{tuple(scores.shape)} {entries}")
    assert "(6, 12) []" in call("evaluate", run[0], "--data", data)


def test_convert(tmp_path):
    source = tmp_path / "scan"
    source.mkdir()
    for split, n in (("train", 6), ("dev", 2)):
        np.save(source / f"{split}_ims.npy", np.random.default_rng(n).normal(size=(n, 3, 4)).astype("float32"))
        (source / f"{split}_caps.txt").write_text("".join(f"a dog number {i}\n" for i in range(5 * n)))
    said = call("data", "convert", source, tmp_path / "out")
    assert "train.h5" in said and "Next: cmr train" in said
    assert (open_split(tmp_path / "out", "dev").n_images, len(open_split(tmp_path / "out", "dev"))) == (2, 10)


def test_convert_from_karpathys_json(tmp_path):
    images = [{"filename": f"{i}.jpg", "split": split, "sentences": [{"raw": f"dog {i}", "tokens": ["dog", str(i)], "sentid": i}]}
              for i, split in enumerate(("train", "train", "val", "test"))]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    np.save(tmp_path / "features.npy", np.arange(24, dtype="float32").reshape(4, 2, 3))
    call("data", "convert", tmp_path / "dataset.json", tmp_path / "a", "--features", tmp_path / "features.npy")
    call("data", "convert", tmp_path / "features.npy", tmp_path / "b", "--karpathy", tmp_path / "dataset.json")
    for name in "ab": assert open_split(tmp_path / name, "dev").regions(0).tolist() == [[12, 13, 14], [15, 16, 17]]


def test_errors_are_one_clear_line(run, world, tmp_path, monkeypatch):
    before = digests(run[0])
    said = call("train", "--data", world, "--out", run[0], *QUICK, code=2)
    assert said.splitlines()[-1].startswith("Error: ") and "--resume" in said and "Traceback" not in said
    assert digests(run[0]) == before
    monkeypatch.setenv("CMR_DEBUG", "1")
    assert "Traceback" in call("train", "--data", world, "--out", run[0], *QUICK, code=2)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "vse", "--steps", 2], "vse takes no --steps"),
        (["--model", "bert"], "unknown model 'bert'"),
        (["--recipe", "best"], "no recipe 'best': choose one of"),
        (["--device", "tpu"], "device='tpu'"),
        (["--precision", "int8"], "precision='int8'"),
        (["--resume"], "recipe.json"),
    ],
)
def test_wrong_options_are_named(words, message, world, tmp_path):
    assert message in call("train", "--data", world, "--out", tmp_path / "run", *words, code=2)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_no_error(world, tmp_path, monkeypatch):
    def stopped(*args, **how): raise KeyboardInterrupt("stopped at step 3, all saved")
    monkeypatch.setattr(cmr.training, "train", stopped)
    assert "stopped at step 3, all saved" in call("train", "--data", world, "--out", tmp_path / "run", code=130)


def test_search_both_ways(run, world, tmp_path):
    out, index = run[0], tmp_path / "images.safetensors"
    asked = ["search", out, "a red dog runs", "--data", world, "--top", 3, "--index", index]
    first = call(*asked, "--fit")
    assert index.is_file() and first == call(*asked) == call(*asked, "--fit")
    assert [line.split()[0] for line in first.splitlines()[-3:]] == ["1", "2", "3"]
    assert "words the model doesn't know: zebra" in call("search", out, "a red zebra", "--data", world)
    found = call("search", out, "--image", 2, "--data", world, "--top", 12, "--shortlist", 12)
    assert sorted(line.split(maxsplit=2)[2] for line in found.splitlines()[-12:]) == sorted(open_split(world, "test").captions)
    write_world(tmp_path / "other", seed=1)
    for words, message in (
        ([], "one of them"),
        (["a dog", "--image", 2], "one of them"),
        (["a dog", "--top", 9, "--shortlist", 5], "shorter than --top 9"),
        (["zebra"], "unknown words only"),
        ([""], "empty"),
        (["--image", "nobody"], "no image 'nobody'"),
        (["a dog", "--figure", "x.png"], "--figure needs pictures"),
        (["--image", 2, "--index", index], "of the other side"),
        (["a dog", "--index", index, "--data", tmp_path / "other"], "of other data"),
    ):
        assert message in call("search", out, "--data", world, *words, code=2).replace("\n", " ")
    call("search", out, "a dog", "--data", world, "--index", tmp_path / "plain")
    assert "without --fit" in call("search", out, "a dog", "--data", world, "--index", tmp_path / "plain", "--fit", code=2)
    call("train", "--data", world, "--out", tmp_path / "run", *QUICK, "--seed", 5)
    assert "of another model" in call("search", tmp_path / "run", "a dog", "--data", world, "--index", index, code=2)


def test_search_draws(run, tmp_path):
    data = write_world(tmp_path)
    np.save(data / "test_pictures.npy", np.zeros((6, 8, 8, 3), np.uint8))
    for n, words in enumerate((["a red dog"], ["--image", 0])):
        call("search", run[0], *words, "--data", data, "--figure", tmp_path / f"{n}.png")
        assert (tmp_path / f"{n}.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate_writes_scores_and_goes_on_with_them(run, world, tmp_path):
    command = ["evaluate", run[0], "--data", world, "--split", "dev", "--scores", tmp_path / "s.npy", "--max-memory", "50MB"]
    first = call(*command)
    scores = np.load(tmp_path / "s.npy", allow_pickle=False)
    assert call(*command) == first and np.isfinite(scores).all()
    assert "delete" in call(*[word if word != "dev" else "train" for word in command], code=2)


def test_the_engine_is_a_choice_of_the_run(world, tmp_path):
    for name in ("imram", "vse"):
        call("train", "--data", world, "--out", tmp_path / name, *QUICK, "--model", name, "--no-engine", "--max-steps", "1")
        assert "engine" not in (tmp_path / name / "recipe.json").read_text(encoding="utf-8")
    call("train", "--out", tmp_path / "imram", "--resume", "--no-engine")
    assert "R@sum" in call("evaluate", tmp_path / "imram", "--data", world, "--no-engine")


# settings by name

def test_any_setting_can_be_set(world, tmp_path):
    call(
        "train",
        "--data",
        world,
        "--out",
        tmp_path / "a",
        *QUICK,
        "--set",
        "margin=0.3",
        "--set",
        "clip=1",
        "--set",
        "patience=2",
        "--set",
        "word-dim=5",
        "--set",
        "of=probability",
        "--set",
        "optimiser=adamw",
        "--set",
        "schedule=cosine",
        "--set",
        "accumulate=2",
        "--set",
        "lse_temperature=3",
        "--model",
        "scan",
    )
    recipe, _ = cmr.training.read_recipe(tmp_path / "a")
    assert (recipe.margin, recipe.clip, recipe.patience, recipe.optimiser, recipe.schedule, recipe.accumulate) == (
        0.3,
        1,
        2,
        "adamw",
        "cosine",
        2,
    )
    assert (
        recipe.loss_args == {"of": "probability"} and {"word_dim": 5, "lse_temperature": 3, "embed_dim": 8}.items() <= recipe.args.items()
    )
    assert "margin was 0.3, now 0.4" in call("train", "--out", tmp_path / "a", "--resume", "--set", "margin=0.4", code=2)
    assert "all epochs done" in call("train", "--out", tmp_path / "a", "--resume", "--set", "margin=0.3")


@pytest.mark.parametrize(
    "setting, message",
    [
        ("stepz=2", "no setting stepz: the recipe has name, epochs"),
        ("heads=2", "imram has embed_dim, word_dim, steps"),
        ("margin", "write a name, = and a value"),
        ("=3", "write a name"),
        ("epochs=many", "epochs=many: int is expected"),
        ("margin=-1", "margin=-1 must be above 0"),
        ("loss=hinge", "unknown loss 'hinge'"),
        ("memory=elephant", "memory"),
    ],
)
def test_settings_that_cannot_be_set(setting, message, world, tmp_path):
    assert message in " ".join(call("train", "--data", world, "--out", tmp_path / "run", *QUICK, "--set", setting, code=2).split())
    assert "twice" in call("train", "--data", world, "--out", tmp_path / "run", *QUICK, "--set", "lr=1", "--set", "lr=2", code=2)
    assert not (tmp_path / "run").exists()


def test_settings_in_comparisons(world, tmp_path):
    few = ("--data", world, "--epochs", 1, "--embed-dim", 8, "--device", "cpu")
    call("compare", "vse", "pvse", *few, "--set", "margin=0.3", "--set", "heads=3", "--out", tmp_path / "c")
    vse, pvse = (cmr.training.read_recipe(tmp_path / f"c/{name}-seed0")[0] for name in ("vse", "pvse"))
    assert vse.margin == pvse.margin == 0.3 and pvse.args == {"embed_dim": 8, "word_dim": 100, "heads": 3} and "heads" not in vse.args
    assert "no setting legs: the recipe has" in call(
        "compare", "vse", "pvse", *few, "--set", "legs=3", "--set", "heads=3", "--out", tmp_path / "d", code=2
    )
    call("ablate", "camp", *few, "--rows", "no-gates", "--set", "hidden=5", "--set", "gates=scalar", "--out", tmp_path / "a")
    args = cmr.training.read_recipe(tmp_path / "a/no-gates-seed0")[0].args
    assert args["hidden"] == 5 and args["gates"] is False  # the row says what it is
    assert (
        "no setting legs" in call("ablate", "camp", *few, "--set", "legs=3", "--out", tmp_path / "d", code=2)
        and not (tmp_path / "d").exists()
    )


# models of one's own

OWN = '''
import torch
from torch import nn

from cmr import Matcher, register
from cmr.encoders import Fragments


@register
class Pairwise(Matcher):
    "The best product of a word and a region, with encoders of its own."
    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 16, sharpness: float = 2.0):
        super().__init__()
        self.look, self.words, self.sharpness = nn.Linear(region_dim, embed_dim), nn.Embedding(vocab_size, embed_dim), sharpness

    def encode_images(self, features, mask=None):
        if mask is None: mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        return Fragments(self.look(features).tanh() * mask[..., None], mask)

    def encode_captions(self, tokens, lengths):
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]
        return Fragments(self.words(tokens) * mask[..., None], mask)

    def score(self, images, captions):
        z = torch.einsum("imd,cnd->icmn", images.values, captions.values).masked_fill(~images.mask[:, None, :, None], -9)
        return (torch.logsumexp(self.sharpness * z, 2) * captions.mask).sum(2) / captions.lengths
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    "A file with a model, in the current folder; the other tests don't see the model."
    from cmr.matcher import MODELS
    (tmp_path / "own_model_of_a_test.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "own_model_of_a_test"
    sys.modules.pop("own_model_of_a_test", None)
    MODELS.pop("pairwise", None)


def test_a_model_of_ones_own_from_the_command_line(own, world):
    assert len(OWN.strip().splitlines()) <= 30
    use = ("--import", own)
    assert "unknown model 'pairwise'" in call("train", "--data", world, "--model", "pairwise", code=2)
    said = call("models", *use)
    assert "pairwise The best product of a word and a region" in said and "embed_dim=16, sharpness=2.0" in said and "imram" in said
    said = call("train", "--data", world, "--model", "pairwise", "--out", "run", *QUICK, "--set", "sharpness=3", *use)
    assert "Training pairwise" in said and "Note: Pairwise has no image_encoder.standardise" in said
    assert cmr.training.read_recipe("run")[0].args == {"embed_dim": 8, "sharpness": 3}
    assert f"Next: cmr evaluate run --import {own}" in said and "R@sum" in call(*shlex.split(said.splitlines()[-1])[2:])
    found = call("search", "run", "a red dog runs", "--data", world, "--top", 6, "--index", "gallery.safetensors", *use)
    assert len(found.splitlines()) == 6 == len(call("search", "run", "--image", 2, "--data", world, "--top", 6, *use).splitlines())
    few = ("--data", world, "--epochs", 1, "--embed-dim", 8, "--device", "cpu", "--out", "both")
    said = call("compare", "vse", "Pairwise", *few, "--import", f"{own}.py", "--set", "sharpness=4")
    assert "| vse |" in said and "| pairwise |" in said and '"sharpness": 4' in Path("both/pairwise-seed0/recipe.json").read_text()
    call("train", "--out", "run", "--resume", "--epochs", 2, *use)


def test_a_model_that_was_not_imported_is_asked_for(own, world):
    "In a process of its own, whose path has not the current folder on it."
    def asked(*words, code):
        start = "import sys; sys.path.pop(0); from cmr.cli import app; app(prog_name='cmr')"
        done = subprocess.run([sys.executable, "-c", start, *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return " ".join((done.stdout + done.stderr).split())
    call("train", "--data", world, "--model", "pairwise", "--out", "run", *QUICK, "--max-steps", 1, "--import", own)
    said = asked("evaluate", "run", "--data", world, code=2)
    assert "pairwise" in said.lower() and "--import" in said
    assert "R@sum" in asked("evaluate", "run", "--data", world, "--import", own, code=0)
    assert "no module 'nobody_wrote_this'" in asked("models", "--import", "nobody_wrote_this", code=2)


def test_models_of_installed_packages_are_there(monkeypatch):
    from cmr import saving
    loaded = []
    class Entry:
        module = "their_models"
        def load(self): loaded.append("loaded")
    monkeypatch.setattr(saving, "entry_points", lambda group: [Entry()] if group == "cmr.models" else [])
    call("models")
    assert loaded


def test_models_are_listed_with_their_arguments():
    said = call("models")
    assert [line.split()[0] for line in said.splitlines() if not line.startswith(" ")] == cmr.list_models()
    assert "steps=3" in call("models", "IMRAM") and "vse" not in call("models", "imram")
    assert "unknown model 'bert'" in call("models", "bert", code=2)


@pytest.mark.parametrize("words", [["evaluate", "model_best.pth.tar"], ["search", "model_best.pth.tar", "a dog"], ["train", "--data", "model_best.pth.tar"],
                                   ["check", "model_best.pth.tar"], ["data", "convert", "model_best.pth.tar", "out"], ["import", "captions", "model_best.pth.tar", "out"],
                                   ["compare", "--data", "model_best.pth.tar"]], ids=" ".join)
def test_a_published_checkpoint_is_called_one_by_every_command(tmp_path, monkeypatch, words):
    import torch
    monkeypatch.chdir(tmp_path)
    torch.save({"model": [{"fc.weight": torch.zeros(2, 2)}]}, tmp_path / "model_best.pth.tar")
    said = call(*words, code=2).strip().splitlines()[-1]
    assert said.startswith("Error: ") and "model_best.pth.tar" in said and "PyTorch checkpoint" in said and "cmr import checkpoint" in said


# whose data

@pytest.fixture
def nothing_is_drawn(monkeypatch): monkeypatch.setattr(cmr.world, "make_scenes", lambda *_: pytest.fail("a world was drawn"))


def test_the_last_line_works_as_printed_on_anybodys_data(run, world, tmp_path, monkeypatch, nothing_is_drawn):
    monkeypatch.chdir(tmp_path)
    out, said = run
    last = shlex.split(said.splitlines()[-1])
    assert last[:3] == ["Next:", "cmr", "evaluate"]
    assert call(*last[2:]) == call("evaluate", out, "--data", world) and f"on {world}, split test" in call(*last[2:])
    assert call("search", out, "a red dog") == call("search", out, "a red dog", "--data", world)
    assert f"on {world}" in call("evaluate", out / "best", out / "last")
    assert not os.listdir()


def test_data_that_is_gone_is_said_and_none_is_drawn_instead(run, world, tmp_path, monkeypatch, nothing_is_drawn):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world, "mine with a space")
    done = call("train", "--data", "mine with a space", "--out", "my run", *QUICK, "--max-steps", 1)
    assert "R@sum" in call(*shlex.split(done.splitlines()[-1])[2:])
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for elsewhere, name in (("my run", "."), ("deep/er", "../../my run"), ("deep", tmp_path / "my run")): # from anywhere: the folder above the run has it
        monkeypatch.chdir(tmp_path / elsewhere)
        assert f"on {tmp_path / 'mine with a space'}, split test" in call("evaluate", name)
    monkeypatch.chdir(tmp_path)
    shutil.move("mine with a space", "moved")
    for words in (["evaluate"], ["search"], ["calibrate"]):
        said = call(*words, "my run", *["a dog"] * (words == ["search"]), code=2).strip().splitlines()
        assert len(said) == 1 and said[0].startswith("Error: the run my run learned from mine with a space, which is not there") and "--data" in said[0]
    assert "R@sum" in call("evaluate", "my run", "--data", "moved")
    shutil.copytree(run[0] / "best", "bare")
    for words in (["evaluate", "bare"], ["search", "bare", "a dog"]):
        assert "Error: bare does not say what it learned from: name a data folder with --data" in call(*words, code=2)


def test_without_a_test_split_dev_is_asked(run, world, tmp_path):
    data = shutil.copytree(world, tmp_path / "data")
    (data / "test.h5").unlink()
    assert "split dev" in call("evaluate", run[0], "--data", data)
    assert call("search", run[0], "a red dog", "--data", data) == call("search", run[0], "a red dog", "--data", world, "--split", "dev")
    assert "no split 'test'" in call("evaluate", run[0], "--data", data, "--split", "test", code=2)


def test_a_splits_own_file_is_searched_as_that_split(run, world, tmp_path):
    for place in ([world / "dev.h5", "a red dog"], ["a red dog", "--data", world / "dev.h5"]):
        assert call("search", run[0], *place) == call("search", run[0], "a red dog", "--data", world, "--split", "dev")
    before = digests(world)
    said = call("search", run[0], "a red dog", "--index", world / "test.h5", code=2)
    assert "is an HDF5 file, expected a gallery" in said and "name another file, or, if it was a gallery, delete it" in said and digests(world) == before


# few captions, and looks at dev

def test_few_captions_are_noticed_and_what_is_set_stays(world, tmp_path):
    few = ["train", "--data", world, "--recipe", "f8k-small", "--embed-dim", 8, "--device", "cpu", "--max-steps", 1]
    assert "Few captions (40): min_count=1, batch_size=8, epochs=60, decay_every=45, warmup_steps=150; --set changes any" in call(*few, "--out", tmp_path / "a")
    said = call(*few, "--out", tmp_path / "b", "--epochs", 3, "--set", "min_count=2", "--set", "batch_size=16")
    recipe, _ = cmr.training.read_recipe(tmp_path / "b")
    assert (recipe.epochs, recipe.min_count, recipe.batch_size, recipe.warmup_steps, recipe.decay_every) == (3, 2, 16, 4, 6)
    assert "Few captions (40): warmup_steps=4; --set changes" in said
    assert "Few" not in call("train", "--resume", "--out", tmp_path / "b") and cmr.training.read_recipe(tmp_path / "b")[0] == recipe


def test_what_a_file_sets_stays_and_a_written_recipe_trains_the_same_again(world, tmp_path):
    (tmp_path / "mine.toml").write_text('recipe = "scenes"\nepochs = 2\nbatch_size = 16\nmin_count = 2\nembed_dim = 8\n')
    few = ["train", "--data", world, "--device", "cpu"]
    said = call(*few, "--config", tmp_path / "mine.toml", "--out", tmp_path / "a")
    first = cmr.training.read_recipe(tmp_path / "a")[0]
    assert (first.epochs, first.batch_size, first.min_count) == (2, 16, 2) and "epochs=" not in said
    assert "Few" not in call(*few, "--config", tmp_path / "a/recipe.json", "--out", tmp_path / "b")
    assert cmr.training.read_recipe(tmp_path / "b")[0] == first
    (tmp_path / "other.toml").write_text('recipe = "scenes"\nmodel = "vse"\nembed_dim = 8\n')
    call(*few, "--config", tmp_path / "other.toml", "--max-steps", 1, "--out", tmp_path / "d")
    assert cmr.training.read_recipe(tmp_path / "d")[0].matcher == "vse"
    (tmp_path / "bare.toml").write_text("embed_dim = 8\n")
    assert 'recipe = "scenes"' in call(*few, "--config", tmp_path / "bare.toml", "--out", tmp_path / "c", code=2)


def test_few_captions_are_noticed_in_comparisons_too(world, tmp_path):
    said = call("compare", "vse", "scan", "--data", world, "--recipe", "f8k-small", "--epochs", 1, "--embed-dim", 8, "--device", "cpu", "--out", tmp_path / "c")
    kept = {name: cmr.training.read_recipe(tmp_path / f"c/{name}-seed0")[0] for name in ("vse", "scan")}
    assert all((one.batch_size, one.min_count, one.epochs, one.warmup_steps) == (8, 1, 1, 2) for one in kept.values())
    assert said.count("Few captions (40)") == 1


def test_comparisons_train_nothing_where_one_row_cannot_be(world, tmp_path):
    said = call("compare", "scan", "--data", world, "--set", "direction=text,foo", "--epochs", 1, "--out", tmp_path / "c", code=2)
    assert "direction='foo'" in said and not (tmp_path / "c").exists()


def test_a_signal_in_the_midst_of_an_import_ends_at_once(tmp_path, monkeypatch):
    from cmr.cli.app import Terminated, halt
    monkeypatch.setattr(os, "_exit", lambda number: (_ for _ in ()).throw(SystemExit(number)))
    (tmp_path / "half.py").write_text("import signal, sys\nfrom cmr.cli.app import halt\nhalt(signal.SIGINT, sys._getframe())\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended: __import__("half")
    assert ended.value.code == 130
    with pytest.raises(Terminated): halt(signal.SIGTERM, Bare)
    with pytest.raises(KeyboardInterrupt): halt(signal.SIGINT, Bare)


class Bare:  # a frame outside of any import
    f_back, f_code = None, (lambda: None).__code__


def test_many_captions_change_no_recipe():
    from cmr.training.recipes import FEW, RECIPES, for_few
    assert FEW <= 15_000 and all(for_few(recipe, FEW) is recipe for recipe in RECIPES.values())  # the built-in world has so many
    for recipe in RECIPES.values():
        found = for_few(recipe, 300)
        assert found.matcher == recipe.matcher and found.args == recipe.args and found.epochs >= recipe.epochs and found.batch_size <= 8
        steps = found.epochs * -(-300 // found.batch_size)
        assert (found.warmup_steps or 0) <= steps // 2 and (found.after is None) == (recipe.after is None)


def test_looks_at_dev_change_nothing(world, tmp_path):
    usual = ["train", "--data", world, *QUICK, "--seed", 3]
    call(*usual, "--out", tmp_path / "a")
    said = call(*usual, "--out", tmp_path / "b", "--eval-every", 2)
    assert [line.split()[1] for line in said.splitlines() if line.startswith("step ")] == ["2:", "4:"] and "dev R@sum" in said
    read = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in "ab"]
    assert read[0] == read[1]
    said = call(*usual, "--out", tmp_path / "c", "--max-steps", 3)
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("step ")] == ["step 3"]
    assert "no whole epoch: dev R@sum " in said and "R@sum" in call("evaluate", tmp_path / "c")
    said = call(*usual, "--out", tmp_path / "d", "--max-steps", 3, "--quiet")
    assert "no whole epoch: dev R@sum " in said and "step 3:" not in said


def test_a_file_of_settings_names_its_data(world, tmp_path, monkeypatch):
    "What a run wrote is trained again on the run's data; --data is above it; what is no name of a folder is refused."
    monkeypatch.chdir(tmp_path)
    call("train", "--data", world, *QUICK, "--max-steps", 1, "--out", "a")
    said = call("train", "--config", "a/recipe.json", "--max-steps", 1, "--out", "b", "--device", "cpu")
    assert f"on {world} by" in said and json.loads(Path("b/recipe.json").read_text())["data"] == str(world)
    Path("far.toml").write_text('recipe = "scenes"\ndata = "nowhere"\n')
    assert "nowhere" in call("train", "--config", "far.toml", "--out", "c", code=2)
    assert f"on {world} by" in call("train", "--config", "far.toml", "--data", world, *QUICK, "--max-steps", 1, "--out", "d")
    assert "nowhere" in call("compare", "vse", "--config", "far.toml", "--out", "e", code=2)
    for data, said in (("3", "data=3"), ('""', "data=''")):
        Path("far.toml").write_text(f'recipe = "scenes"\ndata = {data}\n')
        assert f"{said} names no folder" in call("train", "--config", "far.toml", "--out", "f", code=2)
    Path("far.toml").write_text('recipe = "scenes"\n')
    monkeypatch.setenv("WORLD_SIZE", "2")                                             # each of two would draw the scenes
    assert "several processes: say with --data" in call("train", "--config", "far.toml", "--out", "g", code=2) and not Path("data").exists()


def test_scenes_that_are_there_are_not_drawn_over(tmp_path):
    few = ["--train", 8, "--dev", 4, "--test", 4]
    call("data", "scenes", "--out", tmp_path / "w", *few)
    before = {file.name: file.read_bytes() for file in (tmp_path / "w").iterdir()}
    for other in (["--train", 9, "--dev", 4, "--test", 4], ["--seed", 1, *few], []):
        assert "holds scenes of seed 0" in call("data", "scenes", "--out", tmp_path / "w", *other, code=2)
    assert "Next: cmr train" in call("data", "scenes", "--out", tmp_path / "w", *few)
    assert {file.name: file.read_bytes() for file in (tmp_path / "w").iterdir()} == before


def test_a_part_of_dev_is_remembered(world, tmp_path):
    usual = ["train", "--data", world, *QUICK, "--out", tmp_path / "run"]
    call(*usual, "--dev-images", 4, "--max-steps", 2)
    assert "dev images was 4" not in call("train", "--resume", "--out", tmp_path / "run")
    state = cmr.training.read_checkpoint(tmp_path / "run" / "last" / "training.pt")
    assert (state["data"]["dev_images"], state["data"]["dev_captions"]) == (4, 8)
    assert "dev_images was 4, now 5" in call("train", "--resume", "--out", tmp_path / "run", "--set", "dev_images=5", code=2)
    from cmr.training import evaluate
    from cmr.training.checkpoints import first_images
    model, words = cmr.load(tmp_path / "run" / "best")
    row = next(csv.DictReader(io.StringIO((tmp_path / "run" / "metrics.csv").read_text())))
    assert float(row["rsum"]) == evaluate(model, first_images(open_split(world, "dev"), 4), words)[0].rsum
    assert first_images(open_split(world, "dev"), 6).n_images == 6


# a line for each query

@pytest.mark.parametrize("folds", [1, 2])
def test_a_line_for_each_query(folds, run, world, tmp_path):
    from cmr.recall import fold_ranks
    split = open_split(world, "test")
    for name in ("q.csv", "q.jsonl"):
        call("evaluate", run[0], "--folds", folds, "--per-query", tmp_path / name, "--scores", tmp_path / "s.npy")
    rows, lines = list(csv.DictReader((tmp_path / "q.csv").open(encoding="utf-8"))), (tmp_path / "q.jsonl").read_text(encoding="utf-8")
    again = [json.loads(line) for line in lines.splitlines()]
    assert [{key: str(value) for key, value in one.items()} for one in again] == rows and len(rows) == 6 + 12
    scores = np.load(tmp_path / "s.npy")
    parts = fold_ranks(scores, split.image_of_caption, folds)
    for n, direction in enumerate(("text", "image")):
        mine = [one for one in again if one["direction"] == direction]
        assert [one["rank"] - 1 for one in mine] == np.concatenate([part[n] for part in parts]).tolist()
    first = again[0]
    right = split.image_of_caption == 0
    assert first["query"] == split.ids[0] and first["answer"] in split.captions[:2] and first["score"] == scores[0, right].max()
    assert folds > 1 or first["rival_score"] == scores[0, ~right].max()
    assert "ends in .csv" in call("evaluate", run[0], "--per-query", tmp_path / "q.txt", code=2)


# how far, and how it ends

def test_bars_are_lines_where_no_terminal_shows_them(monkeypatch):
    import tqdm.auto as others

    from cmr.bars import tqdm
    from cmr.cli.app import bars
    class Terminal(io.StringIO):
        def isatty(self): return True
    def shown(file, quiet=False, kind=tqdm):
        with bars(quiet):
            bar = kind(total=4, desc="epoch 1", file=file, mininterval=0)
            for _ in range(4):
                bar.update()
                bar.refresh()
            bar.write("a line above", file=file)
            bar.close()
        return file.getvalue()
    assert "|" in shown(Terminal()) and "\r" in shown(Terminal())
    for kind in (tqdm, others.tqdm):                                      # the package's, and those of a library that it calls
        assert shown(io.StringIO(), kind=kind) == "a line above\n"        # not yet half a minute
        assert shown(io.StringIO(), True, kind) == shown(Terminal(), True, kind) == ""
    monkeypatch.setattr(sys.modules["cmr.bars"], "EVERY", 0)
    for kind in (tqdm, others.tqdm):
        lines = shown(io.StringIO(), kind=kind).splitlines()
        assert any(line.startswith("epoch 1:  50% 2/4 [") for line in lines) and not any("|" in line or "\r" in line for line in lines)


def test_a_script_that_trains_writes_no_bars_to_a_pipe(world, tmp_path):
    code = (f"import cmr, cmr.bars, cmr.training; cmr.bars.EVERY = 0; cmr.train(cmr.training.RECIPES['scenes'], {str(world)!r}, {str(tmp_path / 'run')!r}, device='cpu', max_steps=4)\n"
            "import io; from tqdm.auto import tqdm; file = io.StringIO(); bar = tqdm(total=2, file=file); bar.close(); assert '\\r' in file.getvalue()")  # somebody else's stays as it is
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\r" not in said.stdout + said.stderr and "|" not in said.stderr and "%" in said.stderr, said.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_process_that_is_killed_in_a_bar_stops_no_other():
    "A forked one that dies with the bars' lock leaves it free for the others."
    code = ("import os, signal; from cmr.bars import tqdm; list(tqdm(range(2)))\nif not (child := os.fork()):\n    tqdm.get_lock().acquire()\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\nos.waitpid(child, 0); list(tqdm(range(2))); print('goes on')")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout.strip() == "goes on"


def test_quiet_leaves_results_only(world, tmp_path):
    said = call("train", "--data", world, "--out", tmp_path / "run", *QUICK, "--quiet")
    assert [line.split(":")[0] for line in said.splitlines() if not line.startswith("Note")] == ["all epochs done", "best", "Next"]
    assert "Error" in call("train", "--data", world, "--out", tmp_path / "run", *QUICK, "-q", code=2)


def test_a_terminal_gets_a_table(run, monkeypatch):
    from cmr.cli import evaluate
    from cmr.recall import report
    printed = []
    monkeypatch.setattr(evaluate, "print_table", lambda heads, rows: printed.append((heads, rows)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    found = report(np.eye(3), np.arange(3))
    evaluate.show_report(found)
    assert printed[0][0] == ["R@1", "R@5", "R@10", "median", "mean"] and printed[0][1][0][:2] == ["text retrieval", "100.0 [100.0, 100.0]"]


def test_a_shell_completes_commands_and_options():
    def completed(words):
        there = {**os.environ, "_CMR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        return subprocess.run([sys.executable, "-m", "cmr.cli"], env=there, capture_output=True, text=True, check=False).stdout.split()
    assert completed("cmr ev") == ["evaluate"] and "--eval-every" in completed("cmr train --ev")


@pytest.mark.parametrize("name, status, message", [("SIGTERM", 143, "stopped by SIGTERM"), ("SIGINT", 130, "stopped; what was finished is kept")])
def test_a_signal_ends_any_command_in_a_line(name, status, message, run, world, tmp_path, monkeypatch):
    monkeypatch.setattr(cmr.training, "evaluate", lambda *_, **__: signal.raise_signal(getattr(signal, name)))  # to this thread, at once
    before, inherited = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try: said = call("evaluate", run[0], code=status)
    finally: signal.signal(signal.SIGINT, inherited)
    assert said.strip().splitlines() == [f"{message}; what was finished is kept" if name == "SIGTERM" else message]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_was_worded_anew_keeps_its_status():
    from cmr.cli.app import Terminated, plain_errors
    def stopped():
        try: raise Terminated
        except KeyboardInterrupt: raise KeyboardInterrupt("go on by the same command") from None
    with pytest.raises(typer.Exit) as left, plain_errors(): stopped()
    assert left.value.exit_code == 143
