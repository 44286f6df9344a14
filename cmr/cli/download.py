"""`cmr data flickr8k`, `flickr30k`, `coco`: published data sets by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmr.cli.app import PathArgument, PathOption, typed
from cmr.cli.data import data_app

if TYPE_CHECKING: from cmr.data.published import Piece

Out = Annotated[Path, PathArgument(help="Folder for the data; downloads are kept in its folder downloads.")]
Pictures = Annotated[bool, typer.Option("--pictures/--no-pictures", help="Get the pictures, into the folder pictures.")]
Features = Annotated[bool, typer.Option("--features/--no-features", help="Get the published region features; else captions alone.")]
Given = Annotated[Path | None, PathOption("--from", metavar="FOLDER", help="Take files that you got by hand from here; nothing is "
                                            "downloaded.")]
Downloads = Annotated[Path | None, PathOption(help="Keep downloads here instead, such as for several data sets.")]
Accept = Annotated[bool, typer.Option("--accept-terms", help="Say yes to the terms that are shown; without it you are asked.")]
Stall = Annotated[float, typer.Option(min=1, help="Seconds without a byte after which a server is asked again.")]
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Show a bar.")]


def introduce(title: str, pieces: list[Piece], place: Path | None) -> None:  # place: where the files are already; None: nowhere
    "Say what is needed, from where, and under which terms, before anything is done."
    typer.echo(title)
    for piece in pieces:
        hosts = ", ".join(dict.fromkeys(source.host for source in piece.sources))
        typer.echo(f"  {piece.what}: {piece.size}, from {place or hosts}")
        if not place and not all(source.digest for source in piece.sources):
            typer.echo("    (not every source has a published digest: the sha256 of what comes is written beside it)")
    for terms in dict.fromkeys(piece.terms for piece in pieces): typer.echo(f"Terms: {terms}")


def ask_terms(accepted: bool) -> None:
    "Go on where the terms are accepted. ValueError where they are not, or nobody is there to be asked."
    if accepted: return
    if not sys.stdin.isatty(): raise ValueError("nothing was fetched: read the terms above, and accept them with --accept-terms")
    if not typer.confirm("Do you accept these terms?"): raise ValueError("nothing was fetched: the terms were not accepted")


def fetch(name: str, out: Path, parts: set[str], given: Path | None, downloads: Path | None, accept: bool, stall: float,
          progress: bool) -> None:
    "Introduce, ask, get, convert, and say what comes next."
    from cmr.data.download import Patience
    from cmr.data.published import DATASETS, make_data
    data, place, photos = DATASETS[name], downloads or out / "downloads", out / "photos.h5"
    pieces = data.take(parts)
    introduce(data.title, pieces, given)
    missing = [piece for piece in pieces if not any((place / file).is_file() for file in piece.files())]
    if given is None and any(piece.asks for piece in missing): ask_terms(accept)
    for path in make_data(data, out, parts, given, place, Patience(stall=stall), progress, typer.echo): typer.echo(f"wrote {path}")
    if "pictures" in parts: typer.echo(f"The pictures are in {out / 'pictures'}.")
    if "features" in parts: typer.echo(f"Next: cmr check {typed(out)}, then cmr train --data {typed(out)}")
    elif "pictures" in parts: typer.echo(f"Next: cmr features {typed(out / 'pictures')} -o {typed(photos)}\n      "
                                         f"cmr import captions {typed(out)} {typed(f'{out}-features')} --features {typed(photos)}")
    else: typer.echo(f"Next: add features with cmr import captions {typed(out)} {typed(f'{out}-features')} --features F")


def chosen(pictures: bool, features: bool) -> set[str]:
    "The parts to get; files of features hold the captions, too."
    return {"features" if features else "captions", *(["pictures"] if pictures else [])}


@data_app.command("flickr8k")
def flickr8k(out: Out, pictures: Pictures = True, given: Given = None, downloads: Downloads = None, accept: Accept = False,
             stall: Stall = 60, progress: Progress = True):
    """Flickr8k: captions, splits and pictures (1.2 GB). 6,000 / 1,000 / 1,000 pictures, five captions each.

    \b
    Nobody publishes region features for it: `cmr features` makes them of the pictures.
    For non-commercial research and education. Stopped, the same command goes on where it was.
    \b
    Examples:
      cmr data flickr8k data/f8k
      cmr data flickr8k data/f8k --no-pictures        captions and splits only (37 MB)
      cmr data flickr8k data/f8k --from ~/Downloads   files that you got by hand
    """
    fetch("flickr8k", out, chosen(pictures, False), given, downloads, accept, stall, progress)


@data_app.command("flickr30k")
def flickr30k(out: Out, features: Features = True, pictures: Pictures = False, given: Given = None, downloads: Downloads = None,
              accept: Accept = False, stall: Stall = 60, progress: Progress = True):
    """Flickr30k: SCAN's bottom-up features with captions. 29,000 / 1,014 / 1,000 pictures, five captions each.

    \b
    The features are one archive for Flickr30k and COCO, of some tens of GB; 11.5 GB come out,
    and as much again is written. Pictures: 4.4 GB. Captions and splits alone: 37 MB.
    For non-commercial research and education. Stopped, the same command goes on where it was.
    \b
    Examples:
      cmr data flickr30k data/f30k --downloads data/downloads
      cmr data flickr30k data/f30k --no-features --pictures
      cmr data flickr30k data/f30k --from ~/Downloads   archive, or its folder f30k_precomp
    """
    fetch("flickr30k", out, chosen(pictures, features), given, downloads, accept, stall, progress)


@data_app.command("coco")
def coco(out: Out, features: Features = True, pictures: Pictures = False, given: Given = None, downloads: Downloads = None,
         accept: Accept = False, stall: Stall = 60, progress: Progress = True):
    """COCO captions: SCAN's bottom-up features with captions. 113,287 / 5,000 / 5,000 pictures in Karpathy's splits.

    \b
    The features are one archive for Flickr30k and COCO, of some tens of GB; 42 GB come out,
    and as much again is written; their dev holds the first 1,000 pictures. Pictures: 20 GB.
    Captions and splits alone: 37 MB. Stopped, the same command goes on where it was.
    \b
    Examples:
      cmr data coco data/coco --downloads data/downloads
      cmr data coco data/coco --no-features             captions and splits only
      cmr data coco data/coco --from ~/Downloads        archive, or its folder coco_precomp
    """
    fetch("coco", out, chosen(pictures, features), given, downloads, accept, stall, progress)
