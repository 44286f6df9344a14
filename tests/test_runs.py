"""What surrounds a run: one writer, signals, launchers, precision, data that was exchanged, checkpoints that were damaged, runs that learn nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest
import torch
from tiny import RECIPE, digests, equal, weights, write_world
from typer.testing import CliRunner

from cmr.cli.app import app
from cmr.data import Vocabulary, open_split
from cmr.saving import load
from cmr.training import checkpoints, loop, read_checkpoint, read_recipe, train
from cmr.training.checkpoints import hold
from cmr.training.distributed import choose_precision, make_accelerator

SHORT = replace(RECIPE, epochs=1)
QUIET = {"device": "cpu", "progress": False}


def said(*words, code=0) -> str:
    "What a command prints."
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def stopped(world, tmp_path):
    "A run that was stopped at its eighth step, in the second epoch."
    train(RECIPE, world, tmp_path / "run", max_steps=8, **QUIET)
    return tmp_path / "run"


# one writer, and signals

def test_a_second_training_is_told_who_is_there(world, tmp_path):
    with hold(tmp_path / "run"):
        before = digests(tmp_path / "run")
        with pytest.raises(ValueError, match=rf"run is being written to by process {os.getpid()} on .*, since 20\d\d-.*another folder"):
            train(SHORT, world, tmp_path / "run", **QUIET)
        text = said("train", "--data", world, "--out", tmp_path / "run", "--device", "cpu", code=2)
        assert "is being written to by process" in text and text.count("Error:") == 1
        assert digests(tmp_path / "run") == before
    train(SHORT, world, tmp_path / "run", **QUIET)
    assert not (tmp_path / "run" / ".holder.json").exists()


def test_the_lock_of_a_dead_process_keeps_nobody_out(world, tmp_path):
    code = (f"import os\nfrom pathlib import Path\nfrom cmr.training.checkpoints import hold\n"
            f"with hold(Path({str(tmp_path / 'run')!r})): os._exit(9)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "run" / ".holder.json").is_file()
    assert train(SHORT, world, tmp_path / "run", **QUIET)["stopped"] == "all epochs done"


def test_a_refused_run_leaves_no_folder(world, tmp_path):
    with pytest.raises(ValueError, match="no argument legs"): train(replace(SHORT, args={"legs": 4}), world, tmp_path / "a" / "b", **QUIET)
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_saves(name, status, world, tmp_path):
    out = tmp_path / "run"
    recipe = replace(RECIPE, epochs=100_000)
    program = [sys.executable, "-m", "cmr.cli", "train", "--data", world, "--out", out, "--device", "cpu", "--recipe", "f8k-small", "--model", "vse",
               "--epochs", recipe.epochs, "--batch-size", 7, "--min-count", 1, "--embed-dim", 8]
    process = subprocess.Popen([*map(str, program)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        while process.poll() is None and not (out / "metrics.csv").is_file(): time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        text = process.communicate(timeout=60)[1]
    finally: process.kill()
    assert process.returncode == status and "all saved; go on with: cmr train" in text and "Traceback" not in text
    standing = read_checkpoint(out / "last" / "training.pt")["standing"]
    assert standing["step"] >= 6
    assert train(read_recipe(out)[0], world, out, resume=True, max_steps=standing["step"] + 1, **QUIET)["step"] == standing["step"] + 1


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("instead", [True, False])
def test_a_removed_tensorboard_folder_ends_no_run(instead, world, whole, tmp_path, monkeypatch):
    true, out = loop.write_checkpoint, tmp_path / "run"
    def removed(run):
        true(run)
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
        if instead: (out / "tensorboard").write_text("a file stands in its place")
    monkeypatch.setattr(loop, "write_checkpoint", removed)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        assert train(RECIPE, world, out, **QUIET)["stopped"] == "all epochs done"
    assert len([note for note in notes if "no more notes for TensorBoard" in str(note.message)]) == 1
    assert equal(weights(out), weights(whole[0]))


def test_a_tensorboard_folder_that_cannot_be_made(world, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("mine")
    with pytest.warns(UserWarning, match="no more notes for TensorBoard"): train(SHORT, world, tmp_path / "run", **QUIET)
    assert (tmp_path / "run" / "metrics.csv").is_file() and (tmp_path / "run" / "tensorboard").read_text() == "mine"


# what accelerate's configuration asks for

def test_bf16_of_the_launcher_is_followed(world, tmp_path, monkeypatch):
    train(SHORT, world, tmp_path / "said", precision="bf16", **QUIET)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train(SHORT, world, tmp_path / "launched", **QUIET)
    assert equal(weights(tmp_path / "said"), weights(tmp_path / "launched"))
    with pytest.warns(UserWarning, match="--precision fp32 goes before ACCELERATE_MIXED_PRECISION=bf16"): assert choose_precision("fp32") == "fp32"


@pytest.mark.parametrize("name, value, message", [
    ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed precision fp16"), ("ACCELERATE_MIXED_PRECISION", "fp8", "mixed precision fp8"),
    ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient accumulation"), ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "compiled models"),
    ("ACCELERATE_USE_FSDP", "true", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism_config"), ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM")])
def test_what_a_launcher_asks_for_in_vain_is_named(name, value, message, world, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{message}.*{name}|{name}.*{message}"): train(SHORT, world, tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_accumulation_of_the_launcher_divides_nothing(world, tmp_path, monkeypatch):
    recipe = replace(SHORT, accumulate=2)
    train(recipe, world, tmp_path / "alone", **QUIET)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    train(recipe, world, tmp_path / "launched", **QUIET)
    assert equal(weights(tmp_path / "alone"), weights(tmp_path / "launched"))
    make_accelerator("cpu", accumulate=2)


# going on in another way, or from something damaged

def test_another_precision_is_refused_and_the_recorded_one_taken(world, tmp_path):
    train(SHORT, world, tmp_path / "whole", precision="bf16", **QUIET)
    train(SHORT, world, tmp_path / "run", precision="bf16", max_steps=3, **QUIET)
    before = digests(tmp_path / "run")
    with pytest.raises(ValueError, match="in another precision: it was bf16, now fp32"):
        train(SHORT, world, tmp_path / "run", resume=True, precision="fp32", **QUIET)
    assert digests(tmp_path / "run") == before
    train(SHORT, world, tmp_path / "run", resume=True, **QUIET)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_other_features_under_the_same_captions_are_refused(world, stopped, tmp_path):
    shutil.copytree(world, tmp_path / "other")
    with h5py.File(tmp_path / "other" / "train.h5", "r+") as file: file["features"][7] = file["features"][7] * 1.5
    with pytest.raises(ValueError, match="on other data: train_features was"): train(RECIPE, tmp_path / "other", stopped, resume=True, **QUIET)


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_note(world, whole, stopped):
    path = stopped / "last" / "training.pt"
    state = read_checkpoint(path)
    for key in ("precision", "best", "words"): del state[key]
    for key in checkpoints.LATER: del state["data"][key]
    torch.save(state, path)
    with pytest.warns(UserWarning, match="noted neither features nor precision"): train(RECIPE, world, stopped, resume=True, **QUIET)
    assert equal(weights(stopped), weights(whole[0]))
    assert equal(load(stopped / "best")[0].state_dict(), load(whole[0] / "best")[0].state_dict())


def test_a_damaged_tensor_is_not_trained_on(world, stopped):
    path = stopped / "last" / "training.pt"
    content = bytearray(path.read_bytes())
    at = content.index(read_checkpoint(path)["weights"]["image_encoder.project.weight"].numpy().tobytes())
    content[at + 3] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"training\.pt .*damaged"): train(RECIPE, world, stopped, resume=True, **QUIET)


def nan(x): return torch.full_like(x, float("nan"))


@pytest.mark.parametrize("parts, message", [
    (lambda s: {"weights": {name: nan(x) for name, x in s["weights"].items()}}, "holds NaN or infinity"),
    (lambda s: {"weights": {name: x for name, x in list(s["weights"].items())[1:]}}, "does not fit the model"),
    (lambda s: {"weights": 4}, "weights: "),
    (lambda s: {"optimiser": {}}, "does not fit the model"),
    (lambda s: {"optimiser": {**s["optimiser"], "state": {0: {"step": torch.tensor(8.0), "exp_avg": torch.zeros(3)}}}}, "exp_avg has shape"),
    (lambda s: {"standing": {**s["standing"], "epoch": 2.5}}, r"standing\.epoch"),
    (lambda s: {"standing": {**s["standing"], "step": 2**70}}, r"standing\.step"),
    (lambda s: {"standing": {**s["standing"], "rows": [{"epoch": 3}]}}, r"standing\.rows"),
    (lambda s: {"recipe": {**s["recipe"], "lr": "0.01"}}, "lr='0.01': float is expected"),
    (lambda s: {"random": {"cpu": torch.zeros(3, dtype=torch.uint8), "cuda": []}}, "does not fit the model"),
    (lambda s: {"random": None}, "random: ")])
def test_what_a_checkpoint_must_hold(parts, message, world, stopped):
    path = stopped / "last" / "training.pt"
    torch.save({**(state := read_checkpoint(path)), **parts(state)}, path)
    before = digests(stopped)
    with pytest.raises(ValueError, match=message) as refused: train(RECIPE, world, stopped, resume=True, **QUIET)
    assert "training.pt" in str(refused.value) and "\n" not in str(refused.value).rstrip()
    assert digests(stopped) == before


@pytest.mark.parametrize("change, message", [
    ({"lr": "0.1"}, "lr='0.1': float is expected"), ({"epochs": 2.5}, "epochs=2.5: int is expected"), ({"lr": float("nan")}, "lr=nan: a finite"),
    ({"clip": float("inf")}, "clip=inf: a finite"), ({"seed": 2**70}, "seed=1180591620717411303424: a finite"), ({"lr": -1}, "lr=-1 must be above"),
    ({"args": []}, r"args=\[\]: dict is expected"), ({"colour": 1}, "no setting is called 'colour'"), ({"after": "x"}, "after='x'"),
    ({"after": {"name": "y", "epochs": 0}}, "epochs=0"), ({"data": 4}, "does not say which data"), ({"name": None}, "name=None")])
def test_a_recipe_from_a_file_is_held_to_its_kinds(change, message, world, tmp_path):
    content = {**asdict(RECIPE), "data": str(world), **change}
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as refused: read_recipe(tmp_path)
    assert str(tmp_path / "recipe.json") in str(refused.value) and "\n" not in str(refused.value)


def test_a_recipe_file_that_is_none(tmp_path):
    for content in (b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"name": 1, "data": "d"}'):
        (tmp_path / "recipe.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"recipe\.json"): read_recipe(tmp_path)


def test_more_than_a_hundred_steps_are_refused(world, tmp_path):
    text = said("train", "--data", world, "--model", "imram", "--steps", 101, "--out", tmp_path / "run", "--device", "cpu", code=2)
    assert "steps=101: a number from 1 to 100" in text and not (tmp_path / "run").exists()


# what is seen before the first step, and what after the first epoch

@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_other_splits_are_looked_at_first(split, world, tmp_path):
    shutil.copytree(world, tmp_path / "torn")
    with h5py.File(tmp_path / "torn" / f"{split}.h5", "r+") as file: file["features"][5, 0] = np.inf
    with pytest.raises(ValueError, match=rf"{split}\.h5: image 5"): train(SHORT, tmp_path / "torn", tmp_path / "run", **QUIET)
    (write_world(tmp_path / "wide", width=7) / f"{split}.h5").replace(tmp_path / "torn" / f"{split}.h5")
    with pytest.raises(ValueError, match=rf"{split}\.h5 of 7"): train(SHORT, tmp_path / "torn", tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_a_caption_of_unknown_words_stops_nothing(tmp_path):
    write_world(tmp_path / "data")
    with h5py.File(tmp_path / "data" / "dev.h5", "r+") as file: file["captions"][3] = "zwei katzen"
    with pytest.warns(UserWarning, match="dev.h5"): result = train(SHORT, tmp_path / "data", tmp_path / "run", **QUIET)
    assert result["stopped"] == "all epochs done"


def test_a_run_that_stands_still_is_told_once(world, tmp_path, monkeypatch):
    true = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *args, **how: (replace((found := true(*args, **how))[0], rsum=1.0), found[1]))
    monkeypatch.setattr(loop, "train_step", lambda run, group: run.standstill * sum(map(len, group)))
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        train(RECIPE, world, tmp_path / "run", max_steps=7, **QUIET)
        train(RECIPE, world, tmp_path / "run", resume=True, **QUIET)
    told = [str(note.message) for note in notes if "nothing has been learnt yet" in str(note.message)]
    assert len(told) == 1 and "smaller lr (now 0.01)" in told[0] and "warmup_steps" in told[0]


def test_chance_is_not_called_the_best(world, tmp_path, monkeypatch, capsys):
    true = loop.evaluate
    for rsum, best in ((1.0, False), (600.0, True)):
        monkeypatch.setattr(loop, "evaluate", lambda *args, rsum=rsum, **how: (replace((found := true(*args, **how))[0], rsum=rsum), found[1]))
        train(SHORT, world, tmp_path / f"{rsum}", device="cpu")
        assert ("(best so far)" in capsys.readouterr().out) == best


# words

def test_a_published_vocabulary_trains(world, whole, tmp_path):
    captions = open_split(world, "train").captions
    Vocabulary.build(captions, min_count=1).save(tmp_path / "words.json")
    words = ("--vocabulary", tmp_path / "words.json", "--data", world, "--recipe", "f8k-small", "--model", "vse", "--embed-dim", 8,
             "--epochs", 1, "--batch-size", 7, "--out", tmp_path / "run", "--device", "cpu")
    said("train", *words, "--max-steps", 2)
    (tmp_path / "words.json").rename(tmp_path / "gone.json")
    said("train", "--out", tmp_path / "run", "--resume", "--device", "cpu")
    assert load(tmp_path / "run" / "last")[1].words == Vocabulary.load(tmp_path / "gone.json").words
    Vocabulary(Vocabulary.load(tmp_path / "gone.json").words[::-1]).save(tmp_path / "words.json")
    assert "words was" in said("train", "--out", tmp_path / "run", "--resume", "--device", "cpu", code=2).replace("\n", " ")


def test_min_count_by_option(world, tmp_path):
    said("train", "--min-count", 1, "--data", world, "--recipe", "f8k-small", "--embed-dim", 8, "--out", tmp_path / "run", "--max-steps", 1,
         "--device", "cpu")
    assert read_recipe(tmp_path / "run")[0].min_count == 1


def test_a_start_says_something_before_pytorch_is_there(world, tmp_path):
    code = "import sys; sys.modules['torch'] = None\nfrom cmr.cli.train import start\nstart(None, None, None, None, False, (), None)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stderr.startswith("Reading the recipe and the data")


# comparisons

def test_a_result_on_other_data_or_of_another_kind_is_not_taken(world, tmp_path):
    from cmr.training import compare
    write_world(tmp_path / "data")
    entry = compare.Entry("vse", SHORT)
    def go(): return compare.compare([entry], tmp_path / "data", tmp_path / "out", **QUIET)
    first = go()
    leftover = tmp_path / "out" / "vse-seed0" / "best" / f".model.safetensors.{checkpoints.HOST}.999999.part"
    leftover.write_text("half")
    assert go() == first and not leftover.exists()
    file = tmp_path / "out" / "vse-seed0" / "result.json"
    content = json.loads(file.read_text())
    for wrong, message in (({"report": 4}, "report: "), ({"parameters": "9"}, "parameters: "), ({"recipe": {"name": "x", "lr": "1"}}, "lr='1'")):
        file.write_text(json.dumps({**content, **wrong}))
        with pytest.raises(ValueError, match=message) as refused: go()
        assert "result.json" in str(refused.value)
    file.write_text(json.dumps(content))
    write_world(tmp_path / "data", seed=1)
    with pytest.raises(ValueError, match="another content of data"): go()


def test_two_comparisons_in_one_folder(world, tmp_path):
    from cmr.training import compare
    with hold(tmp_path / "out"), pytest.raises(ValueError, match="is being written to"):
        compare.compare([compare.Entry("vse", SHORT)], world, tmp_path / "out", **QUIET)
