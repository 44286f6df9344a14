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


@pytest.fixture(scope="module")
def half(world, tmp_path_factory):
    "A run that was stopped at its eighth step, in the second epoch. Nobody writes into it."
    out = tmp_path_factory.mktemp("half") / "run"
    train(RECIPE, world, out, max_steps=8, **QUIET)
    return out


@pytest.fixture
def stopped(half, tmp_path):
    "A copy of that run."
    return shutil.copytree(half, tmp_path / "run")


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system lacks")
def test_the_lock_of_a_dead_process_keeps_nobody_out(world, tmp_path):
    child = os.fork()
    if not child:
        try:
            with hold(tmp_path / "run"): os._exit(9)
        finally: os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (tmp_path / "run" / ".holder.json").is_file()
    assert train(SHORT, world, tmp_path / "run", **QUIET)["stopped"] == "all epochs done"


def test_a_refused_run_leaves_no_folder(world, tmp_path):
    with pytest.raises(ValueError, match="no argument legs"): train(replace(SHORT, args={"legs": 4}), world, tmp_path / "a" / "b", **QUIET)
    assert not (tmp_path / "a").exists()


VSE = ("--device", "cpu", "--recipe", "f8k-small", "--model", "vse", "--batch-size", 7, "--min-count", 1, "--embed-dim", 8)


def went_on(world, out) -> None:
    "A run that was stopped is whole, and goes on."
    standing = read_checkpoint(out / "last" / "training.pt")["standing"]
    assert standing["step"] >= 6
    assert train(read_recipe(out)[0], world, out, resume=True, max_steps=standing["step"] + 1, **QUIET)["step"] == standing["step"] + 1


