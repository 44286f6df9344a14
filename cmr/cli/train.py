"""`cmr train`: which recipe, with which settings, and what came out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmr.cli.app import Device, Engine, Imports, PathOption, Settings, app, imported, read_settings, say, typed
from cmr.cli.data import FILES, named_data, pick_data

if TYPE_CHECKING: from cmr.training import Recipe


def fitting(data: Path, device: str | None) -> str:
    "Name of the recipe for a data folder."
    import torch

    from cmr.data import open_split
    split = open_split(data, "train")
    if (data / "train_scenes.json").is_file(): return "scenes"
    if device == "cpu" or not torch.cuda.is_available(): return "f8k-small"
    return next((name for name, images in (("imram-coco", 100_000), ("imram-f30k", 20_000)) if split.n_images >= images), "imram-f8k")


def pick_recipe(name: str | None, data: Path, device: str | None, model: str | None = None) -> Recipe:
    "The recipe of that name or file, else the one that fits data, machine and model. ValueError lists them."
    from cmr.training import RECIPES
    if name and name.lower().endswith(FILES):
        from cmr.training.recipes import read_config
        return read_config(name)
    if name is None:
        name = fitting(data, device)
        own = f"{str(model).lower()}-{name}", name.replace("imram", str(model).lower())
        name = next((other for other in own if other in RECIPES), name)
    if name not in RECIPES: raise ValueError(f"no recipe {name!r}: choose one of {', '.join(RECIPES)}, or a .json or .toml file")
    return RECIPES[name]


def with_options(
    recipe: Recipe, settings: dict[str, Any], # its fields; None where nothing was said
    args: dict[str, Any],      # its model's arguments; None where nothing was said
) -> Recipe:
    "A recipe with what was said by options, and so what it comes after. ValueError where its model does not take one."
    from cmr.training import model_arguments
    known = model_arguments(recipe.matcher)
    args, settings = ({key: value for key, value in given.items() if value is not None} for given in (args, settings))
    foreign = [f"--{key.replace('_', '-')}" for key in args if key not in known]
    if foreign: raise ValueError(f"{recipe.matcher} takes no {', '.join(foreign)}; its settings are {', '.join(known)}")
    after = recipe.after and with_options(recipe.after, settings, args)
    return replace(recipe, args={**recipe.args, **args}, after=after, **settings)


def adjust(
    recipe: Recipe, model: str | None, # None: the recipe's
    settings: dict[str, Any], # as for `with_options`
    args: dict[str, Any],     # as for `with_options`
    more: Mapping[str, str],  # given with --set
) -> Recipe:
    "A recipe with what was said on the command line."
    from cmr.training import change, for_model
    return change(with_options(for_model(recipe, model) if model else recipe, settings, args), more)


def suited(recipes: list[Recipe], data: Path, name: str | None, settings: Mapping[str, Any]) -> list[Recipe]:
    "Recipes that fit few captions, said in a line; what was set by hand (not None), or in the file that `name` is, stays."
    from cmr.data import open_split
    from cmr.training.recipes import config_content, for_few
    captions, named = len(open_split(data, "train")), config_content(name) if name and name.lower().endswith(FILES) else {}
    found = [for_few(recipe, captions, {*named, *(key for key, value in settings.items() if value is not None)}) for recipe in recipes]
    changed = [", ".join(f"{key}={getattr(new, key)}" for key in ("min_count", "batch_size", "epochs", "decay_every", "warmup_steps")
                         if getattr(new, key) != getattr(old, key)) for old, new in zip(recipes, found)]
    for line in filter(None, dict.fromkeys(changed)): say(f"Few captions ({captions:,}): {line}; --set changes any", note=True)
    return found


def ablation_arguments(names: list[str] | None, more: Mapping[str, Any]) -> dict[str, Any]:  # more: given with --set
    "CAMP's arguments for rows of its Table 3. ValueError where --set would take one back."
    from cmr.camp import ablation
    found = ablation(*names) if names else {}
    for key in found.keys() & more.keys():
        raise ValueError(f"--ablation sets {key}={found[key]}, and --set {key}={more[key]}: leave one of the two out")
    return found


def show_summary(result: dict, more: str) -> None:  # more: words that every command about it needs
    "What came out, and what to type next."
    typer.echo(f"{result['stopped']}: {result['epochs']} epochs, {result['step']} steps, {result['parameters']:,} weights, "
               f"{result['seconds']:.0f} s on {result['device']}, {result['waiting']:.1%} of the training spent waiting for data")
    if not result["best"] and result["looked"] is not None: typer.echo(f"no whole epoch: dev R@sum {result['looked']:.1f}")
    if result["best"]:
        typer.echo(f"best: epoch {result['best_epoch']}, dev R@sum {result['best']['rsum']:.1f}; "
                   f"the curves are in {result['out']}/curves.png")
    out = "./" * result["out"].startswith("-") + result["out"]
    typer.echo(f"Next: cmr evaluate {typed(out)}{more}")


def recipe_of_run(out: Path, data: Path | None) -> tuple[Recipe, Path | None]:  # and the data folder, where it is noted
    "What a run's recipe.json says; where that is missing, what the checkpoint does, which does not know the data folder."
    from cmr.training import read_checkpoint, read_recipe
    from cmr.training.recipes import recipe_from
    path = out / "last" / "training.pt"
    if os.path.lexists(out / "recipe.json") or not path.is_file(): return read_recipe(out)
    if not data: raise FileNotFoundError(f"{out / 'recipe.json'} is missing: say which data folder the run began with (--data FOLDER)")
    warnings.warn(f"{out / 'recipe.json'} is missing: the recipe of {path} is taken", stacklevel=2)
    return recipe_from(read_checkpoint(path)["recipe"], path), None


def start(
    data: Path | None, recipe: str | None, model: str | None, out: Path | None, resume: bool,
    settings: tuple, # as the last three arguments of `adjust`
    device: str | None, imports: list[str] | None = None, track: list[str] | None = None, **how, # as for `cmr.training.train`
) -> None:
    "Find data and recipe, train, and say what came out; under a launcher every process does it, and the first one speaks."
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    say("Reading the recipe and the data ...")  # PyTorch takes seconds to come
    from cmr.training import train
    from cmr.training.loop import Stopped
    from cmr.training.track import Tracking, check_trackers
    check_trackers(track or [])
    base, recorded = recipe_of_run(out, data) if resume and out and not (recipe and data) else (None, None)
    data = named_data(data or recorded, recipe)
    if data is None and world_size > 1:
        raise ValueError("several processes: say with --data which data folder they share (`cmr data scenes` makes one)")
    data = pick_data(data)
    final = adjust(pick_recipe(recipe, data, device, model) if recipe or base is None else base, model, *settings)
    if recipe or base is None: [final] = suited([final], data, recipe, {**settings[0], **settings[2]})
    if out is None and ({*final.name} & {*"/\\:"} or not final.name.strip(". ")):
        raise ValueError(f"the recipe's name, {final.name!r}, can't be a folder's: say with --out where the run goes")
    out = out or Path("runs") / f"{final.name}-{final.matcher}"
    shared = f" with {world_size} processes" * (world_size > 1)
    say(f"Training {final.matcher} on {data} by the recipe {final.name}{shared}; the run goes to {out}")
    more = imported(imports)
    try: result = train(final, data, out, resume, device, callbacks=[Tracking(track)] if track else [], **how)
    except Stopped as stop: raise Stopped(f"{stop}{more * str(stop).endswith('--resume')}", stop.number) from stop
    if not rank: show_summary(result, more)
    if world_size > 1:
        from torch import distributed
        distributed.destroy_process_group()


@app.command("train")
def train_command(
    data: Annotated[Path | None, PathOption(help="Data folder with train and dev. "
                                                "Default: data/scenes, drawn at once if it is not there.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", "--config", help="A name, or a file (a run's recipe.json, or .toml). "
                                                 "scenes, f8k-small, imram-f8k, imram-f30k, imram-coco, camp-f8k-small, camp-f8k, "
                                                 "camp-f30k, camp-coco, camp-scenes-nce, camp-f8k-small-nce; camp-f8k-small-base-first, "
                                                 "camp-f30k-released and camp-f8k-small-released train in "
                                                 "stages. Default: what fits the data.")] = None,
    model: Annotated[str | None, typer.Option(help="Any that `cmr models` lists. Default: the recipe's.")] = None,
    out: Annotated[Path | None, PathOption(help="Folder of the run. Default: runs/RECIPE-MODEL.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run, to the same result as without "
                                         "the break.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training captions.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs in a batch, 2 or more.")] = None,
    lr: Annotated[float | None, typer.Option(help="Step size at the start.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides first weights and the order of batches.")] = None,
    embed_dim: Annotated[int | None, typer.Option(help="Width of regions and words in the joint space.")] = None,
    steps: Annotated[int | None, typer.Option(help="K, the matching steps of IMRAM, 1 to 100.")] = None,
    direction: Annotated[str | None, typer.Option(help="Who looks: full, image or text (IMRAM); image or text (SCAN).")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean, lse, max or sum (SCAN).")] = None,
    memory: Annotated[str | None, typer.Option(help="distill, add, mlp, att or gate (IMRAM).")] = None,
    variant: Annotated[str | None, typer.Option(help="paper or released: as printed, or as the authors' code computes it.")] = None,
    ablation: Annotated[list[str] | None, typer.Option(help="A row of CAMP's Table 3, such as base or no-gates; `cmr ablate --help` "
                                                         "names them. Can be given several times.")] = None,
    min_count: Annotated[int | None, typer.Option(min=1, help="Words that the training captions use less often are unknown. "
                                                    "Default: the recipe's.")] = None,
    vocabulary: Annotated[Path | None, PathOption(help="A published vocabulary (json) whose words are taken instead of those of the "
                                                      "training captions.")] = None,
    eval_every: Annotated[int | None, typer.Option(min=1, help="Evaluate on dev after so many steps, too. Best is chosen by whole "
                                                     "epochs.")] = None,
    dev_images: Annotated[int | None, typer.Option(min=2, help="Evaluate on the first so many images of dev: quicker where dev is "
                                                     "large.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(min=0, help="Steps with all negatives first. Default: the recipe's, "
                                                       "or what the model needs.")] = None, settings: Settings = None,
    imports: Imports = None, device: Device = None,
    precision: Annotated[str | None, typer.Option(help="fp32, tf32 (NVIDIA GPUs) or bf16. Default: what accelerate's configuration says, "
                                                     "else fp32.")] = None,
    track: Annotated[list[str] | None, typer.Option(help="Send settings, numbers and a picture of retrieved lists to a tracker that "
                                                      "accelerate knows: tensorboard, wandb, ... Can be given several times.")] = None,
    engine: Engine = True, workers: Annotated[int | None, typer.Option(min=0, help="Processes that read data ahead. "
                                                  "Default: 0 on a CPU, up to 4 on a GPU.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps, with a checkpoint and an evaluation on dev: "
                                                    "to try things out.")] = None,
):
    """Train a model and keep its best epoch by R@sum on the dev split. Ctrl-C saves a checkpoint first, and so do
    SIGTERM and SIGHUP (a shutdown, a closed terminal).

    \b
    Examples:
      cmr train                                       IMRAM, built-in scenes
      cmr train --model scan --direction text --out runs/scan
      cmr train --model camp --ablation no-gates      a row of CAMP's Table 3
      cmr train --config mine.toml                    settings from a file: recipe = "scenes", lr = 1e-3, ...
      cmr train --set margin=0.3 --set schedule=cosine --set optimiser=adamw --out runs/adamw
      cmr train --import my_module --model mine       a model of your own
      cmr train --data data/f30k --recipe imram-f30k  the paper's settings
      cmr train --out runs/scan --resume              go on after a stop

    \b
    On several GPUs or machines, which share each batch (or, with --device cpu, on one CPU):
      accelerate launch --multi_gpu --num_processes 4 -m cmr.cli train --data data/f30k --out runs/four

    \b
    The run's folder then holds
      best/, last/              models for cmr evaluate and from_pretrained
      metrics.csv, curves.png   loss and recall by epoch
      recipe.json               every setting
      tensorboard/              for tensorboard --logdir runs
      .lock                     held while a training writes there: a second one is refused
    """
    args = {"embed_dim": embed_dim, "steps": steps, "direction": direction, "pooling": pooling, "memory": memory, "variant": variant}
    fields = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "warmup_steps": warmup_steps,
              "eval_every": eval_every, "dev_images": dev_images, "min_count": min_count, "vocabulary": vocabulary and str(vocabulary)}
    more = read_settings(settings)
    asked = fields, {**args, **ablation_arguments(ablation, more)}, more
    start(data, recipe, model, out, resume, asked, device, imports, precision=precision, max_steps=max_steps, workers=workers,
          engine=engine, track=track)
