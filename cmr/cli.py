"""The command line: `cmr data`, `train`, `compare`, `ablate`, `evaluate`, `search` and `bench`. Thin on purpose; the work is done where the chapters define it."""

import os
import re
import sys
import traceback
import warnings
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
    "A clear line instead of a traceback (CMR_DEBUG=1 shows both), and for a warning; exit status 2, or 130 after Ctrl-C."
    warnings.showwarning = lambda message, *_: typer.secho(f"Note: {message}", fg=typer.colors.YELLOW, err=True)
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


def pick_recipe(name: str | None, data: Path, device: str | None, model: str | None = None):
    "The recipe of that name, else the one that fits the data: by its kind, its number of images, what the machine can bear, and the model if it has one of its own."
    from cmr.training import RECIPES
    if name is None:
        name = fitting(data, device)
        own = f"{str(model).lower()}-{name}", name.replace("imram", str(model).lower())
        name = next((other for other in own if other in RECIPES), name)
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
    "A recipe with what was said on the command line, and so what it comes after; ValueError where the matcher does not take it."
    from cmr.training import accepted, for_matcher
    if model: recipe = for_matcher(recipe, model)
    known = accepted(recipe.matcher)
    args, settings = ({key: value for key, value in given.items() if value is not None} for given in (args, settings))
    foreign = [f"--{key.replace('_', '-')}" for key in args if key not in known]
    if foreign: raise ValueError(f"{recipe.matcher} takes no {', '.join(foreign)}; its settings are {', '.join(known)}")
    after = recipe.after and adjust(recipe.after, None, settings, args)
    return replace(recipe, args={**recipe.args, **args}, after=after, **settings)


def show_summary(result: dict):
    "What came out, and what to type next."
    typer.echo(f"{result['stopped']}: {result['epochs']} epochs, {result['step']} steps, {result['parameters']:,} weights, "
               f"{result['seconds']:.0f} s on {result['device']}, {result['waiting']:.1%} of the training spent waiting for data")
    if result["best"]: typer.echo(f"best: epoch {result['best_epoch']}, dev R@sum {result['best']['rsum']:.1f}; the curves are in {result['out']}/curves.png")
    typer.echo(f"Next: cmr evaluate {result['out']}")


def start(data, recipe, model, out, resume, settings: dict, args: dict, device, *how):
    "Find data and recipe, train, and say what came out; under a launcher every process does it, and the first one speaks."
    from cmr.training import read_recipe, train
    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if resume and out: base, recorded = read_recipe(out)
    data = recorded if resume and out and data is None else data
    if data is None and ranks > 1: raise ValueError("several processes: say with --data which data folder they share (`cmr data scenes` makes one)")
    data = pick_data(data)
    if recipe or not (resume and out): base = pick_recipe(recipe, data, device, model)
    final = adjust(base, model, settings, args)
    out = out or Path("runs") / f"{final.name}-{final.matcher}"
    shared = f" with {ranks} processes" * (ranks > 1)
    if not rank: typer.echo(f"Training {final.matcher} on {data} by the recipe {final.name}{shared}; the run goes to {out}")
    result = train(final, data, out, resume, device, *how)
    if not rank: show_summary(result)
    if ranks > 1:
        from torch import distributed
        distributed.destroy_process_group()


