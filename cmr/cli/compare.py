"""`cmr compare` and `cmr ablate`: several trainings by one budget, and their table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import Device, Imports, PathOption, Seeds, Settings, app, read_seeds, read_settings
from cmr.cli.data import data_of, pick_data
from cmr.cli.train import pick_recipe, suited, with_options

Data = Annotated[Path | None, PathOption(help="Data folder with train, dev and test. Default: data/scenes.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training captions, the same for all. Default: the recipe's.")]
Width = Annotated[int | None, typer.Option(min=1, help="Width of the common space.")]
AnyRecipe = Annotated[str | None, typer.Option("--recipe", "--config", help="As for cmr train. Default: what fits the data.")]
Out = Annotated[Path, PathOption(help="Folder for the runs and the table.")]
Split = Annotated[str | None, typer.Option(help="The split that is reported. Default: test, or dev where there is no test.")]


def run_table(rows: Callable, settings: dict, data: Path, out: Path, seeds: str, split: str | None, device: str | None, recipe: str | None,
              epochs: int | None) -> None:
    "Train everything, each value of a setting by itself, and print the table."
    from cmr.training import compare, make_accelerator
    from cmr.training.loop import Stopped
    numbers, entries, split = read_seeds(seeds), compare.sweep(rows, settings), data_of(out, data, split)[1]
    fitting = suited([entry.recipe for entry in entries], data, recipe, {"epochs": epochs, **settings})
    entries = [replace(entry, recipe=one) for entry, one in zip(entries, fitting)]
    try: results = compare.compare(entries, data, out, numbers, split, device=make_accelerator(device).device.type)
    except Stopped as stop: raise Stopped(f"{stop}: {shlex.join(['cmr', *sys.argv[1:]])}", stop.number) from stop
    typer.echo(f"{compare.conditions(results)}\n\n{compare.table(results)}\n{compare.against_best(results)}\n"
               f"Written to {out}: table.md, table.csv, table.tex, table.png, results.csv, and a folder for each run")


@app.command("compare")
def compare_command(
    models: Annotated[list[str] | None, typer.Argument(help="Models, such as vse scan camp. Default: the package's ten.")] = None,
    data: Data = None, recipe: AnyRecipe = None, seeds: Seeds = "0", epochs: Epochs = None, embed_dim: Width = None,
    settings: Settings = None, imports: Imports = None, out: Out = Path("runs/compare"), split: Split = None, device: Device = None,
):
    """Train several models with one budget and the same seeds, and draw the table: recall, twins, parameters, time.

    \b
    Examples:
      cmr compare
      cmr compare vse scan camp --seeds 0,1,2 --out runs/three
      cmr compare vse mine --import my_module --out runs/mine-and-vse
      cmr compare --data data/f8k --epochs 3 --out runs/compare-f8k
      cmr compare imram --seeds 0,1,2 --set lr=1e-3,2e-3 --out runs/sweep      each value is a row

    The same command goes on after a stop. A setting (--set) goes to each model that has it.
    The table comes as markdown, csv and LaTeX, with each row against the best one, image by image.
    """
    from cmr.training import compare
    data = pick_data(data, recipe)
    base = with_options(pick_recipe(recipe, data, device), {"epochs": epochs}, {"embed_dim": embed_dim})
    run_table(lambda chosen: compare.models(models or [], base, chosen), read_settings(settings, True), data,
              out, seeds, split, device, recipe, epochs)


@app.command("ablate")
def ablate_command(
    model: Annotated[str, typer.Argument(help="What to take apart: camp.")], data: Data = None,
    rows: Annotated[list[str] | None, typer.Option(help="A row of the table; a+b takes two together. Can be given several times. "
                                                      "Default: all twelve.")] = None,
    recipe: AnyRecipe = None, seeds: Seeds = "0", epochs: Epochs = None, embed_dim: Width = None, settings: Settings = None,
    imports: Imports = None, out: Out = Path("runs/ablate-camp"), split: Split = None, device: Device = None,
):
    """Train rows of CAMP's Table 3 with one budget and the same seeds, and draw the table.

    \b
    Examples:
      cmr ablate camp
      cmr ablate camp --rows full --rows base --rows no-gates --seeds 0,1,2 --out runs/three-rows
      cmr ablate camp --rows full --rows mlp-ranking --set hidden=64 --out runs/narrow
      cmr ablate camp --data data/f30k --out runs/ablate-f30k

    \b
    Rows: full, base, no-attention, no-fusion, no-gates, no-residual, mean-pooling, concat,
    product, joint-embedding, mlp-ranking, bce-all. The same command goes on after a stop.
    """
    from cmr.training import compare, for_model
    if model.lower() != "camp": raise ValueError(f"no ablations of {model!r}: there are some of camp")
    data = pick_data(data, recipe)
    base = with_options(for_model(pick_recipe(recipe, data, device, "camp"), "camp"), {"epochs": epochs}, {"embed_dim": embed_dim})
    run_table(lambda chosen: compare.ablations(rows or [], base, chosen), read_settings(settings, True), data,
              out, seeds, split, device, recipe, epochs)