def test_a_signal_from_outside_saves(world, tmp_path):
    out = tmp_path / "run"
    program = [sys.executable, "-m", "cmr.cli", "train", "--data", world, "--out", out, *VSE, "--epochs", 100_000]
    process = subprocess.Popen([*map(str, program)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        while process.poll() is None and not (out / "metrics.csv").is_file(): time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=60)[1]
    finally: process.kill()
    assert process.returncode == 143 and "all saved; go on with: cmr train" in text and "Traceback" not in text
    went_on(world, out)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_saves(name, status, world, tmp_path, monkeypatch):
    true, calls = loop.train_step, []
    def struck(*args):
        calls.append(1)
        if len(calls) == 8: os.kill(os.getpid(), getattr(signal, name))
        return true(*args)
    monkeypatch.setattr(loop, "train_step", struck)
    text = said("train", "--data", world, "--out", tmp_path / "run", *VSE, "--epochs", 9, code=status)
    assert "stopped at step 8, all saved; go on with: cmr train" in text and "Traceback" not in text
    went_on(world, tmp_path / "run")


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
    with pytest.raises(ValueError, match="on other data: train features was"): train(RECIPE, tmp_path / "other", stopped, resume=True, **QUIET)


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


def optimiser(state, parts): return {"optimiser": {**state["optimiser"], **parts}}


def memory(state, **parts):
    known = state["optimiser"]["state"]
    return optimiser(state, {"state": {**known, 0: {**known[0], **parts}}})


def group(state, **parts): return optimiser(state, {"param_groups": [{**state["optimiser"]["param_groups"][0], **parts}]})


@pytest.mark.parametrize("parts, message", [
    (lambda s: {"weights": {name: nan(x) for name, x in s["weights"].items()}}, "holds NaN or infinity"),
    (lambda s: {"weights": {name: x for name, x in list(s["weights"].items())[1:]}}, "does not fit the model"),
    (lambda s: {"weights": 4}, "weights: "),
    (lambda s: {"best": {**s["best"], "text_encoder.embed.weight": torch.zeros(3)}}, r"text_encoder\.embed\.weight is \(\(3,\)"),
    (lambda s: {"weights": {name: x.double() for name, x in s["weights"].items()}}, "float64"),
    (lambda s: {"optimiser": {}}, r"optimiser\.state: "),
    (lambda s: optimiser(s, {"state": {}}), r"optimiser\.state: 0 entries after 8 steps"),
    (lambda s: optimiser(s, {"state": {0: {}}}), r"optimiser\.state\.0\.step"),
    (lambda s: memory(s, exp_avg=[[[1]]]), r"optimiser\.state\.0\.exp_avg"),
    (lambda s: memory(s, exp_avg=torch.zeros(3)), "exp_avg has shape"),
    (lambda s: memory(s, exp_avg_sq=nan(s["optimiser"]["state"][0]["exp_avg_sq"])), "exp_avg_sq holds NaN"),
    (lambda s: memory(s, exp_avg_sq=-1 - s["optimiser"]["state"][0]["exp_avg_sq"]), "exp_avg_sq holds a negative"),
    (lambda s: memory(s, step=torch.tensor(-1.0)), "step is -1"),
    (lambda s: memory(s, step=torch.tensor(9.0)), "step is 9, 1 to 8"),
    (lambda s: group(s, betas=(float("nan"), 0.999)), r"param_groups: betas is \(nan"),
    (lambda s: group(s, amsgrad="yes"), "amsgrad is 'yes', False"),
    (lambda s: group(s, maximize=True), "maximize is True, False"),
    (lambda s: group(s, weight_decay="0"), "weight_decay is '0', 0.0"),
    (lambda s: group(s, lr=float("inf")), "lr is inf"),
    (lambda s: group(s, params=[0]), r"params is \[0\]"),
    (lambda s: optimiser(s, {"param_groups": []}), r"optimiser\.param_groups"),
    (lambda s: {"data": {**s["data"], "text": "\x1b[31m"}}, r"text was \[31m, now"),
    (lambda s: {"standing": {**s["standing"], "epoch": 2.5}}, r"standing\.epoch"),
    (lambda s: {"standing": {**s["standing"], "step": 2**70}}, r"standing\.step"),
    (lambda s: {"standing": {**s["standing"], "rows": [{"epoch": 3}]}}, r"standing\.rows"),
    (lambda s: {"standing": {**s["standing"], "rows": [{**s["standing"]["rows"][0], "image_r10": 2**70}]}}, r"standing\.rows\.0\.image_r10"),
    (lambda s: {"standing": {**s["standing"], "rows": [{**s["standing"]["rows"][0], "image_r10": 100.5}]}}, "image_r10=100.5"),
    (lambda s: {"standing": {**s["standing"], "rows": [{k: v for k, v in s["standing"]["rows"][0].items() if k != "text_r5"}]}}, "with image_r1,.*text_r5"),
    (lambda s: {"standing": {k: v for k, v in s["standing"].items() if k != "batch"}}, "batch is missing"),
    (lambda s: {"standing": {**s["standing"], "rows": []}}, "0 rows for 1 epochs"),
    (lambda s: {"standing": {**s["standing"], "best": 601.0}}, "standing: .*epoch 1 has no R@sum 601"),
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


@pytest.mark.parametrize("change, message", [
    ({"matcher": "\x1b[31mred"}, r"unknown model '\\x1b\[31mred'"), ({"args": {"embed_dim": "../victim"}}, r"embed_dim='\.\./victim'"), ({"args": {"word_dim": "wrong"}}, "word_dim='wrong'"),
    ({"args": {"legs": 4}}, "no argument legs"), ({"loss": "../victim"}, r"\.\./victim"), ({"loss_args": {"legs": 4}}, "legs"), ({"frozen": ["legs"]}, "no part 'legs'")])
def test_a_recipe_that_nothing_can_be_made_of(change, message, world, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({**asdict(RECIPE), "data": str(world), **change}))
    with pytest.raises(ValueError, match=message) as refused: read_recipe(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'recipe.json'}: ") and refused.value.args[0].isprintable()


@pytest.mark.parametrize("key", ["name", "epochs", "patience", "save_every", "seed"])
def test_a_recipe_that_lacks_a_setting(key, world, tmp_path):
    content = {**asdict(RECIPE), "data": str(world)}
    del content[key]
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"recipe\.json is no recipe: .*{key}"): read_recipe(tmp_path)


def test_a_run_whose_recipe_file_is_lost_goes_on(world, whole, stopped):
    recipe, again = stopped / "recipe.json", ("train", "--out", stopped, "--resume", "--device", "cpu", "--max-steps")
    recipe.unlink()
    assert "recipe.json is missing: say which data folder the run began with (--data FOLDER)" in said(*again, 9, code=2)
    assert "the recipe of " in said(*again, 9, "--data", world).replace("\n", " ")
    recipe.write_text("{")
    assert "--recipe NAME --data FOLDER" in said(*again, 10, "--data", world, code=2)
    recipe.unlink()
    said("train", "--out", stopped, "--resume", "--device", "cpu", "--data", world)
    assert equal(weights(stopped), weights(whole[0])) and read_recipe(stopped) == (RECIPE, world)


def test_a_run_whose_recipe_file_is_damaged_goes_on_by_name(world, tmp_path):
    words = ("train", "--data", world, "--out", tmp_path / "run", *VSE)
    said(*words, "--max-steps", 2)
    (tmp_path / "run" / "recipe.json").write_text("{")
    said(*words, "--resume", "--max-steps", 3)
    assert read_recipe(tmp_path / "run")[0].batch_size == 7


def test_a_vocabulary_that_is_not_there_is_named(world, stopped):
    content = {**json.loads((stopped / "recipe.json").read_text()), "vocabulary": "wrong"}
    (stopped / "recipe.json").write_text(json.dumps(content))
    assert "in recipe.json): no vocabulary at wrong" in said("train", "--out", stopped, "--resume", "--device", "cpu", code=2).replace("\n", " ")


def test_captions_without_a_frequent_word_are_named(world, tmp_path):
    with pytest.raises(ValueError, match=r"train\.h5: no word occurs min_count=999"): train(replace(SHORT, min_count=999), world, tmp_path / "run", **QUIET)


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
    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda run, group: step(run, group) and run.standstill * sum(map(len, group)))
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
    for wrong, message in (({"report": 4}, "report: "), ({"parameters": "9"}, "parameters: "), ({"recipe": {**content["recipe"], "lr": "1"}}, r"recipe\.lr"),
                           ({"report": {**content["report"], "rsum": "?"}}, r"report\.rsum"), ({"report": {**content["report"], "rsum": 700}}, "rsum=700"),
                           ({"report": {"rsum": 3.0}}, r"report\."), ({"machine": {}}, r"machine\."), ({"best_epoch": {}}, "best_epoch"),
                           ({"recipe": {**content["recipe"], "min_count": float("inf")}}, "min_count=inf"), ({"seconds_per_epoch": -1}, "seconds")):
        file.write_text(json.dumps({**content, **wrong}))
        with pytest.raises(ValueError, match=message) as refused: go()
        assert "result.json" in str(refused.value)
    for text in ("", "null", "# a comment", "[NaN]"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"result\.json"): go()
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=r"result\.json is a folder"): go()
    file.rmdir()
    file.write_text(json.dumps(content))
    write_world(tmp_path / "data", seed=1)
    with pytest.raises(ValueError, match="another content of data"): go()


