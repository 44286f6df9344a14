"""`cmr mine`: pairs of images that a model takes for each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import Device, Imports, PathArgument, PathOption, app, typed
from cmr.cli.data import data_of
from cmr.cli.evaluate import load_model


@app.command("mine")
def mine_command(
    model: Annotated[Path, PathArgument(help="Folder of a run (its best epoch is taken) or of a model.")],
    data: Annotated[Path | None, PathOption(help="Data folder. Default: the one that the run learned from.")] = None,
    split: Annotated[str, typer.Option(help="Whose images: train, usually.")] = "train",
    doubt: Annotated[float, typer.Option(min=0, help="Leave out pairs whose wrong image leads the right one by more, in units of the "
                                         "score: there the model may be right.")] = 0.1,
    out: Annotated[Path | None, PathOption(help="The file to write. Default: {split}_twins.json in the data folder, where --set twins=true "
                                           "looks for it.")] = None, imports: Imports = None, device: Device = None,
):
    """Find images that a model takes for each other, so that the next training puts each pair into one batch.

    \b
    Examples:
      cmr mine runs/mine --data data/mine
      cmr train --data data/mine --set twins=true --out runs/mine-2
    """
    from cmr.data import open_split
    from cmr.search.mining import mine_twins
    from cmr.training.twins import write_twins
    trained, vocabulary, folder = load_model(model, device)
    data, _ = data_of(folder, data, split)
    where = open_split(data, split)
    found, usual = mine_twins(trained, where, vocabulary, doubt), data / f"{split}_twins.json"
    write_twins(found, out := out or usual, where)
    if out == usual and (data / f"{split}_scenes.json").is_file(): typer.echo(f"{out.name} is read in place of the scenes' own twins.")
    typer.echo(f"wrote {out}: {len(found.together):,} pairs of {where.n_images:,} images. "
               + (f"Next: cmr train --data {typed(data)} --set twins=true" if out == data / "train_twins.json" else
                  f"A training with twins=true reads {data / 'train_twins.json'}"))
