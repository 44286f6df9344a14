"""`cmr calibrate`: how likely a model's answers are right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import Device, Imports, PathArgument, PathOption, app, import_own, plain_errors
from cmr.cli.data import pick_data
from cmr.cli.evaluate import load_model


def known_truth(data: Path, split: str):
    "Which caption of a drawn split is true of which scene (I, C); None for other data: of its own image alone."
    path = data / f"{split}_scenes.json"
    if not os.path.lexists(path): return None
    from cmr.world.scenes import load_entries, truth
    return truth(load_entries(path))


@app.command("calibrate")
def calibrate_command(
    model: Annotated[Path, PathArgument(help="Folder of a run (its best epoch is taken) or of a model.")],
    data: Annotated[Path | None, PathOption(help="Data folder. Default: data/scenes.")] = None,
    split: Annotated[str, typer.Option(help="Fitted on this: one that the model was not trained on.")] = "dev",
    captions: Annotated[int, typer.Option(min=20, help="How many captions are asked, drawn at random.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    figure: Annotated[Path | None, PathOption(help="Draw the reliability curve into this file. Default: reliability.png beside "
                                              "calibration.json.")] = None,
    imports: Imports = None,
    device: Device = None,
):
    """Fit probabilities to a model's scores, so that a search can say that nothing matches.

    \b
    Examples:
      cmr calibrate runs/scenes-imram
      cmr calibrate runs/mine --data data/mine --split dev

    \b
    It asks captions of the split with a picture of which they are true among
    the others, and without, and writes calibration.json into the model's
    folder. What it prints is measured by halves: each half of the images by
    what was fitted to the other. ECE is the mean distance of the reliability
    curve from the diagonal.
    """
    with plain_errors():
        import_own(imports)
        from cmr.data import open_split
        from cmr.data.datasets import check_extractor
        from cmr.files import atomic_write
        from cmr.search.calibration import fit_calibration, show_calibration, write_calibration
        trained, vocabulary, folder = load_model(model, device)
        data = pick_data(data)
        where = open_split(data, split)
        check_extractor(where, trained.extractor)
        found = fit_calibration(trained, where, vocabulary, known_truth(data, split), captions, seed=seed)
        path, figure = write_calibration(found, folder), figure or folder / "reliability.png"
        with atomic_write(figure) as partial: show_calibration(found.points).savefig(partial, format=figure.suffix[1:] or "png", dpi=100)
        typer.echo(f"{'':26} questions  AUROC  Brier  log loss    ECE")
        for name, m in (("the best answer is right", found.best), ("a right answer is there", found.whether)):
            typer.echo(f"{name:26} {m.count:9,}  {m.auroc:.3f}  {m.brier:.3f}  {m.log_loss:8.3f}  {m.ece:.3f}")
        typer.echo(f"below {found.threshold:.0%} that a right answer is there it says that nothing matches: in {found.silent[0]:.0%} of "
                   f"the questions without a right answer, and in {found.silent[1]:.0%} of those with one")
        typer.echo(f"wrote {path}; the reliability curve is in {figure}. Next: cmr search {folder} \"...\"")
