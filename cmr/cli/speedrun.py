"""`cmr speedrun`: how long a training takes until it is good enough, as a line for a table that readers can enter."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from cmr.cli.app import Device, Imports, PathOption, Seeds, Settings, app, read_seeds, read_settings
from cmr.cli.data import pick_data
from cmr.cli.train import adjust, pick_recipe


TARGET = 520.0 # R@sum on dev that has to be reached


def seconds_to(target: float, rows: list[dict]) -> float | None:
    "Seconds of training, each epoch's evaluation with it, up to the first epoch that reaches an R@sum; None where none does."
    for n, row in enumerate(rows, 1):
        if row["rsum"] >= target: return sum(one["seconds"] for one in rows[:n])
    return None


def kept_seconds(folder: Path, target: float) -> float | None:
    "As `seconds_to`, of a run that is kept."
    from cmr.training import read_checkpoint
    return seconds_to(target, read_checkpoint(folder / "last" / "training.pt")["standing"]["rows"])


def one_run(recipe, data: Path, folder: Path, target: float, device: str | None) -> float | None:
    "Train, or go on, or find what was trained before; and the seconds to the target. The machine is noted where training begins."
    from cmr.files import write_text
    from cmr.training import train
    from cmr.training.compare import machine
    begun = (folder / "last" / "training.pt").is_file()
    if not begun: write_text(folder / "machine.json", json.dumps(machine(device or "cpu")))
    result = train(recipe, data, folder, begun, device)
    found = kept_seconds(folder, target)
    typer.echo(f"seed {recipe.seed}: dev R@sum {result['best']['rsum']:.1f} after {result['epochs']} epochs; "
               + (f"{target:g} reached in {found:.0f} s" if found else f"{target:g} not reached"))
    return found


def against_reference(found: list[float], seeds: list[int]) -> str:
    "The median over the reference's, of the same seeds; a question mark where that was not run here."
    try: others = [kept_seconds(Path("runs/speedrun/reference") / str(seed), TARGET) or math.inf for seed in seeds]
    except FileNotFoundError: return "?"
    return f"{median(found) / median(others):.2f}" if max(others) < math.inf else "?"


@app.command("speedrun")
def speedrun_command(
    name: Annotated[str, typer.Argument(help="What the entry is called: its runs go to runs/speedrun/NAME.")] = "reference",
    model: Annotated[str, typer.Option(help="Any that `cmr models` lists.")] = "imram",
    recipe: Annotated[str, typer.Option(help="As for cmr train.")] = "scenes",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training captions. Default: the recipe's.")] = None,
    target: Annotated[float, typer.Option(min=0, max=600, help="R@sum on dev that has to be reached.")] = TARGET, seeds: Seeds = "0,1,2",
    data: Annotated[Path | None, PathOption(help="Data folder with train and dev. Default: data/scenes, which the table is about.")] = None,
    settings: Settings = None, imports: Imports = None, device: Device = None,
):
    """Time a training to a fixed quality: seconds until dev R@sum is 520 on the built-in world, the median of three seeds.

    \b
    Examples:
      cmr speedrun                                     the reference, Text-IMRAM
      cmr speedrun hard --model hardassignment --set twins=true
      cmr speedrun mine --import my_module --model mine --set lr=3e-3

    The seconds are those of training, with the evaluation after each epoch. Machines differ: run the reference on yours, too, and
    the ratio of the two is what can be compared. An entry counts where all its seeds reach the target. docs/speedrun.md has the
    table and the rules. The same command goes on after a stop.
    """
    from cmr.files import read_json
    if not re.fullmatch(r"\w[\w.-]*", name): raise ValueError(f"{name!r} is no name of an entry: letters, digits and - will do")
    numbers, given = read_seeds(seeds), read_settings(settings, True)
    if name == "reference" and (model.lower() != "imram" or recipe != "scenes" or epochs or settings):
        raise ValueError("reference is Text-IMRAM as its recipe stands: give your entry a name of its own, cmr speedrun NAME ...")
    final = adjust(pick_recipe(recipe, where := pick_data(data), device), model, {"epochs": epochs}, {}, given)
    out = Path("runs/speedrun") / name
    found = [one_run(replace(final, seed=seed, name=name), where, out / str(seed), target, device) for seed in numbers]
    reached, asked = [seconds for seconds in found if seconds], {"--data": where.resolve() == Path("data/scenes").resolve(),
             "--target": target == TARGET, "--seeds": numbers == [0, 1, 2], "dev_images": final.dev_images is None}
    if len(reached) < len(found): return typer.echo(f"{len(reached)} of {len(found)} seeds reach {target:g}: this is no entry yet")
    if broken := [rule for rule, kept in asked.items() if not kept]:
        return typer.echo(f"Median {median(reached):.0f} s; no entry of the table, by its rules: {', '.join(broken)}")
    about = read_json(out / "0" / "machine.json", dict[str, str | int], "note of the machine", f"delete {out}, and it is trained again")
    typer.echo(f"\n| {about.get('date')} | {name} | {median(reached):.0f} | {', '.join(f'{x:.0f}' for x in reached)} "
               f"| {against_reference(reached, numbers)} | {about.get('processor')}, {about.get('threads')} threads "
               f"| `{shlex.join(['cmr', *sys.argv[1:]])}` |\n"
               "This line goes into docs/speedrun.md, with the reference's on the same machine.")
