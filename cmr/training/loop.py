"""Score a batch, see what is wrong, correct the weights a little: ten thousand times, ready to be interrupted at any of them."""

from __future__ import annotations

import csv
import io
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cmr.camp import CAMP, mean_gates
from cmr.data import Batch, ImageCaptions, Vocabulary, check_vocabulary, pad
from cmr.encoders import Fragments
from cmr.fast import encode_all, score_all, training_scores
from cmr.fast.scoring import evaluating
from cmr.files import atomic_write
from cmr.matcher import Matcher
from cmr.recall import Report, report
from cmr.saving import save
from cmr.similarity import wide
from cmr.training.checkpoints import Run, begin_or_restore, check_out, where_kept, write_checkpoint
from cmr.training.distributed import (
    all_gather,
    all_reduce_gradients,
    all_reduce_max,
    explain_lost_process,
    from_main,
    gather_fragments,
    joint_scores,
    rank_and_world_size,
    repeatable,
)
from cmr.training.recipes import Recipe, learning_rate, write_recipe

# Evaluation

def evaluate(
    model: Matcher,
    split: ImageCaptions,
    vocabulary: Vocabulary,       # what the model was trained with
    folds: int = 1,               # 5 for COCO's 5 x 1K
    max_bytes: int | None = None, # bound on the memory of a tile of scores
    progress: bool = True,        # bars where it takes long
    out: str | Path | None = None, # write the scores to this .npy as they come, and go on with one that was cut off
    engine: bool = True,          # as for `score_all`
) -> tuple[Report, Tensor]:       # the report, and the scores (I, C)
    "Recall of a model on a split; ValueError names the file where vocabulary, width or values do not fit, or scores of another evaluation."
    check_vocabulary(split, vocabulary)
    if split.region_dim != model.region_dim:
        raise ValueError(f"{split.source} has regions of {split.region_dim} numbers, the model was trained on {model.region_dim}: "
                         "evaluate it on data with the features it was trained on")
    images, captions = encode_all(model, split, vocabulary, progress=progress)
    scores = score_all(model, images, captions, max_bytes, progress, out, engine)
    return report(scores, split.image_of_caption, folds), scores


def chance(
    split: ImageCaptions,
) -> float:     # R@sum, in percent points
    "What blind guessing reaches on a split: one image for each caption, any of its captions for each image."
    images, captions, own = split.n_images, len(split), np.bincount(split.image_of_caption)
    def drawn(k): return np.mean([1 - math.comb(captions - n, k) / math.comb(captions, k) for n in own])  # one of an image's own among k
    return 100 * float(sum(min(k / images, 1) + drawn(min(k, captions)) for k in (1, 5, 10)))


@singledispatch
def observe(
    model: Matcher,
    images: Fragments,    # (I, m, d)
    captions: Fragments,  # (C, n, d)
    image_of_caption: np.ndarray, # (C,)
) -> dict[str, float]:    # by name
    "What a training notes of a model after each epoch besides recall: nothing, unless something is registered for its class."
    return {}


@observe.register
def mean_camp_gates(model: CAMP, images: Fragments, captions: Fragments, image_of_caption: np.ndarray) -> dict[str, float]:
    "CAMP's mean gates of matching pairs and of all others; nothing without gates."
    if not model.gated or len(images) < 2: return {}
    return {f"gate_{kind}": value for kind, value in mean_gates(model, images, captions, image_of_caption)._asdict().items()}


def observe_some(
    model: Matcher,
    split: ImageCaptions,
    vocabulary: Vocabulary,
    count: int = 40,        # images
) -> dict[str, float]:
    "What `observe` finds on the first images of a split with their captions."
    features, mask = split.block(0, min(count, split.n_images))
    (tokens, at), few = split.encode(vocabulary), np.flatnonzero(split.image_of_caption < count)
    rows, real = pad([tokens[at[c]:at[c + 1]] for c in few])
    with evaluating(model):
        images = model.encode_images(features.to(model.device), mask.to(model.device))
        captions = model.encode_captions(rows.to(model.device), real.sum(1))
        return observe(model, images, captions, split.image_of_caption[few])


# What is done with a batch

