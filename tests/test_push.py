"A model for the hub: what is sent, and what its card says. The hub itself is a stand-in."

import json
import shutil
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import cmr
from cmr.cli import app
from cmr.saving import hub_card
from cmr.training import RECIPES, train
from cmr.training.recipes import change, for_model
from cmr.world.regions import make_scenes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    here = tmp_path_factory.mktemp("push")
    make_scenes(here / "world", counts={"train": 40, "dev": 12, "test": 12}, progress=False)
    recipe = change(for_model(RECIPES["scenes"], "vse"), {"epochs": "1", "embed_dim": "8", "word_dim": "8"})
    train(recipe, here / "world", here / "run", device="cpu", progress=False)
    return here / "run"


def said(*words): return CliRunner().invoke(app, ["push", *map(str, words)])


def test_what_would_be_sent(run, tmp_path):
    found = said(run, "--to", tmp_path / "card", "--licence", "apache-2.0", "--about", "a small drawn world", "--device", "cpu")
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == ["README.md", "config.json", "model.safetensors", "vocab.json"]
    card = (tmp_path / "card/README.md").read_text()
    for part in ("license: apache-2.0", "a small drawn world", "world, split test", "R@sum", " [", "| epochs | `1` |", "by an extractor that it doesn't name"): assert part in card, part
    assert str(run.parent) not in card                                  # nothing of this machine
    model, vocabulary = cmr.load(tmp_path / "card")
    before, _ = cmr.load(run / "best")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True))
    assert torch.equal(model.encode("a red circle").values, before.encode("a red circle").values) and len(vocabulary) == model.vocab_size


def test_what_is_not_ours_stays(run, tmp_path):
    "A folder with other things in it is refused before anything is evaluated; what was written here before is replaced."
    for name in ("README.md", "config.json", "vocab.json"): (tmp_path / name).write_text("mine")
    found = said(run, "--to", tmp_path, "--device", "cpu")
    assert found.exit_code == 2 and "name a new folder" in " ".join(found.output.split()) and {path.read_text() for path in tmp_path.iterdir()} == {"mine"}
    file = tmp_path / "config.json"
    assert said(run, "--to", file).exit_code == 2 and file.read_text() == "mine"
    for _ in range(2): assert said(run, "--to", tmp_path / "card", "--device", "cpu").exit_code == 0


def test_the_card_is_called_what_the_model_is(run):
    card = hub_card(cmr.load(run / "best")[0], name="me/scenes").content
    assert 'cmr.load("me/scenes")' in card and "OWNER" not in card and "\n# VSE\n" in card


def test_a_model_of_ones_own_is_pushed(run, tmp_path):
    "In a process of its own, which has not met the class yet."
    (tmp_path / "my_matcher.py").write_text("import cmr\nfrom cmr.matcher import VSE\n\n@cmr.register\nclass Mine(VSE):\n    'Mine.'\n")
    def typed(*words, code=0):
        done = subprocess.run([sys.executable, "-m", "cmr.cli", *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr
    typed("train", "--data", run.parent / "world", "--import", "my_matcher", "--model", "mine", "--embed-dim", 8, "--epochs", 1, "--out", "my run", "--device", "cpu")
    assert "--import" in typed("push", "my run", "--to", "card", code=2)
    assert "cmr push 'my run' OWNER/NAME" in typed("push", "my run", "--to", "card", "--import", "my_matcher", "--device", "cpu")
    assert "# Mine" in (tmp_path / "card/README.md").read_text()


def test_data_without_a_test_split_is_reported_on_dev(run, tmp_path):
    shutil.copytree(run.parent / "world", tmp_path / "world")
    for path in (tmp_path / "world").glob("test*"): path.unlink()
    found = said(run, "--to", tmp_path / "card", "--data", tmp_path / "world", "--device", "cpu")
    assert found.exit_code == 0 and "world, split dev" in (tmp_path / "card/README.md").read_text()
    table = CliRunner().invoke(app, ["compare", "vse", "--data", str(tmp_path / "world"), "--epochs", "1", "--embed-dim", "8", "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert table.exit_code == 0 and "world, split dev" in table.output, table.output


def test_sent(run, monkeypatch):
    "push_to_hub gets the whole folder, the card in it."
    from huggingface_hub import HfApi
    sent = {}

    def upload(self, *, repo_id, folder_path, **_):
        sent.update({path.name: path.read_bytes() for path in folder_path.iterdir()}, repo=repo_id)
        return "https://hub.example/me/small"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    from huggingface_hub import ModelCard
    monkeypatch.setattr(ModelCard, "validate", lambda self, **_: None)  # asks the hub
    found = said(run, "me/small", "--device", "cpu")
    assert found.exit_code == 0 and "https://hub.example/me/small" in found.output, found.output
    assert sent["repo"] == "me/small" and json.loads(sent["vocab.json"]) and b"image-text-retrieval" in sent["README.md"]


@pytest.mark.parametrize(("words", "message"), [((), "say owner/name"), (("me/small", "--to", "card"), "say owner/name"), (("small",), "owner/name")])
def test_refused(run, words, message):
    found = said(run, *words)
    assert found.exit_code == 2 and message in found.output and "Traceback" not in found.output


def test_a_card_of_a_model_alone():
    model = cmr.create_model("vse", region_dim=4, vocab_size=9, embed_dim=4, word_dim=4)
    model.extractor = "toy, 4 numbers"
    text = str(hub_card(model))
    assert "**Region features** by `toy, 4 numbers`" in text
    assert "What it reaches" not in text and "How it was trained" not in text and "data that its author does not name" in text


def test_without_a_run_or_a_network_it_says_so(run, tmp_path, monkeypatch):
    from huggingface_hub import ModelCard
    for folder in (tmp_path / "none", run / "best"):
        found = said(folder, "--to", tmp_path / "card")
        assert found.exit_code == 2 and f"no recipe.json in {folder}" in found.output.replace("\n", " ") and not (tmp_path / "card").exists()

    class TransportError(Exception): pass  # as the client's is called that the hub's library is made with
    def nobody(self, **_): raise TransportError("name not known")
    monkeypatch.setattr(ModelCard, "validate", nobody)
    found = said(run, "me/small", "--device", "cpu")
    assert found.exit_code == 2 and "the hub gives no answer (name not known): nothing was sent" in found.output and "error of the package" not in found.output


def test_a_run_is_loaded_by_its_folder(run):
    assert all(map(torch.equal, cmr.load(run)[0].state_dict().values(), cmr.load(run / "best")[0].state_dict().values()))
    assert isinstance(cmr.VSE.from_pretrained(run), cmr.VSE)
