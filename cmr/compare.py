"""One budget, several models: train each with the same data, recipe and seeds, and put what comes out into one table. `cmr compare`, `cmr ablate`."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

from .bench import machine
from .camp import ABLATIONS, ablation
from .captions import whole_file
from .data import open_split
from .matcher import load, matcher_class
from .recall import Report
from .scenes import world_report
from .training import Recipe, evaluate, for_matcher, train

MODELS = ("devise", "order", "dvsa", "vse", "cmpm", "pvse", "vsrn", "scan", "imram", "camp")


@dataclass(frozen=True)
class Entry:
    "One row of the table: what is trained."
    label: str
    recipe: Recipe


def ablations(names: Sequence[str], recipe: Recipe) -> list[Entry]:
    "Rows of CAMP's Table 3 (`camp.ABLATIONS`; all where none is named) by one recipe. ValueError for an unknown row; several joined by + make one."
    recipe = for_matcher(recipe, "camp")
    return [Entry(name, replace(recipe, args={**recipe.args, **ablation(*name.split("+"))})) for name in names or ABLATIONS]


def models(names: Sequence[str], recipe: Recipe) -> list[Entry]:
    "Matchers by name (all of `MODELS` where none is named), each by its counterpart of one recipe. ValueError for an unknown one."
    for name in names: matcher_class(name)
    return [Entry(name.lower(), for_matcher(recipe, name)) for name in names or MODELS]


def measured(entry: Entry, seed: int, data: Path, folder: Path, split: str, how: dict) -> dict:
    "Train and evaluate one row with one seed, or read what came out before. ValueError where that was by another recipe."
    recipe, file = replace(entry.recipe, seed=seed, name=entry.label), folder / "result.json"
    wanted = {"label": entry.label, "seed": seed, "split": split, "data": str(data), "recipe": json.loads(json.dumps(asdict(recipe)))}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        odd = [key for key in wanted if found.get(key) != wanted[key]]
        if odd: raise ValueError(f"{file} was made with another {odd[0]}: choose another folder, or delete {folder}")
        return found
    ended = train(recipe, data, folder, resume=(folder / "last" / "training.pt").is_file(), **how)
    model, vocabulary = load(folder / "best")
    examined = open_split(data, split)
    report, scores = evaluate(model.to(ended["device"]), examined, vocabulary, progress=how.get("progress", True))
    found = {**wanted, "report": asdict(report), "parameters": ended["parameters"], "epochs": ended["epochs"], "best_epoch": ended["best_epoch"],
             "seconds_per_epoch": ended["seconds"] / max(ended["epochs"], 1), "machine": machine(ended["device"]), "dev": ended["best"]}
    truth = data / f"{split}_scenes.json"
    if truth.is_file(): found["world"] = asdict(world_report(scores, truth, progress=False))
    with whole_file(file) as partial: partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def spread(values: Sequence[float], places: int = 1) -> str:
    "The mean, and the lowest and the highest where there is more than one."
    text = f"{mean(values):.{places}f}"
    return text if len(values) < 2 else f"{text} ({min(values):.{places}f}-{max(values):.{places}f})"


RECALLS = ("text_r1", "text_r5", "text_r10", "image_r1", "image_r5", "image_r10")


def by_label(results: Sequence[dict]) -> dict[str, list[dict]]:
    "Results of the same row, one for each seed, in the order in which rows came."
    rows = {}
    for result in results: rows.setdefault(result["label"], []).append(result)
    return rows


def table(results: Sequence[dict]) -> str:
    "A markdown table: recall in percent, parameters, seconds an epoch; mean over the seeds, lowest and highest in brackets."
    twins = all("world" in result for result in results)
    head = ["model", "text R@1", "R@5", "R@10", "image R@1", "R@5", "R@10", "R@sum", *(["twins", "colours", "relations"] if twins else []), "parameters", "s an epoch", "seeds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for label, many in by_label(results).items():
        recalls = [f"{mean(result['report'][key] for result in many):.1f}" for key in RECALLS]
        world = [f"{mean(result['world'][key] for result in many):.1f}" for key in ("twin", "colour_twin", "relation_twin")] if twins else []
        cells = [label, *recalls, spread([result["report"]["rsum"] for result in many]), *world, f"{many[0]['parameters']:,}",
                 f"{mean(result['seconds_per_epoch'] for result in many):.0f}", ", ".join(str(result["seed"]) for result in many)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def told(results: Sequence[dict]) -> str:
    "Data, budget and machine in a line, from what was recorded."
    first, about = results[0], results[0]["machine"]
    budget = first["recipe"]
    return (f"{first['data']}, split {first['split']}; {budget['epochs']} epochs, batch {budget['batch_size']}, lr {budget['lr']:g}; {about['processor']}, "
            f"{about['cores']} cores, {about['threads']} threads, {about['device']}; torch {about['torch']}; {about['date']}")


def figure(results: Sequence[dict]):
    "R@sum of each row: a dot a seed, a line at the mean; a matplotlib Figure."
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


def write(results: Sequence[dict], out: Path) -> None:
    "table.md, results.csv and table.png, each whole or not at all."
    text = io.StringIO(newline="")
    names = ["label", "seed", *(field for field in Report.__dataclass_fields__), "twin", "colour_twin", "relation_twin", "parameters", "seconds_per_epoch", "best_epoch",
             "gate_matching", "gate_other"]
    lines = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for result in results: lines.writerow({**result["dev"], **result, **result["report"], **result.get("world", {})})
    with whole_file(out / "results.csv") as partial: partial.write_text(text.getvalue(), encoding="utf-8")
    with whole_file(out / "table.md") as partial: partial.write_text(f"{told(results)}\n\n{table(results)}", encoding="utf-8")
    with whole_file(out / "table.png") as partial: figure(results).savefig(partial, format="png", dpi=120)


def compare(
    entries: Sequence[Entry],
    data: str | Path,             # with train, dev and the split that is reported
    out: str | Path,              # gets a folder for each run, table.md, results.csv, table.png
    seeds: Sequence[int] = (0,),
    split: str = "test",
    **how,                        # device, precision, progress, workers: as for `train`
) -> list[dict]:                  # a result for each row and seed
    "Train all rows with all seeds, seed after seed, writing the table after each; the same call goes on where it was stopped. ValueError where two rows have one name."
    data, out, results = Path(data), Path(out), []
    labels = [entry.label for entry in entries]
    if len(set(labels)) < len(labels) or len(set(seeds)) < len(seeds): raise ValueError(f"a row or a seed stands twice: rows {', '.join(labels)}, seeds {', '.join(map(str, seeds))}")
    open_split(data, split)                                                                              # what is missing is said now
    for n, seed in enumerate(seeds):
        for k, entry in enumerate(entries):
            if how.get("progress", True): print(f"{n * len(entries) + k + 1} of {len(seeds) * len(entries)}: {entry.label}, seed {seed}  [{datetime.datetime.now():%H:%M}]")
            results.append(measured(entry, seed, data, out / f"{entry.label}-seed{seed}", split, how))
            write(results, out)
    return results