def batch_scores(
    model: Matcher,
    batch: Batch,          # this process's part of the joint batch
    engine: bool = True,   # as for `training_scores`
) -> tuple[Tensor, Tensor]: # (B, B) scores of the joint batch, float32 or wider, and which images are the same
    "Encode one's own part, gather all images, score one's own captions with them, and put the columns of all processes side by side."
    images, captions = gather_fragments(model.encode_images(batch.features, batch.mask)), model.encode_captions(batch.tokens, batch.lengths)
    scores = joint_scores(wide(training_scores(model, images, captions, engine)))
    image = all_gather(batch.image).flatten() if rank_and_world_size()[1] > 1 else batch.image
    return scores, image[:, None] == image


def batch_loss(
    run: Run,
    batch: Batch,   # this process's part of the joint batch
) -> Tensor:        # () summed over the joint batch, as in Eq. 13
    "The loss, with all rivals while the training warms up. ValueError where scores are no numbers."
    try:
        with run.accelerator.autocast(): scores, same_image = batch_scores(run.model, batch.to(run.device, non_blocking=True), run.engine)
        return (run.loss.warm_up if run.at.step < run.warmup_steps else run.loss)(scores, same_image)
    except ValueError as problem: raise ValueError(f"step {run.at.step + 1}, {run.train.source}: {problem}{where_kept(run)}") from problem


def train_step(
    run: Run,
    group: Sequence[Batch], # this process's part of each joint batch
) -> float:                 # the loss, summed over the group
    "Forward, loss and backward for each batch, then clip and update. ValueError, and the old weights, where loss or gradient is no number."
    run.optimiser.zero_grad()
    total = torch.zeros((), device=run.device)
    for batch in group:
        loss = batch_loss(run, batch)
        run.accelerator.backward(loss)
        total = total + loss.detach()
    all_reduce_gradients(list(run.model.parameters()))
    norm = run.accelerator.clip_grad_norm_(run.model.parameters(), run.recipe.clip or float("inf"))
    if not torch.isfinite(total + norm):
        raise ValueError(f"step {run.at.step + 1}: loss {total.item()}, gradient {norm.item()}: "
                         f"lower lr={run.recipe.lr} or clip={run.recipe.clip}{where_kept(run)}")
    run.optimiser.step()
    return total.item()


# Epochs

class Interrupt:
    "Turns the first Ctrl-C into a request, which the loop grants between two steps; the second one stops at once."
    def __enter__(self):
        self.asked, self.main = False, threading.current_thread() is threading.main_thread()
        if self.main: self.before = signal.signal(signal.SIGINT, self.ask)
        return self

    def ask(self, *_):
        if self.asked: raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        if self.main: signal.signal(signal.SIGINT, self.before or signal.SIG_DFL)


def agreed_batches(
    run: Run,
    loader,                  # of this process's parts of the joint batches
    interrupt: Interrupt,
) -> Iterator[Batch | None]: # None for a joint batch that shows one image only: it has no negatives
    "One's parts of the joint batches, while all processes have theirs and none asks to stop."
    source = iter(loader)
    for _ in range(len(loader)):
        clock, batch, problem = time.monotonic(), None, None
        try: batch = next(source)
        except Exception as error: problem = error # noqa: BLE001  the others must hear of it first
        run.at.waiting += time.monotonic() - clock
        images = batch.image.tolist() if batch else [0]
        failed, asked, last, first = all_reduce_max([problem is not None, interrupt.asked, max(images), -min(images)], run.device)
        if problem: raise problem
        if failed: raise RuntimeError("another process could not read its part of the batch; its own message says why. "
                                      "Mend that, and go on with --resume")
        if asked: return
        yield batch if last > -first else None


def groups(
    source: Iterator[Batch | None],
    size: int,     # batches for one step
    last: int,     # batches that there are: the last group may be smaller
) -> Iterator[list[Batch | None]]:
    "The batches of each optimiser step. Nothing is computed before a group is complete; one that was interrupted is read again."
    group: list[Batch | None] = []
    seen = 0
    for batch in source:
        group, seen = [*group, batch], seen + 1
        if len(group) == size or seen == last:
            yield group
            group = []