def test_two_comparisons_in_one_folder(world, tmp_path):
    from cmr.training import compare
    with hold(tmp_path / "out"), pytest.raises(ValueError, match="is being written to"):
        compare.compare([compare.Entry("vse", SHORT)], world, tmp_path / "out", **QUIET)


def test_a_comparison_that_is_stopped_names_its_own_command(world, tmp_path, monkeypatch):
    true, calls = loop.train_step, []
    def struck(*args):
        calls.append(1)
        if len(calls) == 2: os.kill(os.getpid(), signal.SIGINT)
        return true(*args)
    monkeypatch.setattr(loop, "train_step", struck)
    monkeypatch.setattr(sys, "argv", ["cmr", "compare", "vse", "--out", "my runs"])
    words = ("compare", "vse", "--data", world, "--epochs", 3, "--embed-dim", 8, "--device", "cpu", "--out", tmp_path / "out")
    text = said(*words, code=130)
    assert "stopped in vse, seed 0 (1 of 1), all saved; go on with the same command: cmr compare vse --out 'my runs'" in text
    assert "cmr train" not in text and "| vse |" in said(*words) and (tmp_path / "out" / "table.md").is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system lacks")
@pytest.mark.parametrize("at", [3, 9])
def test_a_comparison_that_is_killed_goes_on(at, world, tmp_path):
    "In its first row, and in its second one."
    from cmr.training import compare
    entries = [compare.Entry("vse", replace(SHORT, save_every=0.0)), compare.Entry("wide", replace(SHORT, args={"embed_dim": 9, "word_dim": 6}))]
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            true, calls = loop.train_step, []
            def killed(*args):
                calls.append(1)
                if len(calls) == at: os.kill(os.getpid(), signal.SIGKILL)
                return true(*args)
            loop.train_step = killed
            compare.compare(entries, world, tmp_path / "out", **QUIET)
        finally: os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "out" / "vse-seed0" / "result.json").is_file() == (at == 9)
    results, calm = (compare.compare(entries, world, tmp_path / name, **QUIET) for name in ("out", "calm"))
    assert [result["report"] for result in results] == [result["report"] for result in calm]
    assert not list((tmp_path / "out").rglob("*.part*")) and (tmp_path / "out" / "table.md").is_file()
