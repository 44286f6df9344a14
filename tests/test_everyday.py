"""What people do with a model, a run or a folder that its makers did not expect: nothing may go wrong without a word."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from test_cli import QUICK, call
from tiny import RECIPE, SMALL, write_world
from torch import nn

import cmr
from cmr.attention import released_normalize
from cmr.cli.app import imported
from cmr.data import Vocabulary, open_split
from cmr.encoders import Fragments
from cmr.fast import AnyModel, plan, score_all, training_scores
from cmr.fast.scoring import evaluating
from cmr.files import write_tensors
from cmr.fusion import GatedFusion
from cmr.losses import LOSSES, Loss, matching_bce, register_loss, triplet
from cmr.matcher import MODELS, VSE, Matcher
from cmr.saving import load, save
from cmr.search import Search
from cmr.search.explain import notes_of
from cmr.shelf.released import CAMP_MODULES, rename
from cmr.training import Recipe, build, for_model, model_arguments, read_recipe, train, write_recipe
from cmr.training.compare import models, sweep
from cmr.training.loop import Stopped
from cmr.training.recipes import change, fitted, read_config, small_model

# Models that somebody has changed


class Adapter(nn.Linear):
    "A layer with something of its own beside it."
    def forward(self, x): return super().forward(x) + .5 * x


def hook(model): next(iter(model.ram.values())).memory.register_forward_hook(lambda part, given, out: out * 0)
def patched(model):
    memory = next(iter(model.ram.values())).memory
    memory.forward = lambda x, c: x - c
def layer(model):
    model.fuse_words.linear = Adapter(8, 8).double()
def as_it_was(model): pass
def one_block(model): model.ram["image"] = model.ram["text"]
def one_layer(model): model.ram["image"].memory.linear = model.ram["text"].memory.linear
def gate_is_linear(model): model.ram["text"].memory.gate = model.ram["text"].memory.linear
def deep_gate(model): model.ram["text"].memory.gate = nn.Sequential(nn.Linear(16, 8), nn.Tanh()).double()
def scaled_weights(model): nn.utils.parametrizations.weight_norm(model.ram["text"].memory.linear)
def one_fusion(model): model.fuse_words = model.fuse_regions
def one_key(model): model.aggregation.project_words = model.aggregation.project_regions
def one_pool(model): model.pool_words = model.pool_regions
def biased_keys(model): model.aggregation.project_words, model.aggregation.project_regions = nn.Linear(8, 8).double(), nn.Linear(8, 8).double()
def scalar_words(model): model.fuse_words = GatedFusion(8, "scalar").double()
def scalar_regions(model): model.fuse_regions.kind = "scalar"
def no_bias(model): model.fuse_words.linear = nn.Linear(8, 8, bias=False).double()
def deep_fusion(model): model.fuse_words.linear = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double()
def gates_open(model): model.fuse_words.gates = lambda x, y: torch.ones_like(x)
def backward_hook(model): model.fuse_words.register_full_backward_hook(lambda part, given, got: tuple(g if g is None else 2 * g for g in given))
def dropped(model): model.pool_words.scorer = nn.Sequential(nn.Dropout(0.), *model.pool_words.scorer)


CHANGES = [("imram", hook), ("imram", patched), ("camp", layer), ("imram", as_it_was), ("camp", as_it_was),
           *(("imram", change) for change in (one_block, one_layer, gate_is_linear, deep_gate, scaled_weights)),
           *(("camp", change) for change in (one_fusion, one_key, one_pool, biased_keys, scalar_words, scalar_regions, no_bias, deep_fusion, gates_open, backward_hook, dropped))]


@pytest.mark.parametrize("name, change", CHANGES)
def test_what_is_scored_is_the_model_as_it_is(name, change, ragged):
    "A hook, a forward of one's own, another layer, a shared one: scores and gradients are those of `model.logits`, by the plan or without."
    torch.manual_seed(0)
    model = cmr.create_model(name, 5, 9, **SMALL).double()
    before = type(plan(model))
    change(model)
    assert (type(plan(model)) is AnyModel) == (change is not as_it_was) and before is not AnyModel
    images, captions = ragged([3, 4, 2, 3], 8), ragged([2, 4, 3, 3], 8, 1)
    ours, plain = training_scores(model, images, captions), model.logits(images, captions)
    assert (ours - plain).abs().max() < 1e-10
    weights = list(model.parameters())
    for a, b in zip(*(torch.autograd.grad(triplet(x), weights, allow_unused=True) for x in (ours, plain)), strict=True):
        assert a is b or (a if a is not None else torch.zeros_like(b)).sub(b if b is not None else 0).abs().max() < 1e-10


def test_encoders_may_have_hooks(ragged):
    "They run before anything is scored."
    model = cmr.create_model("imram", 5, 9, **SMALL)
    model.image_encoder.register_forward_hook(lambda *_: None)
    assert not isinstance(plan(model), AnyModel)


def test_each_part_is_in_the_mode_it_was_in():
    model = cmr.create_model("imram", 5, 9, **SMALL)
    model.text_encoder.eval()
    modes = [part.training for part in model.modules()]
    assert True in modes and False in modes
    with evaluating(model): assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == modes
    side = model.encode_images(torch.randn(3, 2, 5))
    score_all(model, side, side, progress=False)
    assert [part.training for part in model.modules()] == modes


def test_a_compiled_model_is_saved_as_what_it_was_made_of(tmp_path):
    words = Vocabulary(["dog"])
    save(torch.compile(cmr.create_model("vse", 5, len(words), **SMALL)), words, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["matcher"] == "VSE" and isinstance(load(tmp_path)[0], VSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype, ragged):
    "The plain form scores what the engine scores, and nothing of length zero becomes NaN."
    x = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    y = released_normalize(x)
    slope, = torch.autograd.grad(y.sum(), x)
    assert y.dtype == dtype and not y.any() and not slope.isnan().any()  # 1e8 is beyond float16
    for name, more in (("imram", {}), ("imram", {"variant": "released"}), ("scan", {}), ("vse", {}), ("camp", {})):
        model = cmr.create_model(name, 5, 9, **SMALL, **more).to(dtype).eval()
        sides = [Fragments(side.values.to(dtype), side.mask) for side in (ragged([3, 4, 2], 8), ragged([2, 4, 3], 8, 1))]
        with torch.no_grad(): assert model.score(*sides).isfinite().all() and training_scores(model, *sides).isfinite().all()


# Recipes


class Norm(VSE):
    "VSE whose regions are normalised by running statistics; other settings go on to VSE."
    def __init__(self, region_dim: int, vocab_size: int, share: float = .5, **others):
        super().__init__(region_dim, vocab_size, **others)
        self.image_encoder = nn.ModuleDict({"first": self.image_encoder, "norm": nn.BatchNorm1d(region_dim)})
        self.heads = nn.MultiheadAttention(others.get("embed_dim", 1024), 4)

    def encode_images(self, features, mask=None):
        return self.image_encoder["first"](self.image_encoder["norm"](features.transpose(1, 2)).transpose(1, 2), mask)


@pytest.fixture
def norm():
    MODELS["norm"] = Norm
    yield Recipe("norm", "norm", SMALL, epochs=1, batch_size=7, lr=0.01, min_count=1, warmup_steps=0)
    MODELS.pop("norm")


def test_a_frozen_part_keeps_its_statistics_too(norm, world, tmp_path):
    for frozen, kept in ((["image_encoder"], True), ([], False)):
        train(replace(norm, frozen=frozen), world, tmp_path / str(kept), device="cpu", progress=False)
        counted = load(tmp_path / str(kept))[0].image_encoder["norm"]
        assert (int(counted.num_batches_tracked) == 0) == kept and bool((counted.running_var == 1).all()) == kept


def test_settings_that_a_constructor_passes_on(norm):
    assert {"share", "embed_dim", "word_dim"} <= set(model_arguments("norm")) and "others" not in model_arguments("norm")
    assert for_model(Recipe("x", "vse", SMALL), "norm").args["embed_dim"] == SMALL["embed_dim"]
    assert "steps" not in model_arguments("norm")


def test_to_ask_a_recipe_draws_no_random_numbers_and_shrinks_nothing(norm, tmp_path):
    "A width that eight does not divide, heads that need it: the model is asked as it is, without its numbers."
    wide = replace(norm, args={"embed_dim": 12, "word_dim": 6})
    state = torch.get_rng_state()
    assert small_model(wide).heads.embed_dim == 12
    (tmp_path / "r.json").write_text(json.dumps({"recipe": "scenes", "lr": .5}))
    assert read_config(tmp_path / "r.json").lr == .5 and torch.equal(torch.get_rng_state(), state)

    class Computes(VSE):
        "One that looks at its numbers when it is made."
        def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 8, word_dim: int = 6):
            super().__init__(region_dim, vocab_size, embed_dim, word_dim)
            self.width, self.scale = embed_dim, float(next(self.parameters()).abs().max())
    MODELS["computes"] = Computes
    try:
        assert small_model(Recipe("x", "computes", {"embed_dim": 64})).width == 8
        words = Vocabulary(["dog"])
        save(made := Computes(5, len(words)), words, tmp_path / "model")
        assert load(tmp_path / "model")[0].width == made.width == 8
    finally: MODELS.pop("computes")


@pytest.mark.parametrize("how, message", [({"max_steps": 0}, "max_steps=0"), ({"max_steps": 2.5}, "max_steps=2.5"), ({"recipe": "scenes"}, "'scenes' is no recipe")])
def test_arguments_of_a_training_are_looked_at(how, message, world, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(**{"recipe": RECIPE, "data_folder": world, "out_folder": tmp_path / "run", "progress": False, **how})
    assert not (tmp_path / "run").exists()


def test_callbacks_that_can_be_read_only_once(world, tmp_path):
    class Count:
        steps = 0
        def on_step(self, run, loss): self.steps += 1
    counted = Count()
    train(RECIPE, world, tmp_path / "run", device="cpu", progress=False, max_steps=2, callbacks=(one for one in [counted]))
    assert counted.steps == 2


# Several trainings


def test_the_seed_is_no_setting_where_there_are_seeds(world, tmp_path):
    for words in (["compare", "vse"], ["ablate", "camp"], ["speedrun"], ["reproduce", "imram-1"]):
        where = [] if words == ["speedrun"] else ["--data", world, "--out", tmp_path / "out"]
        assert "--set seed=3: say --seeds 3" in call(*words, *where, "--set", "seed=3", code=2)


def test_a_value_that_a_model_does_not_have_makes_no_second_row():
    rows = sweep(lambda chosen: models(["vse", "imram"], RECIPE, chosen), {"lr": "1e-3,2e-3", "steps": "1,2"})
    assert [row.label for row in rows] == ["vse-lr=1e-3", "imram-lr=1e-3-steps=1", "imram-lr=1e-3-steps=2",
                                           "vse-lr=2e-3", "imram-lr=2e-3-steps=1", "imram-lr=2e-3-steps=2"]
    assert len({repr(row.recipe) for row in rows}) == 6


def test_a_card_tells_zeros_and_earlier_stages(world, tmp_path):
    call("train", "--data", world, "--out", tmp_path / "run", *QUICK, "--model", "vse", "--set", "clip=0", "--set", "warmup_steps=0")
    call("push", tmp_path / "run", "--to", tmp_path / "card", "--device", "cpu")
    card = (tmp_path / "card" / "README.md").read_text()
    assert all(f"| {key} | `0" in card for key in ("seed", "clip", "warmup_steps")) and "| frozen" not in card and "null" not in card
    content = json.loads((tmp_path / "run" / "recipe.json").read_text())
    content["after"] = {key: value for key, value in content.items() if key not in ("data", "captions", "after")} | {"epochs": 17}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(content))
    call("push", tmp_path / "run", "--to", tmp_path / "card", "--device", "cpu")
    assert '"epochs": 17' in next(line for line in (tmp_path / "card" / "README.md").read_text().splitlines() if line.startswith("| after"))


# Data that changes under a run's feet


def test_a_folder_that_was_filled_anew_is_noticed(tmp_path):
    data = write_world(tmp_path / "data")
    call("train", "--data", data, "--out", tmp_path / "run", *QUICK, "--model", "vse", "--max-steps", 1)
    assert "filled anew" not in call("evaluate", tmp_path / "run")
    shutil.rmtree(data)
    write_world(data, seed=1)
    for words in (["evaluate", tmp_path / "run"], ["push", tmp_path / "run", "--to", tmp_path / "card"], ["search", tmp_path / "run", "a red dog"]):
        assert f"Note: {data} was filled anew since" in call(*words).replace("\n", " ")
    assert "filled anew" not in call("evaluate", tmp_path / "run", "--data", data)  # it was named: other data are meant
    (data / "train.h5").unlink()
    assert "filled anew" not in call("evaluate", tmp_path / "run")                 # nothing left to compare with


def test_recipes_from_before_say_nothing_of_captions(tmp_path, world):
    call("train", "--data", world, "--out", tmp_path / "run", *QUICK, "--model", "vse", "--max-steps", 1)
    content = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert len(content.pop("captions")) == 16
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_recipe(tmp_path / "run")[1] == world
    assert isinstance(read_config(tmp_path / "run" / "recipe.json"), Recipe)


def test_twins_of_other_captions_are_refused(tmp_path, whole):
    data = write_world(tmp_path / "data")
    call("mine", whole[0], "--data", data, "--doubt", 9)
    held = (data / "train_twins.json").read_bytes()
    if not json.loads(held)["together"]: pytest.skip("this model takes no images for each other")
    call("train", "--data", data, "--out", tmp_path / "a", *QUICK, "--model", "vse", "--set", "twins=true", "--max-steps", 1)
    shutil.rmtree(data)
    write_world(data, seed=1)
    (data / "train_twins.json").write_bytes(held)
    said = call("train", "--data", data, "--out", tmp_path / "b", *QUICK, "--model", "vse", "--set", "twins=true", "--max-steps", 1, code=2)
    assert "train_twins.json is of other captions than" in said.replace("\n", " ") and "cmr mine" in said
    said = call("mine", whole[0], "--data", data, "--split", "dev", "--doubt", 9)
    assert "Next:" not in said and f"A training with twins=true reads {data / 'train_twins.json'}" in said.replace("\n", "")


def test_splits_are_drawn_among_images_that_have_features(tmp_path):
    names = [f"{i}.jpg" for i in range(60)]
    (tmp_path / "c.csv").write_text("image,caption\n" + "".join(f"{name},a dog number {i}\n" for i, name in enumerate(names)))
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(30, 2, 3)).astype("float32"))
    (tmp_path / "ids.txt").write_text("\n".join(names[30:]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train_twins.json").write_text("{}")
    said = call("import", "captions", tmp_path / "c.csv", tmp_path / "out", "--features", tmp_path / "f.npy", "--ids", tmp_path / "ids.txt", "--drop-missing",
                "--dev", 5, "--test", 5).replace("\n", " ")
    assert "20 in train, 5 in dev, 5 in test" in said and "30 images have nothing in" in said and "also holds train_twins.json, from before" in said
    assert [open_split(tmp_path / "out", split).n_images for split in ("train", "dev", "test")] == [20, 5, 5]


def test_check_finds_what_a_training_refuses(tmp_path):
    data = write_world(tmp_path / "data")
    (data / "dev.h5").unlink()
    assert "no split dev, which a training needs" in call("check", data, code=1)
    big = write_world(tmp_path / "big")
    import h5py
    with h5py.File(big / "train.h5", "r+") as file: file["features"][3] = 1e30 * file["features"][3]
    assert "numbers too large to be squared" in call("check", big, code=1)


# Search


def test_a_small_gallery_is_ranked_whole_and_a_shortlist_says_so(tiny_model, world):
    split = open_split(world, "train")
    whole, asked = Search(tiny_model, world, "train", progress=False)("a red dog runs", 20), Search(tiny_model, world, "train", shortlist=4, progress=False)("a red dog runs", 2)
    assert split.n_images == 20 and (whole.looked, whole.among) == (20, 20) and not notes_of(whole)
    assert (asked.looked, asked.among) == (4, 20)
    assert notes_of(asked) == ["the model looked at 4 of 20, chosen by cheap vectors: a longer shortlist takes more"]
    assert notes_of(replace(asked, matches=False))[-1] == "no picture among them matches well; the nearest:"
    assert notes_of(replace(whole, matches=False)) == ["no picture here matches well; the nearest:"]
    said = json.loads(asked.json())
    assert (said["looked"], said["among"]) == (4, 20)


def test_large_galleries_have_a_shortlist_still(tiny_model, world, monkeypatch):
    monkeypatch.setattr("cmr.search.explain.WHOLE", 10)
    found = Search(tiny_model, world, "train", progress=False)("a red dog runs", 2)
    assert found.looked == 20                                            # a hundred, or all that there are
    assert Search(tiny_model, world, "train", shortlist=None, progress=False)("a red dog runs", 2).looked == 20


def test_endings_in_capitals(whole, world, tmp_path):
    call("evaluate", whole[0], "--data", world, "--per-query", tmp_path / "Q.CSV")
    assert (tmp_path / "Q.CSV").read_text().startswith("direction")
    call("search", whole[0], "a red dog", "--data", world, "--html", tmp_path / "FOUND.HTML")
    (tmp_path / "M.TOML").write_text('recipe = "scenes"\nepochs = 1\n')
    call("train", "--data", world, "--config", tmp_path / "M.TOML", "--out", tmp_path / "run", "--model", "vse", "--set", "embed_dim=8", "--device", "cpu", "--max-steps", 1)


def test_the_next_command_of_a_calibration_can_be_typed(whole, world, tmp_path):
    import shlex
    run = shutil.copytree(whole[0], tmp_path / "a run")
    said = call("calibrate", run, "--data", world, "--split", "train")
    line = next(line for line in said.replace("\n", " ").split("Next: cmr ")[1:])
    call(*shlex.split(line.split(" the reliability")[0]), "--data", world)
    assert issubclass(type(load(run)[0]), Matcher)


def test_a_model_without_its_numbers_costs_no_import_of_the_compiler():
    "To draw numbers for the meta device, PyTorch imports torch.compile's machinery: a second before every search and evaluation."
    code = ("import sys, torch, cmr\nfrom torch import nn\nfrom cmr.saving import Unfilled\n"
            "for name in cmr.list_models():\n"
            "    with torch.device('meta'), Unfilled(): model = cmr.create_model(name, region_dim=8, vocab_size=20)\n"
            "    assert all(w.is_meta for w in model.parameters()), name\n"
            "    assert 'torch._dynamo' not in sys.modules, name\n"
            "with torch.device('meta'), Unfilled():\n"
            "    own = nn.Parameter(torch.empty(3)); own.data.normal_(); nn.init.normal_(own, std=2)\n"
            "assert own.is_meta and 'torch._dynamo' not in sys.modules\n"
            "with torch.device('meta'): nn.init.normal_(own)\n"
            "assert 'torch._dynamo' in sys.modules, 'no longer needed'\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@cmr.register
class TwoOfOne(VSE):
    "VSE whose words are read by one layer that goes by two names."
    def __init__(self, *args, **others):
        super().__init__(*args, **others)
        self.again = self.image_encoder


def test_weights_that_go_by_two_names_are_saved_and_are_one_again(tmp_path, world):
    words = Vocabulary(["dog"])
    model = cmr.create_model("twoofone", 5, len(words), **SMALL)
    save(model, words, tmp_path / "model")
    found, _ = load(tmp_path / "model")
    assert found.again.project.weight is found.image_encoder.project.weight
    assert torch.equal(found.again.project.weight, model.again.project.weight)
    result = train(for_model(RECIPE, "twoofone"), world, tmp_path / "run", device="cpu", progress=False, max_steps=2)
    assert result["step"] == 2 and load(tmp_path / "run/last")[0].again is not None


def test_names_from_files_are_no_paths(tmp_path, world, monkeypatch):
    "Where a name would become a folder; with --out it is a name and nothing else, and a run that has it is read."
    monkeypatch.chdir(tmp_path)
    for name in ("../evil", "/tmp/evil", "a\\\\b", "..", "", "c:x"):
        (tmp_path / "r.toml").write_text(f'recipe = "scenes"\nname = "{name}"\n')
        assert "say with --out where" in call("train", "--config", "r.toml", "--data", world, "--max-steps", 1, code=2), name
    assert not (tmp_path / "runs").exists()
    call("train", "--config", "r.toml", "--data", world, "--max-steps", 1, "--embed-dim", 8, "--out", "own")
    assert read_recipe(tmp_path / "own")[0].name == "c:x"


def test_a_sweep_over_files_has_a_folder_for_each_row(tmp_path, world):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        Vocabulary(["a", "red", "dog", "cat", "runs", f"{folder}{folder}"]).save(tmp_path / folder / "v.json")
    data = tmp_path / "world"
    shutil.copytree(world, data)
    values = f"{tmp_path}/a/v.json,{tmp_path}/b/v.json"
    call("compare", "vse", "--data", data, "--epochs", 1, "--embed-dim", 8, "--set", f"vocabulary={values}", "--out", tmp_path / "out", "--device", "cpu")
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert len(runs) == 2 and all("%2F" in name and name.endswith("v.json-seed0") for name in runs), runs


@pytest.mark.parametrize("line, message", [("model = 3", "matcher is no str"), ("model = []", "matcher is no str"), ("args = 3", "args is no dict"),
                                           ('loss_args = "x"', "loss_args is no dict"), ('frozen = [["a"]]', "names of the model's parts")])
def test_settings_of_another_kind_are_named(tmp_path, line, message):
    path = tmp_path / "r.toml"
    path.write_text(f'recipe = "scenes"\n{line}\n')
    with pytest.raises(ValueError, match=message) as problem: read_config(path)
    assert "r.toml" in str(problem.value)
    path.write_text("recipe = [1]\n")
    with pytest.raises(ValueError, match="recipe is no str"): read_config(path)


def test_a_recipes_file_finds_its_data_from_another_folder(tmp_path, world, monkeypatch):
    shutil.copytree(world, tmp_path / "few")
    monkeypatch.chdir(tmp_path)
    call("train", "--data", "few", "--out", "runs/c1", "--max-steps", 1, *QUICK)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/r.toml").write_text('recipe = "scenes"\ndata = "few"\n')                # one's own file: from here, as it was typed
    assert "no data folder at few" in call("train", "--config", "../own/r.toml", "--out", "y", "--max-steps", 1, code=2)
    said = call("train", "--config", "../runs/c1/recipe.json", "--out", "x", "--max-steps", 1, "--device", "cpu")
    assert "max_steps=1 reached" in said and read_recipe(tmp_path / "sub/x")[1].resolve() == (tmp_path / "few").resolve()


def test_max_steps_counts_the_stages_together(tmp_path, world):
    first = replace(RECIPE, name="first", epochs=1)
    recipe, size = replace(RECIPE, name="second", epochs=1, after=first), -(-40 // RECIPE.batch_size)
    whole = train(recipe, world, tmp_path / "whole", device="cpu", progress=False)
    assert whole["step"] == size                                  # the last stage's own
    short = train(recipe, world, tmp_path / "short", device="cpu", progress=False, max_steps=size + 1)
    assert (short["step"], short["stopped"]) == (1, f"max_steps={size + 1} reached") and "short" in short["out"]
    again = train(recipe, world, tmp_path / "short", resume=True, device="cpu", progress=False, max_steps=size + 2)
    assert (again["step"], again["stopped"]) == (2, f"max_steps={size + 2} reached")
    first_only = train(recipe, world, tmp_path / "first", device="cpu", progress=False, max_steps=size)
    assert first_only["stopped"] == f"max_steps={size} reached" and not (tmp_path / "first/last").exists()
    assert train(recipe, world, tmp_path / "short", resume=True, device="cpu", progress=False, max_steps=size)["step"] == 2   # nothing more
    shutil.rmtree(tmp_path / "short/before")                         # what isn't there can't be counted
    assert train(recipe, world, tmp_path / "short", resume=True, device="cpu", progress=False, max_steps=3)["step"] == 3
    assert train(recipe, world, tmp_path / "first", resume=True, device="cpu", progress=False)["stopped"] == whole["stopped"]
    assert train(first, world, tmp_path / "whole/before", resume=True, device="cpu", progress=False, max_steps=1)["stopped"] == whole["stopped"]


def test_an_ablation_is_not_taken_back_unsaid(tmp_path, world):
    said = call("train", "--data", world, "--model", "camp", "--ablation", "concat", "--set", "fusion=sum", "--out", tmp_path / "run", code=2)
    assert "--ablation sets fusion=concat, and --set fusion=sum: leave one" in said and not (tmp_path / "run").exists()


def test_what_to_type_next_can_be_typed(tmp_path, world, monkeypatch):
    "Paths with spaces, a model of one's own: the line of a run that was stopped is one that a shell understands."
    out = tmp_path / "my run"
    with pytest.raises(Stopped) as stop:
        train(RECIPE, world, out, device="cpu", progress=False, callbacks=SimpleNamespace(on_step=lambda *_: os.kill(os.getpid(), signal.SIGINT)))
    assert f"go on with: cmr train --out '{out}' --resume" in str(stop.value)
    def stopped(*_, **__): raise stop.value
    monkeypatch.setattr(cmr.training, "train", stopped)
    said = call("train", "--data", world, "--import", "json", "--out", tmp_path / "x", *QUICK, code=130)
    assert imported(["a b", "c"]) == " --import 'a b' --import c" and imported(None) == ""
    assert "--resume --import json" in " ".join(said.split())
    monkeypatch.chdir(tmp_path)
    assert "--data 'sp ace'" in " ".join(call("data", "scenes", "--train", 2, "--dev", 2, "--test", 2, "--out", "sp ace").split())


def test_bce_is_exact_where_it_is_large():
    "PyTorch's softplus drops e^-z above z = 20: here log(1 + e^z) is made of digits enough."
    z = torch.tensor([[25., 21.], [-30., 22.]], dtype=torch.float64)
    p = [[math.log1p(math.exp(-abs(x))) + max(x, 0) for x in row] for row in z.tolist()]
    wanted = 2 * sum(p[b][b] - z[b, b].item() for b in range(2)) + 2 * (p[0][1] + p[1][0])
    assert abs(matching_bce(z).item() - wanted) < 1e-13


def test_scores_of_other_pictures_are_refused_beside_one_that_is_huge(tmp_path, ragged):
    model, captions = cmr.create_model("camp", 5, 9, **SMALL).double().eval(), ragged([2, 3], 8, 1)
    images = ragged([3, 3, 3, 3, 3], 8)
    images.values[0] *= 1e5
    score_all(model, images, captions, progress=False, out=tmp_path / "s.npy")
    score_all(model, images, captions, progress=False, out=tmp_path / "s.npy")
    images.values[1:] = torch.randn_like(images.values[1:])
    with pytest.raises(ValueError, match="other images"): score_all(model, images, captions, progress=False, out=tmp_path / "s.npy")


def test_the_width_of_camps_keys_is_read_from_released_weights():
    "W~ of Eq. 1 is (d_h, d): a model with d_h = 4 and d = 8 comes back with its scores."
    torch.manual_seed(0)
    model = cmr.create_model("camp", 5, 9, **SMALL, hidden=4, variant="released").double().eval()
    names = {ours: theirs for ours, theirs in CAMP_MODULES.items()}
    merged = {rename(name, names): weight for name, weight in model.named_parameters()}
    parts = [{name: w for name, w in merged.items() if name.split(".")[0] in own} for own in (("fc",), ("embed", "rnn"))]
    parts.append({name: w for name, w in merged.items() if not any(name in part for part in parts)})
    found = cmr.CAMP.from_released(parts, output="logit")
    assert found.config["hidden"] == 4
    tokens, lengths, features = torch.tensor([[4, 5, 6], [7, 8, 0]]), torch.tensor([3, 2]), torch.randn(2, 3, 5, dtype=torch.float64)
    with torch.no_grad(): assert (found(features, tokens, lengths) - model(features, tokens, lengths)).abs().max() < 1e-12


def test_only_tensors_that_share_memory_are_copied(tmp_path, monkeypatch):
    "A gallery is mapped from a file, so that it need not fit into memory."
    x, seen = torch.zeros(4, 3), {}
    monkeypatch.setattr("safetensors.torch.save_file", lambda state, path, about: (seen.update(state), Path(path).write_bytes(b"x")))
    write_tensors(tmp_path / "t.safetensors", {"a": x, "b": torch.ones(2), "c": x[:2]})
    assert seen["b"].data_ptr() != 0 and seen["a"].data_ptr() != seen["c"].data_ptr()
    write_tensors(tmp_path / "t.safetensors", {"a": x})
    assert seen["a"].data_ptr() == x.data_ptr()


@cmr.register
class Counted(VSE):
    "VSE whose constructor looks at numbers, and which takes anything."
    def __init__(self, region_dim: int, vocab_size: int, what: Any = None, **others):
        super().__init__(region_dim, vocab_size, **others)
        self.scale = nn.Parameter(torch.tensor(float(next(self.text_encoder.parameters()).detach().numpy().std())))


@cmr.register
class Causal(VSE):
    "VSE with a mask that goes into its files."
    def __init__(self, region_dim: int, vocab_size: int, keep: bool = True, **others):
        super().__init__(region_dim, vocab_size, **others)
        self.register_buffer("causal", torch.full((3, 3), -torch.inf).triu(1), persistent=keep)


def test_a_constructor_may_look_at_numbers(tmp_path, world):
    "On the meta device there are none: the model is made whole then."
    recipe = change(for_model(RECIPE, "counted"), {"what": "x"})
    train(recipe, world, tmp_path / "run", device="cpu", progress=False, max_steps=2)
    assert train(recipe, world, tmp_path / "run", resume=True, device="cpu", progress=False, max_steps=3)["step"] == 3
    assert load(tmp_path / "run/last")[0].config["what"] == "x" and read_recipe(tmp_path / "run")[0] == recipe


def test_a_buffer_that_no_file_may_hold_is_refused_before_the_first_step(tmp_path, world):
    with pytest.raises(ValueError, match="causal begins with NaN or infinity.*persistent=False"):
        train(for_model(RECIPE, "causal"), world, tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run/last").exists()
    recipe = change(for_model(RECIPE, "causal"), {"keep": False})
    train(recipe, world, tmp_path / "fine", device="cpu", progress=False, max_steps=1)
    assert load(tmp_path / "fine/last")[0].causal[0, 1] == -torch.inf


def test_two_losses_of_one_name_without_a_word_about_them():
    def made(module, margin):
        class Mine(Loss):
            def __call__(self, scores, same_image=None): return scores.sum() * margin
        Mine.__module__, Mine.__qualname__ = module, "Mine"
        return Mine
    try:
        first = register_loss("mine-of-two")(made("shared_a", .1))
        with pytest.raises(ValueError, match="is there already"): register_loss("mine-of-two")(made("shared_b", .9))
        assert LOSSES["mine-of-two"] is first
    finally: LOSSES.pop("mine-of-two", None)


class Sized(VSE):
    "Arguments that json has no word for."
    def __init__(self, region_dim: int, vocab_size: int, embed_dim: int = 8, word_dim: int = 8, sizes: tuple[int, ...] = (1, 2), mode: Literal["wide", "deep"] = "wide"):
        super().__init__(region_dim, vocab_size, embed_dim, word_dim)
        self.sizes, self.mode = (0,) + sizes, mode  # a list would not add up


def test_a_recipe_that_was_written_brings_tuples_and_choices_back(monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS, "sized", Sized)
    recipe = Recipe("mine", "sized", {"sizes": (3, 4), "mode": "deep"})
    write_recipe(recipe, tmp_path, tmp_path)
    again = read_recipe(tmp_path)[0]
    assert again.args == {"sizes": [3, 4], "mode": "deep"}
    words = Vocabulary(["dog"])
    model = build(again, 5, len(words))
    save(model, words, tmp_path)
    assert load(tmp_path)[0].sizes == model.sizes == (0, 3, 4) and fitted("sizes", "[3, 4]", Sized) == (3, 4)
    for args, message in (({"sizes": 3}, r"sizes=3: tuple\[int, \.\.\.\] is expected"), ({"mode": "tall"}, r"mode='tall': typing.Literal\['wide', 'deep'\] is expected")):
        with pytest.raises(ValueError, match=message): build(replace(recipe, args=args), 5, 4)


def test_labels_with_signs_keep_their_tables_whole(tmp_path):
    "A bar, a dollar or an angle in a setting of one's own: markdown keeps its columns, LaTeX its signs, the figure is drawn."
    from cmr.training.compare import against_best, figure, latex, table
    hits = " ".join(["1"] * 7 * 3)
    report = {key: 50. for key in cmr.recall.Report.__dataclass_fields__ if key != "intervals"}
    rows = [{"label": label, "report": {**report, "rsum": rsum}, "hits": hits, "parameters": 9, "seconds_per_epoch": 1., "seed": 0,
             "split": "test"} for label, rsum in (("a|b", 300.), (r"$\x<y>", 290.))]
    for text in (table(rows), against_best(rows)):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1 and "a&#124;b" in text
    assert r"a\textbar{}b" in latex(rows) and r"\textless{}y\textgreater{}" in latex(rows)
    assert "not trainings" in against_best(rows) and not against_best([rows[0], {**rows[1], "seed": 5}])
    figure(rows).savefig(tmp_path / "table.png")


def test_ties_are_wrong_in_the_error_budget_as_well():
    from cmr.world.errors import error_budget
    from cmr.world.scenes import load_entries
    entries = load_entries("data/sample/sample_scenes.json")
    scores = torch.zeros(len(entries), sum(len(entry.captions) for entry in entries), dtype=torch.bfloat16)
    for side in error_budget(scores, entries).values(): assert side["right"] == 0


def test_the_reference_of_a_speedrun_is_no_entry_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "give your entry a name" in call("speedrun", "--model", "scan", code=2)


def test_the_quickstart_asks_for_a_picture_that_is_there():
    "Its last line shows what was found: one scene of the test split has it."
    from cmr.world.scenes import load_entries
    scenes, asked = Path("data/scenes/test_scenes.json"), re.search(r'search runs/quickstart "(.+?)"', Path("Makefile").read_text())
    if not scenes.is_file(): pytest.skip("the built-in world is not drawn here: cmr data scenes")
    assert asked and sum(any(asked[1] in caption.text.replace("one ", "a ") for caption in entry.captions) for entry in load_entries(str(scenes))) == 1
