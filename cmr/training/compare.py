"""One budget, several models: each trained with the same data, recipe and seeds, and what comes out in one table."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import psutil
import torch

from cmr.camp import ABLATIONS, ablation
from cmr.data import open_split
from cmr.files import atomic_write
from cmr.recall import Report
from cmr.saving import load, model_class
from cmr.training.loop import evaluate, train
from cmr.training.recipes import Recipe, change, for_model, from_older, resolve, unknown_settings
from cmr.world.scenes import load_entries, world_report

TEN_MODELS = ("devise", "order", "dvsa", "vse", "cmpm", "pvse", "vsrn", "scan", "imram", "camp")


def machine(
    device: str,  # "cpu" or "cuda"
) -> dict:
    "What measured numbers belong to."
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor() or platform.machine(),
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "memory_bytes": psutil.virtual_memory().total,
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "system": platform.system(),
            "python": platform.python_version(), "torch": torch.__version__, "date": datetime.date.today().isoformat()}


@dataclass(frozen=True)
class Entry:
    "One row of the table: what is trained."
    label: str
    recipe: Recipe


def ablations(
    names: Sequence[str],                 # rows of CAMP's Table 3, several joined by + make one; none: all of `camp.ABLATIONS`
    recipe: Recipe,
    settings: Mapping[str, object] = {},  # as for `recipes.change`
) -> list[Entry]:
    "Rows of CAMP's Table 3 by one recipe. ValueError for an unknown row or setting."
    recipe = change(for_model(recipe, "camp"), settings)
    return [Entry(name, replace(recipe, args={**recipe.args, **ablation(*name.split("+"))})) for name in names or ABLATIONS]


def models(
    names: Sequence[str],                 # none: `TEN_MODELS`
    recipe: Recipe,
    settings: Mapping[str, object] = {},  # as for `recipes.change`; a model leaves out what only others have
) -> list[Entry]:
    "Models by name, each by its counterpart of one recipe. ValueError for an unknown one, and for a setting that none of them has."
    recipes = [for_model(recipe, model_class(name).__name__) for name in names or TEN_MODELS]
    unknown = [set(unknown_settings(recipe, settings)) for recipe in recipes]
    if nobodys := set.intersection(*unknown): change(recipes[0], {key: settings[key] for key in nobodys})  # raises, and lists what there is
    return [Entry(name.lower(), change(recipe, {key: value for key, value in settings.items() if key not in odd}))
            for name, recipe, odd in zip(names or TEN_MODELS, recipes, unknown)]


def read_result(
    file: Path,    # result.json of a row and seed
    wanted: dict,  # what it must agree with
) -> dict:
    "What came out before. ValueError where that was by another recipe."
    found = json.loads(file.read_text(encoding="utf-8"))
    model, _ = load(file.parent / "best")
    before, now = (resolve(Recipe(**from_older(result["recipe"])), model) for result in (found, wanted))
    odd = [key for key in wanted if key != "recipe" and found.get(key) != wanted[key]] or ["recipe"] * (before != now)
    if odd: raise ValueError(f"{file} was made with another {odd[0]}: choose another folder, or delete {file.parent}")
    return found


def train_entry(
    entry: Entry,
    seed: int,
    data: Path,
    folder: Path,  # of this run
    split: str,
    **how,         # as for `train`
) -> dict:
    "Train and evaluate one row with one seed, or read what came out before. ValueError where that was by another recipe."
    recipe, file, progress = replace(entry.recipe, seed=seed, name=entry.label), folder / "result.json", how.get("progress", True)
    wanted = {"label": entry.label, "seed": seed, "split": split, "data": str(data), "recipe": json.loads(json.dumps(asdict(recipe)))}
    if file.is_file(): return read_result(file, wanted)
    ended = train(recipe, data, folder, resume=(folder / "last" / "training.pt").is_file(), **how)
    model, vocabulary = load(folder / "best")
    examined, truth = open_split(data, split), data / f"{split}_scenes.json"
    report, scores = evaluate(model.to(ended["device"]), examined, vocabulary, progress=progress, engine=how.get("engine", True))
    found = {**wanted, "report": asdict(report), "dev": ended["best"],
             **{key: ended[key] for key in ("parameters", "epochs", "best_epoch")},
             "seconds_per_epoch": ended["seconds"] / max(ended["epochs"], 1), "machine": machine(ended["device"])}
    if truth.is_file(): found["world"] = asdict(world_report(scores.numpy(), load_entries(str(truth)), progress=False))
    with atomic_write(file) as partial: partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def spread(
    values: Sequence[float],
    places: int = 1,  # after the decimal point
) -> str:
    "The mean, and the lowest and the highest where there is more than one."
    text = f"{mean(values):.{places}f}"
    return text if len(values) < 2 else f"{text} ({min(values):.{places}f}-{max(values):.{places}f})"


RECALLS = ("text_r1", "text_r5", "text_r10", "image_r1", "image_r5", "image_r10")
TWINS = ("twin", "colour_twin", "relation_twin")


def by_label(
    results: Sequence[dict],
) -> dict[str, list[dict]]:
    "Results of the same row, one for each seed, in the order in which rows came."
    rows: dict[str, list[dict]] = {}
    for result in results: rows.setdefault(result["label"], []).append(result)
    return rows


def table_row(
    label: str,
    many: Sequence[dict],  # its results, one for each seed
    twins: bool,           # with the built-in world's own measures
) -> list[str]:
    "The cells of a row."
    recalls = [f"{mean(result['report'][key] for result in many):.1f}" for key in RECALLS]
    world = [f"{mean(result['world'][key] for result in many):.1f}" for key in TWINS] if twins else []
    return [label, *recalls, spread([result["report"]["rsum"] for result in many]), *world, f"{many[0]['parameters']:,}",
            f"{mean(result['seconds_per_epoch'] for result in many):.0f}", ", ".join(str(result["seed"]) for result in many)]


def table(
    results: Sequence[dict],
) -> str:
    "A markdown table: recall in percent, parameters, seconds an epoch; mean over the seeds, lowest and highest in brackets."
    twins = all("world" in result for result in results)
    head = ["model", "text R@1", "R@5", "R@10", "image R@1", "R@5", "R@10", "R@sum", *(["twins", "colours", "relations"] if twins else []),
            "parameters", "s an epoch", "seeds"]
    rows = [table_row(label, many, twins) for label, many in by_label(results).items()]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(cells) + " |" for cells in rows)]
    return "\n".join(lines) + "\n"


def conditions(
    results: Sequence[dict],
) -> str:
    "Data, budget and machine in a line, from what was recorded."
    first, about = results[0], results[0]["machine"]
    budget = first["recipe"]
    return (f"{first['data']}, split {first['split']}; {budget['epochs']} epochs, batch {budget['batch_size']}, lr {budget['lr']:g}; "
            f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, {about['device']}; "
            f"torch {about['torch']}; {about['date']}")


def figure(
    results: Sequence[dict],
):  # a matplotlib Figure
    "R@sum of each row: a dot a seed, a line at the mean."
    from matplotlib.figure import Figure
    rows = by_label(results)
    shape = Figure(figsize=(7, 1 + .32 * len(rows)), layout="constrained")
    axes = shape.subplots()
    for place, many in enumerate(rows.values()):
        values = [result["report"]["rsum"] for result in many]
        axes.plot(values, [place] * len(values), "o", ms=4, color="C0")
        axes.plot([mean(values)] * 2, [place - .3, place + .3], color="C1")
    axes.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel=f"R@sum on {results[0]['split']} (a dot a seed, a line at the mean)")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=.3)
    return shape


def write(
    results: Sequence[dict],
    out: Path,  # a folder
) -> None:
    "table.md, results.csv and table.png, each whole or not at all."
    text = io.StringIO(newline="")
    names = ["label", "seed", *Report.__dataclass_fields__, *TWINS, "parameters", "seconds_per_epoch", "best_epoch",
             "gate_matching", "gate_other"]
    lines = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for result in results: lines.writerow({**result["dev"], **result, **result["report"], **result.get("world", {})})
    with atomic_write(out / "results.csv") as partial: partial.write_text(text.getvalue(), encoding="utf-8")
    with atomic_write(out / "table.md") as partial: partial.write_text(f"{conditions(results)}\n\n{table(results)}", encoding="utf-8")
    with atomic_write(out / "table.png") as partial: figure(results).savefig(partial, format="png", dpi=120)


def compare(
    entries: Sequence[Entry],
    data: str | Path,             # with train, dev and the split that is reported
    out: str | Path,              # gets a folder for each run, table.md, results.csv, table.png
    seeds: Sequence[int] = (0,),
    split: str = "test",
    **how,                        # device, precision, progress, workers, engine: as for `train`
) -> list[dict]:                  # a result for each row and seed
    "Train all rows with all seeds, writing the table after each; the same call goes on after a stop. ValueError where a row stands twice."
    data, out, results, labels = Path(data), Path(out), [], [entry.label for entry in entries]
    if len(set(labels)) < len(labels) or len(set(seeds)) < len(seeds):
        raise ValueError(f"a row or a seed stands twice: rows {', '.join(labels)}, seeds {', '.join(map(str, seeds))}")
    open_split(data, split)                                                                              # what is missing is said now
    for n, (seed, entry) in enumerate(itertools.product(seeds, entries)):
        place = f"{n + 1} of {len(seeds) * len(entries)}"
        if how.get("progress", True): print(f"{place}: {entry.label}, seed {seed}  [{datetime.datetime.now():%H:%M}]")
        results.append(train_entry(entry, seed, data, out / f"{entry.label}-seed{seed}", split, **how))
        write(results, out)
    return results
