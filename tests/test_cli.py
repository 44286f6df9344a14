"""What a user types, and what comes back."""

import configparser
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_training import digests, write_world
from typer.testing import CliRunner

import cmr.data
import cmr.training
from cmr.cli import app, fitting
from cmr.data import open_split, write_split

QUICK = ["--recipe", "scenes", "--epochs", "1", "--batch-size", "8", "--embed-dim", "8", "--device", "cpu"]


def call(*words, code: int = 0) -> str:
    "Run a command; returns what it printed, on both streams."
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="cmr")
    assert result.exit_code == code, result.output
    assert code or "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def world(tmp_path_factory): return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    return out, call("train", "--data", world, "--out", out, *QUICK)


def test_version_is_that_of_settings():
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(Path(__file__).parent.parent / "settings.ini", encoding="utf-8")
    assert call("--version").strip() == f"cmr {parser['DEFAULT']['version']}"


@pytest.mark.parametrize("words", [[], ["data"], ["data", "scenes"], ["data", "convert"], ["train"], ["evaluate"], ["search"]])
def test_help_is_there_with_examples(words):
    output = call(*words, "--help")
    assert "Usage" in output and ("cmr " + " ".join(words)).strip() in output
    assert words in ([], ["data"]) or "Examples" in output


def test_help_loads_neither_torch_nor_notebooks():
    code = "import sys, cmr.cli; print([name for name in ('torch', 'nbdev', 'IPython', 'h5py', 'matplotlib') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_train_says_what_it_does_and_what_to_type_next(run, world):
    out, said = run
    for words in ("Training imram", str(world), "recipe scenes", "by chance", "epoch 1: loss", "best so far", "all epochs done", f"Next: cmr evaluate {out}"):
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
    call("train", "--data", world, "--out", tmp_path / "a", *QUICK, "--steps", 2, "--direction", "text", "--memory", "gate", "--variant", "released",
         "--seed", 3, "--lr", 0.01)
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
    monkeypatch.setattr(cmr.data, "make_scenes", drawn, raising=False)
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
    import cmr.scenes
    data = write_world(tmp_path)
    (data / "test_scenes.json").write_text("[]")
    monkeypatch.setattr(cmr.scenes, "world_report", lambda scores, path: f"{tuple(scores.shape)} {Path(path).name}", raising=False)
    assert "(6, 12) test_scenes.json" in call("evaluate", run[0], "--data", data)


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
    import json
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


@pytest.mark.parametrize("words, message", [(["--model", "vse", "--steps", 2], "vse takes no --steps"), (["--model", "bert"], "unknown matcher 'bert'"),
                                            (["--recipe", "best"], "no recipe 'best': choose one of"), (["--device", "tpu"], "device='tpu'"),
                                            (["--precision", "int8"], "precision='int8'"), (["--resume"], "no run in")])
def test_wrong_options_are_named(words, message, world, tmp_path):
    assert message in call("train", "--data", world, "--out", tmp_path / "run", *words, code=2)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_no_error(world, tmp_path, monkeypatch):
    def stopped(*args): raise KeyboardInterrupt("stopped at step 3, all saved")
    monkeypatch.setattr(cmr.training, "train", stopped)
    assert "stopped at step 3, all saved" in call("train", "--data", world, "--out", tmp_path / "run", code=130)


def test_bench_measures_what_it_is_asked_to(tmp_path):
    assert "cmr bench" in call("bench", "--help") and "Examples" in call("bench", "--help")
    assert "no row fits 'x'" in call("bench", "--rows", "x", "--out", tmp_path, code=2) and not list(tmp_path.iterdir())
    said = call("bench", "--rows", "both-full-3-4x4-256", "--compile", "--device", "cpu", "--out", tmp_path)
    assert "no GPU here" in said and "| both-full-3-4x4-256 |" in said and (tmp_path / "benchmark.png").is_file()


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
    for words, message in (([], "one of the two"), (["a dog", "--image", 2], "one of the two"), (["a dog", "--top", 9, "--shortlist", 5], "shorter than --top 9"),
                           (["zebra"], "unknown words only"), ([""], "empty"), (["--image", "nobody"], "no image 'nobody'"), (["a dog", "--figure", "x.png"], "--figure needs pictures"),
                           (["--image", 2, "--index", index], "of the other side"), (["a dog", "--index", index, "--data", tmp_path / "other"], "of other data")):
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


def test_the_engine_can_be_switched_off(world, tmp_path):
    call("train", "--data", world, "--out", tmp_path / "plain", *QUICK, "--no-engine", "--max-steps", "1")
    assert '"engine": false' in (tmp_path / "plain" / "recipe.json").read_text(encoding="utf-8")
    assert "engine" in call("train", "--data", world, "--out", tmp_path / "vse", *QUICK, "--model", "vse", "--no-engine", code=2)
