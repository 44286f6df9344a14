"""One budget, several models: what is trained, what is kept, what the table says."""

import csv
import json
from dataclasses import replace

import pytest
from tiny import SMALL
from typer.testing import CliRunner

from cmr.camp import ABLATIONS
from cmr.cli import app
from cmr.training import RECIPES, Recipe, compare

BUDGET = Recipe("tiny", "vse", SMALL, epochs=1, batch_size=16, lr=0.01, min_count=1)
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, compare.compare(compare.models(["vse", "camp"], BUDGET), world, out, (0, 1), **QUIET)


def test_rows_of_table_3_are_arguments():
    rows = compare.ablations([], RECIPES["scenes"])
    assert [row.label for row in rows] == list(ABLATIONS) and len(rows) == 12
    for row in rows:
        assert row.recipe.matcher == "camp" and row.recipe.args == {"embed_dim": 64, "word_dim": 64, **ABLATIONS[row.label]}
        assert replace(row.recipe, args={}) == replace(rows[0].recipe, args={})                    # one budget
    both, = compare.ablations(["no-gates+mean-pooling"], RECIPES["scenes"])
    assert both.recipe.args["gates"] is False and both.recipe.args["pooling"] == "mean"
    with pytest.raises(ValueError, match="no-legs"): compare.ablations(["no-legs"], BUDGET)
    with pytest.raises(ValueError, match="exclude each other"): compare.ablations(["concat+product"], BUDGET)


def test_every_model_has_a_counterpart():
    assert [row.label for row in compare.models([], BUDGET)] == list(compare.TEN_MODELS)
    with pytest.raises(ValueError, match="unknown model 'bert'"): compare.models(["bert"], BUDGET)


def test_every_row_and_seed_is_trained_and_evaluated(done, world):
    out, results = done
    assert [(result["label"], result["seed"]) for result in results] == [("vse", 0), ("camp", 0), ("vse", 1), ("camp", 1)]
    for result in results:
        folder = out / f"{result['label']}-seed{result['seed']}"
        assert json.loads((folder / "result.json").read_text()) == result and (folder / "best/model.safetensors").is_file()
        assert json.loads((folder / "recipe.json").read_text())["seed"] == result["seed"] and 0 <= result["report"]["rsum"] <= 600
    with open(out / "results.csv", newline="") as file: rows = list(csv.DictReader(file))
    assert (
        [row["label"] for row in rows] == ["vse", "camp", "vse", "camp"]
        and rows[0]["gate_other"] == ""
        and float(rows[1]["gate_other"]) > 0
    )
    text = (out / "table.md").read_text()
    assert "1 epochs, batch 16, lr 0.01" in text and compare.table(results) in text and "0, 1 |" in text
    assert (out / "table.tex").read_text().count(r"\\") == 3 and "pm$" in (out / "table.tex").read_text()
    with open(out / "table.csv", newline="") as file: assert [row["model"] for row in csv.DictReader(file)] == ["vse", "camp"]
    assert "seeds that agree" in text and " of 2 |" in text
    assert (out / "table.png").stat().st_size > 1000


def test_the_table_is_the_mean_over_seeds(done):
    results = done[1][::2]
    cells = [cell.strip() for cell in compare.table(results).splitlines()[2].split("|")[1:-1]]
    sums = [result["report"]["rsum"] for result in results]
    assert cells[0] == "vse" and cells[7] == f"{sum(sums) / 2:.1f} ± {abs(sums[0] - sums[1]) / 2**.5:.1f}" and cells[-1] == "0, 1"
    assert float(cells[1].split()[0]) == pytest.approx(sum(result["report"]["text_r1"] for result in results) / 2, abs=0.06)
    assert compare.spread([3.0]) == "3.0" and compare.spread([1.0, 2.0], 0) == "2 ± 1"


