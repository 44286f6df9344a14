"""How a run begins, what it saves, and how it goes on to the same bits."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from cmr.data import ImageCaptions, Vocabulary, batches, open_split
from cmr.files import atomic_write, digest, remove_partial_files
from cmr.matcher import Matcher
from cmr.saving import load, model_class, save
from cmr.training.distributed import all_reduce_max, make_accelerator, rank_and_world_size
from cmr.training.recipes import Recipe, build, from_older, loss_for, make_optimiser, resolve, write_recipe


@dataclass
class Standing:
    "How far a run has come: what a checkpoint holds besides weights, optimiser and random state."
    epoch: int = 0          # epochs done
    batch: int = 0          # batches of the next one done
    step: int = 0           # optimiser steps in all
    loss: float = 0.0       # sum of the loss in this epoch so far
    pairs: int = 0          # pairs it was summed over
    seconds: float = 0.0    # time this epoch has taken so far
    waiting: float = 0.0    # of that, time in which there was no batch to work on
    best: float = -1.0      # highest R@sum
    best_epoch: int = 0     # when that was
    rows: list = field(default_factory=list) # the metrics, a dict an epoch

    @property
    def share(self) -> float: return min(1.0, self.waiting / self.seconds) if self.seconds else 0.0 # of this epoch's time, spent waiting

    def next_epoch(self) -> None:
        "Count an epoch, and begin the next one."
        self.epoch, self.batch, self.loss, self.pairs, self.seconds, self.waiting = self.epoch + 1, 0, 0.0, 0, 0.0, 0.0


def check_splits(
    train: ImageCaptions,
    dev: ImageCaptions,
) -> None:
    "ValueError naming the files where there is nothing to learn from or the two splits do not fit."
    if train.n_images < 2: raise ValueError(f"{train.source} has one image only: without a second one there are no negatives to learn from")
    if train.region_dim != dev.region_dim:
        raise ValueError(f"{train.source} has regions of {train.region_dim} numbers, {dev.source} of {dev.region_dim}: "
                         "take both from one data set")


def data_fingerprint(
    train: ImageCaptions,
    dev: ImageCaptions,
) -> dict:
    "Sizes and a digest of the captions: what tells one data set from another."
    sizes = {f"{name}_{key}": value for name, split in (("train", train), ("dev", dev))
             for key, value in (("images", split.n_images), ("captions", len(split)))}
    return {**sizes, "region_dim": train.region_dim, "text": digest("\n".join([*train.captions, *dev.captions]))[:16]}


def reading_ahead(
    device: str,  # "cpu" or "cuda"
) -> int:
    "How many processes read ahead by default: none on a CPU, which computes meanwhile; on a GPU up to four of the cores that are left."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if device == "cpu" else min(4, max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1, 0))


def make_vocabulary(
    recipe: Recipe,
    split: ImageCaptions,  # the training split
) -> Vocabulary:
    "The words of the training captions. It alone cuts captions: where the recipe says, else where the model's paper does."
    limit = model_class(recipe.matcher).max_words if recipe.max_words is None else recipe.max_words
    return Vocabulary.build(split.captions, recipe.min_count, recipe.marks, limit)


class Run:
    "A training run as one process has it: model, loss, optimiser, data, and how far it has come."

    def __init__(self,
        recipe: Recipe,
        data_folder: str | Path,
        out_folder: str | Path,
        device: str | None = None,    # as for make_accelerator
        precision: str | None = None, # as for make_accelerator
        progress: bool = True,
        engine: bool = True,          # as for `training_scores`
    ):
        self.recipe, self.out, self.at, self.engine = recipe, Path(out_folder), Standing(), engine
        self.train, self.dev = open_split(data_folder, "train"), open_split(data_folder, "dev")
        check_splits(self.train, self.dev)
        self.vocabulary = make_vocabulary(recipe, self.train)
        self.model = build(recipe, self.train.region_dim, len(self.vocabulary))
        self.model.vocabulary, self.loss = self.vocabulary, loss_for(self.model, recipe)
        self.warmup_steps = self.model.warmup_steps if recipe.warmup_steps is None else recipe.warmup_steps
        self.accelerator = make_accelerator(device, precision)
        self.device, self.main = self.accelerator.device, rank_and_world_size()[0] == 0 # main: the process that evaluates and writes
        self.progress, self.model = progress and self.main, self.model.to(self.device)
        self.optimiser = self.accelerator.prepare(make_optimiser(self.model, recipe))
        self.data = data_fingerprint(self.train, self.dev)
        self.loader() # what is wrong with captions or batch size is said now

    @property
    def checkpoint(self) -> Path: return self.out / "last" / "training.pt"

    def loader(self, workers: int | None = None):
        "This process's part of the batches that the epoch has still to do; `workers` as for `train`."
        workers = reading_ahead(self.device.type) if workers is None else workers
        return batches(self.train, self.vocabulary, self.recipe.batch_size, self.recipe.seed, self.at.epoch, self.at.batch,
                       workers=workers, part=rank_and_world_size(), pin=self.device.type == "cuda")


# Writing

def random_state() -> dict:
    "The state of PyTorch's generators."
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def write_checkpoint(
    run: Run,
) -> None:
    "Write last/training.pt and the model beside it, each whole or not at all, in the main process. OSError leaves what was there before."
    if not run.main: return
    state = {"weights": run.model.state_dict(), "optimiser": run.optimiser.state_dict(), "standing": asdict(run.at),
             "recipe": asdict(run.recipe), "data": run.data, "random": random_state()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(run.checkpoint) as partial: partial.write_bytes(buffer.getbuffer())
    save(run.model, run.vocabulary, run.checkpoint.parent)


def where_kept(
    run: Run,
) -> str:
    "A sentence that says where the last checkpoint is, if there is one."
    return f". The checkpoint before that is kept in {run.checkpoint.parent}" if run.checkpoint.is_file() else ""


def check_out(
    out: Path,
    resume: bool,
) -> None:
    "FileExistsError where a folder holds a run that was not to be resumed, FileNotFoundError where it holds none that was."
    held = [name for name in ("last/training.pt", "last/model.safetensors", "best/model.safetensors", "metrics.csv", "model.safetensors")
            if (out / name).is_file()]
    if resume and "last/training.pt" not in held:
        raise FileNotFoundError(f"nothing to resume: no {out / 'last' / 'training.pt'}; start the run without resume")
    if held and not resume:
        raise FileExistsError(f"{out} holds a run or a model already ({held[0]}): continue it with --resume (resume=True), "
                              "or choose another folder")
    if out.exists() and not out.is_dir(): raise FileExistsError(f"{out} is a file, not a folder: choose another name for the run")


# Beginning

def standardise_from(
    model: Matcher,        # its image encoder gets the numbers
    split: ImageCaptions,  # the training split
    batch_size: int = 256, # images at a time
    progress: bool = True, # show a bar where it takes more than two seconds
) -> None:
    "Set shift and scale of a region encoder to mean and standard deviation of real regions; a Note where the encoder has none."
    encoder: Any = getattr(model, "image_encoder", None)
    if not hasattr(encoder, "standardise"):
        warnings.warn(f"{type(model).__name__} has no image_encoder.standardise: regions are taken as they are", stacklevel=2)
        return
    count, total, squares = 0, torch.zeros(split.region_dim).double(), torch.zeros(split.region_dim).double()
    for i in tqdm(range(0, split.n_images, batch_size), desc="region statistics", unit="batch", delay=2, disable=not progress):
        features, mask = split.block(i, min(i + batch_size, split.n_images))
        x = features[mask].double()
        count, total, squares = count + len(x), total + x.sum(0), squares + x.pow(2).sum(0)
    mean = total / count
    encoder.standardise(mean, (squares / count - mean**2).clamp(min=0).sqrt())


def take_over(
    run: Run,
    folder: Path,  # of a trained model
) -> None:
    "Begin with a trained model's weights; what it hasn't got keeps its first ones. ValueError where words or shapes differ."
    earlier, vocabulary = load(folder)
    mine, theirs = run.model.state_dict(), earlier.state_dict()
    if vocabulary.words != run.vocabulary.words:
        raise ValueError(f"{folder} was trained with other words: take min_count, marks and max_words from its recipe")
    odd = [name for name, weight in theirs.items() if name not in mine or mine[name].shape != weight.shape]
    if odd: raise ValueError(f"{run.recipe.matcher} can't begin with the weights of {folder}: "
                             f"it has no {odd[0]} of shape {tuple(theirs[odd[0]].shape)}")
    run.model.load_state_dict(theirs, strict=False)


def begin(
    run: Run,
) -> None:
    "The first checkpoint, before the first step: from now on the run can be resumed."
    if run.recipe.after: take_over(run, run.out / "before" / "best")
    elif run.recipe.standardise: standardise_from(run.model, run.train, progress=run.progress)
    write_checkpoint(run)


# Going on

def read_checkpoint(
    path: str | Path, # last/training.pt
) -> dict:            # on the CPU
    "A checkpoint; FileNotFoundError where there is none, ValueError where it is damaged."
    if not Path(path).is_file(): raise FileNotFoundError(f"nothing to resume: no {path}; start the run without resume")
    try: return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise ValueError(f"{path} is damaged or no checkpoint ({problem}): start again in a new folder") from problem


FREE = ("name", "epochs", "patience", "save_every", "after") # may change on resume: they change no step


def check_same(
    recipe: Recipe,
    model: Matcher,  # made by it
    data: dict,      # as `data_fingerprint` gives it
    state: dict,     # as `read_checkpoint` gives it
    path: str | Path,
) -> None:
    "ValueError unless a checkpoint was made with this recipe on this data."
    earlier = Recipe(**{**from_older(state["recipe"]), "name": recipe.name})
    before, now = (asdict(resolve(one, model)) for one in (earlier, recipe))
    free = [key for key in FREE if key != "epochs" or recipe.schedule != "cosine"]   # a cosine ends with the last epoch
    changed = [f"{key} was {before[key]!r}, now {now[key]!r}" for key in now if key not in free and before[key] != now[key]]
    if changed: raise ValueError(f"cannot resume {path} with another recipe: {'; '.join(changed)}. Use the old settings, or a new folder")
    parts = [f"{key} was {state['data'].get(key)}, now {data[key]}" for key in data if state["data"].get(key) != data[key]]
    if parts: raise ValueError(f"cannot resume {path} on other data: {'; '.join(parts)}. Give the data folder the run began with")


def restore(
    run: Run,
) -> None:
    "Put a run where its last checkpoint was; raises as `read_checkpoint` and `check_same`."
    state = read_checkpoint(run.checkpoint)
    check_same(run.recipe, run.model, run.data, state, run.checkpoint)
    run.model.load_state_dict(state["weights"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.at = Standing(**state["standing"])
    torch.set_rng_state(state["random"]["cpu"])
    if torch.cuda.is_available() and state["random"]["cuda"]: torch.cuda.set_rng_state_all(state["random"]["cuda"])


def begin_or_restore(
    run: Run,
    data_folder: str | Path,
    resume: bool = False,
) -> None:
    "Begin or go on. Nothing is written before all processes have looked; the others begin with what the main one wrote."
    all_reduce_max([0], run.device)
    if run.main:
        remove_partial_files(run.out) # of a run that was killed
        restore(run) if resume else begin(run)
        write_recipe(run.recipe, data_folder, run.out)
    all_reduce_max([0], run.device)
    if not run.checkpoint.is_file():
        raise FileNotFoundError(f"process {rank_and_world_size()[0]} does not see {run.checkpoint}: "
                                "give all machines one folder for the run")
    if not run.main: restore(run)
