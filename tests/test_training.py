"""The training loop: resume to the same bits, refuse what cannot be, lose nothing."""

import copy
import csv
import json
import os
import signal
import warnings
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import RECIPE, SMALL, digests, equal, weights, write_world
from torch import nn

from cmr import losses
from cmr.data import Vocabulary, batches, open_split
from cmr.encoders import Fragments
from cmr.fast import encode_all
from cmr.losses import LOSSES, Loss, MatchingBCE, Triplet, register_loss, triplet
from cmr.matcher import MODELS, Matcher, register
from cmr.saving import load
from cmr.training import (
    COLUMNS,
    RECIPES,
    Recipe,
    Run,
    batch_scores,
    build,
    chance,
    change,
    checkpoints,
    curves,
    evaluate,
    for_model,
    learning_rate,
    loop,
    loss_for,
    make_accelerator,
    read_checkpoint,
    read_recipe,
    reading_ahead,
    resolve,
    restore,
    standardise_from,
    train,
    train_step,
    write_checkpoint,
)

# recipes

def test_recipes_hold_the_released_settings():
    f30k, coco = (resolve(RECIPES[name], build(replace(RECIPES[name], args=SMALL), 5, 9)) for name in ("imram-f30k", "imram-coco"))
    def settings(x): return x.lr, x.epochs, x.decay_every, x.batch_size, x.clip, x.margin, x.min_count
    assert settings(f30k) == (2e-4, 30, 15, 128, 2.0, 0.2, 4) and settings(coco) == (5e-4, 20, 10, 128, 2.0, 0.2, 4)
    assert (f30k.args["inverse_temperature"], coco.args["inverse_temperature"]) == (9.0, 11.0)
    assert all(
        recipe.args[key] == value for recipe in (f30k, coco) for key, value in (("embed_dim", 1024), ("word_dim", 300), ("steps", 3))
    )
    for recipe in (one for one in RECIPES.values() if not one.name.endswith(("-nce", "-base-first"))):  # those depart on purpose
        small = replace(recipe, args={**recipe.args, **SMALL})
        found = resolve(small, build(small, 5, 9))
        assert found.negatives == "hardest" and found.margin in (0.2, None) and recipe.decay == 0.1
        assert (recipe.optimiser, recipe.schedule, recipe.accumulate, recipe.weight_decay) == ("adam", "step", 1, 0)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("matcher", ["vse", "scan", "imram"])
def test_every_recipe_serves_every_matcher(name, matcher):
    recipe = for_model(RECIPES[name], matcher)
    small = replace(recipe, args={**recipe.args, **SMALL})
    assert type(build(small, 5, 9)).__name__.lower() == matcher
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe
    assert recipe.args["embed_dim"] == RECIPES[name].args["embed_dim"]


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"batch_size": 1}, "batch of one"),
        ({"negatives": "some"}, "negatives='some'"),
        ({"epochs": 0}, "epochs=0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"clip": -1}, "clip=-1"),
        ({"patience": 0}, "patience=0"),
        ({"margin": 0}, "margin=0"),
    ],
)
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message): replace(RECIPE, **setting)


def test_arguments_the_matcher_does_not_take_are_named():
    with pytest.raises(ValueError, match="vse takes no argument steps"): build(replace(RECIPE, args={"steps": 2}), 5, 9)
    with pytest.raises(ValueError, match="unknown model 'nobody'"): build(replace(RECIPE, matcher="nobody"), 5, 9)


def test_seed_decides_the_first_weights():
    first = build(RECIPE, 5, 9).state_dict()
    torch.rand(3)
    assert equal(first, build(RECIPE, 5, 9).state_dict())
    assert not equal(first, build(replace(RECIPE, seed=1), 5, 9).state_dict())


# the loop

def test_same_seed_same_weights_other_seed_other_weights(world, whole, tmp_path):
    train(RECIPE, world, tmp_path / "again", progress=False)
    assert equal(weights(whole[0]), weights(tmp_path / "again"))
    train(replace(RECIPE, seed=1), world, tmp_path / "other", progress=False)
    assert not equal(weights(whole[0]), weights(tmp_path / "other"))


def test_workers_change_nothing(world, whole, tmp_path):
    train(replace(RECIPE, epochs=1), world, tmp_path / "plain", progress=False)
    train(replace(RECIPE, epochs=1), world, tmp_path / "workers", workers=1, progress=False)
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "workers"))


@pytest.mark.parametrize("matcher, args", [("vse", {}), ("scan", {"direction": "image", "pooling": "lse"}), ("imram", {"steps": 2})])
def test_resume_gives_the_same_bits(matcher, args, world, tmp_path):
    recipe = replace(RECIPE, matcher=matcher, args={**SMALL, **args})
    result = train(recipe, world, tmp_path / "whole", progress=False)
    train(recipe, world, tmp_path / "parts", max_steps=1, progress=False)
    for stop in (5, 6, 8, 14): # inside an epoch, at its end (6 batches each), where the warm-up ends, after the decay
        assert train(recipe, world, tmp_path / "parts", resume=True, max_steps=stop, progress=False)["step"] == stop
    again = train(recipe, world, tmp_path / "parts", resume=True, progress=False)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    states = [read_checkpoint(tmp_path / name / "last" / "training.pt") for name in ("whole", "parts")]
    moments = [[x for entry in state["optimiser"]["state"].values() for x in entry.values()] for state in states]
    assert moments[0] and all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*moments))
    assert result["best"]["rsum"] == again["best"]["rsum"] and result["best_epoch"] == again["best_epoch"]
    rows = [
        [{key: value for key, value in row.items() if key not in ("seconds", "waiting")} for row in state["standing"]["rows"]]
        for state in states
    ]
    assert rows[0] == rows[1]
    best = [load(tmp_path / name / "best")[0].state_dict() for name in ("whole", "parts")]
    assert equal(*best)


