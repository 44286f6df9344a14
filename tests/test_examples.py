"""Every example that a command's help gives is typed, in a small prepared folder, with small recipes; what lies on the network is replaced."""

import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from test_cli import OWN, call
from test_photos import means

from cmr.cli import app
from cmr.training import RECIPES, recipes

N = 24  # pictures
SMALL = {"embed_dim": 8, "word_dim": 6}
WORDS = "a red circle above a green square with a blue heart", "a dog on a sofa that runs through snow", "a yellow star touches a ring"


def examples():
    "By command, in the order of its help: what a shell would be given, without the remark beside it."
    def walk(command, names):
        said = [line for line in (command.help or "").splitlines() if re.match(r"\s+(cmr|accelerate) \S", line)]
        if said: yield " ".join(names) or "cmr", [re.split(r"\s{2,}", line.strip())[0] for line in said]
        for name, one in getattr(command, "commands", {}).items(): yield from walk(one, [*names, name])
    return dict(walk(typer.main.get_command(app), []))


EXAMPLES = examples()
TRAININGS = ("compare", "ablate", "reproduce", "speedrun")  # of many models: most of the time of this file


def tiny(recipe):
    "A recipe of one epoch with a small model."
    return replace(recipe, args={**recipe.args, **SMALL}, epochs=1, batch_size=64, after=recipe.after and tiny(recipe.after))


def as_the_help_has_it(monkeypatch):
    "Recipes are small, extractors quick; the network's part of a command is left out."
    for name, recipe in RECIPES.items(): monkeypatch.setitem(RECIPES, name, tiny(recipe))
    monkeypatch.setattr(recipes, "LEAST", 1)
    from cmr.data import extractors
    for name in ("lite2", "timm"): monkeypatch.setitem(extractors.MAKERS, name, lambda *_: means("lite2"))
    monkeypatch.setattr("cmr.data.published.make_data", lambda *_: [])
    monkeypatch.setattr(sys.modules["cmr.cli.download"], "ask_terms", lambda accepted: None)
    from cmr.search import qdrant
    opened = qdrant.open_qdrant
    monkeypatch.setattr(qdrant, "open_qdrant", lambda model, split, words, url, *rest: opened(model, split, words, "qdrant", *rest))
    monkeypatch.setattr("huggingface_hub.ModelHubMixin.push_to_hub", lambda *_, **__: "https://hub")
    monkeypatch.setattr("huggingface_hub.RepoCard.validate", lambda *_, **__: None)
    from cmr import world
    drawn = world.make_scenes
    monkeypatch.setattr(world, "make_scenes", lambda out, seed, counts, *rest: drawn(out, seed, {name: min(n, 4) for name, n in counts.items()}, *rest))


def write_pictures(desk: Path) -> list[str]:
    "Two folders of pictures; their names."
    names = [f"{k:02}.jpg" for k in range(N)]
    for folder in ("photos", "flickr30k_images"):
        (desk / folder).mkdir()
        for k, name in enumerate(names): Image.new("RGB", (20, 20), (10 * k, 0, 255 - 10 * k)).save(desk / folder / name)
    shutil.copy(desk / "photos/03.jpg", desk / "another.jpg")
    return names


