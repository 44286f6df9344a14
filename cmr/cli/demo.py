"""`cmr demo`: the shipped model searches the shipped pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmr.cli.app import PathOption, app

if TYPE_CHECKING: from cmr.search.explain import Found

HERE = Path(__file__).parents[1]
SAMPLE = HERE / "sample" if (HERE / "sample").is_dir() else HERE.parent / "data" / "sample"  # in a wheel, else in the repository


def show_found(found: Found):  # -> matplotlib Figure
    "The pictures found, best first; below, the best one lit where each word looked, brighter where it looked more."
    import numpy as np
    from matplotlib.figure import Figure

    from cmr.lens import light
    best, wide = found.hits[0], max(len(found.hits), min(8, len(found.hits[0].words.words)))
    rows = -(-len(best.words.words) // wide)
    figure = Figure(figsize=(1.5 * wide, 2.2 + 1.75 * rows), layout="constrained")
    figure.suptitle(f"“{found.query}”\nabove: the pictures found, best first; below: where each word looked in the best, and its score",
                    fontsize=10)
    grid = figure.subplots(1 + rows, wide, squeeze=False)
    for ax in grid.flat: ax.axis("off")
    for ax, hit in zip(grid[0], found.hits):
        ax.imshow(hit.picture())
        ax.set_title(f"{hit.place}. {hit.name}\nscore {hit.score:.2f}", fontsize=8)
    for ax, word, score, weights in zip(grid[1:].flat, best.words.words, best.words.scores, best.words.weights):
        light(ax, np.asarray(best.picture()), best.boxes, weights)
        ax.set_title(f"{word}\n{score:.2f}", fontsize=8)
    return figure


@app.command("demo")
def demo_command(
    sentence: Annotated[str, typer.Argument(help="What is looked for.")] = "a striped green square carries a yellow frame",
    out: Annotated[Path, PathOption("--out", "-o", help="The one file that is written: a picture, or a page where its name ends in "
                                    ".html.")] = Path("demo.png"),
    top: Annotated[int, typer.Option(min=1, max=8, help="How many pictures.")] = 5,
):
    """Search the 24 pictures that come with the package, and draw what was found and where each word looked. Takes seconds.

    \b
    Examples:
      cmr demo
      cmr demo "a yellow star"
      cmr demo "a red circle touches a yellow ring" --out ring.html
    """
    from cmr.files import atomic_write
    from cmr.search.explain import Search
    if out.suffix.lower() not in (".png", ".svg", ".pdf", ".html"): raise ValueError(f"--out {out}: give a name that ends in .png or .html")
    if len(sentence.split()) > 40: raise ValueError(f"a sentence of {len(sentence.split())} words: 40 at most can be drawn")
    finder = Search(SAMPLE / "imram", SAMPLE, "sample")
    found = finder(" ".join(sentence.split()), top)
    for note in found.notes: typer.secho(note, fg=typer.colors.YELLOW, err=True)
    typer.echo(f"“{found.query}” among {len(finder.images)} pictures:\n{found.table()}")
    if out.suffix.lower() == ".html": found.save(out)
    else:
        with atomic_write(out) as partial: show_found(found).savefig(partial, format=out.suffix.lower()[1:], dpi=110)
    typer.echo(f"The pictures, and where each word looked: {out}\nNext: cmr train")