def train_epoch(
    run: Run,
    bar: tqdm,
    interrupt: Interrupt,
    writer: Any,                  # TensorBoard's SummaryWriter, in the main process
    max_steps: int | None = None, # stop there, inside the epoch
    workers: int | None = None,   # processes that read ahead
) -> bool:                        # True: the epoch is complete
    "The batches of one epoch that are still to do."
    at, recipe, saved, clock, loader = run.at, run.recipe, time.monotonic(), time.monotonic(), run.loader(workers)
    run.model.train()
    total = at.batch + len(loader)
    for group in groups(agreed_batches(run, loader, interrupt), recipe.accumulate, len(loader)):
        for options in run.optimiser.param_groups: options["lr"] = learning_rate(recipe, at.epoch + at.batch / total)
        mixed = [batch for batch in group if batch]
        if mixed:
            loss, pairs = train_step(run, mixed), sum(map(len, mixed)) * rank_and_world_size()[1]
            at.step, at.loss, at.pairs = at.step + 1, at.loss + loss, at.pairs + pairs
            if writer: writer.add_scalar("loss/step", loss / pairs, at.step)
        at.batch, at.seconds, clock = at.batch + len(group), at.seconds + time.monotonic() - clock, time.monotonic()
        bar.set_postfix(loss=f"{at.loss / max(at.pairs, 1):.3f}", refresh=False)
        bar.update(len(group))
        if at.step == max_steps: break
        if clock - saved >= 60 * recipe.save_every:
            write_checkpoint(run)
            saved = time.monotonic()
    return at.batch >= total


MEASURES = ("rsum", "text_r1", "text_r5", "text_r10", "image_r1", "image_r5", "image_r10")
COLUMNS = ("epoch", "step", "loss", "lr", "seconds", "waiting", *MEASURES)

def end_epoch(
    run: Run,
    bar: tqdm,
    writer: Any,  # TensorBoard's SummaryWriter, in the main process
) -> None:
    "Evaluate on dev, keep the best model, note the metrics, and write the checkpoint."
    at, clock, found = run.at, time.monotonic(), {}
    if run.main:
        result, _ = evaluate(run.model, run.dev, run.vocabulary, progress=run.progress, engine=run.engine)
        found = {**{key: getattr(result, key) for key in MEASURES}, **observe_some(run.model, run.dev, run.vocabulary)}
    row = {"epoch": at.epoch + 1, "step": at.step, "loss": at.loss / max(at.pairs, 1), "lr": learning_rate(run.recipe, at.epoch),
           "seconds": at.seconds + time.monotonic() - clock, "waiting": at.share, **from_main(found, run.device)}
    at.rows.append(row)
    at.next_epoch()
    better = row["rsum"] > at.best
    if better: at.best, at.best_epoch = row["rsum"], at.epoch
    if not run.main: return
    if better: save(run.model, run.vocabulary, run.out / "best")
    write_checkpoint(run)
    write_metrics(at.rows, run.out / "metrics.csv")
    for key, value in row.items(): writer.add_scalar(f"epoch/{key}", value, at.step)
    if run.progress: bar.write(f"epoch {at.epoch}: loss {row['loss']:.3f}, dev R@sum {row['rsum']:.1f}{' (best so far)' if better else ''}")


def finished(
    run: Run,
) -> str | None:
    "Why a run is over, or None while it is not."
    at, patience = run.at, run.recipe.patience
    if at.epoch >= run.recipe.epochs: return "all epochs done"
    if patience and at.epoch - at.best_epoch >= patience: return f"no better R@sum for {patience} epochs"
    return None


def whole_run(
    folder: Path,  # of a stage
) -> Path:
    "The folder of the run that a stage is part of."
    return next(part for part in (folder, *folder.parents) if part.name != "before")


def say_first(
    run: Run,
    bar: tqdm,
) -> None:
    "What is to be known before the first epoch: what blind guessing reaches, and which captions several processes cannot share."
    world_size = rank_and_world_size()[1]
    left = len(run.train) % run.recipe.batch_size % world_size
    message = f"each epoch leaves out {left} of its captions: {world_size} processes cannot share its last batch equally"
    if left and run.main: bar.write(message) if run.progress else warnings.warn(message, stacklevel=3)
    if run.progress and not run.at.step: bar.write(f"by chance: dev R@sum {chance(run.dev):.1f}")