def test_a_longer_run_may_go_on(world, tmp_path):
    train(replace(RECIPE, epochs=1), world, tmp_path / "grown", progress=False)
    train(RECIPE, world, tmp_path / "grown", resume=True, progress=False)
    train(RECIPE, world, tmp_path / "whole", progress=False)
    assert equal(weights(tmp_path / "grown"), weights(tmp_path / "whole"))


def test_resuming_a_finished_run_changes_nothing(world, tmp_path):
    train(RECIPE, world, tmp_path / "run", progress=False)
    before = weights(tmp_path / "run")
    assert train(RECIPE, world, tmp_path / "run", resume=True, progress=False)["stopped"] == "all epochs done"
    assert equal(before, weights(tmp_path / "run"))


def test_warm_up_uses_all_negatives_first(world, tmp_path, monkeypatch):
    seen, true = [], losses.triplet
    monkeypatch.setattr(
        losses, "triplet", lambda scores, margin, negatives, same: seen.append(negatives) or true(scores, margin, negatives, same)
    )
    train(replace(RECIPE, epochs=2), world, tmp_path / "run", progress=False)
    assert seen == ["hardest"] + ["all"] * 8 + ["hardest"] * 4  # the first one is the loss of equal scores


def test_gradient_is_clipped_and_learning_rate_decays(world, tmp_path, whole):
    run = Run(replace(RECIPE, clip=0.01), world, tmp_path, progress=False)
    train_step(run, [next(iter(batches(run.train, run.vocabulary, 7)))])
    length = torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm()
    assert length == pytest.approx(0.01, rel=1e-3)
    free = Run(replace(RECIPE, clip=0), world, tmp_path, progress=False)
    train_step(free, [next(iter(batches(run.train, run.vocabulary, 7)))])
    assert torch.cat([p.grad.flatten() for p in free.model.parameters()]).norm() > 0.1
    assert [row["lr"] for row in read_checkpoint(whole[0] / "last" / "training.pt")["standing"]["rows"]] == pytest.approx(
        [0.01, 0.01, 0.001]
    )
    assert learning_rate(RECIPE, 5) == pytest.approx(1e-4)


def test_early_stopping_keeps_the_best(world, tmp_path, monkeypatch):
    true, values, called = loop.evaluate, iter([50.0, 80.0, 80.0, 70.0, 90.0]), []
    def pretended(model, split, *args, **kwargs):
        result, scores = true(model, split, *args, **kwargs)
        called.append(replace(result, rsum=next(values)))
        return called[-1], scores
    monkeypatch.setattr(loop, "evaluate", pretended)
    result = train(replace(RECIPE, epochs=9, patience=2), world, tmp_path / "run", progress=False)
    assert (result["epochs"], result["best_epoch"], result["stopped"]) == (4, 2, "no better R@sum for 2 epochs")
    assert [row["rsum"] for row in read_checkpoint(tmp_path / "run/last/training.pt")["standing"]["rows"]] == [
        found.rsum for found in called
    ]
    monkeypatch.undo()
    train(replace(RECIPE, epochs=2), world, tmp_path / "two", progress=False)
    assert equal(load(tmp_path / "run" / "best")[0].state_dict(), weights(tmp_path / "two"))


def test_batches_of_one_image_are_passed_over(tmp_path):
    write_world(tmp_path / "data", train=2)
    split = open_split(tmp_path / "data", "train")
    words = Vocabulary.build(split.captions, min_count=1)
    mixed = [not batch.same_image.all() for epoch in range(9) for batch in batches(split, words, 2, seed=1, epoch=epoch)]
    assert 0 < sum(mixed) < len(mixed) == 18
    assert train(replace(RECIPE, batch_size=2, epochs=9, seed=1), tmp_path / "data", tmp_path / "run", progress=False)["step"] == sum(mixed)


def test_bf16_on_request(world, tmp_path):
    result = train(replace(RECIPE, epochs=1), world, tmp_path / "run", precision="bf16", progress=False)
    assert np.isfinite(result["best"]["loss"])
    assert all(x.dtype == torch.float32 for x in weights(tmp_path / "run").values())
    train(replace(RECIPE, epochs=1), world, tmp_path / "full", progress=False)
    assert not equal(weights(tmp_path / "run"), weights(tmp_path / "full"))


@pytest.mark.parametrize("matcher", ["vse", "scan", "imram"])
def test_scores_and_loss_are_float32_under_bf16(matcher, world, tmp_path):
    run = Run(replace(RECIPE, matcher=matcher, args=SMALL), world, tmp_path, "cpu", "bf16", progress=False)
    batch = next(iter(run.loader()))
    with run.accelerator.autocast():
        scores, same_image = batch_scores(run.model, batch)
        assert run.model.encode_images(batch.features, batch.mask).values.dtype == torch.bfloat16
    assert scores.dtype == triplet(scores, same_image=same_image).dtype == torch.float32
    make_accelerator("cpu")


