"""`cmr data`: make the built-in data, or convert what others publish."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import App, PathArgument, PathOption, app, say, typed

data_app = App(no_args_is_help=True, rich_markup_mode="rich", help="Make the built-in data, or convert published data.")
app.add_typer(data_app, name="data")
SCENES, FILES = Path("data/scenes"), (".json", ".toml")  # the built-in data; what a recipe's file ends in
COUNTS = {"train": 3000, "dev": 500, "test": 500}


def draw_scenes(out: Path, seed: int, counts: dict[str, int]) -> None:
    "Make the built-in data set."
    from cmr.world import make_scenes
    make_scenes(out, seed, counts, True)


def named_data(data: Path | None, recipe: str | None) -> Path | None:
    "The data folder that was given, else the one that a recipe's file names."
    if data is not None or not recipe or not recipe.lower().endswith(FILES): return data
    from cmr.training.recipes import config_content, named_from
    found = config_content(recipe).get("data")
    if found is not None and not (isinstance(found, str) and found): raise ValueError(f"{recipe}: data={found!r} names no folder")
    return found and (named_from(found, Path(recipe).parent) if Path(recipe).name == "recipe.json" else Path(found))


def pick_data(data: Path | None, recipe: str | None = None) -> Path:
    "As `named_data`; where nothing was named the built-in scenes, drawn now if they are not there."
    if (data := named_data(data, recipe)) is not None: return data
    from cmr.data.datasets import read_manifest
    about = read_manifest(SCENES)
    there = [split for split in COUNTS if (SCENES / f"{split}.h5").is_file() and (about is None or split in about.files)]
    if len(there) < len(COUNTS):  # not drawn yet, or a drawing was stopped: that one is completed
        say(f"No --data given: drawing the built-in scenes into {SCENES} first (this is done once).")
        draw_scenes(SCENES, about.seed if about else 0, {**COUNTS, **about.counts} if about else COUNTS)
    return SCENES


def data_of(model: Path, data: Path | None, split: str | None = "test") -> tuple[Path, str]:  # model: the folder that was loaded
    """The data folder and split that a model is asked about: those given, else its run's data, and test, or dev where there is no test.

    Nothing is drawn. FileNotFoundError where nothing says which data, or it is not there any more."""
    from cmr.data import splits
    from cmr.training import read_recipe
    run = next((folder for folder in (model, model.parent) if os.path.lexists(folder / "recipe.json")), None)
    if data is None and run and not (data := read_recipe(run)[1]).exists():
        raise FileNotFoundError(f"the run {run} learned from {data}, which is not there: say with --data where its data is now")
    if data is None and not SCENES.is_dir():
        raise FileNotFoundError(f"{model} does not say what it learned from: name a data folder with --data (`cmr data scenes` makes one)")
    data = data or SCENES
    try: there = [] if split else splits(data)
    except (ValueError, OSError): there = []  # no data folder: pictures, or something that is called by its name where it is opened
    return data, split or ("dev" if "dev" in there and "test" not in there else "test")


@data_app.command("scenes")
def data_scenes(
    out: Annotated[Path, PathOption(help="Folder to write to.")] = SCENES,
    seed: Annotated[int, typer.Option(min=0, help="Decides every scene: the same seed gives the same data everywhere.")] = 0,
    train: Annotated[int, typer.Option(min=2, help="Scenes to learn from.")] = COUNTS["train"],
    dev: Annotated[int, typer.Option(min=2, help="Scenes to choose the best epoch by.")] = COUNTS["dev"],
    test: Annotated[int, typer.Option(min=2, help="Scenes to report on.")] = COUNTS["test"],
):
    """Draw the built-in scenes, write captions for them and encode them into regions. Needs no download.

    \b
    Examples:
      cmr data scenes
      cmr data scenes --seed 1 --out data/scenes1
      cmr data scenes --train 300 --dev 50 --test 50 --out data/few
    """
    from cmr.data.datasets import read_manifest
    wanted, about = {"train": train, "dev": dev, "test": test}, read_manifest(out)
    if about and (about.seed, about.counts) != (seed, wanted):
        raise ValueError(f"{out} holds scenes of seed {about.seed}, {about.counts}, which runs may need: name another --out, or delete it")
    draw_scenes(out, seed, wanted)
    typer.echo(f"The scenes are in {out}. Next: cmr train --data {typed(out)}")


@data_app.command("convert")
def data_convert(
    source: Annotated[Path, PathArgument(help="Folder in the SCAN layout ({split}_ims.npy and {split}_caps.txt), or Karpathy's "
                                              "dataset_*.json.")], out: Annotated[Path, PathArgument(help="Folder for {split}.h5.")],
    karpathy: Annotated[Path | None, PathOption(help="Take captions and splits from this json; SOURCE is then the features "
                                                     "(.npy).")] = None,
    features: Annotated[Path | None, PathOption(help="With a json: the .npy file with one row (regions, numbers) for each image.")] = None,
    ids: Annotated[Path | None, PathOption(help="With a json: a text file that names the image of each row of the features.")] = None,
):
    """Turn published data into one HDF5 file a split, each image once, with little memory.

    \b
    Examples:
      cmr data convert f30k_precomp data/f30k
      cmr data convert dataset_flickr8k.json data/f8k --features regions.npy --ids names.txt
      cmr data convert regions.npy data/f8k --karpathy dataset_flickr8k.json
    """
    from cmr.data import convert
    if karpathy: source, features = karpathy, features or source
    for path in convert(source, out, features=features, ids=ids): typer.echo(f"wrote {path}")
    typer.echo(f"Next: cmr train --data {typed(out)}")
