"""Schedules of CAMP: a decay that comes once, stages that take over weights, frozen parts, gates noted on the way."""

import csv
from dataclasses import asdict, replace

import pytest
import torch
from test_training import digests, write_world

from cmr.camp import CAMP
from cmr.losses import matching_bce, triplet
from cmr.matcher import load, matcher_class
from cmr.training import (
    COLUMNS, RECIPES, Recipe, build, check_same, curves, for_matcher, read_checkpoint, read_recipe, step_size, train, watched_in,
)

TINY = {"embed_dim": 8, "word_dim": 6}
LAST = Recipe("last", "camp", TINY, epochs=2, batch_size=8, lr=0.01, min_count=1, standardise=True)
FIRST = replace(LAST, name="first", args={**TINY, "fusion": False, "matching": "cosine"})
SECOND = replace(LAST, name="second", epochs=1, frozen=["image_encoder", "text_encoder"], after=FIRST)
THIRD = replace(LAST, name="third", lr=0.001, after=SECOND)


@pytest.fixture(scope="module")
def world(tmp_path_factory): return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def staged(world, tmp_path_factory):
    "A run of three stages."
    out = tmp_path_factory.mktemp("runs") / "staged"
    result = train(THIRD, world, out, device="cpu", progress=False)
    return out, result


def weights(folder): return load(folder)[0].state_dict()


def test_the_papers_step_sizes():
    "CAMP, section 4: 2e-4 for 15 epochs, 2e-5 for 25."
    recipe = RECIPES["camp-f30k"]
    assert [step_size(recipe, epoch) for epoch in range(recipe.epochs)] == pytest.approx([2e-4] * 15 + [2e-5] * 25)
    assert recipe.patience and recipe.max_words == 50
    assert step_size(replace(recipe, decays=None), 30) == pytest.approx(2e-6) and step_size(replace(recipe, decays=0), 39) == 2e-4
    for name in ("camp-f8k", "camp-coco"): assert replace(RECIPES[name], name="camp-f30k") == recipe


def test_released_schedule_is_attention_then_fusion_then_everything():
    third = RECIPES["camp-f30k-released"]
    second, first = third.after, third.after.after
    assert (first.args["fusion"], first.args["matching"], first.frozen, first.after) == (False, "cosine", [], None)
    assert (second.frozen, third.frozen) == (["image_encoder", "text_encoder"], [])
    assert second.args == third.args and third.args["variant"] == "released" and third.lr == second.lr / 10
    models = [build(replace(recipe, args={**recipe.args, **TINY}), 5, 9) for recipe in (first, second, third)]
    assert models[0].state_dict().keys() < models[1].state_dict().keys() == models[2].state_dict().keys()
    assert {name.split(".")[0] for name, p in models[1].named_parameters() if not p.requires_grad} == {"image_encoder", "text_encoder"}
    assert (models[2].form["gates"], models[2].form["fusion"], models[2].form["branches"]) == ("scalar", "concat", 4)


def test_a_recipe_with_stages_survives_json(tmp_path, staged):
    assert read_recipe(staged[0])[0] == THIRD and Recipe(**asdict(THIRD)) == THIRD


def test_stages_take_over_and_freeze(staged, world):
    out, result = staged
    first, second, third = (weights(out / part / "best") for part in ("before/before", "before", "."))
    for name in second:
        if name.split(".")[0] in ("image_encoder", "text_encoder"): assert torch.equal(first[name], second[name]), name
    fresh = build(SECOND, 6, len(load(out / "before/best")[1])).state_dict()
    assert all(not torch.equal(second[name], fresh[name]) for name in ("fuse_regions.linear.weight", "aggregation.project_words.weight"))
    begun = read_checkpoint(out / "last/training.pt")["weights"]
    assert any(not torch.equal(second[name], begun[name]) for name in second if name.startswith("text_encoder"))
    assert result["name"] == "third" and result["stopped"] == "all epochs done" and third.keys() == second.keys()


def test_resuming_finished_stages_changes_nothing(staged, world):
    before = digests(staged[0])
    again = train(THIRD, world, staged[0], resume=True, device="cpu", progress=False)
    assert {name: digest for name, digest in digests(staged[0]).items() if "events" not in name and not name.endswith(".png")} == \
           {name: digest for name, digest in before.items() if "events" not in name and not name.endswith(".png")}
    assert again["best"] == staged[1]["best"]


