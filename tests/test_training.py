"""The training loop: resume to the same bits, refuse what cannot be, lose nothing."""

import csv
import hashlib
import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmr import matcher, training
from cmr.captions import Vocabulary
from cmr.losses import triplet
from cmr.data import batches, open_split, write_split
from cmr.matcher import Matcher, encode_all, load
from cmr.training import (
    COLUMNS,
    RECIPES,
    Recipe,
    Run,
    batch_scores,
    build,
    chance,
    curves,
    evaluate,
    finished,
    for_matcher,
    make_accelerator,
    read_checkpoint,
    read_recipe,
    reading_ahead,
    restore,
    step_size,
    train,
    train_step,
    write_checkpoint,
)

SMALL = {"embed_dim": 8, "word_dim": 6}
RECIPE = Recipe("tiny", "vse", SMALL, epochs=3, batch_size=7, lr=0.01, decay_every=2, warmup_steps=8, min_count=1, standardise=True)


def write_world(folder: Path, train: int = 20, dev: int = 6, width: int = 6, seed: int = 0) -> Path:
    "A data folder with random regions and captions of four words, two an image."
    rng = np.random.default_rng(seed)
    for split, n in (("train", train), ("dev", dev), ("test", dev)):
        captions = [f"a {a} {b} {c}" for a, b, c in zip(rng.choice(["red", "blue", "green"], 2 * n), rng.choice(["dog", "cat", "bird"], 2 * n),
                                                       rng.choice(["runs", "sits"], 2 * n))]
        write_split(folder / f"{split}.h5", rng.normal(1, 3, (n, 4, width)).astype("float32"), captions, np.arange(n).repeat(2))
    return folder


def digests(folder: Path) -> dict:
    "What every file of a folder holds."
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def weights(out: Path) -> dict: return read_checkpoint(out / "last" / "training.pt")["weights"]


@pytest.fixture(scope="module")
def world(tmp_path_factory): return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    "An uninterrupted run."
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, train(RECIPE, world, out, progress=False)


# recipes

def test_recipes_hold_the_released_settings():
    f30k, coco = RECIPES["imram-f30k"], RECIPES["imram-coco"]
    assert (f30k.lr, f30k.epochs, f30k.decay_every, f30k.batch_size, f30k.clip, f30k.margin, f30k.min_count) == (2e-4, 30, 15, 128, 2.0, 0.2, 4)
    assert (coco.lr, coco.epochs, coco.decay_every, coco.batch_size, coco.clip, coco.margin, coco.min_count) == (5e-4, 20, 10, 128, 2.0, 0.2, 4)
    assert (f30k.args["inverse_temperature"], coco.args["inverse_temperature"]) == (9.0, 11.0)
    assert all(recipe.args[key] == value for recipe in (f30k, coco) for key, value in (("embed_dim", 1024), ("word_dim", 300), ("steps", 3)))
    assert all(recipe.negatives == "hardest" and recipe.decay == 0.1 for recipe in RECIPES.values())


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("matcher", ["vse", "scan", "imram"])
def test_every_recipe_serves_every_matcher(name, matcher):
    recipe = for_matcher(RECIPES[name], matcher)
    small = replace(recipe, args={**recipe.args, **SMALL})
    assert type(build(small, 5, 9)).__name__.lower() == matcher
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe
    assert recipe.args["embed_dim"] == RECIPES[name].args["embed_dim"]


@pytest.mark.parametrize("setting, message", [({"batch_size": 1}, "batch of one"), ({"negatives": "some"}, "negatives='some'"), ({"epochs": 0}, "epochs=0"),
                                              ({"lr": -1.0}, "lr=-1.0"), ({"clip": -1}, "clip=-1"), ({"patience": 0}, "patience=0"), ({"margin": 0}, "margin=0")])
def test_impossible_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message): replace(RECIPE, **setting)


def test_arguments_the_matcher_does_not_take_are_named():
    with pytest.raises(ValueError, match="vse takes no argument steps"): build(replace(RECIPE, args={"steps": 2}), 5, 9)
    with pytest.raises(ValueError, match="unknown matcher 'nobody'"): build(replace(RECIPE, matcher="nobody"), 5, 9)


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
    rows = [[{key: value for key, value in row.items() if key not in ("seconds", "waiting")} for row in state["standing"]["rows"]] for state in states]
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
    seen, true = [], matcher.triplet
    monkeypatch.setattr(matcher, "triplet", lambda scores, margin, negatives, same: seen.append(negatives) or true(scores, margin, negatives, same))
    train(replace(RECIPE, epochs=2), world, tmp_path / "run", progress=False)
    assert seen == ["all"] * 8 + ["hardest"] * 4


def test_gradient_is_clipped_and_learning_rate_decays(world, tmp_path, whole):
    run = Run(replace(RECIPE, clip=0.01), world, tmp_path, progress=False)
    train_step(run, next(iter(batches(run.train, run.vocabulary, 7))))
    length = torch.cat([p.grad.flatten() for p in run.model.parameters()]).norm()
    assert length == pytest.approx(0.01, rel=1e-3)
    free = Run(replace(RECIPE, clip=0), world, tmp_path, progress=False)
    train_step(free, next(iter(batches(run.train, run.vocabulary, 7))))
    assert torch.cat([p.grad.flatten() for p in free.model.parameters()]).norm() > 0.1
    assert [row["lr"] for row in read_checkpoint(whole[0] / "last" / "training.pt")["standing"]["rows"]] == pytest.approx([0.01, 0.01, 0.001])
    assert step_size(RECIPE, 5) == pytest.approx(1e-4)


