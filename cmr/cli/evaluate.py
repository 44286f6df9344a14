"""`cmr evaluate`: recall of a trained model."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmr.cli.app import Device, Engine, Imports, PathArgument, PathOption, app, print_table
from cmr.cli.data import data_of

if TYPE_CHECKING:
    from torch import Tensor

    from cmr.data import ImageCaptions
    from cmr.recall import Difference, Report


def load_model(
    path: Path,  # of a run or of a model; or owner/name on the hub
    device: str | None,
):               # the model on its device, its vocabulary, and where they were found
    "A trained model. FileNotFoundError says how to make one."
    from cmr.saving import fetch, load
    from cmr.training import make_accelerator
    try: model, vocabulary = load(folder := fetch(path))
    except FileNotFoundError as problem:
        if path.exists(): raise
        raise FileNotFoundError(f"{problem}. `cmr train` makes one") from problem
    return model.to(make_accelerator(device).device), vocabulary, folder


def show_world(scores, data: Path, split: str) -> None:
    "What only the built-in data can tell: twins, the ceiling of recall, and measures by all right answers."
    path = data / f"{split}_scenes.json"
    if not os.path.lexists(path): return
    from cmr.world import measures, scenes
    entries = scenes.load_entries(str(path))
    typer.echo(scenes.world_report(scores.numpy(), entries))
    if entries: typer.echo(measures.truth_report(scores.numpy(), entries))


def as_bytes(size: str | None) -> int | None:
    "What 500MB, 2GB or 1.5GiB are in bytes; None for None. ValueError where it is no size."
    if size is None: return None
    found = re.fullmatch(r"\s*(\d{1,12}\.?\d{0,12}|\.\d{1,12})\s*([kmgt]?)(i?)b\s*", size, re.IGNORECASE | re.ASCII)
    if not found: raise ValueError(f"--max-memory {size!r} is no size: write a number and a unit, for example 500MB or 2GB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


def check_request(
    split: ImageCaptions, folds: int, scores: Path | None, # where the scores are to be written
    queries: Path | None,  # where a line for each query is
    several: bool,         # models
) -> None:
    "ValueError for what would only be found out after all has been scored."
    from cmr.files import printable
    if split.n_images % folds:
        raise ValueError(f"--folds {folds} does not divide the {split.n_images} images of {split.source} into equal parts")
    if scores and scores.suffix.lower() != ".npy":
        raise ValueError(f"--scores {printable(scores)}: scores are written as an array: give a name that ends in .npy")
    if queries and queries.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"--per-query {printable(queries)}: give a name that ends in .csv, or in .jsonl for a json object a line")
    if scores and several and scores.exists():
        raise ValueError(f"--scores {printable(scores)} is there, and a mean of models replaces nothing: delete it, or give another name")


def evaluate_together(
    models: list[Path],       # folders of runs or of models, two or more
    split: ImageCaptions, folds: int = 1, max_bytes: int | None = None, # as for `cmr.training.evaluate`
    device: str | None = None, engine: bool = True,
) -> tuple[dict[str, Report], dict[str, Difference], Tensor]:
    """Reports, and R@sum against the first, of each folder and the "mean of scores"; and that mean (I, C).

    Each model alone, and the mean of their scores, which is how the field reports ensembles (SCAN, IMRAM: two directions trained apart).

    Scores are averaged as they are; a warning says where the spread of one model's is three times another's or more, which
    then decides nearly alone. ValueError names the model that cannot read the split."""
    from cmr.fast.scoring import check_fits
    from cmr.files import printable
    from cmr.recall import compare, hits, report
    from cmr.training import evaluate
    loaded = [load_model(path, device) for path in models]  # what is missing or damaged is said before the first is scored
    for model, _, folder in loaded:
        try: check_fits(split, model)
        except ValueError as problem: raise ValueError(f"{printable(folder)}: {problem}") from problem
    reports: dict[str, Report] = {}
    total, spread, counts = None, {}, {}
    for model, vocabulary, folder in loaded:
        try: found, scores = evaluate(model, split, vocabulary, folds, max_bytes, engine=engine)
        except ValueError as problem: raise ValueError(f"{printable(folder)}: {problem}") from problem
        name = printable(folder) if printable(folder) not in reports else f"{printable(folder)} ({len(reports) + 1})"
        reports[name], spread[name], counts[name] = found, float(scores.std()), hits(scores, split.image_of_caption, folds)
        total = scores / len(loaded) if total is None else total.add_(scores / len(loaded))
    assert total is not None
    narrow, wide = min(spread, key=spread.__getitem__), max(spread, key=spread.__getitem__)
    if spread[wide] > 3 * spread[narrow]:
        warnings.warn(f"the scores of {wide} vary by {spread[wide]:.3g}, those of {narrow} by {spread[narrow]:.3g} (standard deviation): "
                      "their mean is nearly the first one's alone", stacklevel=2)
    reports["mean of scores"] = report(total, split.image_of_caption, folds)
    first, *others = counts.values()
    others.append(hits(total, split.image_of_caption, folds))
    differences = {name: compare(other, first)["rsum"] for name, other in zip([*reports][1:], others, strict=True)}
    return reports, differences, total.float()


def show_reports(
    reports: dict[str, Report], differences: dict[str, Difference], # R@sum of all but the first, against the first
) -> None:
    "Print a line for each, and below how sure R@sum is, and its difference from the first."
    from cmr.recall import RECALLS
    heads = [*(f"{side} R@{k}" for side in ("text", "image") for k in (1, 5, 10)), "R@sum"]
    print_table(heads, [[name, *(f"{getattr(r, recall):.1f}" for recall in RECALLS)] for name, r in reports.items()])
    rows = []
    for name, r in reports.items():
        ends, x = (r.intervals or {}).get("rsum", (r.rsum, r.rsum)), differences.get(name)
        against = [f"{x.difference:+.1f}", f"[{x.low:+.1f}, {x.high:+.1f}]", f"{x.p:.4f}", f"{x.d:+.2f}"] if x else [""] * 4
        rows.append([name, f"{r.rsum:.1f}", "[{:.1f}, {:.1f}]".format(*ends), *against])
    print_table(["R@sum", "95%", "to the first", "95%", "p", "d"], rows)
    typer.echo(f"{INTERVALS}\nto the first: R@sum less the first line's, on the same images; p by random swaps of the two models,\n"
               "image by image; d in standard deviations of single images' differences.")


INTERVALS = "95%: bootstrap intervals over images, each with its captions; the gallery stays as it is. Near 100 they are too narrow."


def per_query(scores, split: ImageCaptions, folds: int = 1) -> Iterator[dict]:  # scores (I, C), an array
    "Each query with its rank, from 1, its best right answer and its best wrong one, and their scores; a fold by itself, as for recall."
    import numpy as np
    own, size = np.asarray(split.image_of_caption), split.n_images // folds
    for start in range(0, split.n_images, size):
        images, captions = np.arange(start, start + size), np.flatnonzero((own >= start) & (own < start + size))
        sides = ("text", images, captions, split.ids, split.captions), ("image", captions, images, split.captions, split.ids)
        for direction, asking, answers, names, others in sides:
            for row in asking:
                mine = scores[row, answers] if direction == "text" else scores[answers, row]
                right = own[answers] == row if direction == "text" else answers == own[row]
                if not right.any(): continue  # an image without captions asks nothing
                best, wrong = np.where(right, mine, -np.inf).argmax(), np.where(right, -np.inf, mine).argmax()
                rival = {"rival": others[answers[wrong]], "rival_score": float(mine[wrong])} if not right.all() else {}
                yield {"direction": direction, "row": int(row), "query": names[row], "rank": 1 + int((mine[~right] >= mine[best]).sum()),
                       "answer": others[answers[best]], "score": float(mine[best]), **rival}


QUERY = ("direction", "row", "query", "rank", "answer", "score", "rival", "rival_score")


def write_queries(path: Path, found: Iterator[dict]) -> None:
    "Write them as csv or as lines of json, whole or not at all."
    from cmr.files import write_text
    text = io.StringIO(newline="")
    if path.suffix.lower() == ".jsonl": text.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in found)
    else:
        table = csv.DictWriter(text, QUERY, lineterminator="\n")
        table.writeheader()
        table.writerows(found)
    write_text(path, text.getvalue())


def show_report(result: Report) -> None:
    "Print recall of one model: on a terminal a table with colours."
    if not sys.stdout.isatty(): return typer.echo(result.table())
    from cmr.cards import REPORT, report_rows
    rows, rsum = report_rows(result)
    print_table(list(REPORT[1:]), rows)
    typer.secho(f"R@sum {rsum}", bold=True)


def evaluate_models(models: list[Path], data: Path | None, split: str | None, folds: int, scores: Path | None, queries: Path | None,
                    max_bytes: int | None, device: str | None, engine: bool) -> None:
    "Evaluate one model or several, print, and write the scores and the queries where that was asked."
    from cmr.data import open_split
    from cmr.files import alone_with, write_npy
    from cmr.saving import fetch
    from cmr.training import evaluate
    one = load_model(models[0], device) if len(models) == 1 else None
    data, split = data_of(one[2] if one else fetch(models[0]), data, split)
    where = open_split(data, split)
    check_request(where, folds, scores, queries, len(models) > 1)
    title = f"on {data}, split {split}{f', mean of {folds} folds' if folds > 1 else ''}"
    if one:
        result, matrix = evaluate(one[0], where, one[1], folds, max_bytes, out=scores, engine=engine)
        typer.echo(f"{one[2]} {title}")
        show_report(result)
        typer.echo(INTERVALS)
    else:
        with alone_with(scores, "give another name") if scores else nullcontext():
            reports, differences, matrix = evaluate_together(models, where, folds, max_bytes, device, engine)
            if scores: write_npy(scores, matrix.numpy())
        typer.echo(f"{len(models)} models {title}")
        show_reports(reports, differences)
    show_world(matrix, data, split)
    if scores: typer.echo(f"The scores are in {scores}, {matrix.shape[0]:,} images by {matrix.shape[1]:,} captions in float32")
    if queries:
        write_queries(queries, per_query(matrix.numpy(), where, folds))
        typer.echo(f"A line for each query is in {queries}")


@app.command("evaluate")
def evaluate_command(
    models: Annotated[list[Path], PathArgument(metavar="MODEL...", help="Folder of a run (its best epoch is taken) or of a model; "
                                                 "several: each of them, and the mean of their scores.")],
    data: Annotated[Path | None, PathOption(help="Data folder. Default: what the (first) run learned from, by its recipe.json.")] = None,
    split: Annotated[str | None, typer.Option(help="test, dev, train, testall, ... Default: test, or dev where there is no test.")] = None,
    folds: Annotated[int, typer.Option(min=1, help="Report the mean over so many equal parts of the images; COCO's 5 x 1K is 5.")] = 1,
    scores: Annotated[Path | None, PathOption(help="Write all scores, images by captions, to this .npy file as they come; the same "
                                                   "command again goes on with it. Of several models: their mean, at the end.")] = None,
    queries: Annotated[Path | None, PathOption("--per-query", help="Write a line for each query to this .csv or .jsonl: direction, query, "
                                               "rank, best right answer, best wrong one, and the score of each.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="What the scoring may take at a time, such as 500MB or 2GB. "
                                                      "Default: what suits the machine.")] = None,
    imports: Imports = None, device: Device = None, engine: Engine = True,
):
    """Print R@1, R@5, R@10 in both directions and R@sum, with 95% intervals, and the ranks of the right answers.

    \b
    Examples:
      cmr evaluate runs/scenes-imram
      cmr evaluate runs/scenes-imram --split dev --per-query queries.csv
      cmr evaluate runs/text-imram runs/image-imram      each, and their ensemble
      cmr evaluate runs/scenes-mine --import my_module
      cmr evaluate runs/coco --data data/coco --split testall --folds 5
      cmr evaluate runs/coco --data data/coco --scores coco.npy --max-memory 2GB

    \b
    An ensemble is the mean of the models' scores, taken as they are: nothing is
    scaled. Where the scores of one vary three times as much as another's or
    more, a Note says so; CAMP's logits beside cosines are such a case.

    \b
    Where --scores was cut off, FILE.npy.cmr.part has the scores so far, and
    FILE.npy.cmr.json says how many and whose. The same command goes on; with
    another model or other data the file is refused, as is a file of that name
    that is none of scores: delete it, or give another name.
    """
    evaluate_models(models, data, split, folds, scores, queries, as_bytes(max_memory), device, engine)
