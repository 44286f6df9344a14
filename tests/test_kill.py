"""A run killed twenty times at random moments: its checkpoint is whole each time, and it ends with the weights of an undisturbed run."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

KILLS = 20


def look(out: Path) -> int:
    "Read every file of last/ and best/, and the metrics; returns the step of the checkpoint."
    from cmr.saving import load
    from cmr.training import read_checkpoint, read_recipe
    state = read_checkpoint(out / "last" / "training.pt")
    for folder in (out / "last", out / "best"):
        parts = [(folder / name).is_file() for name in ("config.json", "model.safetensors", "vocab.json")]
        if all(parts) or folder.name == "last" or state["standing"]["best_epoch"]:
            load(folder)  # before that a first best/ may be unfinished
    if (out / "metrics.csv").is_file():
        rows = list(csv.DictReader((out / "metrics.csv").open(encoding="utf-8")))
        assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    read_recipe(out)
    return state["standing"]["step"]


def in_child(recipe, data: Path, out: Path, resume: bool, steps: int | None = None) -> int:
    "Train in a forked process that says each step in the pipe `steps`, where one is given; returns its number."
    from cmr.training import loop, train
    child, true = os.fork(), loop.train_step
    if child: return child
    def said(*args):
        loss = true(*args)
        if steps is not None: os.write(steps, b".")
        return loss
    loop.train_step = said
    try:
        train(recipe, data, out, resume=resume, device="cpu", progress=False)
        os._exit(0)
    except BaseException as problem:  # noqa: BLE001  the child must not go on as a second test run
        print(repr(problem), file=sys.stderr, flush=True)
        os._exit(1)


def wait(child: int) -> int:
    "Exit status of a child; negative: the signal that ended it."
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> dict:
    "The whole experiment, in a process that has imported everything and can fork quickly."
    import torch
    from tiny import RECIPE, equal, weights, write_world
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401  imported here once for all children
    torch.set_num_threads(1)
    recipe = replace(RECIPE, matcher="imram", args={**RECIPE.args, "steps": 2}, epochs=60)
    data, dice, steps = write_world(folder / "data", train=30), random.Random(0), []
    from cmr.training import train
    train(replace(recipe, save_every=0.0), data, folder / "killed", max_steps=1, device="cpu", progress=False)
    for _ in range(KILLS):
        heard, said = os.pipe()
        child = in_child(replace(recipe, save_every=0.0), data, folder / "killed", True, said)
        os.close(said)
        for _ in range(dice.randint(2, 6)): assert os.read(heard, 1), "the run ended before it was killed: give it more epochs"
        time.sleep(dice.uniform(0, 0.02)) # inside a step, or while something is being written
        os.kill(child, signal.SIGKILL)
        os.close(heard)
        assert wait(child) == -signal.SIGKILL, "the run ended before it was killed: give it more epochs"
        steps.append(look(folder / "killed"))
    assert wait(in_child(recipe, data, folder / "killed", True)) == 0
    assert wait(in_child(recipe, data, folder / "calm", False)) == 0
    parts = [str(path) for path in (folder / "killed").rglob("*.part*")]
    return {
        "steps": steps,
        "last": look(folder / "killed"),
        "parts": parts,
        "same": equal(weights(folder / "killed"), weights(folder / "calm")),
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9, which this system lacks")
def test_twenty_kills_lose_nothing(tmp_path):
    process = subprocess.run([sys.executable, __file__, str(tmp_path)], check=False, capture_output=True, text=True, timeout=300,
                             env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.strip().splitlines()[-1])
    assert len(found["steps"]) == KILLS and found["steps"] == sorted(found["steps"])
    assert len(set(found["steps"])) > 15 and found["steps"][-1] < found["last"] # it got on between kills, and none came after the end
    assert found["same"] and not found["parts"]


if __name__ == "__main__": print(json.dumps(main(Path(sys.argv[1]))))
