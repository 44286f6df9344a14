"""`cmr search`: images for a sentence, captions for an image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import Device, Imports, PathArgument, PathOption, app, import_own, plain_errors
from cmr.cli.data import pick_data
from cmr.cli.evaluate import load_model


def warn_of_unknown(query: str, vocabulary) -> None:
    "Name the words that the model has to guess."
    from cmr.data import tokenize
    from cmr.files import printable
    unknown = [printable(word, 60) for word in tokenize(query) if word not in vocabulary]
    if unknown: typer.secho(f"words the model doesn't know: {', '.join(unknown)}", fg=typer.colors.YELLOW, err=True)


def open_pictures(data: Path, split: str, count: int):
    "The drawn scenes of a split with `count` images; ValueError where there are none, or others."
    from cmr.files import open_npy
    path = data / f"{split}_pictures.npy"
    if not os.path.lexists(path): raise ValueError(f"no {path}: --figure needs pictures, which only the built-in scenes have")
    pictures = open_npy(path, "pictures", "u", (4,), "bytes (images, height, width, 3)", "draw the scenes again with `cmr data scenes`")
    if pictures.shape[3] != 3 or pictures.dtype.itemsize != 1:
        raise ValueError(f"{path} holds {pictures.dtype} of shape {pictures.shape}, expected uint8 of shape (images, height, width, 3): "
                         "draw the scenes again with `cmr data scenes`")
    if len(pictures) != count: raise ValueError(f"{path} has {len(pictures)} pictures for {count} images: it belongs to another split")
    return pictures


def draw_hits(path: Path, pictures, query, split, gallery, scores: list, rows: list) -> None:
    "Write a figure: pictures for a sentence, or captions for a picture (its row), the ones written for it in green."
    from cmr.files import atomic_write, printable
    from cmr.search import show_hits
    if isinstance(query, str): figure = show_hits(printable(query, 200), [pictures[row] for row in rows], scores)
    else:
        right = [split.image_of_caption[row] == query for row in rows]
        figure = show_hits(pictures[query], [printable(gallery.names[row]) for row in rows], scores, right)
    with atomic_write(path) as partial: figure.savefig(partial, format=path.suffix[1:] or "png", dpi=100)


@app.command("search")
def search_command(
    model: Annotated[Path, PathArgument(help="Folder of a run (its best epoch is taken) or of a model.")],
    query: Annotated[str | None, typer.Argument(help="What to look for, in words: finds images.")] = None,
    image: Annotated[str | None, typer.Option(help="Ask with the image of this id in the split instead: finds captions.")] = None,
    row: Annotated[int | None, typer.Option(min=0, help="The same by its row in the split, counted from 0.")] = None,
    data: Annotated[Path | None, PathOption(help="Data folder. Default: data/scenes.")] = None,
    split: Annotated[str, typer.Option(help="The gallery: test, dev, train, testall, ...")] = "test",
    top: Annotated[int, typer.Option(min=1, help="How many answers.")] = 5,
    shortlist: Annotated[int, typer.Option(min=1, help="How many the model looks at, chosen by cheap vectors; "
                                           "with as many as there are, the ranking is exact.")] = 100,
    index: Annotated[Path | None, PathOption(help="File of the encoded gallery: written the first time, read from then on.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Fit the cheap vectors to the model's scores of some training pairs: "
                                      "a shortlist then loses less.")] = False,
    figure: Annotated[Path | None, PathOption(help="Draw the answers into this file (built-in scenes only).")] = None,
    imports: Imports = None,
    device: Device = None,
):
    """Find images for a sentence, or captions for an image.

    \b
    Examples:
      cmr search runs/scenes-imram "a red circle above a green square"
      cmr search runs/scenes-imram "a blue heart" --top 3 --figure hits.png
      cmr search runs/scenes-imram --image test-3 --top 8
      cmr search runs/scenes-imram --row 3
      cmr search runs/scenes-mine "a blue heart" --import my_module
      cmr search runs/coco "a dog on a sofa" --data data/coco --fit --index coco.safetensors
    """
    with plain_errors():
        import_own(imports)
        from cmr.data import open_split
        from cmr.data.datasets import check_extractor
        from cmr.files import printable
        from cmr.search import ask, ask_with_image, image_row, learn_maps, open_gallery
        if [query, image, row].count(None) != 2:
            raise ValueError('ask with words, with --image or with --row, one of the three, as in: cmr search MODEL "a red circle"')
        if shortlist < top: raise ValueError(f"--shortlist {shortlist} is shorter than --top {top}: look at more, or ask for fewer")
        trained, vocabulary, _ = load_model(model, device)
        data = pick_data(data)
        where = open_split(data, split)
        check_extractor(where, trained.extractor)
        pictures = open_pictures(data, split, where.n_images) if figure else None
        number = image_row(where, row if image is None else image) if query is None else None  # type: ignore[arg-type]
        asked = ask(trained, vocabulary, query) if query is not None else ask_with_image(trained, where, number)  # type: ignore[arg-type]
        maps = learn_maps(trained, open_split(data, "train"), vocabulary) if fit and not (index and index.is_file()) else None
        gallery = open_gallery(trained, where, vocabulary, "captions" if query is None else "images", index, maps)
        if fit and not gallery.maps: raise ValueError(f"{index} was written without --fit: delete it and ask again, or leave --fit out")
        scores, rows = (found[0].tolist() for found in gallery.search(asked, shortlist, top))
        if query: warn_of_unknown(query, vocabulary)
        for place, (score, hit) in enumerate(zip(scores, rows), 1): typer.echo(f"{place:3}  {score:8.3f}  {printable(gallery.names[hit])}")
        if figure: draw_hits(figure, pictures, number if query is None else query, where, gallery, scores, rows)
