"""`cmr evaluate`: recall of a trained model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cmr.cli.app import Device, Engine, Imports, app, import_own, plain_errors
from cmr.cli.data import pick_data


def model_folder(
    path: Path,
) -> Path:
    "The folder of a model: the one given, or the best (else the last) of a run."
    return next((path / name for name in ("best", "last") if (path / name / "config.json").is_file()), path)


def load_model(
    path: Path,  # of a run or of a model; or owner/name on the hub
    device: str | None,
):               # the model on its device, its vocabulary, and where they were found
    "A trained model. FileNotFoundError says how to make one."
    from cmr.saving import load
    from cmr.training import make_accelerator
    folder = model_folder(path)
    try: model, vocabulary = load(folder)
    except FileNotFoundError as problem:
        if path.exists(): raise
        raise FileNotFoundError(f"{problem}. `cmr train` makes one") from problem
    return model.to(make_accelerator(device).device), vocabulary, folder


def show_world(scores, data: Path, split: str) -> None:
    "What only the built-in data can tell: twin accuracy, and the ceiling of recall."
    path = data / f"{split}_scenes.json"
    if not path.is_file(): return
    from cmr.world import scenes
    typer.echo(scenes.world_report(scores.numpy(), scenes.load_entries(str(path))))


def as_bytes(
    size: str | None,
) -> int | None:
    "What 500MB, 2GB or 1.5GiB are in bytes; None for None. ValueError where it is no size."
    if size is None: return None
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]?)(i?)b\s*", size, re.IGNORECASE)
    if not found: raise ValueError(f"--max-memory {size!r} is no size: write a number and a unit, for example 500MB or 2GB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


@app.command("evaluate")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Folder of a run (its best epoch is taken) or of a model.")],
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: data/scenes.")] = None,
    split: Annotated[str, typer.Option(help="test, dev, train, testall, ...")] = "test",
    folds: Annotated[int, typer.Option(min=1, help="Report the mean over so many equal parts of the images; COCO's 5 x 1K is 5.")] = 1,
    scores: Annotated[Path | None, typer.Option(help="Write all scores, images by captions, to this .npy file as they come; "
                                                   "the same command again goes on with it.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="What the scoring may take at a time, such as 500MB or 2GB. "
                                                      "Default: what suits the machine.")] = None,
    imports: Imports = None,
    device: Device = None,
    engine: Engine = True,
):
    """Print R@1, R@5, R@10 in both directions, R@sum and the ranks of the right answers.

    \b
    Examples:
      cmr evaluate runs/scenes-imram
      cmr evaluate runs/scenes-imram --split dev
      cmr evaluate runs/scenes-mine --import my_module
      cmr evaluate runs/coco --data data/coco --split testall --folds 5
      cmr evaluate runs/coco --data data/coco --scores coco.npy --max-memory 2GB

    \b
    Where --scores was cut off, FILE.part has the scores so far, and FILE.json
    says how many and whose. The same command goes on; with another model or
    other data the file is refused: delete it, or give another name.
    """
    with plain_errors():
        import_own(imports)
        from cmr.data import open_split
        from cmr.training import evaluate
        bound, (trained, vocabulary, folder) = as_bytes(max_memory), load_model(model, device)
        data = pick_data(data)
        result, matrix = evaluate(trained, open_split(data, split), vocabulary, folds, bound, out=scores, engine=engine)
        typer.echo(f"{folder} on {data}, split {split}{f', mean of {folds} folds' if folds > 1 else ''}\n{result}")
        show_world(matrix, data, split)
        if scores: typer.echo(f"The scores are in {scores}, {matrix.shape[0]:,} images by {matrix.shape[1]:,} captions in float32")
