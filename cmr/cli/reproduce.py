"""`cmr reproduce`: the papers' tables, trained here, and which of their orders hold."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import Device, PathOption, Seeds, Settings, app, read_seeds, read_settings
from cmr.cli.compare import AnyRecipe, Data, Epochs
from cmr.cli.data import pick_data
from cmr.cli.train import pick_recipe, with_options


@app.command("reproduce")
def reproduce_command(
    table: Annotated[str | None, typer.Argument(help="imram-1, imram-4, imram-5, imram-6, imram-fig3, camp-2 or camp-3.")] = None,
    data: Data = None, recipe: AnyRecipe = None, seeds: Seeds = "0,1,2", epochs: Epochs = None, settings: Settings = None,
    out: Annotated[Path, PathOption(help="Gets a folder named as the data's, with a small json for each row and seed.")] = Path("results"),
    runs: Annotated[Path, PathOption(help="Gets the weights.")] = Path("runs/reproduce"),
    write: Annotated[Path | None, PathOption(help="Draw all that is kept between the marks <!-- reproduced --> and "
                                                  "<!-- end of reproduced --> of this page.")] = None, device: Device = None,
):
    """Train what a table of IMRAM or CAMP needs, by one recipe, and say which of the paper's orders hold here.

    \b
    Examples:
      cmr reproduce imram-4 --data data/scenes --seeds 0,1,2
      cmr reproduce imram-5 --epochs 2 --set embed_dim=32 --out narrow --runs runs/narrow
      cmr reproduce camp-3 --data data/f30k --recipe camp-f30k
      cmr reproduce --write docs/results.md

    What is kept is not trained again, tables share their rows, and the same command goes on after a stop.
    """
    from cmr.training import make_accelerator
    from cmr.training import reproduce as made
    from cmr.training.loop import Stopped
    if not (table or write): raise ValueError(f"name a table ({', '.join(made.TABLES)}), or a page (--write docs/results.md)")
    if table:
        made.find_table(table)  # an unknown one is refused before data is drawn
        data = pick_data(data, recipe)
        base = with_options(pick_recipe(recipe, data, device, table.split("-")[0]), {"epochs": epochs}, {})
        said = [*(["--epochs", epochs] if epochs else []), *(["--recipe", recipe] if recipe else []),
                *(word for pair in settings or [] for word in ("--set", pair))]
        command = shlex.join(map(str, ["cmr", "reproduce", table, "--data", data.resolve().name, *said]))
        try: made.reproduce(table, data, read_seeds(seeds), base, out, runs, read_settings(settings, True), command,
                            device=make_accelerator(device).device.type)
        except Stopped as stop: raise Stopped(f"{stop}: {shlex.join(['cmr', *sys.argv[1:]])}", stop.number) from stop
        typer.echo(made.one_table(table, out / data.resolve().name, write or out / "table.md"))
    if write: made.write_section(out, write)
