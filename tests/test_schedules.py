"""Schedules of CAMP: a decay that comes once, stages that take over weights, frozen parts, gates noted on the way."""

import csv
from dataclasses import asdict, replace

import pytest
import torch
from tiny import digests

from cmr.camp import CAMP
from cmr.losses import MatchingBCE, Triplet, matching_bce, triplet
from cmr.saving import create_model, load
from cmr.training import (
    COLUMNS,
    RECIPES,
    Recipe,
    build,
    check_same,
    curves,
    for_model,
    learning_rate,
    loss_for,
    observe,
    observed_in,
    read_checkpoint,
    read_recipe,
    train,
)
from cmr.training.loop import hit_rate, interaction_share, write_metrics

TINY = {"embed_dim": 8, "word_dim": 6}
LAST = Recipe("last", "camp", TINY, epochs=2, batch_size=8, lr=0.01, min_count=1, standardise=True)
FIRST = replace(LAST, name="first", args={**TINY, "fusion": False, "matching": "cosine"})
SECOND = replace(LAST, name="second", epochs=1, frozen=["image_encoder", "text_encoder"], after=FIRST)
THIRD = replace(LAST, name="third", lr=0.001, after=SECOND)


@pytest.fixture(scope="module")
def staged(world, tmp_path_factory):
    "A run of three stages."
    out = tmp_path_factory.mktemp("runs") / "staged"
    result = train(THIRD, world, out, device="cpu", progress=False)
    return out, result


def weights(folder): return load(folder)[0].state_dict()


def test_the_papers_learning_rates():
    "CAMP, section 4: 2e-4 for 15 epochs, 2e-5 for 25."
    recipe = RECIPES["camp-f30k"]
    assert [learning_rate(recipe, epoch) for epoch in range(recipe.epochs)] == pytest.approx([2e-4] * 15 + [2e-5] * 25)
    assert recipe.patience and recipe.max_words == 50
    assert learning_rate(replace(recipe, decays=None), 30) == pytest.approx(2e-6) and learning_rate(replace(recipe, decays=0), 39) == 2e-4
    for name in ("camp-f8k", "camp-coco"): assert replace(RECIPES[name], name="camp-f30k") == recipe


def test_released_schedule_is_attention_then_fusion_then_everything():
    third = RECIPES["camp-f30k-released"]
    second, first = third.after, third.after.after
    assert (first.args["fusion"], first.args["matching"], first.frozen, first.after) == (False, "cosine", [], None)
    assert (second.frozen, third.frozen) == (["image_encoder", "text_encoder", "aggregation"], [])
    assert first.marks and second.marks and third.marks
    assert second.args == third.args and third.args["variant"] == "released" and third.lr == second.lr / 10
    models = [build(replace(recipe, args={**recipe.args, **TINY}), 5, 9) for recipe in (first, second, third)]
    assert models[0].state_dict().keys() < models[1].state_dict().keys() == models[2].state_dict().keys()
    assert {name.split(".")[0] for name, p in models[1].named_parameters() if not p.requires_grad} == {"image_encoder", "text_encoder", "aggregation"}
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
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(THIRD, world, tmp_path / "new", resume=True, device="cpu", progress=False)
    with pytest.raises(ValueError, match="no part 'ears' to freeze: it has image_encoder, text_encoder"):
        train(replace(LAST, frozen=["ears"]), world, tmp_path / "ears", device="cpu", progress=False)
    wide = replace(SECOND, args={**SECOND.args, "embed_dim": 16})
    with pytest.raises(ValueError, match="can't begin with the weights of .* it has no .* of shape"):
        train(wide, world, tmp_path / "wide", device="cpu", progress=False)
    few = replace(SECOND, min_count=12, after=replace(FIRST, min_count=1))
    with pytest.raises(ValueError, match="trained with other words"): train(few, world, tmp_path / "few", device="cpu", progress=False)


