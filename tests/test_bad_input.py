"""Bad input at the level of commands: status 2, a line that names the file or argument, no traceback, and nothing lost."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
from tiny import digests, write_world
from typer.testing import CliRunner

from cmr.cli import app
from cmr.saving import load

QUICK = ["--epochs", "1", "--batch-size", "8", "--embed-dim", "8", "--device", "cpu"]


def refused(*words) -> str:
    "What a command says that must fail; on one line, since the terminal's width has no say in it."
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and "Error" in result.output
    return " ".join(result.output.split())


def scan_layout(folder, n=6):
    "A data folder in the SCAN layout: n images in train, 2 in dev and test, two captions an image."
    folder.mkdir(exist_ok=True)
    for split, count in (("train", n), ("dev", 2), ("test", 2)):
        np.save(folder / f"{split}_ims.npy", np.random.default_rng(count).normal(size=(count, 3, 6)).astype("float32"))
        (folder / f"{split}_caps.txt").write_text("".join(f"a red dog runs {'left' if i % 2 else 'right'}\n" for i in range(2 * count)))
    return folder


@pytest.fixture
def data(tmp_path): return scan_layout(tmp_path / "data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A world and a model trained on it."
    folder = tmp_path_factory.mktemp("trained")
    world = write_world(folder / "world")
    result = CliRunner().invoke(app, ["train", "--data", str(world), "--out", str(folder / "run"), *QUICK])
    assert result.exit_code == 0, result.output
    return world, folder / "run"


def train_refused(data, tmp_path, *words) -> str:
    "What `cmr train` says; it must leave no folder behind."
    said = refused("train", "--data", data, "--out", tmp_path / "run", *QUICK, *words)
    assert not (tmp_path / "run").exists()
    return said


def test_the_good_form_of_it_all_trains(data, tmp_path):
    result = CliRunner().invoke(app, ["train", "--data", str(data), "--out", str(tmp_path / "run"), *QUICK])
    assert result.exit_code == 0, result.output


def test_no_data_folder(tmp_path):
    said = train_refused(tmp_path / "nowhere", tmp_path)
    for words in ("nowhere", "{split}.h5", "{split}_ims.npy", "cmr data scenes", "cmr data convert"): assert words in said


def test_empty_data_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    said = train_refused(tmp_path / "empty", tmp_path)
    assert "empty" in said and "cmr data scenes" in said


def test_missing_split(data, tmp_path):
    (data / "dev_ims.npy").unlink()
    assert "no split 'dev'" in train_refused(data, tmp_path)


def test_captions_not_divisible_by_the_images(data, tmp_path):
    with open(data / "train_caps.txt", "a") as file: file.write("one more dog\n")
    said = train_refused(data, tmp_path)
    assert "train_ims.npy, train_caps.txt: 13 captions" in said


def test_fewer_captions_than_images(data, tmp_path):
    (data / "dev_caps.txt").write_text("a red dog\n")
    said = train_refused(data, tmp_path)
    assert "dev_ims.npy, dev_caps.txt: 1 captions for 2 rows" in said


def test_empty_caption(data, tmp_path):
    lines = (data / "train_caps.txt").read_text().splitlines()
    (data / "train_caps.txt").write_text("\n".join([*lines[:3], "  ", *lines[4:]]) + "\n")
    said = train_refused(data, tmp_path)
    assert "train_caps.txt, line 4" in said and "empty caption" in said


def test_caption_of_unknown_words_only(data, tmp_path):
    lines = (data / "train_caps.txt").read_text().splitlines()
    (data / "train_caps.txt").write_text("\n".join([*lines[:5], "xylophone quartet", *lines[6:]]) + "\n")
    result = CliRunner().invoke(app, ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--min-count", "4", *QUICK])
    assert result.exit_code == 0, result.output
    assert "1 of 12 captions have no word that the vocabulary knows, the first is caption 5, 'xylophone quartet'" in result.output


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("model", ["imram", "vse"])
def test_features_that_are_no_numbers(value, model, data, tmp_path):
    features = np.load(data / "train_ims.npy")
    features[4, 1, 2] = value
    np.save(data / "train_ims.npy", features)
    said = refused("train", "--data", data, "--out", tmp_path / "run", *QUICK, "--model", model)
    assert re.search(r"train_ims\.npy: image 4, region 1 holds NaN or infinity", said)


def test_an_error_stands_on_a_line_of_its_own_whatever_bar_was_shown(data, tmp_path):
    features = np.load(data / "train_ims.npy")
    features[4, 1, 2] = np.nan
    np.save(data / "train_ims.npy", features)
    result = CliRunner().invoke(app, ["data", "convert", str(data), str(tmp_path / "h5")])
    lines = [line for line in re.split(r"[\r\n]", result.output) if line.strip()]
    assert result.exit_code == 2 and lines[-1].startswith("Error:") and "train_ims.npy" in lines[-1], result.output


def test_a_best_model_that_is_damaged_is_not_passed_over(trained, tmp_path):
    run = shutil.copytree(trained[1], tmp_path / "run")
    (run / "best" / "config.json").unlink()
    said = refused("evaluate", run, "--data", trained[0])
    assert "best" in said and "config.json" in said


def test_features_that_are_no_numbers_at_evaluation(trained, data):
    features = np.load(data / "test_ims.npy")
    features[1, 0, 0] = np.nan
    np.save(data / "test_ims.npy", features)
    (data / "test_caps.txt").write_text("a red dog runs\n" * 4)
    assert "test_ims.npy: image 1, region 0" in refused("evaluate", trained[1], "--data", data)


def test_wrong_width_for_a_model(trained, tmp_path):
    other = write_world(tmp_path / "wide", width=9)
    said = refused("evaluate", trained[1], "--data", other)
    assert "test.h5" in said and "9 numbers" in said and "trained on 6" in said


@pytest.mark.parametrize("name", ["train_ims.npy", "dev_ims.npy"])
def test_truncated_npy(name, data, tmp_path):
    (data / name).write_bytes((data / name).read_bytes()[:-40])
    said = train_refused(data, tmp_path)
    assert name in said and "cut short" in said


def test_pickled_npy(data, tmp_path):
    np.save(data / "train_ims.npy", np.array([{"a": 1}] * 6, dtype=object), allow_pickle=True)
    said = train_refused(data, tmp_path)
    assert "train_ims.npy" in said and "pickled" in said


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_truncated_h5(kept, tmp_path):
    path = write_world(tmp_path / "data") / "train.h5"
    content = path.read_bytes()
    path.write_bytes(content[:int(kept * len(content))])
    assert "train.h5" in train_refused(tmp_path / "data", tmp_path)


@pytest.mark.parametrize("member", ["ids", "mask"])
@pytest.mark.parametrize("link", [h5py.SoftLink("/ids"), h5py.SoftLink("/nowhere"), h5py.ExternalLink("elsewhere.h5", "/")])
def test_a_member_that_is_a_link_is_refused_wherever_it_leads(member, link, tmp_path):
    folder = write_world(tmp_path / "data")
    with h5py.File(folder / "train.h5", "r+") as file:
        file.pop(member, None)
        file[member] = link
    assert f"train.h5, member {member} points elsewhere" in train_refused(folder, tmp_path)


@pytest.mark.parametrize("name, kept", [("model.safetensors", 100), ("model.safetensors", -40), ("config.json", 20), ("vocab.json", 50)])
def test_truncated_model(name, kept, trained, tmp_path):
    folder = shutil.copytree(trained[1] / "best", tmp_path / "model")
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    assert name in refused("evaluate", folder, "--data", trained[0])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json"])
def test_missing_part_of_a_model(name, trained, tmp_path):
    folder = shutil.copytree(trained[1] / "best", tmp_path / "model")
    (folder / name).unlink()
    assert name in refused("evaluate", folder, "--data", trained[0])


def test_no_model_at_all(trained, tmp_path):
    said = refused("evaluate", tmp_path / "nothing", "--data", trained[0])
    assert "nothing" in said and "cmr train" in said


def test_vocabulary_of_another_data_set(trained, data, tmp_path):
    for split in ("train", "dev", "test"):
        (data / f"{split}_caps.txt").write_text("".join(["ein Hund a\n", "eine Katze a\n"] * len(np.load(data / f"{split}_ims.npy"))))
    said = refused("evaluate", trained[1], "--data", data)
    assert "test_ims.npy" in said and "another data set" in said
    model = shutil.copytree(trained[1] / "best", tmp_path / "model")
    content = json.loads((model / "vocab.json").read_text())
    words = ["<pad>", "<start>", "<end>", "<unk>", *(f"wort{i}" for i in range(content["idx"] - 4))]
    content.update(word2idx={word: i for i, word in enumerate(words)}, idx2word={str(i): word for i, word in enumerate(words)})
    (model / "vocab.json").write_text(json.dumps(content))
    assert "vocab.json" in refused("evaluate", model, "--data", trained[0])


@pytest.mark.parametrize(
    "words, named",
    [
        (["--steps", 0], "steps=0"),
        (["--steps", -1], "steps=-1"),
        (["--direction", "up"], "direction"),
        (["--memory", "elephant"], "memory"),
        (["--variant", "pirate"], "variant"),
        (["--model", "scan", "--pooling", "car"], "pooling"),
        (["--model", "scan", "--direction", "full"], "direction"),
        (["--batch-size", 1], "batch_size=1"),
        (["--batch-size", 0], "batch_size=0"),
        (["--epochs", 0], "epochs=0"),
        (["--lr", 0], "lr=0"),
        (["--embed-dim", 0], "embed"),
        (["--embed-dim", -4], "embed"),
    ],
)
def test_settings_that_cannot_be(words, named, trained, tmp_path):
    said = refused("train", "--data", trained[0], "--out", tmp_path / "run", "--device", "cpu", *words)
    assert named in said
    assert not (tmp_path / "run").exists()


def test_a_single_image(data, tmp_path):
    scan_layout(data, n=1)
    assert "train_ims.npy has one image only" in train_refused(data, tmp_path)


def test_a_split_that_is_not_there(trained):
    assert "no split 'testall'" in refused("evaluate", trained[1], "--data", trained[0], "--split", "testall")


def test_folds_that_do_not_divide(trained):
    assert "--folds 4" in refused("evaluate", trained[1], "--data", trained[0], "--folds", 4)


def test_a_full_disk_while_saving(trained, tmp_path):
    resource = pytest.importorskip("resource")
    out = tmp_path / "run"
    first = CliRunner().invoke(app, ["train", "--data", str(trained[0]), "--out", str(out), *QUICK, "--max-steps", "2"])
    assert first.exit_code == 0, first.output
    before, limit = digests(out / "last"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limit[1]))
    try: said = refused("train", "--out", out, "--resume")
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert str(out) in said and "still whole" in said
    assert digests(out / "last") == before
    load(out / "last")
    again = CliRunner().invoke(app, ["train", "--out", str(out), "--resume"])
    assert again.exit_code == 0, again.output