def write_captions(desk: Path, names: list[str]) -> None:
    "Captions and features as others publish them, each in the form that an example says."
    pairs = [(name, f"{WORDS[k % 3]} {i}") for k, name in enumerate(names) for i in range(2)]
    for file in ("captions.txt", "results.csv"): (desk / file).write_text("image,caption\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    (desk / "mine.jsonl").write_text("".join(json.dumps({"image": a, "caption": b}) + "\n" for a, b in pairs))
    (desk / "names.txt").write_text("\n".join(names))
    numbers = np.random.default_rng(0).normal(size=(N, 3, 5)).astype("float32")
    np.save(desk / "all.npy", numbers), np.save(desk / "regions.npy", numbers)
    (desk / "ids.txt").write_text("\n".join(names))
    splits = ["train"] * (N - 8) + ["val"] * 4 + ["test"] * 4
    images = [{"filename": name, "cocoid": k, "split": splits[k], "sentences": [{"raw": b, "tokens": b.split(), "sentid": 9 * k + i}
               for i, (a, b) in enumerate(pairs) if a == name]} for k, name in enumerate(names)]
    for file in ("dataset_coco.json", "dataset_flickr8k.json"): (desk / file).write_text(json.dumps({"images": images}))
    about = {"images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
             "annotations": [{"id": n, "image_id": names.index(a), "caption": b} for n, (a, b) in enumerate(pairs)]}
    (desk / "captions_val2014.json").write_text(json.dumps(about))
    import base64
    def row(k): return [k, 100, 200, 3, *(base64.b64encode(x.astype("<f4").tobytes()).decode() for x in (np.full((3, 4), 50.0), numbers[k]))]
    (desk / "trainval.tsv").write_text("".join("\t".join(map(str, row(k))) + "\n" for k in range(N)))
    (desk / "npz").mkdir()
    for k in range(N): np.savez(desk / "npz" / f"{k}.npz", x=numbers[k], bbox=np.full((3, 4), .5), image_w=100, image_h=200)
    (desk / "f30k_precomp").mkdir()
    for split in ("train", "dev", "test"):
        np.save(desk / "f30k_precomp" / f"{split}_ims.npy", numbers)
        (desk / "f30k_precomp" / f"{split}_caps.txt").write_text("\n".join(b for _, b in pairs))


def write_worlds(desk: Path) -> None:
    "A few drawn scenes, and the same under other names; a folder of one's own photographs."
    from cmr.world import regions
    regions.make_scenes(desk / "data/scenes", 0, {"train": 30, "dev": 10, "test": 40}, False)  # so many that each kind of twins is there
    for name in ("f8k", "f30k", "coco"):
        (desk / "data" / name).mkdir()
        for split in ("train", "dev", "test"): shutil.copy(desk / f"data/scenes/{split}.h5", desk / "data" / name)
    shutil.copy(desk / "data/coco/test.h5", desk / "data/coco/testall.h5")
    call("features", "photos", "-o", "photos.h5")
    call("import", "captions", "captions.txt", "data/mine", "--features", "photos.h5", "--dev", 8, "--test", 4)


def write_runs(desk: Path) -> None:
    "The runs that examples name."
    call("train", "--recipe", "scenes", "--out", "runs/scenes-imram")
    for name in ("text-imram", "image-imram", "coco"): shutil.copytree("runs/scenes-imram", f"runs/{name}")
    call("train", "--data", "data/mine", "--recipe", "scenes", "--out", "runs/mine")
    call("train", "--recipe", "scenes", "--model", "mine", "--import", "my_module", "--out", "runs/scenes-mine")


def write_checkpoints(desk: Path, family: str) -> None:
    "Weights of a model's authors, and their vocabularies."
    from literal_camp import released_states
    from test_released import FILES, saved, words_json
    weights, about = FILES[family][:2] if family != "camp" else (released_states(fusion="sum"), {})
    for file in ("model_best.pth.tar", "checkpoint_150.pth.tar"): saved(desk / file, weights, **about)
    for name in ("f30k", "coco"): words_json(desk / f"{name}_precomp_vocab.json")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    "The folder that examples are typed in; each command gets a copy."
    from cmr.matcher import MODELS
    desk = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(desk)
        monkeypatch.setattr(sys, "path", [*sys.path])
        as_the_help_has_it(monkeypatch)
        (desk / "my_module.py").write_text(OWN.replace("class Pairwise", "class Mine"), encoding="utf-8")
        (desk / "mine.toml").write_text('recipe = "scenes"\nlr = 1e-3\n', encoding="utf-8")
        write_captions(desk, write_pictures(desk))
        write_worlds(desk)
        write_runs(desk)
        (desk / "docs").mkdir()
        (desk / "docs/results.md").write_text("<!-- reproduced -->\n<!-- end of reproduced -->\n")
        yield desk
    sys.modules.pop("my_module", None)
    MODELS.pop("mine", None)


def make_room(command: str, desk: Path) -> None:
    "Take away what a command makes itself."
    if command.startswith(("data", "import")): shutil.rmtree(desk / "data")
    if command in ("cmr", "train"): shutil.rmtree(desk / "runs")
    if command == "features":
        (desk / "photos.h5").unlink()
        for k in (2, 3, 4): call("features", "photos", "-o", f"photos-{k}.h5", "--shard", f"{k}/4")


@pytest.mark.parametrize("command", [*(name for name in EXAMPLES if name not in TRAININGS), *TRAININGS])
def test_examples_of_the_help_succeed_as_typed(command, prepared, tmp_path, monkeypatch):
    desk = shutil.copytree(prepared, tmp_path / "desk")
    monkeypatch.chdir(desk)
    monkeypatch.setattr(sys, "path", [*sys.path])
    as_the_help_has_it(monkeypatch)
    make_room(command, desk)
    for line in EXAMPLES[command]:
        words = shlex.split(line)
        if words[0] == "accelerate": words = ["cmr", *words[words.index("cmr.cli") + 1:]]  # as one of its processes
        if "checkpoint" in words[:3]: write_checkpoints(desk, words[words.index("--family") + 1])
        call(*words[1:])


def test_every_command_has_examples_and_none_has_a_placeholder():
    every = {" ".join(names) for names in commands(typer.main.get_command(app), [])}
    assert every - set(EXAMPLES) <= {"", "data", "import"} and len(sum(EXAMPLES.values(), [])) > 50
    assert not [line for lines in EXAMPLES.values() for line in lines if re.search(r" [A-Z]( |$)|\.\.\.|[<>\[\]]", line)]


def commands(command, names):
    "Names of all commands, and of groups of them."
    yield names
    for name, one in getattr(command, "commands", {}).items(): yield from commands(one, [*names, name])
