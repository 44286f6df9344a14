"""`cmr features`: region features of one's own pictures."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import Device, Imports, PathArgument, PathOption, app, printable


class OnError(str, Enum):
    "What to do at a picture that cannot be read."
    skip = "skip"
    stop = "stop"


def check_out(out: Path) -> None:
    "ValueError where no file of features can stand."
    if out.suffix.lower() != ".h5": raise ValueError(f"-o {out}: features are written as HDF5, name a file that ends in .h5")
    if out.is_dir(): raise ValueError(f"-o {out} is a folder: name a file")


def make(source: Path, out: Path, extractor: str, shard: str, on_error: str, device: str | None, progress: bool) -> None:
    "Extract, and say what came of it."
    from cmr.data.extractors import create_extractor
    from cmr.data.photos import MOST_NOTES, extract, find_pictures, pick_shard
    pictures, others = find_pictures(source)
    pick_shard(pictures, shard)  # says what is wrong with it before weights are loaded
    endings = ", ".join(ending or "no ending" for ending in sorted(others))
    if others: typer.echo(f"{sum(others.values())} files are no pictures by their names ({printable(endings)})")
    made = extract(source, out, create_extractor(extractor, device=device), shard, on_error, progress)
    if made.skipped:
        named = "" if len(made.skipped) <= MOST_NOTES else f", {MOST_NOTES} of them named above"
        typer.secho(f"{len(made.skipped)} could not be read{named}: {out} lists them (member skipped)", fg=typer.colors.YELLOW, err=True)
    typer.echo(f"wrote {made}")


@app.command("features")
def features_command(
    pictures: Annotated[list[Path] | None, PathArgument(help="A folder of pictures (folders in it, too), or one picture. "
                                                          "With --merge: files of features.")] = None,
    out: Annotated[Path | None, PathOption("--out", "-o", help="The file to write, FILE.h5.")] = None,
    extractor: Annotated[str, typer.Option(help="Who looks at them: lite2 (no download), timm:NAME (any backbone of timm), inception, "
                                           "fasterrcnn, or one of a module given with --import.")] = "lite2",
    shard: Annotated[str, typer.Option(metavar="i/n", help="Only the i-th of n equal parts, each into its own file, "
                                       "on as many machines as you like.")] = "",
    merge: Annotated[bool, typer.Option("--merge", help="Put files of features together, such as all shards.")] = False,
    on_error: Annotated[OnError, typer.Option(help="At a picture that can't be read: leave it out and name it, or stop.")] = OnError.skip,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show a bar.")] = True,
    imports: Imports = None, device: Device = None,
):
    """Region features of your own pictures: a folder becomes one HDF5 file.

    \b
    Stopped at any moment, the same command goes on where it was. Run again after pictures
    were added or changed, it encodes those, and takes over what it knows.
    \b
    Examples:
      cmr features photos -o photos.h5
      cmr features photos -o photos.h5 --on-error stop
      cmr features photos -o dino.h5 --extractor timm:vit_small_patch14_reg4_dinov2.lvd142m
      cmr features photos -o photos-1.h5 --shard 1/4
      cmr features --merge photos-1.h5 photos-2.h5 photos-3.h5 photos-4.h5 -o photos.h5
    """
    if out is None or not pictures:
        raise ValueError("name a folder of pictures and the file to write, as in: cmr features photos -o photos.h5")
    check_out(out)
    if merge:
        from cmr.data.photos import merge_features
        typer.echo(f"wrote {merge_features(pictures, out)}")
        return
    if len(pictures) > 1: raise ValueError(f"{len(pictures)} folders: name one, or put files of features together with --merge")
    if pictures[0].suffix.lower() == ".h5" and pictures[0].is_file():
        raise ValueError(f"{pictures[0]} holds features already: --merge puts such files together")
    try: make(pictures[0], out, extractor, shard, on_error.value, device, progress)
    except KeyboardInterrupt: raise KeyboardInterrupt("stopped: the same command goes on from here") from None
