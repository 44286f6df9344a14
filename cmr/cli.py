"""The command line: `cmr data`, `cmr train`, `cmr evaluate`. Thin on purpose; the work is done where the chapters define it."""

import os
import sys
import traceback
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

# Threads that wait sleep instead of spinning: on a machine that does other work too, spinning costs several times what it saves.
# Set before torch is imported; a value that is set already stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False,
                  context_settings={"help_option_names": ["-h", "--help"]})
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make the built-in data, or convert published data.")
app.add_typer(data_app, name="data")
SCENES = Path("data/scenes")
COUNTS = {"train": 3000, "dev": 500, "test": 500}


@contextmanager
def plain_errors():
    "A clear line instead of a traceback (CMR_DEBUG=1 shows both); exit status 2, or 130 after Ctrl-C."
    try:
        yield
    except KeyboardInterrupt as stop:
        typer.secho(str(stop) or "stopped", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(130) from None
    except (typer.Exit, typer.Abort):
        raise
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as problem:
        if os.environ.get("CMR_DEBUG"): traceback.print_exc()
        typer.secho(f"Error: {problem or type(problem).__name__}", fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from None


def show_version(wanted: bool):
    "Print the version and stop."
    if not wanted: return
    from cmr import __version__
    typer.echo(f"cmr {__version__}")
    raise typer.Exit


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")] = False):
    """Image-text retrieval: make or convert data, train a matcher, measure how often the right one is found.

    \b
    To begin:
      cmr train                        IMRAM on built-in scenes, drawn first
      cmr evaluate runs/scenes-imram   how often it finds the right one
    Every command has a --help with examples. Set CMR_DEBUG=1 to see where an error comes from.
    """


def draw_scenes(out: Path, seed: int, counts: dict):
    "Make the built-in data set."
    from cmr.data import make_scenes
    make_scenes(out, seed, counts, True)


@data_app.command("scenes")
def data_scenes(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = SCENES,
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
    with plain_errors():
        draw_scenes(out, seed, {"train": train, "dev": dev, "test": test})
        typer.echo(f"The scenes are in {out}. Next: cmr train --data {out}")


@data_app.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(help="Folder in the SCAN layout ({split}_ims.npy and {split}_caps.txt), or Karpathy's dataset_*.json.")],
    out: Annotated[Path, typer.Argument(help="Folder for {split}.h5.")],
    karpathy: Annotated[Path | None, typer.Option(help="Take captions and splits from this json; SOURCE is then the features (.npy).")] = None,
    features: Annotated[Path | None, typer.Option(help="With a json: the .npy file with one row (regions, numbers) for each image.")] = None,
    ids: Annotated[Path | None, typer.Option(help="With a json: a text file that names the image of each row of the features.")] = None,
):
    """Turn published data into one HDF5 file a split, each image once, with little memory.

    \b
    Examples:
      cmr data convert f30k_precomp data/f30k
      cmr data convert dataset_flickr8k.json data/f8k --features regions.npy --ids names.txt
      cmr data convert regions.npy data/f8k --karpathy dataset_flickr8k.json
    """
    with plain_errors():
        from cmr.data import convert
        if karpathy: source, features = karpathy, features or source
        for path in convert(source, out, features=features, ids=ids): typer.echo(f"wrote {path}")
        typer.echo(f"Next: cmr train --data {out}")


def pick_data(data: Path | None) -> Path:
    "The data folder; the built-in scenes, drawn now if they are not there, where none was given."
    if data is not None: return data
    if not all((SCENES / f"{split}.h5").is_file() for split in COUNTS):
        typer.echo(f"No --data given: drawing the built-in scenes into {SCENES} first (this is done once).")
        draw_scenes(SCENES, 0, COUNTS)
    return SCENES


def pick_recipe(name: str | None, data: Path, device: str | None):
    "The recipe of that name, else the one that fits the data: by its kind, its number of images, and what the machine can bear."
    from cmr.training import RECIPES
    name = name or fitting(data, device)
    if name not in RECIPES: raise ValueError(f"no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def fitting(data: Path, device: str | None) -> str:
    "Name of the recipe for a data folder."
    import torch

    from cmr.data import open_split
    split = open_split(data, "train")
    if (data / "train_scenes.json").is_file(): return "scenes"
    if device == "cpu" or not torch.cuda.is_available(): return "f8k-small"
    return next((name for name, images in (("imram-coco", 100_000), ("imram-f30k", 20_000)) if split.n_images >= images), "imram-f8k")


def adjust(recipe, model: str | None, settings: dict, args: dict):
    "A recipe with what was said on the command line; ValueError where the matcher does not take it."
    from cmr.training import accepted, for_matcher
    if model: recipe = for_matcher(recipe, model)
    known = accepted(recipe.matcher)
    args, settings = ({key: value for key, value in given.items() if value is not None} for given in (args, settings))
    foreign = [f"--{key.replace('_', '-')}" for key in args if key not in known]
    if foreign: raise ValueError(f"{recipe.matcher} takes no {', '.join(foreign)}; its settings are {', '.join(known)}")
    return replace(recipe, args={**recipe.args, **args}, **settings)


def show_summary(result: dict):
    "What came out, and what to type next."
    typer.echo(f"{result['stopped']}: {result['epochs']} epochs, {result['step']} steps, {result['parameters']:,} weights, "
               f"{result['seconds']:.0f} s on {result['device']}")
    if result["best"]: typer.echo(f"best: epoch {result['best_epoch']}, dev R@sum {result['best']['rsum']:.1f}; the curves are in {result['out']}/curves.png")
    typer.echo(f"Next: cmr evaluate {result['out']}")


@app.command("train")
def train_command(
    data: Annotated[Path | None, typer.Option(help="Data folder with train and dev. Default: data/scenes, drawn at once if it is not there.")] = None,
    recipe: Annotated[str | None, typer.Option(help="scenes, f8k-small, imram-f8k, imram-f30k or imram-coco. Default: what fits the data.")] = None,
    model: Annotated[str | None, typer.Option(help="vse, scan or imram. Default: the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/RECIPE-MODEL.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run, to the same result as without the break.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training captions.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs in a batch, 2 or more.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's step size at the start.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides first weights and the order of batches.")] = None,
    embed_dim: Annotated[int | None, typer.Option(help="Width of regions and words in the joint space.")] = None,
    steps: Annotated[int | None, typer.Option(help="K, the matching steps of IMRAM, 1 or more.")] = None,
    direction: Annotated[str | None, typer.Option(help="Who looks: full, image or text (IMRAM); image or text (SCAN).")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, lse, max or sum (SCAN).")] = None,
    memory: Annotated[str | None, typer.Option(help="distill, add, mlp, att or gate (IMRAM).")] = None,
    variant: Annotated[str | None, typer.Option(help="paper or released: as printed, or as the authors' code computes it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16. Default: fp32.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read data ahead.")] = 0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps, with a checkpoint: to try things out.")] = None,
):
    """Train a matcher and keep its best epoch by R@sum on the dev split. Ctrl-C saves a checkpoint first.

    \b
    Examples:
      cmr train                                       IMRAM, built-in scenes
      cmr train --model scan --direction text --out runs/scan
      cmr train --steps 1 --seed 1 --out runs/one-step
      cmr train --data data/f30k --recipe imram-f30k  the paper's settings
      cmr train --out runs/scan --resume              go on after a stop

    \b
    The run's folder then holds
      best/, last/              models for cmr evaluate and from_pretrained
      metrics.csv, curves.png   loss and recall by epoch
      recipe.json               every setting
      tensorboard/              for tensorboard --logdir runs
    """
    with plain_errors():
        from cmr.training import read_recipe, train
        args = {"embed_dim": embed_dim, "steps": steps, "direction": direction, "pooling": pooling, "memory": memory, "variant": variant}
        settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
        if resume and out: base, recorded = read_recipe(out)
        data = pick_data(recorded if resume and out and data is None else data)
        if recipe or not (resume and out): base = pick_recipe(recipe, data, device)
        final = adjust(base, model, settings, args)
        out = out or Path("runs") / f"{final.name}-{final.matcher}"
        typer.echo(f"Training {final.matcher} on {data} by the recipe {final.name}; the run goes to {out}")
        show_summary(train(final, data, out, resume, device, precision, True, max_steps, workers))


def model_folder(path: Path) -> Path:
    "The folder of a model: the one given, or the best (else the last) of a run."
    return next((path / name for name in ("best", "last") if (path / name / "config.json").is_file()), path)


def show_world(scores, data: Path, split: str):
    "What only the built-in data can tell: twin accuracy, and the ceiling of recall."
    path = data / f"{split}_scenes.json"
    if not path.is_file(): return
    from cmr.scenes import world_report
    typer.echo(world_report(scores, path))


@app.command("evaluate")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Folder of a run (its best epoch is taken) or of a model.")],
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: data/scenes.")] = None,
    split: Annotated[str, typer.Option(help="test, dev, train, testall, ...")] = "test",
    folds: Annotated[int, typer.Option(min=1, help="Report the mean over so many equal parts of the images; COCO's 5 x 1K is 5.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
):
    """Print R@1, R@5, R@10 in both directions, R@sum and the ranks of the right answers.

    \b
    Examples:
      cmr evaluate runs/scenes-imram
      cmr evaluate runs/scenes-imram --split dev
      cmr evaluate runs/coco --data data/coco --split testall --folds 5
    """
    with plain_errors():
        from cmr.data import open_split
        from cmr.matcher import load
        from cmr.training import evaluate, make_accelerator
        folder = model_folder(model)
        matcher, vocabulary = load(folder)
        data = pick_data(data)
        result, scores = evaluate(matcher.to(make_accelerator(device).device), open_split(data, split), vocabulary, folds)
        typer.echo(f"{folder} on {data}, split {split}{f', mean of {folds} folds' if folds > 1 else ''}\n{result}")
        show_world(scores, data, split)


if __name__ == "__main__": sys.exit(app())