def run_epochs(
    run: Run,
    max_steps: int | None = None, # as for `train`
    workers: int | None = None,   # as for `train`
) -> str:                         # what ended the run
    "Epoch after epoch until something ends the run. KeyboardInterrupt after a checkpoint where the reader asks to stop."
    from torch.utils.tensorboard import SummaryWriter
    at, size = run.at, -(-len(run.train) // run.recipe.batch_size)
    bar = tqdm(total=min(run.recipe.epochs * size, (max_steps or math.inf) * run.recipe.accumulate), initial=at.epoch * size + at.batch,
               unit="batch", disable=not run.progress)
    notes = SummaryWriter(run.out / "tensorboard", purge_step=at.step + 1) if run.main else nullcontext()
    with Interrupt() as interrupt, bar, notes as writer:
        say_first(run, bar)
        while not (why := finished(run)):
            if max_steps and at.step >= max_steps: return f"max_steps={max_steps} reached"
            bar.set_description(f"epoch {at.epoch + 1}/{run.recipe.epochs}")
            if train_epoch(run, bar, interrupt, writer, max_steps, workers): end_epoch(run, bar, writer)
            else: write_checkpoint(run)
            if all_reduce_max([interrupt.asked], run.device)[0]:
                raise KeyboardInterrupt(f"stopped at step {at.step}, all saved; go on with: cmr train --out {whole_run(run.out)} --resume")
    return why


# What is left behind

def observed_in(
    rows: list[dict], # as in metrics.csv
) -> list[str]:
    "Names of what `observe` gave."
    return [key for key in rows[-1] if key not in COLUMNS]


def write_metrics(
    rows: list[dict], # one an epoch
    path: Path,       # metrics.csv
) -> None:
    "All rows anew, so that the file is whole at any moment; a column that an older run lacks stays empty."
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [*COLUMNS, *observed_in(rows)], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with atomic_write(path) as partial: partial.write_text(text.getvalue(), encoding="utf-8")


def draw_loss(
    axes: Any,
    rows: list[dict],
    level: float | None,  # the loss of a pair where all scores are equal
) -> None:
    "The training loss by epoch, on a logarithmic scale where it falls far."
    losses = [row["loss"] for row in rows]
    axes.plot([row["epoch"] for row in rows], losses, "o-", ms=3, color="black")
    if level: axes.axhline(level, ls=":", color="grey", label="all scores equal")
    axes.set(xlabel="epoch", ylabel="training loss per pair", title="Loss")
    axes.set(yscale="log") if max(losses) > 10 * max(min(losses), 1e-9) else axes.set(ylim=(0, None))
    if level: axes.legend(fontsize=7)


def draw_recall(
    axes: Any,
    rows: list[dict],
) -> None:
    "Recall on dev by epoch, with a line at the best."
    epochs, best = [row["epoch"] for row in rows], max(rows, key=lambda row: row["rsum"])
    for colour, k in zip(("C0", "C1", "C2"), (1, 5, 10)):
        axes.plot(epochs, [row[f"text_r{k}"] for row in rows], "-", color=colour, label=f"R@{k}, text")
        axes.plot(epochs, [row[f"image_r{k}"] for row in rows], "--", color=colour, label=f"R@{k}, image")
    axes.axvline(best["epoch"], color="grey", lw=.8)
    axes.set(xlabel="epoch", ylabel="percent", ylim=(0, 100), title=f"Recall on dev; best R@sum {best['rsum']:.1f}, epoch {best['epoch']}")
    axes.legend(fontsize=7, ncols=3)


def curves(
    rows: list[dict],     # the rows of metrics.csv
    level: float | None = None, # the loss of a pair where all scores are equal
):                        # matplotlib Figure
    "Loss and recall by epoch, and what was observed of the model."
    from matplotlib.figure import Figure
    seen = observed_in(rows)
    figure = Figure(figsize=(13 if seen else 9, 3.2), layout="constrained")
    left, right, *more = figure.subplots(1, 3 if seen else 2)
    draw_loss(left, rows, level)
    draw_recall(right, rows)
    for key in seen: more[0].plot([row["epoch"] for row in rows], [row[key] for row in rows], "o-", ms=3, label=key.replace("_", " "))
    if seen:
        more[0].set(xlabel="epoch", title="Seen on dev")
        more[0].legend(fontsize=7)
    for panel in (left, right, *more): panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def summary(
    run: Run,
    stopped: str,  # what ended it
) -> dict:
    "What came out, in a dict that json can hold."
    at = run.at
    best: dict = next((row for row in at.rows if row["epoch"] == at.best_epoch), {})
    shares = [row["waiting"] for row in at.rows if "waiting" in row] + [at.share] * (at.seconds > 0)
    return {"name": run.recipe.name, "matcher": run.recipe.matcher, "out": str(run.out), "device": run.device.type,
            "ranks": rank_and_world_size()[1], "stopped": stopped, "epochs": at.epoch, "step": at.step,
            "seconds": sum(row["seconds"] for row in at.rows) + at.seconds, "waiting": float(np.mean(shares or [0])),
            "parameters": sum(p.numel() for p in run.model.parameters()), "best_epoch": at.best_epoch, "best": best}


# The whole

def train_stage(
    recipe: Recipe,
    data_folder: str | Path,
    out: Path,
    resume: bool,
    max_steps: int | None,
    workers: int | None,
    **how,         # device, precision, progress, engine
) -> dict:         # as for `train`
    "One recipe, without what it comes after."
    run = Run(recipe, data_folder, out, **how)
    with explain_lost_process():
        begin_or_restore(run, data_folder, resume)
        with repeatable(run.device): stopped = run_epochs(run, max_steps, workers)
    if run.at.rows and run.main:
        figure = curves(run.at.rows, run.loss.standstill(recipe.batch_size))
        with atomic_write(out / "curves.png") as partial: figure.savefig(partial, format="png", dpi=120)
    return summary(run, stopped)


def stages_of(
    recipe: Recipe,
    out: Path,
) -> list[tuple[Recipe, Path]]: # the first one first
    "A recipe and what it comes after, each with its folder."
    return [*(stages_of(recipe.after, out / "before") if recipe.after else []), (recipe, out)]


def train(
    recipe: Recipe,
    data_folder: str | Path,      # with the splits train and dev
    out_folder: str | Path,       # gets best/, last/, metrics.csv, curves.png, recipe.json, tensorboard/; before/ for an earlier stage
    resume: bool = False,         # go on from last/training.pt
    device: str | None = None,    # "cpu" or "cuda"; None: the GPU if there is one
    precision: str | None = None, # "fp32", "tf32" or "bf16"; None: fp32
    progress: bool = True,        # bar and a line an epoch
    max_steps: int | None = None, # stop after so many steps, with a checkpoint
    workers: int | None = None,   # processes that read ahead; None: `reading_ahead` says how many
    engine: bool = True,          # score by a plan, with the sparse backward pass; False: as the model is written
) -> dict:                        # see `summary`
    "Train a recipe's model and keep the best epoch by R@sum on dev; raises as its parts do, before anything is lost."
    stages, speaks = stages_of(recipe, Path(out_folder)), not rank_and_world_size()[0]
    begun = [(folder / "last" / "training.pt").is_file() for _, folder in stages]
    for n, (_, folder) in enumerate(stages): check_out(folder, resume and (begun[n] or not any(begun)))
    if len(stages) > 1 and not resume and speaks: write_recipe(recipe, data_folder, Path(out_folder))
    result: dict = {}
    for n in range(max((n for n, there in enumerate(begun) if there), default=0), len(stages)):
        stage, folder = stages[n]
        if progress and len(stages) > 1 and speaks: print(f"stage {n + 1} of {len(stages)}: {stage.name}")
        result = train_stage(stage, data_folder, folder, begun[n], max_steps, workers,
                             device=device, precision=precision, progress=progress, engine=engine)
        if max_steps and result["stopped"].startswith("max_steps"): break
    return result