def test_the_earlier_stage_may_differ_when_resuming():
    state, model = {"recipe": asdict(THIRD), "data": {}}, build(THIRD, 6, 9)
    check_same(replace(THIRD, after=None), model, {}, state, "x")
    del state["recipe"]["frozen"], state["recipe"]["decays"]                             # a run from before these were there
    check_same(THIRD, model, {}, state, "x")
    with pytest.raises(ValueError, match="frozen was"): check_same(replace(THIRD, frozen=["text_encoder"]), model, {}, state, "x")


def test_frozen_weights_get_no_step(world, tmp_path):
    recipe = replace(LAST, frozen=["text_encoder"])
    train(recipe, world, tmp_path / "run", device="cpu", progress=False)
    begun, ended = build(recipe, 6, len(load(tmp_path / "run/last")[1])).state_dict(), weights(tmp_path / "run/last")
    assert all(
        torch.equal(begun[name], ended[name]) == name.startswith("text_encoder") for name, p in build(recipe, 6, 12).named_parameters()
    )


def test_gates_are_noted_after_each_epoch(staged, world):
    with open(staged[0] / "metrics.csv", newline="") as file: rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "hit_rate", "interaction", "gate_matching", "gate_other"] and all(0 < float(row["gate_matching"]) < 1 for row in rows)
    kept = read_checkpoint(staged[0] / "last/training.pt")["standing"]["rows"]
    assert observed_in(kept) == ["hit_rate", "interaction", "gate_matching", "gate_other"] and len(curves(kept, 2.77).axes) == 3
    with open(staged[0] / "before/before/metrics.csv", newline="") as file:
        assert tuple(next(csv.reader(file))) == (*COLUMNS, "hit_rate", "interaction")  # no fusion, no gates


def test_what_is_observed_of_camp_are_its_mean_gates():
    from cmr.camp import mean_gates
    from cmr.encoders import Fragments
    torch.manual_seed(0)
    model = CAMP(3, 9, 6, 4)
    images, captions = (Fragments(torch.randn(n, 4, 6), torch.ones(n, 4, dtype=torch.bool)) for n in (40, 80))
    own = torch.arange(40).repeat_interleave(2).numpy()
    assert tuple(observe(model, images, captions, own).items()) == tuple(
        zip(("gate_matching", "gate_other"), mean_gates(model, images, captions, own))
    )
    assert (
        observe(CAMP(3, 9, 6, 4, gates=False), images, captions, own)
        == {}
        == observe(CAMP(3, 9, 6, 4, interaction=False), images, captions, own)
    )
    assert observe(model, images[:1], captions[:2], own[:2]) == {} == observe(create_model("vse", 3, 9, embed_dim=6), images, captions, own)


def test_the_first_images_of_dev_are_observed(staged, world):
    from cmr.data import open_split
    from cmr.training.loop import observe_some
    model, vocabulary = load(staged[0] / "last")
    row = read_checkpoint(staged[0] / "last/training.pt")["standing"]["rows"][-1]
    found = observe_some(model, open_split(world, "dev"), vocabulary)
    assert found == pytest.approx({key: row[key] for key in ("hit_rate", "interaction", "gate_matching", "gate_other")}, abs=1e-6)
    assert observe_some(model, open_split(world, "dev"), vocabulary, 3) != found


def test_hit_rate_counts_who_is_first():
    torch.manual_seed(0)
    scores = torch.randint(0, 12, (7, 7)).double()
    same = torch.eye(7, dtype=torch.bool)
    same[1, 2] = same[2, 1] = True
    hits = [all(scores[b, b] > line[c] for c in range(7) if not same[b, c]) for b in range(7) for line in (scores[b], scores[:, b])]
    assert hit_rate(scores, same) == pytest.approx(sum(hits) / 14) and 0 < sum(hits) < 14
    assert hit_rate(torch.zeros(3, 3)) == 0 and hit_rate(torch.eye(3)) == 1
    luck = [hit_rate(torch.randn(40, 40)) for _ in range(200)]
    assert abs(sum(luck) / 200 - 1 / 40) < .01