def test_waiting_for_data_is_noted(world, tmp_path, monkeypatch):
    "With a clock that only the test moves: a second for each batch that is read, a quarter for each step."
    true, step, now = checkpoints.batches, loop.train_step, [0.0]
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                now[0] += 1
                yield batch
    def quarter(*args):
        now[0] += 0.25
        return step(*args)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "train_step", quarter)
    quick = train(replace(RECIPE, epochs=1), world, tmp_path / "quick", progress=False)
    assert (quick["waiting"], quick["seconds"]) == (0, 1.5)
    monkeypatch.setattr(checkpoints, "batches", lambda *args, **settings: Slow(true(*args, **settings)))
    slow = train(replace(RECIPE, epochs=1), world, tmp_path / "slow", progress=False)
    assert (slow["waiting"], slow["seconds"]) == (0.8, 7.5)
    assert read_checkpoint(tmp_path / "slow" / "last" / "training.pt")["standing"]["rows"][0]["waiting"] == 0.8


def test_runs_from_before_waiting_was_noted_go_on(world, whole, tmp_path):
    train(RECIPE, world, tmp_path / "old", max_steps=8, progress=False)
    path = tmp_path / "old" / "last" / "training.pt"
    state = read_checkpoint(path)
    del state["standing"]["waiting"], state["standing"]["rows"][0]["waiting"]
    torch.save(state, path)
    train(RECIPE, world, tmp_path / "old", resume=True, progress=False)
    rows = list(csv.DictReader((tmp_path / "old" / "metrics.csv").open(encoding="utf-8")))
    assert rows[0]["waiting"] == "" and 0 <= float(rows[1]["waiting"]) <= 1
    assert equal(weights(tmp_path / "old"), weights(whole[0]))


def test_reading_ahead_by_default(monkeypatch):
    assert reading_ahead("cpu") == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert reading_ahead("cuda") == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert reading_ahead("cuda") == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert reading_ahead("cuda") == 0


# what is left behind

def test_a_run_leaves_everything(whole, world):
    out, result = whole
    files = set(digests(out))
    assert {f"{a}/{b}" for a in ("best", "last") for b in ("config.json", "model.safetensors", "vocab.json")} <= files
    assert {"last/training.pt", "metrics.csv", "curves.png", "recipe.json"} <= files
    assert not [name for name in files if "part" in name]
    rows = list(csv.DictReader((out / "metrics.csv").open(encoding="utf-8")))
    assert tuple(rows[0]) == (*COLUMNS, "hit_rate", "interaction") and [row["epoch"] for row in rows] == ["1", "2", "3"] and rows[-1]["step"] == "18"
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert read_recipe(out) == (RECIPE, world)
    json.dumps(result)


