"""`cmr push`: a trained model to the Hugging Face hub, with a card that says what it reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cmr.cli.app import Device, Imports, PathArgument, PathOption, app, typed
from cmr.cli.data import data_of


@app.command("push")
def push_command(
    run: Annotated[Path, PathArgument(help="Folder of a run, as cmr train made it.")],
    name: Annotated[str | None, typer.Argument(help="owner/name on the hub.")] = None,
    to: Annotated[Path | None, PathOption(help="Write what would be sent to this folder instead, and send nothing.")] = None,
    data: Annotated[Path | None, PathOption(help="Data folder to evaluate on. Default: the one the run was trained on.")] = None,
    split: Annotated[str | None, typer.Option(help="The card's split. Default: test, or dev where there is no test.")] = None,
    about: Annotated[str | None, typer.Option(help="What it learned from, in words. Default: the data folder's name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, as the hub names it, such as apache-2.0.")] = "other",
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False, imports: Imports = None,
    device: Device = None,
):
    """Evaluate a run's best model and send it to the hub: weights, config, vocabulary, and a card with data, recipe,
    recalls with their intervals, extractor and licence. `hf auth login` or HF_TOKEN say who you are.

    \b
    Examples:
      cmr push runs/scenes-imram --to card
      cmr push runs/scenes-imram me/imram-scenes --licence apache-2.0
    """
    if bool(name) == bool(to): raise ValueError("say owner/name to send the model to, or --to FOLDER to look at it first")
    if name and name.count("/") != 1: raise ValueError(f"{name}: the hub's names are owner/name")
    from cmr.saving import FILES, hub_card, load
    there = {path.name for path in to.glob("[!.]*")} if to else set()
    if to and to.is_file() or there not in (set(), {"README.md", *FILES}):
        raise ValueError(f"--to {to} is a file, or holds other things than a model that was written here: name a new folder")
    if not (run / "recipe.json").is_file(): raise FileNotFoundError(f"no recipe.json in {run}: give the folder that cmr train made")
    from dataclasses import asdict

    from cmr.data import open_split
    from cmr.training import evaluate, make_accelerator, read_recipe
    recipe, recorded = read_recipe(run)
    where, split = data_of(run, data or recorded, split)
    model, vocabulary = load(run)
    report, _ = evaluate(model.to(make_accelerator(device).device), open_split(where, split), vocabulary)
    def said(recipe): return {key: said(value) if key == "after" else value for key, value in recipe.items()
                              if value not in (None, {}, []) and value is not False}
    told: dict[str, Any] = {"recipe": said(asdict(recipe)), "data": about or Path(recorded).name, "report": report,
            "tested": f"{Path(where).name}, split {split}", "licence": licence, "name": name or "OWNER/NAME"}
    model = model.cpu()
    if to:
        to.mkdir(parents=True, exist_ok=True)
        (to / "README.md").unlink(missing_ok=True)
        model.save_pretrained(to, model_card_kwargs=told)
        typer.echo(f"{to}: README.md, config.json, model.safetensors and vocab.json, as `cmr push {typed(run)} OWNER/NAME` would send them")
        return
    try:
        hub_card(model, **told).validate()
        typer.echo(f"sent: {model.push_to_hub(name or '', private=private, model_card_kwargs=told)}")
    except Exception as problem:
        if "TransportError" not in {kind.__name__ for kind in type(problem).__mro__}: raise
        raise ConnectionError(f"the hub gives no answer ({problem}): nothing was sent") from problem