def test_early_stopping_keeps_the_best(world, tmp_path, monkeypatch):
    true, values = training.evaluate, iter([50.0, 80.0, 80.0, 70.0, 90.0])
    def pretended(*args, **kwargs):
        result, scores = true(*args, **kwargs)
        return replace(result, rsum=next(values)), scores
    monkeypatch.setattr(training, "evaluate", pretended)
    result = train(replace(RECIPE, epochs=9, patience=2), world, tmp_path / "run", progress=False)
    assert (result["epochs"], result["best_epoch"], result["stopped"]) == (4, 2, "no better R@sum for 2 epochs")
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
    true = training.batches
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.05)
                yield batch
    result = train(replace(RECIPE, epochs=1), world, tmp_path / "quick", progress=False)
    assert 0 < result["waiting"] < 1
    monkeypatch.setattr(training, "batches", lambda *args, **settings: Slow(true(*args, **settings)))
    slow = train(replace(RECIPE, epochs=1), world, tmp_path / "slow", progress=False)
    assert result["waiting"] < slow["waiting"] == read_checkpoint(tmp_path / "slow" / "last" / "training.pt")["standing"]["rows"][0]["waiting"] > 0.5
    assert 0.3 < slow["seconds"]


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
    assert tuple(rows[0]) == COLUMNS and [row["epoch"] for row in rows] == ["1", "2", "3"] and rows[-1]["step"] == "18"
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
    training.begin(run)
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
    for change in ({"train": 21}, {"width": 7}, {"seed": 1}):
        other = write_world(tmp_path / str(change), **change)
        with pytest.raises(ValueError, match="other data"): train(RECIPE, other, tmp_path / "run", resume=True, progress=False)
    assert digests(tmp_path / "run") == before


def test_resume_needs_a_checkpoint_that_is_whole(world, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"): train(RECIPE, world, tmp_path / "run", resume=True, progress=False)
    assert not (tmp_path / "run").exists()
    train(RECIPE, world, tmp_path / "run", max_steps=2, progress=False)
    path = tmp_path / "run" / "last" / "training.pt"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"training\.pt is damaged"): train(RECIPE, world, tmp_path / "run", resume=True, progress=False)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self): return (open, (str(tmp_path / "sprung"), "w"))
    torch.save({"weights": Trap()}, tmp_path / "training.pt")
    with pytest.raises(ValueError, match=r"training\.pt"): read_checkpoint(tmp_path / "training.pt")
    assert not (tmp_path / "sprung").exists()


def test_one_image_teaches_nothing(tmp_path):
    write_world(tmp_path / "data", train=1)
    with pytest.raises(ValueError, match=r"train\.h5 has one image only"): train(RECIPE, tmp_path / "data", tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_splits_of_two_widths_do_not_fit(tmp_path):
    write_world(tmp_path / "data")
    (write_world(tmp_path / "other", width=7) / "dev.h5").replace(tmp_path / "data" / "dev.h5")
    with pytest.raises(ValueError, match=r"regions of 6 numbers.*dev\.h5 of 7"): train(RECIPE, tmp_path / "data", tmp_path / "run", progress=False)


@pytest.mark.parametrize("device, precision, message", [("tpu", None, "device='tpu'"), ("cpu", "int4", "precision='int4'"), ("cpu", "tf32", "Ampere")])
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
    assert np.isfinite(train(replace(RECIPE, epochs=1), world, tmp_path / "run", device="cuda", precision="tf32", progress=False)["best"]["loss"])
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
    true, calls = matcher.triplet, []
    def later_nan(*args):
        calls.append(1)
        return true(*args) * (float("nan") if len(calls) == 5 else 1)
    monkeypatch.setattr(matcher, "triplet", later_nan)
    with pytest.raises(ValueError, match=r"step 5: loss nan.*lr=0.01.*kept in"): train(replace(RECIPE, save_every=0), world, tmp_path / "run", progress=False)
    monkeypatch.undo()
    state = read_checkpoint(tmp_path / "run" / "last" / "training.pt")
    assert state["standing"]["step"] == 4 and all(x.isfinite().all() for x in state["weights"].values())


def test_infinite_features_stop_before_the_weights_change(world, tmp_path):
    run = Run(RECIPE, world, tmp_path, progress=False)
    batch = next(iter(batches(run.train, run.vocabulary, 7)))
    before = {key: x.clone() for key, x in run.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"step 1, .*train\.h5"): train_step(run, replace(batch, features=batch.features * float("inf")))
    assert equal(before, run.model.state_dict())


def test_ctrl_c_saves_and_says_how_to_go_on(world, whole, tmp_path, monkeypatch):
    true, calls = training.train_step, []
    def pressed(*args):
        calls.append(1)
        if len(calls) == 8: os.kill(os.getpid(), signal.SIGINT)
        return true(*args)
    monkeypatch.setattr(training, "train_step", pressed)
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
    train_step(run, next(iter(batches(run.train, run.vocabulary, 7))))
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
    model, vocabulary, split = trained
    images, captions = encode_all(model, split, vocabulary, progress=False)
    with torch.no_grad(): scores = model.score(images, captions)
    for bound in (None, 1_000, 4_000):
        assert torch.allclose(evaluate(model, split, vocabulary, max_bytes=bound, progress=False)[1], scores, atol=1e-6)
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
    assert finished(run) is None
    run.at.epoch, run.at.best_epoch = 3, 1
    assert finished(run) == "no better R@sum for 2 epochs"
    run.at.epoch = 5
    assert finished(run) == "all epochs done"
