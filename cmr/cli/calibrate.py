"""`cmr calibrate`: how likely a model's answers are right."""

from __future__ import annotations

import shlex
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmr.cli.app import Device, Imports, PathArgument, PathOption, app, imported, print_table
from cmr.cli.data import data_of
from cmr.cli.evaluate import load_model

if TYPE_CHECKING: from cmr.search.calibration import Judged, Measures


def known_truth(data: Path, split: str):
    "The scenes of a drawn split, and which caption is true of which (I, C); None and None for other data: of its own image alone."
    path = data / f"{split}_scenes.json"
    if not os.path.lexists(path): return None, None
    from cmr.world.scenes import load_entries, truth
    entries = load_entries(path)
    return entries, truth(entries)


def other_captions(entries: list, data: Path, split: str):
    "Captions of as many scenes of another world (the next seed), and which is true of which scene of this one (I, C)."
    from cmr.data.datasets import read_manifest
    from cmr.world.scenes import make_split, truth
    about = read_manifest(data)
    others = make_split(split, len(entries), (about.seed if about else 0) + 1)
    mine = sum(len(entry.captions) for entry in entries)
    return [caption.text for entry in others for caption in entry.captions], truth([*entries, *others])[:len(entries), mine:]


HEADS = ["questions", "AUROC", "AUROC 95%", "Brier", "log loss", "ECE"]


def row(name: str, m: Measures, between: str = "") -> list[str]:
    "A row of the table."
    return [name, f"{m.count:,}", f"{m.auroc:.3f}", between, f"{m.brier:.3f}", f"{m.log_loss:.3f}", f"{m.ece:.3f}"]


def show_judged(title: str, found: Judged, scores, threshold: float) -> None:
    "What a calibration said of many questions, against what was so."
    from cmr.search.calibration import auroc, measure, spread
    low, high = spread(found)
    quiet, there = found.some < threshold, found.there
    typer.echo(title)
    print_table(HEADS, [row("a right answer is there", measure(found.some, there), f"{low:.3f} to {high:.3f}"),
                        row("the best answer is right", measure(found.best, found.right)),
                        ["the best score alone", f"{len(there):,}", f"{auroc(scores[there], scores[~there]):.3f}"]])
    typer.echo(f"it says that nothing matches in {quiet[~there].mean():.1%} of the questions without a right answer, "
               f"and in {quiet[there].mean():.1%} of those with one")


def fit_it(folder: Path, model, vocabulary, where, true, captions: int, seed: int, more: str):  # more: words of the next command
    "Fit a calibration, write it, and print what it is worth by halves; the points of its reliability curve."
    from cmr.search.calibration import fit_calibration, write_calibration
    found = fit_calibration(model, where, vocabulary, true, captions, seed=seed)
    path = write_calibration(found, folder)
    print_table(HEADS, [row("a right answer is there", found.whether), row("the best answer is right", found.best)])
    typer.echo(f"below {found.threshold:.0%} that a right answer is there it says that nothing matches: in {found.silent[0]:.0%} of"
               f" the questions without a right answer, and in {found.silent[1]:.0%} of those with one")
    typer.echo(f"wrote {path}. Next: {shlex.join(['cmr', 'search', str(folder), where.captions[0]])}{more}")
    return found.points


def judge_it(folder: Path, model, vocabulary, where, data: Path, split: str, captions: int, seed: int):
    "Print what a calibration is worth on a split that it was not fitted on; the points of its reliability curve."
    import numpy as np

    from cmr.search.calibration import Questions, curve, judge, read_calibration, strangers
    found = read_calibration(folder, model)
    if found is None: raise ValueError(f"{folder} has no calibration to be judged: fit one first, with cmr calibrate {folder}")
    entries, true = known_truth(data, split)
    asking = Questions(model, where, vocabulary, true, captions, seed, found.kinds)
    own = asking.whole(True)
    sets = {"Captions with the images that they are true of, and without them": (own + asking.whole(False), np.r_[asking.own, asking.own])}
    if entries:
        texts, theirs = other_captions(entries, data, split)
        other = Questions(model, strangers(where, texts), vocabulary, theirs, captions, seed, found.kinds)
        none = [one for one in other.whole(True) if not one.there]
        sets["Captions of these scenes, and of others that are true of none of these"] = \
            own + none, np.r_[asking.own, where.n_images + np.arange(len(none))]
    for title, (asked, image) in sets.items():
        show_judged(title, judge(found, asked, image), np.array([float(one.evidence.scores[0]) for one in asked]), found.threshold)
    first = judge(found, *next(iter(sets.values())))
    return curve(first.best, first.right)


@app.command("calibrate")
def calibrate_command(
    model: Annotated[Path, PathArgument(help="Folder of a run (its best epoch is taken) or of a model.")],
    data: Annotated[Path | None, PathOption(help="Data folder. Default: what the run learned from, as its recipe.json says.")] = None,
    split: Annotated[str, typer.Option(help="Fitted on this: one that the model was not trained on.")] = "dev",
    judge: Annotated[str | None, typer.Option(help="Fit nothing: judge the calibration that is there on this split, such as test.")] = None,
    captions: Annotated[int, typer.Option(min=20, help="How many captions are asked, drawn at random.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    figure: Annotated[Path | None, PathOption(help="Draw the reliability curve into this file. Default: reliability.png beside "
                                              "calibration.json.")] = None, imports: Imports = None, device: Device = None,
):
    """Fit probabilities to a model's scores, so that a search can say that nothing matches.

    \b
    Examples:
      cmr calibrate runs/scenes-imram
      cmr calibrate runs/mine --data data/mine --split dev
      cmr calibrate runs/scenes-imram --judge test

    \b
    It asks captions of the split with a picture of which they are true among
    the others, and without, and writes calibration.json into the model's
    folder. What it prints is measured by halves: each half of the images by
    what was fitted to the other. ECE is the mean distance of the reliability
    curve from the diagonal.

    \b
    With --judge the captions of another split are asked of all its images, and
    of all but those they are true of; on drawn scenes also captions of other
    scenes, of which those count that are true of none.
    """
    from cmr.data import open_split
    from cmr.files import atomic_write
    from cmr.search.calibration import show_calibration
    if figure and figure.suffix.lower() not in (".png", ".svg", ".pdf"): raise ValueError(f"--figure {figure}: a name ends in .png")
    trained, vocabulary, folder = load_model(model, device)
    data, _ = data_of(folder, data)
    where = open_split(data, judge or split)
    points = judge_it(folder, trained, vocabulary, where, data, judge, captions, seed) if judge else \
        fit_it(folder, trained, vocabulary, where, known_truth(data, split)[1], captions, seed, imported(imports))
    figure = figure or (None if judge else folder / "reliability.png")
    if figure:
        with atomic_write(figure) as partial: show_calibration(points).savefig(partial, format=figure.suffix.lower()[1:], dpi=100)
        typer.echo(f"the reliability curve is in {figure}")