@pytest.mark.parametrize("at", [2, 4, 7])
def test_stages_stopped_and_resumed_give_the_same_bits(at, staged, world, tmp_path):
    result = train(THIRD, world, tmp_path / "run", device="cpu", progress=False, max_steps=at)
    while result["stopped"].startswith("max_steps"):
        result = train(THIRD, world, tmp_path / "run", resume=True, device="cpu", progress=False, max_steps=None if at > 5 else 100)
    ours, theirs = (read_checkpoint(folder / "last/training.pt")["weights"] for folder in (tmp_path / "run", staged[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_stages_refuse_what_is_there_and_what_is_not(staged, world, tmp_path):
    with pytest.raises(FileExistsError, match="holds a run"): train(THIRD, world, staged[0], device="cpu", progress=False)
    with pytest.raises(FileNotFoundError, match="nothing to resume"): train(THIRD, world, tmp_path / "new", resume=True, device="cpu", progress=False)
    with pytest.raises(ValueError, match="no part 'ears' to freeze: it has image_encoder, text_encoder"):
        train(replace(LAST, frozen=["ears"]), world, tmp_path / "ears", device="cpu", progress=False)
    wide = replace(SECOND, args={**SECOND.args, "embed_dim": 16})
    with pytest.raises(ValueError, match="can't begin with the weights of .* it has no .* of shape"): train(wide, world, tmp_path / "wide", device="cpu", progress=False)
    few = replace(SECOND, min_count=12, after=replace(FIRST, min_count=1))
    with pytest.raises(ValueError, match="trained with other words"): train(few, world, tmp_path / "few", device="cpu", progress=False)


def test_the_earlier_stage_may_differ_when_resuming():
    state = {"recipe": asdict(THIRD), "data": {}}
    check_same(replace(THIRD, after=None), {}, state, "x")
    del state["recipe"]["frozen"], state["recipe"]["decays"]                             # a run from before these were there
    check_same(THIRD, {}, state, "x")
    with pytest.raises(ValueError, match="frozen was"): check_same(replace(THIRD, frozen=["text_encoder"]), {}, state, "x")


def test_frozen_weights_get_no_step(world, tmp_path):
    recipe = replace(LAST, frozen=["text_encoder"])
    train(recipe, world, tmp_path / "run", device="cpu", progress=False)
    begun, ended = build(recipe, 6, len(load(tmp_path / "run/last")[1])).state_dict(), weights(tmp_path / "run/last")
    assert all(torch.equal(begun[name], ended[name]) == name.startswith("text_encoder") for name, p in build(recipe, 6, 12).named_parameters())


def test_gates_are_noted_after_each_epoch(staged, world):
    with open(staged[0] / "metrics.csv", newline="") as file: rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "gate_matching", "gate_other"] and all(0 < float(row["gate_matching"]) < 1 for row in rows)
    kept = read_checkpoint(staged[0] / "last/training.pt")["standing"]["rows"]
    assert watched_in(kept) == ["gate_matching", "gate_other"] and len(curves(kept, 2.77).axes) == 3
    with open(staged[0] / "before/before/metrics.csv", newline="") as file: assert tuple(next(csv.reader(file))) == COLUMNS    # no fusion, no gates


def test_what_is_watched_are_the_mean_gates():
    from cmr.camp import mean_gates
    from cmr.encoders import Fragments
    torch.manual_seed(0)
    model = CAMP(3, 9, 6, 4)
    images, captions = (Fragments(torch.randn(n, 4, 6), torch.ones(n, 4, dtype=torch.bool)) for n in (50, 100))
    owner = torch.arange(50).repeat_interleave(2)
    assert tuple(model.watch(images, captions, owner.numpy())) == pytest.approx(tuple(mean_gates(model, images[:40], captions[:80], owner[:80])))
    assert CAMP(3, 9, 6, 4, gates=False).watched == () == CAMP(3, 9, 6, 4, interaction=False).watched
    assert CAMP(3, 9, 6, 4, gates=False).watch(images, captions, owner) == ()


@pytest.mark.parametrize("options", [{}, {"objective": "bce-all"}, {"objective": "ranking"}, {"interaction": False}, {"matching": "cosine"}])
@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_standstill_is_the_loss_of_equal_scores(options, negatives):
    model = CAMP(3, 9, 6, 4, **options)
    assert model.standstill(5, 0.3, negatives) == pytest.approx(model.loss(torch.zeros(5, 5), 0.3, negatives).item() / 5)


@pytest.mark.parametrize("name", ["vse", "devise", "order", "dvsa", "cmpm", "pvse", "vsrn", "scan", "imram"])
def test_standstill_of_the_others(name):
    model = matcher_class(name)(region_dim=3, vocab_size=9, embed_dim=6, word_dim=4)
    shape = (5, 5, 2) if name == "cmpm" else (5, 5)
    for negatives in ("hardest", "all"):
        assert model.standstill(5, 0.3, negatives) == pytest.approx(model.loss(torch.zeros(shape), 0.3, negatives).item() / 5, abs=1e-6)
    assert triplet(torch.zeros(5, 5)).item() / 5 == pytest.approx(0.4) and matching_bce(torch.zeros(5, 5)).item() / 5 == pytest.approx(2.7726, abs=1e-3)


def test_a_recipe_for_another_matcher_has_what_that_one_needs():
    camp = for_matcher(RECIPES["scenes"], "camp")
    assert camp.warmup_steps == CAMP.warmup_steps > 0 and camp.args == {"embed_dim": 64, "word_dim": 64}
    assert for_matcher(RECIPES["scenes"], "dvsa").margin == 1.0
    plain = for_matcher(RECIPES["camp-f30k-released"], "vse")
    assert plain.after is None and plain.frozen == []
    with pytest.raises(ValueError, match="decays=-1"): replace(LAST, decays=-1)