def test_interaction_share_is_the_rest_of_a_two_way_table():
    torch.manual_seed(0)
    row, column, rest = torch.randn(6, 1).double(), torch.randn(1, 5).double(), torch.randn(6, 5).double()
    table = row + column + rest
    mean = table.mean()
    parts = [5 * ((table.mean(1) - mean) ** 2).sum(), 6 * ((table.mean(0) - mean) ** 2).sum(), ((table - mean) ** 2).sum()]
    assert interaction_share(table) == pytest.approx(float(1 - (parts[0] + parts[1]) / parts[2]))
    assert interaction_share(7 * table.T - 3) == pytest.approx(interaction_share(table))  # neither scale nor order of sides matters
    assert interaction_share(row + column) == pytest.approx(0, abs=1e-12) and interaction_share(torch.zeros(4, 4)) == 0
    assert interaction_share((rest - rest.mean(0)).T - (rest - rest.mean(0)).T.mean(0)) == pytest.approx(1)


def test_a_run_from_before_the_two_numbers_is_drawn_and_written(staged, tmp_path):
    new = read_checkpoint(staged[0] / "last/training.pt")["standing"]["rows"][-1]
    old = {key: value for key, value in new.items() if key not in ("hit_rate", "interaction")}
    rows = [old, {**new, "epoch": old["epoch"] + 1}]
    write_metrics(rows, tmp_path / "metrics.csv")
    with open(tmp_path / "metrics.csv", newline="") as file: found = list(csv.DictReader(file))
    assert found[0]["hit_rate"] == "" and float(found[1]["hit_rate"]) == new["hit_rate"]
    assert len(curves(rows).axes) == 3


def test_a_pair_that_hardly_counts_is_no_learning():
    from cmr.training.loop import stands_still
    row = {"rsum": 10.0, "loss": 2.0, "interaction": 0.002}
    assert stands_still(row, 2.77, 12) and not stands_still({**row, "interaction": 0.3}, 2.77, 12)
    assert not stands_still({**row, "rsum": 40.0}, 2.77, 12) and not stands_still({"rsum": 10.0, "loss": 2.0}, 2.77, 12)


@pytest.mark.parametrize(
    "options", [{}, {"objective": "bce-all"}, {"objective": "ranking"}, {"interaction": False}, {"matching": "cosine"}]
)
@pytest.mark.parametrize("negatives", ["hardest", "all", None])
def test_standstill_is_the_loss_of_equal_scores(options, negatives):
    model = CAMP(3, 9, 6, 4, **options)
    recipe = Recipe(
        "x", "camp", {**TINY, **options}, negatives=negatives, margin=0.3 if isinstance(model.default_loss(), Triplet) else None
    )
    loss = loss_for(model, recipe)
    assert loss.standstill(5) == pytest.approx(loss(torch.zeros(5, 5)).item() / 5) and loss.negatives == (
        negatives or model.default_loss().negatives
    )


@pytest.mark.parametrize("name", ["vse", "devise", "order", "dvsa", "cmpm", "pvse", "vsrn", "scan", "imram"])
def test_standstill_of_the_others(name):
    model = create_model(name, region_dim=3, vocab_size=9, embed_dim=6, word_dim=4)
    shape = (5, 5, 2) if name == "cmpm" else (5, 5)
    for settings in ({}, {"margin": 0.3, "negatives": "all"}, {"margin": 0.3, "negatives": "hardest"})[:1 if name == "cmpm" else 3]:
        loss = loss_for(model, Recipe("x", name, **settings))
        assert loss.standstill(5) == pytest.approx(loss(torch.zeros(shape)).item() / 5, abs=1e-6)
    assert triplet(torch.zeros(5, 5)).item() / 5 == pytest.approx(0.4) and matching_bce(torch.zeros(5, 5)).item() / 5 == pytest.approx(
        2.7726, abs=1e-3
    )


