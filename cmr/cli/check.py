"""`cmr check`: what a data folder holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmr.cli.app import PathArgument, app, print_table, printable

if TYPE_CHECKING: from cmr.data.check import Checked


def show_checked(found: Checked) -> None:
    "Print a table with a column for each split, and a line for each finding."
    rows = [about.rows() for about in found.splits]
    print_table([about.name for about in found.splits], [[name, *(row[name] for row in rows)] for name in rows[0]])
    for finding in found.findings: typer.echo(f"found: {printable(finding)}")


@app.command("check")
def check_command(
    data: Annotated[Path, PathArgument(help="Data folder: {split}.h5, or the SCAN layout.")],
    min_count: Annotated[int, typer.Option(min=1, help="Words that train's captions use less often count as unknown.")] = 4,
):
    """Look a data folder over: what it holds, and what would spoil a training or a measurement.

    Found are: a picture or caption that stands in two splits (a leak) or twice in one, ids in two splits, images whose features
    are zero, constant, the same in all regions, NaN or infinite. Pictures are compared by their features, in whatever order the
    regions stand and in float32 or float16, so that a copy under another name is found. Photographs that only look alike are not.

    \b
    Exit status: 0 where nothing was found, 1 where something was, 2 where the folder cannot be read.

    \b
    Examples:
      cmr check data/scenes
      cmr check data/f30k --min-count 1
    """
    from cmr.data.check import check_data
    found = check_data(data, min_count)
    show_checked(found)
    if found.findings: raise typer.Exit(1)
    typer.echo("nothing found")