def test_the_interval_over_images_stands_beside_the_seeds(done):
    "In the table, the mean of both seeds' ends; in results.csv each recall's; a result of an earlier version has none."
    out, results = done
    ends = [result["report"]["intervals"]["rsum"] for result in results[::2]]
    assert ends[0] != ends[1] and compare.interval(results[::2]) == pytest.approx([sum(side) / 2 for side in zip(*ends, strict=True)])
    cells = [cell.strip() for cell in compare.table(results).splitlines()[2].split("|")[1:-1]]
    assert cells[8] == "[{:.1f}, {:.1f}]".format(*compare.interval(results[::2]))
    with open(out / "results.csv", newline="") as file: rows = list(csv.DictReader(file))
    for row, result in zip(rows, results, strict=True):
        for name, (low, high) in result["report"]["intervals"].items():
            assert (float(row[f"{name}_low"]), float(row[f"{name}_high"])) == pytest.approx((low, high)) and low <= float(row[name]) <= high
    assert "intervals" not in rows[0]
    old = [{**result, "report": {key: value for key, value in result["report"].items() if key != "intervals"}} for result in results]
    assert compare.interval(old[:1]) == [] and "| vse |" in compare.table(old) and compare.figure(old)


@pytest.mark.parametrize("intervals", [{"rsum": [1.0, 2.0]}, {"odd": [1.0]}, "few", {"rsum": None}])
def test_intervals_of_a_damaged_result(done, intervals, tmp_path):
    from cmr.files import read_json
    result = done[1][0]
    whole = result["report"]["intervals"]
    for odd in (intervals, {**whole, **intervals} if isinstance(intervals, dict) else intervals, {**whole, "rsum": [1.0, 900.0]}):
        if odd == {**whole, "rsum": [1.0, 2.0]}: continue
        (tmp_path / "result.json").write_text(json.dumps({**result, "report": {**result["report"], "intervals": odd}}))
        with pytest.raises(ValueError, match="is not a result"): read_json(tmp_path / "result.json", compare.Result, "a result")
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert read_json(tmp_path / "result.json", compare.Result, "a result").report.intervals == whole


def test_the_same_call_goes_on(done, world, monkeypatch):
    out, results = done
    monkeypatch.setattr(compare, "train", lambda *a, **k: pytest.fail("trained again"))
    assert compare.compare(compare.models(["vse", "camp"], BUDGET), world, out, (0, 1), **QUIET) == results
    with pytest.raises(ValueError, match="was made with another recipe: choose another folder"):
        compare.compare(compare.models(["vse"], replace(BUDGET, lr=0.02)), world, out, (0,), **QUIET)


def test_a_table_of_an_older_version_goes_on(world, tmp_path):
    "A recipe then said itself what is now the model's own."
    entry, = compare.models(["devise"], BUDGET)
    result, = compare.compare([entry], world, tmp_path, **QUIET)
    file = tmp_path / "devise-seed0/result.json"
    for key in ("loss", "loss_args", "optimiser", "weight_decay", "schedule", "accumulate"): del result["recipe"][key]
    result["recipe"] |= {"margin": 0.1, "negatives": "hardest", "warmup_steps": 0}
    file.write_text(json.dumps(result))
    assert compare.compare([entry], world, tmp_path, **QUIET) == [result]
    file.write_text(json.dumps({**result, "recipe": {**result["recipe"], "margin": 0.3}}))
    with pytest.raises(ValueError, match="was made with another recipe"): compare.compare([entry], world, tmp_path, **QUIET)


def test_settings_go_to_the_models_that_have_them():
    scan, pvse = compare.models(["scan", "PVSE"], BUDGET, {"margin": "0.3", "heads": "4", "lse_temperature": "3"})
    assert (scan.label, pvse.label) == ("scan", "pvse") and scan.recipe.margin == pvse.recipe.margin == 0.3
    assert scan.recipe.args == {**SMALL, "lse_temperature": 3} and pvse.recipe.args == {**SMALL, "heads": 4}
    with pytest.raises(ValueError, match="no setting legs: the recipe has"):
        compare.models(["scan", "vse"], BUDGET, {"legs": "4", "lse_temperature": "3"})
    with pytest.raises(ValueError, match="margin=0 must be above 0"): compare.models(["scan"], BUDGET, {"margin": "0"})
    row, = compare.ablations(["no-gates"], BUDGET, {"hidden": "4", "gates": "scalar"})
    assert row.recipe.args == {**SMALL, "hidden": 4, "gates": False}