def test_tensorboard_has_each_step_once_after_a_resume(world, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    train(RECIPE, world, tmp_path / "run", max_steps=8, progress=False)
    train(RECIPE, world, tmp_path / "run", resume=True, progress=False)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [point.step for point in events.Scalars("loss/step")] == list(range(1, 19))
    assert [point.step for point in events.Scalars("epoch/rsum")] == [6, 12, 18]


def test_the_best_model_loads_and_scores_what_was_noted(whole, world):
    out, result = whole
    model, vocabulary = load(out / "best")
    assert evaluate(model, open_split(world, "dev"), vocabulary, progress=False)[0].rsum == pytest.approx(result["best"]["rsum"])
    assert equal(Matcher.from_pretrained(out / "best").state_dict(), model.state_dict())


def test_regions_are_standardised(world, tmp_path):
    run = Run(RECIPE, world, tmp_path, progress=False)
    checkpoints.begin(run)
    regions = torch.cat([torch.from_numpy(run.train.regions(i)) for i in range(run.train.n_images)])
    assert torch.allclose(run.model.image_encoder.shift, regions.mean(0), atol=1e-4)
    assert torch.allclose(run.model.image_encoder.scale, regions.std(0, correction=0), atol=1e-4)


def test_curves_survive_one_epoch_and_zero_loss():
    row = dict.fromkeys(COLUMNS, 0.0)
    assert len(curves([{**row, "epoch": 1}]).axes) == 2
    assert len(curves([{**row, "epoch": 1, "loss": 9.0}, {**row, "epoch": 2}]).axes) == 2


# refusals

def test_a_folder_with_a_run_is_left_alone(world, tmp_path):
    train(replace(RECIPE, epochs=1), world, tmp_path / "run", progress=False)
    before = digests(tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"): train(RECIPE, world, tmp_path / "run", progress=False)
    assert digests(tmp_path / "run") == before


def test_a_file_is_no_folder(world, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"): train(RECIPE, world, tmp_path / "run", progress=False)
    assert (tmp_path / "run").read_text() == "mine"


def test_resume_refuses_another_recipe_or_other_data(world, tmp_path):
    train(RECIPE, world, tmp_path / "run", max_steps=2, progress=False)
    before = digests(tmp_path / "run")
    with pytest.raises(ValueError, match=r"another recipe: lr was 0.01, now 0.5"):
        train(replace(RECIPE, lr=0.5), world, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(ValueError, match="matcher was 'vse', now 'scan'"):
        train(replace(RECIPE, matcher="scan"), world, tmp_path / "run", resume=True, progress=False)
    for how in ({"train": 21}, {"width": 7}, {"seed": 1}):
        other = write_world(tmp_path / str(how), **how)
        with pytest.raises(ValueError, match="other data"): train(RECIPE, other, tmp_path / "run", resume=True, progress=False)
    assert digests(tmp_path / "run") == before


def test_resume_needs_a_checkpoint_that_is_whole(world, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"): train(RECIPE, world, tmp_path / "run", resume=True, progress=False)
    assert not (tmp_path / "run").exists()
    train(RECIPE, world, tmp_path / "run", max_steps=2, progress=False)
    path = tmp_path / "run" / "last" / "training.pt"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"training\.pt is .*it is damaged"): train(RECIPE, world, tmp_path / "run", resume=True, progress=False)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self): return (open, (str(tmp_path / "sprung"), "w"))
    torch.save({"weights": Trap()}, tmp_path / "training.pt")
    with pytest.raises(ValueError, match=r"training\.pt"): read_checkpoint(tmp_path / "training.pt")
    assert not (tmp_path / "sprung").exists()


def test_one_image_teaches_nothing(tmp_path):
    write_world(tmp_path / "data", train=1)
    with pytest.raises(ValueError, match=r"train\.h5 has one image only"):
        train(RECIPE, tmp_path / "data", tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_splits_of_two_widths_do_not_fit(tmp_path):
    write_world(tmp_path / "data")
    (write_world(tmp_path / "other", width=7) / "dev.h5").replace(tmp_path / "data" / "dev.h5")
    with pytest.raises(ValueError, match=r"regions of 6 numbers.*dev\.h5 of 7"):
        train(RECIPE, tmp_path / "data", tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "device, precision, message", [("tpu", None, "device='tpu'"), ("cpu", "int4", "precision='int4'"), ("cpu", "tf32", "Ampere")]
)
def test_unknown_device_or_precision(device, precision, message):
    with pytest.raises(ValueError, match=message): make_accelerator(device, precision)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_said_plainly():
    with pytest.raises(ValueError, match="no CUDA GPU"): make_accelerator("cuda")
    assert make_accelerator().device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_tf32_only_on_request(world, tmp_path):
    for precision, switch in (("tf32", "high"), (None, "highest"), ("tf32", "high"), ("bf16", "highest")):
        make_accelerator("cuda", precision)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (switch, switch == "high")
    assert np.isfinite(
        train(replace(RECIPE, epochs=1), world, tmp_path / "run", device="cuda", precision="tf32", progress=False)["best"]["loss"]
    )
    make_accelerator()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_resume_gives_the_same_bits_on_a_gpu(world, tmp_path):
    recipe = replace(RECIPE, matcher="imram", args=SMALL)
    train(recipe, world, tmp_path / "whole", device="cuda", progress=False)
    train(recipe, world, tmp_path / "parts", device="cuda", max_steps=8, progress=False)
    train(recipe, world, tmp_path / "parts", device="cuda", resume=True, progress=False)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


# things that go wrong on the way

def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(world, tmp_path, monkeypatch):
    true, calls = losses.triplet, []
    def later_nan(*args):
        calls.append(1)
        return true(*args) * (float("nan") if len(calls) == 6 else 1)  # the first one is the loss of equal scores
    monkeypatch.setattr(losses, "triplet", later_nan)
    with pytest.raises(ValueError, match=r"step 5: loss nan.*lr=0.01.*kept in"):
        train(replace(RECIPE, save_every=0), world, tmp_path / "run", progress=False)
    monkeypatch.undo()
    state = read_checkpoint(tmp_path / "run" / "last" / "training.pt")
    assert state["standing"]["step"] == 4 and all(x.isfinite().all() for x in state["weights"].values())


def test_infinite_features_stop_before_the_weights_change(world, tmp_path):
    run = Run(RECIPE, world, tmp_path, progress=False)
    batch = next(iter(batches(run.train, run.vocabulary, 7)))
    before = {key: x.clone() for key, x in run.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"step 1, .*train\.h5"): train_step(run, [replace(batch, features=batch.features * float("inf"))])
    assert equal(before, run.model.state_dict())


def test_ctrl_c_saves_and_says_how_to_go_on(world, whole, tmp_path, monkeypatch):
    true, calls = loop.train_step, []
    def pressed(*args):
        calls.append(1)
        if len(calls) == 8: os.kill(os.getpid(), signal.SIGINT)
        return true(*args)
    monkeypatch.setattr(loop, "train_step", pressed)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 8.*--resume"): train(RECIPE, world, tmp_path / "run", progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    train(RECIPE, world, tmp_path / "run", resume=True, progress=False)
    assert equal(weights(tmp_path / "run"), weights(whole[0]))


def test_a_full_disk_leaves_the_checkpoint_whole(world, tmp_path):
    resource = pytest.importorskip("resource")
    run = Run(RECIPE, world, tmp_path, progress=False)
    write_checkpoint(run)
    before, limit = digests(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    train_step(run, [next(iter(batches(run.train, run.vocabulary, 7)))])
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"training\.pt.*still whole"): write_checkpoint(run)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert digests(tmp_path) == before
    restore(run)


# evaluation

@pytest.fixture(scope="module")
def trained(whole, world):
    model, vocabulary = load(whole[0] / "best")
    return model, vocabulary, open_split(world, "test")


def test_evaluation_agrees_with_scoring_at_once_whatever_the_bound(trained):
    model, vocabulary, split = copy.deepcopy(trained[0]).double(), *trained[1:]
    images, captions = encode_all(model, split, vocabulary, progress=False)
    with torch.no_grad(): scores = model.score(images, captions)
    for bound in (None, 2_000, 8_000):
        assert torch.allclose(evaluate(model, split, vocabulary, max_bytes=bound, progress=False)[1], scores, atol=1e-10)
    with pytest.raises(ValueError, match="max_bytes"): evaluate(model, split, vocabulary, max_bytes=8, progress=False)


def test_folds_are_means_of_parts(trained):
    model, vocabulary, split = trained
    assert evaluate(model, split, vocabulary, folds=6, progress=False)[0].rsum == pytest.approx(600)
    with pytest.raises(ValueError, match="4 folds"): evaluate(model, split, vocabulary, folds=4, progress=False)


def test_foreign_data_is_named(trained, tmp_path):
    model, vocabulary, split = trained
    with pytest.raises(ValueError, match=r"test\.h5 has regions of 9 numbers.*trained on 6"):
        evaluate(model, open_split(write_world(tmp_path, width=9), "test"), vocabulary, progress=False)
    with pytest.raises(ValueError, match=r"test\.h5.*another data set"):
        evaluate(model, split, Vocabulary([f"mot{i}" for i in range(len(vocabulary) - 4)]), progress=False)


def test_chance_is_what_random_scores_reach(world):
    from cmr.recall import report
    split, rng = open_split(world, "train"), np.random.default_rng(0)
    drawn = [report(rng.normal(size=(split.n_images, len(split))), split.image_of_caption).rsum for _ in range(300)]
    assert np.mean(drawn) == pytest.approx(chance(split), abs=3 * np.std(drawn) / len(drawn) ** 0.5)


def test_finished_says_why(world, tmp_path):
    run = Run(replace(RECIPE, epochs=5, patience=2), world, tmp_path, progress=False)
    assert loop.finished(run) is None
    run.at.epoch, run.at.best_epoch = 3, 1
    assert loop.finished(run) == "no better R@sum for 2 epochs"
    run.at.epoch = 5
    assert loop.finished(run) == "all epochs done"


# what a recipe leaves to the model, and what it says itself

@pytest.mark.parametrize("name, limit", [("vse", None), ("camp", 50)])
def test_the_vocabulary_alone_cuts_captions(name, limit, world, tmp_path):
    "A recipe's 80 is 80 words, also for CAMP, whose paper cuts at 50."
    recipe = Recipe("long", name, SMALL, batch_size=8, min_count=1)
    assert Run(recipe, world, tmp_path, progress=False).vocabulary.max_words == limit
    run = Run(replace(recipe, max_words=80), world, tmp_path, progress=False)
    assert run.vocabulary.max_words == 80 and run.model.vocabulary is run.vocabulary
    short, long = ("a red dog runs " * n for n in (14, 17))                             # 56 and 68 words
    tokens = [torch.tensor([run.vocabulary.encode(caption)]) for caption in (short, long)]
    assert [x.shape[1] for x in tokens] == [56, 68]
    with torch.no_grad(): sides = [run.model.encode_captions(x, torch.tensor([x.shape[1]])) for x in tokens]
    assert [x.mask.shape[1] for x in sides] == ([1, 1] if name == "vse" else [56, 68])
    cut = Run(replace(recipe, max_words=3), world, tmp_path, progress=False)
    assert cut.vocabulary.max_words == 3 and len(cut.vocabulary.encode(short)) == 3


def test_the_loss_is_the_models_own_or_the_recipes():
    def loss(name, args=SMALL, **settings): return loss_for(build(recipe := Recipe("x", name, args, **settings), 5, 9), recipe)
    assert loss("vse") == Triplet(0.2, "hardest") and loss("devise") == Triplet(0.1, "all") and loss("camp") == MatchingBCE("hardest")
    assert loss("vse", margin=0.3) == Triplet(0.3, "hardest") and loss("devise", negatives="hardest") == Triplet(0.1, "hardest")
    assert loss("camp", loss="triplet", margin=0.3, loss_args={"of": "probability"}) == Triplet(0.3, "hardest", "probability")
    with pytest.warns(UserWarning, match="margin=0.3 changes nothing: the loss MatchingBCE has no margin"):
        assert loss("camp", margin=0.3) == MatchingBCE()
    for objective, other in (("ranking", "matching_bce"), ("bce-all", "matching_bce"), ("bce", "triplet")):  # who asked for it must not wonder
        with pytest.warns(UserWarning, match=f"objective={objective} changes nothing: the recipe names the loss {other}"):
            loss("camp", loss=other, args={**SMALL, "objective": objective})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = Recipe("x", "camp", {**SMALL, "objective": "bce-all"})
        loss_for(build(recipe, 5, 9), resolve(recipe, build(recipe, 5, 9)))                              # what a run notes of itself says the same twice
    with pytest.raises(ValueError, match="has no off: it has margin, negatives, of"): loss("vse", loss_args={"off": 1})
    with pytest.raises(ValueError, match="has no off"): loss("vse", loss="triplet", loss_args={"off": 1})
    with pytest.raises(ValueError, match="unknown loss 'hinge': choose one of"): loss("vse", loss="hinge")


@pytest.fixture
def softer():
    "A loss of one's own, known while the test runs."
    from dataclasses import dataclass
    @register_loss("softer")
    @dataclass(frozen=True)
    class Softer(Loss):
        "Cross-entropy over each row and column."
        sharpness: float = 1.0
        def __call__(self, scores, same_image=None):
            right = torch.arange(len(scores), device=scores.device)
            return sum(nn.functional.cross_entropy(self.sharpness * x, right, reduction="sum") for x in (scores, scores.T))
    yield Softer
    del LOSSES["softer"]


def test_a_loss_of_ones_own_trains(world, whole, tmp_path, softer):
    recipe = change(RECIPE, {"loss": "softer", "sharpness": "5"})
    assert recipe.loss_args == {"sharpness": 5} and loss_for(build(recipe, 5, 9), recipe) == softer(5)
    result = train(recipe, world, tmp_path / "run", progress=False)
    assert np.isfinite(result["best"]["loss"]) and not equal(weights(tmp_path / "run"), weights(whole[0]))
    assert read_recipe(tmp_path / "run")[0] == recipe
    assert softer().standstill(8) == pytest.approx(2 * np.log(8))


def test_another_optimiser_takes_other_steps(world, whole, tmp_path):
    ends = {}
    for name, settings in {
        "adamw": {"optimiser": "adamw", "weight_decay": 0.0},
        "decaying": {"optimiser": "adamw", "weight_decay": 0.5},
    }.items():
        train(replace(RECIPE, **settings), world, tmp_path / name, progress=False)
        ends[name] = weights(tmp_path / name)
    assert equal(ends["adamw"], weights(whole[0]))                                       # without decay the two are one
    length = {name: sum(x.double().pow(2).sum() for x in end.values()) for name, end in ends.items()}
    assert length["decaying"] < length["adamw"]
    for bad, message in (({"optimiser": "sgd"}, 'optimiser=\'sgd\': choose "adam" or "adamw"'), ({"weight_decay": -1}, "weight_decay=-1"),
                         ({"accumulate": 0}, "accumulate=0"), ({"schedule": "zigzag"}, "schedule='zigzag'")):
        with pytest.raises(ValueError, match=message): replace(RECIPE, **bad)


# several batches for one step

@register
class Noisy(Matcher):
    "A model with encoders of its own, none of them called as those of the package, and a random element."
    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 8, word_dim: int = 4, drop: float = 0.2):
        super().__init__()
        self.look, self.read, self.drop = nn.Linear(region_dim, embed_dim), nn.EmbeddingBag(vocab_size, embed_dim), nn.Dropout(drop)

    def encode_images(self, features, mask=None):
        if mask is None: mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        return Fragments(self.drop(self.look(features)) * mask[..., None], mask)

    def encode_captions(self, tokens, lengths):
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None].to(tokens.device)
        words = self.read(tokens.reshape(-1, 1)).view(*tokens.shape, -1)
        return Fragments(words * mask[..., None], mask)

    def score(self, images, captions):
        found = torch.einsum("imd,cnd->icmn", images.values, captions.values).amax(2)
        return (found * captions.mask).sum(2) / captions.lengths


del MODELS["noisy"]                                                                     # the other tests shall not see it
GROUPED = replace(
    RECIPE,
    matcher="noisy",
    args={},
    accumulate=4,
    optimiser="adamw",
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=2,
    standardise=False,
)


@pytest.fixture
def noisy(monkeypatch): monkeypatch.setitem(MODELS, "noisy", Noisy)


def test_a_group_has_the_gradient_of_its_batches(world, tmp_path, noisy):
    run = Run(replace(GROUPED, args={"drop": 0.0}, clip=0), world, tmp_path, progress=False)
    run.model.double()
    group = [replace(batch, features=batch.features.double()) for batch in run.loader()][:3]
    expected = [torch.zeros_like(p) for p in run.model.parameters()]
    losses_seen = []
    for batch in group:
        scores, same = batch_scores(run.model, batch, engine=False)
        loss = run.loss.warm_up(scores, same)
        losses_seen.append(loss.item())
        expected = [a + b for a, b in zip(expected, torch.autograd.grad(loss, list(run.model.parameters())))]
    assert train_step(run, group) == pytest.approx(sum(losses_seen), rel=1e-12)
    for p, gradient in zip(run.model.parameters(), expected): assert torch.allclose(p.grad, gradient, rtol=1e-9, atol=1e-12)


def test_groups_count_as_steps_and_an_epoch_ends_one(world, tmp_path, noisy):
    "6 batches an epoch, 4 for a step: two steps an epoch, the second of two batches."
    seen, true = [], loop.train_step
    def watched(run, group):
        seen.append([len(batch) for batch in group])
        return true(run, group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", watched)
        result = train(GROUPED, world, tmp_path / "run", progress=False)
    assert result["step"] == 6 and seen == [[7, 7, 7, 7], [7, 5]] * 3
    rows = read_checkpoint(tmp_path / "run/last/training.pt")["standing"]["rows"]
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.0075, 0.0025])          # where the epochs begin


def test_resuming_groups_gives_the_same_bits(world, tmp_path, noisy):
    "Also with a random element, AdamW and a cosine: after every step, and where Ctrl-C came in the middle of a group."
    train(GROUPED, world, tmp_path / "whole", progress=False)
    train(GROUPED, world, tmp_path / "parts", max_steps=1, progress=False)
    for stop in (2, 3, 5): assert train(GROUPED, world, tmp_path / "parts", resume=True, max_steps=stop, progress=False)["step"] == stop
    true, calls = loop.batch_loss, []
    def pressed(*args):
        calls.append(1)
        if len(calls) == 2: os.kill(os.getpid(), signal.SIGINT)
        return true(*args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "batch_loss", pressed)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 1"): train(GROUPED, world, tmp_path / "stopped", progress=False)
    for name in ("parts", "stopped"):
        train(GROUPED, world, tmp_path / name, resume=True, progress=False)
        states = [read_checkpoint(tmp_path / folder / "last" / "training.pt") for folder in ("whole", name)]
        assert equal(states[0]["weights"], states[1]["weights"])
        moments = [[x for entry in state["optimiser"]["state"].values() for x in entry.values()] for state in states]
        assert moments[0] and all(torch.equal(a, b) for a, b in zip(*moments))


def test_a_group_that_was_interrupted_is_done_again(world, tmp_path, noisy):
    "A process that dies between two batches of a group: its last checkpoint is of the step before."
    true, calls = loop.batch_loss, []
    def dying(*args):
        calls.append(1)
        if len(calls) == 10: raise MemoryError("no room")                                # the fourth of the second epoch's first group
        return true(*args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "batch_loss", dying)
        with pytest.raises(MemoryError): train(replace(GROUPED, save_every=0), world, tmp_path / "run", progress=False)
    standing = read_checkpoint(tmp_path / "run/last/training.pt")["standing"]
    assert (standing["step"], standing["epoch"], standing["batch"]) == (2, 1, 0)
    train(GROUPED, world, tmp_path / "run", resume=True, progress=False)
    train(GROUPED, world, tmp_path / "whole", progress=False)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_cosine_cannot_be_made_longer(world, tmp_path, noisy):
    train(GROUPED, world, tmp_path / "run", max_steps=1, progress=False)
    with pytest.raises(ValueError, match="epochs was 3, now 5"):
        train(replace(GROUPED, epochs=5), world, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(ValueError, match="accumulate was 4, now 2"):
        train(replace(GROUPED, accumulate=2), world, tmp_path / "run", resume=True, progress=False)


# models of one's own

def test_a_model_with_encoders_of_its_own_trains(world, tmp_path, noisy):
    with pytest.warns(UserWarning, match="Noisy has no image_encoder.standardise: regions are taken as they are"):
        result = train(replace(GROUPED, standardise=True), world, tmp_path / "run", progress=False)
    model, vocabulary = load(tmp_path / "run/best")
    assert type(model) is Noisy and model.vocabulary == vocabulary
    assert evaluate(model, open_split(world, "dev"), vocabulary, progress=False)[0].rsum == result["best"]["rsum"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        standardise_from(build(RECIPE, 6, 9), open_split(world, "train"), progress=False)


def test_what_is_observed_is_noted(world, tmp_path, noisy, monkeypatch):
    seen = []
    def length(model, images, captions, image_of_caption):
        seen.append((len(images), len(captions), image_of_caption.tolist(), torch.is_grad_enabled(), model.training))
        return {"mean_length": float(images.values.norm(dim=-1).mean())}
    registry = loop.observe.register(Noisy, length)
    assert registry is length
    try: train(replace(GROUPED, epochs=1), world, tmp_path / "run", progress=False)
    finally: loop.observe.register(Noisy, loop.observe.dispatch(Matcher))
    assert seen == [(6, 12, np.arange(6).repeat(2).tolist(), False, False)]
    with open(tmp_path / "run/metrics.csv", newline="") as file: row, = csv.DictReader(file)
    assert float(row["mean_length"]) > 0


def test_the_engine_is_a_choice_of_the_run(world, tmp_path, monkeypatch):
    seen, scores, everything = [], loop.training_scores, loop.score_all
    monkeypatch.setattr(loop, "training_scores", lambda *args: seen.append(args[3]) or scores(*args))
    monkeypatch.setattr(loop, "score_all", lambda *args: seen.append(args[6]) or everything(*args))
    recipe = replace(RECIPE, matcher="imram", args=SMALL, epochs=1)
    for engine in (True, False):
        train(recipe, world, tmp_path / str(engine), max_steps=None, progress=False, engine=engine)
        assert seen == [engine] * 7
        seen.clear()
    assert read_recipe(tmp_path / "False")[0] == recipe
    run = Run(recipe, world, tmp_path, progress=False)
    run.model.double()
    batch = next(iter(run.loader()))
    batch = replace(batch, features=batch.features.double())
    monkeypatch.undo()
    assert torch.allclose(*(batch_scores(run.model, batch, engine)[0] for engine in (True, False)), atol=1e-12)


# settings by name

def test_settings_go_to_recipe_loss_or_model():
    recipe = change(
        RECIPES["scenes"],
        {
            "margin": "0.3",
            "clip": "1",
            "patience": "2",
            "word_dim": "32",
            "of": "probability",
            "memory": "gate",
            "frozen": '["text_encoder"]',
            "marks": "True",
            "decays": "null",
        },
    )
    assert (recipe.margin, recipe.clip, recipe.patience, recipe.frozen, recipe.marks, recipe.decays) == (
        0.3,
        1,
        2,
        ["text_encoder"],
        True,
        None,
    )
    assert recipe.loss_args == {"of": "probability"} and recipe.args == {**RECIPES["scenes"].args, "word_dim": 32, "memory": "gate"}
    assert change(RECIPE, {"name": "3"}).name == "3" and change(RECIPE, {}) == RECIPE
    named = change(Recipe("x", "camp"), {"of": "probability", "loss": "triplet", "gates": "false"})
    assert (named.loss, named.loss_args, named.args) == ("triplet", {"of": "probability"}, {"gates": False})


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"stepz": "2"},
            r"no setting stepz: the recipe has name, .*region_dropout; the loss Triplet has margin, negatives, of; vse has embed_dim, word_dim",
        ),
        ({"epochs": "many"}, "epochs=many: int is expected"),
        ({"epochs": "2.5"}, "epochs=2.5: int"),
        ({"marks": "1"}, "marks=1: bool"),
        ({"epochs": "true"}, "epochs=true: int"),
        ({"lr": "fast"}, "lr=fast: float"),
        ({"word_dim": "wide"}, "word_dim=wide: int"),
        ({"frozen": "text_encoder"}, "frozen=text_encoder: list"),
        ({"margin": "0"}, "margin=0 must be above 0"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"args": "{}"}, "no setting args"),
        ({"matcher": "scan"}, "no setting matcher"),
    ],
)
def test_settings_that_are_not_there_or_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message): loss_for(build(RECIPE, 5, 9), change(RECIPE, settings))