def test_a_recipe_for_another_model_has_what_that_one_needs():
    camp = for_model(RECIPES["scenes"], "camp")
    assert camp.args == {"embed_dim": 64, "word_dim": 64} and camp.matcher == "camp"
    assert (camp.warmup_steps, camp.margin, camp.negatives, camp.max_words, camp.loss) == (None,) * 5  # its own: 450, MatchingBCE, 50
    assert loss_for(build(camp, 5, 9), camp) == MatchingBCE() and CAMP.warmup_steps == 450
    dvsa = for_model(replace(RECIPES["scenes"], margin=0.3, negatives="hardest", loss="triplet", max_words=20), "dvsa")
    assert loss_for(build(dvsa, 5, 9), dvsa) == Triplet(1.0, "all") and dvsa.max_words is None
    assert for_model(RECIPES["f8k-small"], "scan").warmup_steps == 200 and for_model(RECIPES["f8k-small"], "camp").warmup_steps is None
    assert for_model(RECIPES["camp-f8k-small"], "CAMP") is RECIPES["camp-f8k-small"]
    with pytest.raises(ValueError, match="decays=-1"): replace(LAST, decays=-1)


def test_a_staged_recipe_for_another_model_begins_as_its_first_stage_does():
    "Not with a tenth of the step size, which is what the last stage is for."
    staged = RECIPES["camp-f30k-released"]
    plain = for_model(staged, "vse")
    assert plain.after is None and plain.frozen == [] and plain.epochs == 15 + 15 + 25
    assert plain.lr == 2e-4 == staged.after.after.lr != staged.lr
    assert [learning_rate(plain, epoch) for epoch in (0, 20, 54)] == [2e-4] * 3                                # as the first stage has it
    mixed = replace(THIRD, after=replace(SECOND, after=replace(FIRST, lr=0.02, schedule="cosine", decay_every=7, warmup_steps=5)))
    found = for_model(mixed, "scan")
    assert (found.lr, found.schedule, found.decay_every, found.epochs, found.warmup_steps) == (0.02, "cosine", 7, 5, 5)


@pytest.mark.parametrize(
    "schedule, expected", [("constant", [1, 1, 1, 1, 1]), ("step", [1, 1, 1, 0.5, 0.25]), ("cosine", [1, 0.75, 0.5, 0.25, 0])]
)
def test_schedules(schedule, expected):
    recipe = Recipe("x", lr=0.1, epochs=12, decay_every=6, decay=0.5, schedule=schedule)
    done = [0, 4, 6, 8, 12] if schedule == "cosine" else [0, 3, 5.9, 6, 12]
    assert [learning_rate(recipe, epochs) / 0.1 for epochs in done] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_the_schedule_is_followed_step_by_step(schedule, world, tmp_path, monkeypatch):
    from cmr.training import loop
    seen, true = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda run, group: seen.append(run.optimiser.param_groups[0]["lr"]) or true(run, group))
    recipe = replace(LAST, matcher="vse", epochs=2, decay_every=1, schedule=schedule)                          # 5 batches an epoch
    train(recipe, world, tmp_path / "whole", device="cpu", progress=False)
    expected = [0.01] * 5 + [0.001] * 5 if schedule == "step" else [learning_rate(recipe, n / 5) for n in range(10)]
    assert seen == pytest.approx(expected)
    seen.clear()
    train(recipe, world, tmp_path / "parts", device="cpu", progress=False, max_steps=3)
    train(recipe, world, tmp_path / "parts", device="cpu", progress=False, resume=True)
    assert seen == pytest.approx(expected)


def test_what_belongs_to_the_released_form_stays_with_it():
    "Marks and where captions are cut are CAMP's authors' own: another model's recipe has neither."
    staged = RECIPES["camp-f30k-released"]
    assert (staged.marks, staged.max_words) == (True, 49) == (staged.after.after.marks, staged.after.after.max_words)
    assert (for_model(staged, "imram").marks, for_model(staged, "imram").max_words) == (False, None)
    assert for_model(replace(RECIPES["scenes"], marks=True), "vse").marks  # what somebody asked for stays