@app.command("train")
def train_command(
    data: Annotated[Path | None, typer.Option(help="Data folder with train and dev. Default: data/scenes, drawn at once if it is not there.")] = None,
    recipe: Annotated[str | None, typer.Option(help="scenes, f8k-small, imram-f8k, imram-f30k, imram-coco, camp-f8k-small, camp-f8k, camp-f30k, camp-coco; camp-f30k-released and camp-f8k-small-released train in stages. Default: what fits the data.")] = None,
    model: Annotated[str | None, typer.Option(help="vse, scan, imram, camp, devise, order, dvsa, cmpm, pvse or vsrn. Default: the recipe's.")] = None,
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
    ablation: Annotated[list[str] | None, typer.Option(help="A row of CAMP's Table 3, such as base or no-gates; can be given several times. `cmr ablate camp --help` names them.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(min=0, help="Steps with all negatives first. Default: the recipe's, or what the model needs.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, tf32 (NVIDIA GPUs) or bf16. Default: fp32.")] = None,
    engine: Annotated[bool | None, typer.Option("--engine/--no-engine", help="Score by the fast engine, or by the plain batched form.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read data ahead. Default: 0 on a CPU, up to 4 on a GPU.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps, with a checkpoint: to try things out.")] = None,
):
    """Train a matcher and keep its best epoch by R@sum on the dev split. Ctrl-C saves a checkpoint first.

    \b
    Examples:
      cmr train                                       IMRAM, built-in scenes
      cmr train --model scan --direction text --out runs/scan
      cmr train --model camp --ablation no-gates      a row of CAMP's Table 3
      cmr train --data data/f30k --recipe imram-f30k  the paper's settings
      cmr train --out runs/scan --resume              go on after a stop

    \b
    On several GPUs or machines, which share each batch (or, with --device cpu, on one CPU):
      accelerate launch --multi_gpu --num_processes 4 -m cmr.cli train --data D

    \b
    The run's folder then holds
      best/, last/              models for cmr evaluate and from_pretrained
      metrics.csv, curves.png   loss and recall by epoch
      recipe.json               every setting
      tensorboard/              for tensorboard --logdir runs
    """
    with plain_errors():
        args = {"embed_dim": embed_dim, "steps": steps, "direction": direction, "pooling": pooling, "memory": memory, "variant": variant, "engine": engine}
        settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "warmup_steps": warmup_steps}
        start(data, recipe, model, out, resume, settings, {**args, **asked_ablation(ablation)}, device, precision, True, max_steps, workers)


def asked_ablation(names: list[str] | None) -> dict:
    "CAMP's arguments for rows of its Table 3."
    from cmr.camp import ablation
    return ablation(*names) if names else {}


def run_table(entries: list, data: Path, out: Path, seeds: str, split: str, device: str | None):
    "Train everything and print the table."
    from cmr import compare
    from cmr.training import make_accelerator
    try: numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError: raise ValueError(f"--seeds {seeds!r}: write whole numbers with commas between them, such as 0,1,2") from None
    results = compare.compare(entries, data, out, numbers, split, device=make_accelerator(device).device.type)
    typer.echo(f"{compare.told(results)}\n\n{compare.table(results)}\nWritten to {out}: table.md, results.csv, table.png, and a folder for each run")


@app.command("ablate")
def ablate_command(
    model: Annotated[str, typer.Argument(help="What to take apart: camp.")],
    data: Annotated[Path | None, typer.Option(help="Data folder with train, dev and test. Default: data/scenes.")] = None,
    rows: Annotated[list[str] | None, typer.Option(help="A row of the table; a+b takes two together. Can be given several times. Default: all twelve.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between them.")] = "0",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training captions, the same for all. Default: the recipe's.")] = None,
    embed_dim: Annotated[int | None, typer.Option(min=1, help="Width of regions and words.")] = None,
    recipe: Annotated[str | None, typer.Option(help="As for cmr train. Default: what fits the data.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the table.")] = Path("runs/ablate-camp"),
    split: Annotated[str, typer.Option(help="The split that is reported.")] = "test",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
):
    """Train rows of CAMP's Table 3 with one budget and the same seeds, and draw the table.

    \b
    Examples:
      cmr ablate camp
      cmr ablate camp --rows full --rows base --rows no-gates --seeds 0,1,2
      cmr ablate camp --data data/f30k --out runs/ablate-f30k

    \b
    Rows: full, base, no-attention, no-fusion, no-gates, no-residual, mean-pooling, concat,
    product, joint-embedding, mlp-ranking, bce-all. The same command goes on after a stop.
    """
    with plain_errors():
        from cmr import compare
        if model.lower() != "camp": raise ValueError(f"no ablations of {model!r}: there are some of camp")
        data = pick_data(data)
        base = adjust(pick_recipe(recipe, data, device, "camp"), "camp", {"epochs": epochs}, {"embed_dim": embed_dim})
        run_table(compare.ablations(rows or [], base), data, out, seeds, split, device)


@app.command("compare")
def compare_command(
    models: Annotated[list[str] | None, typer.Argument(help="Models, such as vse scan camp. Default: all ten.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder with train, dev and test. Default: data/scenes.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between them.")] = "0",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training captions, the same for all. Default: the recipe's.")] = None,
    embed_dim: Annotated[int | None, typer.Option(min=1, help="Width of the common space.")] = None,
    recipe: Annotated[str | None, typer.Option(help="As for cmr train. Default: what fits the data.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the table.")] = Path("runs/compare"),
    split: Annotated[str, typer.Option(help="The split that is reported.")] = "test",
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
):
    """Train several models with one budget and the same seeds, and draw the table: recall, twins, parameters, time.

    \b
    Examples:
      cmr compare
      cmr compare vse scan camp --seeds 0,1,2
      cmr compare --data data/f8k --epochs 3 --out runs/compare-f8k

    The same command goes on after a stop.
    """
    with plain_errors():
        from cmr import compare
        data = pick_data(data)
        base = adjust(pick_recipe(recipe, data, device), None, {"epochs": epochs}, {"embed_dim": embed_dim})
        run_table(compare.models(models or [], base), data, out, seeds, split, device)


def model_folder(path: Path) -> Path:
    "The folder of a model: the one given, or the best (else the last) of a run."
    return next((path / name for name in ("best", "last") if (path / name / "config.json").is_file()), path)


def show_world(scores, data: Path, split: str):
    "What only the built-in data can tell: twin accuracy, and the ceiling of recall."
    path = data / f"{split}_scenes.json"
    if not path.is_file(): return
    from cmr.scenes import world_report
    typer.echo(world_report(scores, path))


def as_bytes(size: str | None) -> int | None:
    "What 500MB, 2GB or 1.5GiB are in bytes; None for None. ValueError where it is no size."
    if size is None: return None
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]?)(i?)b\s*", size, re.IGNORECASE)
    if not found: raise ValueError(f"--max-memory {size!r} is no size: write a number and a unit, for example 500MB or 2GB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


@app.command("evaluate")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Folder of a run (its best epoch is taken) or of a model.")],
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: data/scenes.")] = None,
    split: Annotated[str, typer.Option(help="test, dev, train, testall, ...")] = "test",
    folds: Annotated[int, typer.Option(min=1, help="Report the mean over so many equal parts of the images; COCO's 5 x 1K is 5.")] = 1,
    scores: Annotated[Path | None, typer.Option(help="Write all scores, images by captions, to this .npy file as they come; the same command again goes on with it.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="What the scoring may take at a time, such as 500MB or 2GB. Default: what suits the machine.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
):
    """Print R@1, R@5, R@10 in both directions, R@sum and the ranks of the right answers.

    \b
    Examples:
      cmr evaluate runs/scenes-imram
      cmr evaluate runs/scenes-imram --split dev
      cmr evaluate runs/coco --data data/coco --split testall --folds 5
      cmr evaluate runs/coco --data data/coco --scores coco.npy --max-memory 2GB

    \b
    Where --scores was cut off, FILE.part has the scores so far, and FILE.json
    says how many and whose. The same command goes on; with another model or
    other data the file is refused: delete it, or give another name.
    """
    with plain_errors():
        from cmr.data import open_split
        from cmr.matcher import load
        from cmr.training import evaluate, make_accelerator
        folder, bound, into = model_folder(model), as_bytes(max_memory), {"out": scores} if scores else {}
        matcher, vocabulary = load(folder)
        data = pick_data(data)
        result, matrix = evaluate(matcher.to(make_accelerator(device).device), open_split(data, split), vocabulary, folds, bound, **into)
        typer.echo(f"{folder} on {data}, split {split}{f', mean of {folds} folds' if folds > 1 else ''}\n{result}")
        show_world(matrix, data, split)
        if scores: typer.echo(f"The scores are in {scores}, {matrix.shape[0]:,} images by {matrix.shape[1]:,} captions in float32")


@app.command("bench")
def bench_command(
    out: Annotated[Path, typer.Option(help="Folder for benchmarks.json, benchmarks.csv, table.md and benchmark.png.")] = Path("runs/bench"),
    quick: Annotated[bool, typer.Option("--quick", help="Only the rows that have a bar, about two minutes.")] = False,
    rows: Annotated[list[str] | None, typer.Option(help="Only rows of this name; * stands for anything. Can be given several times.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Where time runs out, only the engine is measured in the rows that are left.")] = 12,
    compile: Annotated[bool, typer.Option("--compile", help="On a GPU: measure scoring through torch.compile too.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
):
    """Measure time and memory of scoring and training: the engine against the published way of computing.

    \b
    Examples:
      cmr bench --quick
      cmr bench --out runs/bench
      cmr bench --rows "both-full-*-256" --rows "step-*"
      cmr bench --rows "*-camp-*"

    \b
    A row is called what-direction-K-IMAGESxCAPTIONS-width, CAMP's
    what-camp-IMAGESxCAPTIONS-width, what being
      forward   scoring, no gradient
      both      scoring, loss and gradients
      step      a whole training step, with encoders and Adam
    """
    with plain_errors():
        from cmr import bench
        from cmr.training import make_accelerator
        kind = make_accelerator(device).device.type
        wanted = bench.chosen(bench.bar_rows() if quick else bench.all_rows(kind), rows or [])
        if compile and kind == "cpu": typer.echo("--compile: no GPU here, nothing to compare")
        content = bench.bench(bench.with_compiled(wanted) if compile and kind != "cpu" else wanted, out, kind, minutes)
        typer.echo(f"{bench.table(content)}\nWritten to {out}: benchmarks.json, benchmarks.csv, table.md, benchmark.png")


def warn_of_unknown(query: str, vocabulary):
    "Name the words that the model has to guess."
    from cmr.captions import tokenize
    unknown = [word for word in tokenize(query) if word not in vocabulary]
    if unknown: typer.secho(f"words the model doesn't know: {', '.join(unknown)}", fg=typer.colors.YELLOW, err=True)


def open_pictures(data: Path, split: str):
    "The drawn scenes of a split; ValueError where there are none."
    import numpy as np
    path = data / f"{split}_pictures.npy"
    if not path.is_file(): raise ValueError(f"no {path}: --figure needs pictures, which only the built-in scenes have")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def draw_hits(path: Path, pictures, query, split, gallery, scores: list, rows: list):
    "Write a figure: pictures for a sentence, or captions for a picture (its row), the ones written for it in green."
    from cmr.captions import whole_file
    from cmr.search import show_hits
    if isinstance(query, str): figure = show_hits(query, [pictures[row] for row in rows], scores)
    else: figure = show_hits(pictures[query], [gallery.names[row] for row in rows], scores, [split.image_of_caption[row] == query for row in rows])
    with whole_file(path) as partial: figure.savefig(partial, format=path.suffix[1:] or "png", dpi=100)


@app.command("search")
def search_command(
    model: Annotated[Path, typer.Argument(help="Folder of a run (its best epoch is taken) or of a model.")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words: finds images.")] = None,
    image: Annotated[str | None, typer.Option(help="Ask with this image of the split instead (its id or row): finds captions.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: data/scenes.")] = None,
    split: Annotated[str, typer.Option(help="The gallery: test, dev, train, testall, ...")] = "test",
    top: Annotated[int, typer.Option(min=1, help="How many answers.")] = 5,
    shortlist: Annotated[int, typer.Option(min=1, help="How many the matcher looks at, chosen by cheap vectors; with as many as there are, the ranking is exact.")] = 100,
    index: Annotated[Path | None, typer.Option(help="File of the encoded gallery: written the first time, read from then on.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Fit the cheap vectors to the model's scores of some training pairs: a shortlist then loses less.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw the answers into this file (built-in scenes only).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")] = None,
):
    """Find images for a sentence, or captions for an image.

    \b
    Examples:
      cmr search runs/scenes-imram "a red circle above a green square"
      cmr search runs/scenes-imram "a blue heart" --top 3 --figure hits.png
      cmr search runs/scenes-imram --image test-3 --top 8
      cmr search runs/coco "a dog on a sofa" --data data/coco --fit --index coco.safetensors
    """
    with plain_errors():
        from cmr.data import open_split
        from cmr.matcher import load
        from cmr.search import ask, ask_with_image, image_row, learn_maps, open_gallery
        from cmr.training import make_accelerator
        if (query is None) == (image is None): raise ValueError('ask with words or with --image, one of the two, as in: cmr search MODEL "a red circle"')
        if shortlist < top: raise ValueError(f"--shortlist {shortlist} is shorter than --top {top}: look at more, or ask for fewer")
        matcher, vocabulary = load(model_folder(model))
        matcher.to(make_accelerator(device).device)
        data = pick_data(data)
        where, pictures = open_split(data, split), open_pictures(data, split) if figure else None
        asked = ask(matcher, vocabulary, query) if image is None else ask_with_image(matcher, where, image)
        maps = learn_maps(matcher, open_split(data, "train"), vocabulary) if fit and not (index and index.is_file()) else None
        gallery = open_gallery(matcher, where, vocabulary, "images" if image is None else "captions", index, maps)
        if fit and not gallery.maps: raise ValueError(f"{index} was written without --fit: delete it and ask again, or leave --fit out")
        scores, rows = (found[0].tolist() for found in gallery.search(asked, shortlist, top))
        if query: warn_of_unknown(query, vocabulary)
        for place, (score, row) in enumerate(zip(scores, rows), 1): typer.echo(f"{place:3}  {score:8.3f}  {gallery.names[row]}")
        if figure: draw_hits(figure, pictures, query or image_row(where, image), where, gallery, scores, rows)


if __name__ == "__main__": sys.exit(app())
