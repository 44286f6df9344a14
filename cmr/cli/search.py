"""`cmr search`: images for a sentence, captions for an image, and why each was found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmr.cli.app import Device, Imports, PathArgument, PathOption, app
from cmr.cli.data import data_of
from cmr.cli.evaluate import load_model

if TYPE_CHECKING: from cmr.search.explain import Found, Search

PICTURES = ("", ".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp", ".eps", ".tif", ".tiff")  # what a figure can be; without an ending, .png


def pick_query(
    words: list[str],           # what stands after the model: PLACE QUERY, PLACE or QUERY
    other: int,                 # how many other ways of asking were taken
    data: Path | None,
) -> tuple[Path | None, str | None]: # the place, None where none was named; and the sentence
    "What is to be searched, and for what. ValueError where that is not clear."
    if len(words) > 2: raise ValueError(f"{len(words)} arguments after the model: name a place and put the sentence into quotes")
    named = len(words) == 2 or bool(words and other and not data)     # is the first one a place?
    place, query = words[0] if named else None, words[-1] if len(words) > named else None
    if (query is not None) + other != 1:
        raise ValueError('ask with words, with --picture, --image or --row, one of them, as in: cmr search MODEL photos "a red circle"')
    if place is None and query and os.path.exists(query): raise ValueError(f"{query} is there; and what is looked for?")
    if place and data: raise ValueError(f"{place} and --data {data}: name one place to search")
    return (Path(place) if place else None), query


def open_pictures(data: Path, split: str, count: int):
    "The drawn scenes of a split with `count` images; ValueError where there are none, or others."
    from cmr.files import open_npy
    path = data / f"{split}_pictures.npy"
    if not os.path.lexists(path): raise ValueError(f"no {path}: --figure needs pictures, which only the built-in scenes have (see --html)")
    pictures = open_npy(path, "pictures", "u", (4,), "bytes (images, height, width, 3)", "draw the scenes again with `cmr data scenes`")
    if pictures.shape[3] != 3 or pictures.dtype.itemsize != 1:
        raise ValueError(f"{path} holds {pictures.dtype} of shape {pictures.shape}, expected uint8 of shape (images, height, width, 3): "
                         "draw the scenes again with `cmr data scenes`")
    if len(pictures) != count: raise ValueError(f"{path} has {len(pictures)} pictures for {count} images: it belongs to another split")
    return pictures


def draw_hits(path: Path, finder: Search, found: Found, row: int | None, pictures) -> None:
    "Write a figure: pictures for a sentence, or captions for a picture (its row), the ones written for it in blue."
    from cmr.files import atomic_write, printable
    from cmr.search import show_hits
    split, scores, names = finder.place.split, [hit.score for hit in found.hits], [hit.name for hit in found.hits]
    assert split is not None
    if row is None: figure = show_hits(printable(found.query, 200), [pictures[split.ids.index(name)] for name in names], scores)
    else:
        own = {caption for caption, image in zip(split.captions, split.image_of_caption) if image == row}
        figure = show_hits(pictures[row], [printable(name) for name in names], scores, [name in own for name in names])
    with atomic_write(path) as partial: figure.savefig(partial, format=path.suffix.lower()[1:] or "png", dpi=100)


def open_finder(model: Path, place: Path | None, data: Path | None, split: str | None, shortlist: int | None, index: Path | None, fit: bool,
                extractor: str | None, device: str | None, store: tuple[str, str] | None, for_data: list[str]) -> tuple[Search, Path, str]:
    """Model and place: the one named, else its run's data; and where that is, and which split of it.

    ValueError where options are given (for_data) that such a place has no use for."""
    from cmr.data import open_split
    from cmr.search import learn_maps
    from cmr.search.calibration import read_calibration
    from cmr.search.explain import Search, is_data, own_split
    trained, vocabulary, folder = load_model(model, device)
    place, own = own_split(*data_of(folder, place or data, split))
    if split not in (None, own): raise ValueError(f"--split {split}, and the place is the file of the split {own}: name one of them")
    if place.exists() and not is_data(place) and for_data:
        raise ValueError(f"{place} is no data folder: {', '.join(for_data)} for such only; leave that out, or ask with words or --picture")
    if index and place.is_file() and place.suffix.lower() in (".h5", ".safetensors"):
        raise ValueError(f"--index {index}: {place} is read as it is, and nothing of it is kept: leave it out")
    split = own
    maps = (lambda: learn_maps(trained, open_split(place, "train"), vocabulary)) if fit and not (index and index.is_file()) else None
    finder = Search((trained, vocabulary), place, split, shortlist or 0, read_calibration(folder, trained), index=index, maps=maps,
                    store=store, extractor=extractor)
    return finder, place, split


def check_fit(finder: Search, fit: bool, where: object, captions: bool) -> None:  # where: the gallery is
    "ValueError where cheap vectors should be fitted, and are not."
    if fit and not (finder.captions if captions else finder.images).maps:
        raise ValueError(f"{where} was written without --fit: delete it and ask again, or leave --fit out")


def show(found: Found, as_json: bool, page: Path | None) -> None:
    "Print what was found, and write the page."
    if as_json: typer.echo(found.json())
    else:
        for note in found.notes: typer.secho(note, fg=typer.colors.YELLOW, err=True)
        if found.hits: typer.echo(found.table())
    if page: typer.echo(f"wrote {found.save(page)}", err=True)


@app.command("search")
def search_command(
    model: Annotated[Path, PathArgument(help="Folder of a run (its best epoch is taken) or of a model.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[PLACE] [SENTENCE]", help="Where to look: a folder of pictures, features "
                     "that `cmr features` wrote, a data folder, or a gallery's file (default: --data); and what to look for.")] = None,
    picture: Annotated[Path | None, PathOption(help="Ask with this picture instead: finds captions where the place has some, "
                                                    "else pictures like it.")] = None,
    image: Annotated[str | None, typer.Option(help="Ask with the image of this id in the data folder: finds captions.")] = None,
    row: Annotated[int | None, typer.Option(min=0, help="The same by its row in the split, counted from 0.")] = None,
    data: Annotated[Path | None, PathOption(help="Data folder. Default: what the run learned from, as its recipe.json says.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a data folder: test, dev, train, testall, ... Default: test, or dev where there is "
                                              "no test.")] = None, top: Annotated[int, typer.Option(min=1, help="How many answers.")] = 5,
    at_least: Annotated[float | None, typer.Option(min=0, max=1, help="Hide answers that are less likely to be right (a calibrated "
                                                   "model only: cmr calibrate).")] = None,
    shortlist: Annotated[int | None, typer.Option(min=1, help="How many the model looks at, chosen by cheap vectors; with as many as there "
                                                  "are, the ranking is exact. Default: all up to 1,000, else 100.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as json: scores and regions of every word, too.")] = False,
    page: Annotated[Path | None, PathOption("--html", help="Write a page with pictures, words and where they looked.")] = None,
    figure: Annotated[Path | None, PathOption(help="Draw the answers into this file (built-in scenes only).")] = None,
    index: Annotated[Path | None, PathOption(help="Of a data folder: file of the encoded gallery, written the first time. Of a folder of "
                                             "pictures: where features and gallery are kept. Default: .cmr in that folder.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Fit the cheap vectors to the model's scores of some training pairs: "
                                      "a shortlist then loses less (data folders only).")] = False,
    extractor: Annotated[str | None, typer.Option(help="Who looks at new pictures, where the model doesn't say.")] = None,
    qdrant: Annotated[str | None, typer.Option(help="Keep a data folder's gallery on Qdrant: a URL, or a folder.")] = None,
    collection: Annotated[str | None, typer.Option(help="Its name there. Default: cmr.")] = None, imports: Imports = None,
    device: Device = None,
):
    """Find images for a sentence, or captions for an image, and show which word looked where.

    \b
    Pictures are encoded once; the next time only those that are new or changed.
    \b
    Examples:
      cmr search runs/mine photos "a dog runs through snow" --html found.html
      cmr search runs/mine photos --picture another.jpg
      cmr search runs/scenes-imram "a red circle above a green square"
      cmr search runs/scenes-imram "a blue heart" --top 3 --figure hits.png
      cmr search runs/scenes-imram --image test-3 --top 8 --json
      cmr search runs/scenes-mine "a blue heart" --import my_module
      cmr search runs/coco data/coco "a dog on a sofa" --fit --index coco.safetensors
      cmr search runs/coco data/coco "a dog on a sofa" --qdrant http://localhost:6333 --collection coco
    """
    place, query = pick_query(words or [], 3 - [picture, image, row].count(None), data)
    if shortlist and shortlist < top: raise ValueError(f"--shortlist {shortlist} is shorter than --top {top}: allow more or ask for fewer")
    if page and page.suffix.lower() != ".html": raise ValueError(f"--html {page}: a page's name ends in .html")
    if collection and not qdrant: raise ValueError(f"--collection {collection}: say with --qdrant where it is")
    if figure and figure.suffix.lower() not in PICTURES: raise ValueError(f"--figure {figure}: its name ends in {', '.join(PICTURES[1:])}")
    store = (qdrant, collection or "cmr") if qdrant else None
    given = {"--image": image, "--row": row, "--figure": figure, "--split": split, "--fit": fit or None, "--qdrant": qdrant}
    finder, place, split = open_finder(model, place, data, split, shortlist, index, fit, extractor, device, store,
                                       [name for name, value in given.items() if value is not None])
    try:
        check_fit(finder, fit, index or f"collection {store and store[1]}", query is None)
        answer(finder, query, picture, image, row, top, at_least, as_json, page, figure, place, split)
    finally: finder.close()


def answer(finder: Search, query: str | None, picture: Path | None, image: str | None, row: int | None, top: int, at_least: float | None,
           as_json: bool, page: Path | None, figure: Path | None, place: Path, split: str) -> None:
    "Ask, and show what was found."
    from cmr.search import image_row
    where = finder.place.split
    pictures = open_pictures(place, split, where.n_images) if figure and where else None
    named = row if image is None else image
    number = image_row(where, named) if where and named is not None else None
    asked = query if query is not None else picture if picture is not None else number
    found = finder(asked, top, at_least)  # type: ignore[arg-type]
    show(found, as_json, page)
    if figure: draw_hits(figure, finder, found, number, pictures)