def test_settings_reach_every_stage_that_has_them():
    recipe = change(
        RECIPES["camp-f8k-small-released"], {"margin": "0.4", "seed": "3", "name": "mine", "of": "probability"} | {"loss": "triplet"}
    )
    stages = [recipe, recipe.after, recipe.after.after]
    assert [(stage.margin, stage.seed, stage.loss_args) for stage in stages] == [(0.4, 3, {"of": "probability"})] * 3
    assert [stage.name for stage in stages] == ["mine", "camp-f8k-small-fusion", "camp-f8k-small-attention"]
    assert [stage.lr for stage in stages] == [stage.lr for stage in (RECIPES["camp-f8k-small-released"], *[recipe.after] * 2)]


# recipes and runs of older versions

OLD = {
    "name": "tiny",
    "matcher": "vse",
    "args": {"embed_dim": 8, "word_dim": 6},
    "epochs": 3,
    "batch_size": 7,
    "lr": 0.01,
    "decay_every": 2,
    "decay": 0.1,
    "decays": None,
    "clip": 2.0,
    "margin": 0.2,
    "negatives": "hardest",
    "warmup_steps": 8,
    "min_count": 1,
    "marks": False,
    "max_words": None,
    "standardise": True,
    "patience": None,
    "seed": 0,
    "save_every": 10.0,
    "frozen": [],
    "after": None,
}  # as it was written before a recipe could name a loss