def test_a_stopped_row_is_resumed(world, tmp_path):
    from cmr.training import train
    entry, = compare.models(["vse"], replace(BUDGET, epochs=2))
    train(replace(entry.recipe, seed=0, name="vse"), world, tmp_path / "vse-seed0", max_steps=2, **QUIET)
    result, = compare.compare([entry], world, tmp_path, **QUIET)
    whole, = compare.compare([entry], world, tmp_path / "whole", **QUIET)
    assert result["report"] == whole["report"] and result["epochs"] == 2


def test_what_cannot_be_compared(world, tmp_path):
    entry, = compare.models(["vse"], BUDGET)
    with pytest.raises(ValueError, match="stands twice"): compare.compare([entry, entry], world, tmp_path, **QUIET)
    with pytest.raises(ValueError, match="stands twice"): compare.compare([entry], world, tmp_path, (0, 0), **QUIET)
    with pytest.raises(FileNotFoundError): compare.compare([entry], world, tmp_path, split="nowhere", **QUIET)
    assert not list(tmp_path.iterdir())                                                            # nothing was trained


def test_command_lines(world, tmp_path):
    def said(*words, code=0):
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == code, result.output
        return result.output
    few = ("--data", world, "--epochs", 1, "--embed-dim", 8, "--device", "cpu")
    text = said("ablate", "camp", *few, "--rows", "full", "--rows", "base", "--seeds", "0,1", "--out", tmp_path / "a")
    assert "| full |" in text and "| base |" in text and "table.png" in text and (tmp_path / "a/base-seed1/result.json").is_file()
    text = said("compare", "vse", "devise", *few, "--out", tmp_path / "c")
    assert "| vse |" in text and "| devise |" in text
    assert "there are some of camp" in said("ablate", "imram", *few, code=2)
    assert "--seeds 'x'" in said("compare", "vse", *few, "--seeds", "x", "--out", tmp_path / "d", code=2)
    assert "no-legs" in said("ablate", "camp", *few, "--rows", "no-legs", "--out", tmp_path / "d", code=2)
    assert "takes no --steps" in said("train", "--model", "camp", "--steps", 2, "--data", world, "--out", tmp_path / "d", code=2)
    said("train", "--model", "camp", "--ablation", "no-gates", "--ablation", "mean-pooling", *few, "--out", tmp_path / "t")
    recipe = json.loads((tmp_path / "t/recipe.json").read_text())
    assert (recipe["args"]["gates"], recipe["args"]["pooling"], recipe["args"]["embed_dim"]) == (False, "mean", 8)
    assert "exclude each other" in said(
        "train", "--model", "camp", "--ablation", "concat", "--ablation", "product", *few, "--out", tmp_path / "d", code=2
    )
    assert "vse takes no --gates" in said("train", "--model", "vse", "--ablation", "no-gates", *few, "--out", tmp_path / "d", code=2)


@pytest.mark.parametrize(
    "images,device,model,name",
    [
        (30, "cpu", "camp", "camp-f8k-small"),
        (30, "cpu", "vse", "f8k-small"),
        (30, "cpu", None, "f8k-small"),
        (30, "cuda", "camp", "camp-f8k"),
        (20_000, "cuda", "camp", "camp-f30k"),
        (20_000, "cuda", "scan", "imram-f30k"),
    ],
)
def test_a_model_has_recipes_of_its_own(images, device, model, name, tmp_path, monkeypatch):
    import numpy as np
    import torch

    from cmr.cli.train import pick_recipe
    from cmr.data import write_split
    write_split(tmp_path / "train.h5", np.ones((images, 1, 1), "float32"), ["a dog"] * images, np.arange(images))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_recipe(None, tmp_path, device, model).name == name
    (tmp_path / "train_scenes.json").write_text("[]")
    assert pick_recipe(None, tmp_path, device, model).name == "scenes"


def test_the_released_schedule_by_name(world, tmp_path):
    words = [
        "train",
        "--data",
        world,
        "--recipe",
        "camp-f30k-released",
        "--epochs",
        1,
        "--embed-dim",
        8,
        "--batch-size",
        16,
        "--device",
        "cpu",
        "--out",
        tmp_path / "r",
    ]
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 0 and "stage 3 of 3" in result.output, result.output
    assert (tmp_path / "r/before/before/best/config.json").is_file()
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "r"), "--resume", "--device", "cpu"])
    assert result.exit_code == 0 and "all epochs done: 1 epochs" in result.output, result.output