def test_a_run_of_an_older_version_goes_on(world, whole, tmp_path):
    train(RECIPE, world, tmp_path / "old", max_steps=8, progress=False)
    path = tmp_path / "old/last/training.pt"
    torch.save({**read_checkpoint(path), "recipe": OLD}, path)
    (tmp_path / "old/recipe.json").write_text(json.dumps({**OLD, "data": str(world)}))
    recipe, data = read_recipe(tmp_path / "old")
    assert recipe == RECIPE and data == world
    train(recipe, data, tmp_path / "old", resume=True, progress=False)
    assert equal(weights(tmp_path / "old"), weights(whole[0]))


@pytest.mark.parametrize(
    "matcher, settings, expected",
    [
        ("imram", {"args": {**SMALL, "engine": False}}, {"margin": 0.2, "negatives": "hardest", "max_words": None}),
        ("devise", {"margin": 0.1}, {"margin": 0.1, "negatives": "all"}),
        ("devise", {}, {"margin": 0.2, "negatives": "all"}),  # it took all, whatever was said
        ("pvse", {"margin": 0.1, "negatives": "all"}, {"margin": 0.1, "negatives": "all"}),
        ("cmpm", {}, {"loss": "projection_matching"}),
        ("camp", {"warmup_steps": 0}, {"loss": "matching_bce", "negatives": "hardest", "warmup_steps": 0, "max_words": 50}),
        ("camp", {"args": {**SMALL, "objective": "bce-all", "max_words": 9}}, {"loss": "matching_bce", "negatives": "all", "max_words": 9}),
        (
            "camp",
            {"args": {**SMALL, "objective": "ranking", "max_words": None}, "max_words": 30},
            {"loss": "triplet", "margin": 0.2, "max_words": 30},
        ),
        ("camp", {"args": {**SMALL, "max_words": 40}, "max_words": 30}, {"max_words": 30}),
    ],
)
def test_recipes_of_an_older_version_mean_what_they_meant(matcher, settings, expected, tmp_path):
    (tmp_path / "recipe.json").write_text(
        json.dumps({**OLD, "matcher": matcher, **settings, "data": "d", "after": {**OLD, "matcher": matcher, **settings}})
    )
    recipe, _ = read_recipe(tmp_path)
    for stage in (recipe, recipe.after):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing that an old recipe says is noted as useless
            found = asdict(resolve(stage, build(stage, 5, 9)))
            loss_for(build(stage, 5, 9), stage)
        assert {key: found[key] for key in expected} == expected
    assert {one.name for one in fields(Recipe)} >= OLD.keys()
