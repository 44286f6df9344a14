"""What is there before and after every rename of a training goes on, as after a kill, to the files of an undisturbed run.

Run by hand, `python tests/test_renames.py FOLDER` is the process that forks the trainings, so that PyTorch is imported once."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

KINDS = ("plain", "staged")


def train_in_child(recipe, data: Path, out: Path, kept: Path | None = None) -> int:
    """Train in a forked process: the plain command, or --resume where it says so. Number of its renames, or -1 where it failed.

    Into `kept` go copies of the folder as it is before and after each rename: what is there when the process is killed at that moment."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        from cmr.training import train
        true, count = os.replace, [0]
        def keep(when):
            if kept: shutil.copytree(out, kept / f"{count[0]:03}{when}")
        def counted(*names):
            count[0] += 1
            keep("before")
            true(*names)
            keep("after")
        os.replace = counted
        try:
            try: train(recipe, data, out, device="cpu", progress=False)
            except FileExistsError as problem:
                assert "--resume" in str(problem)
                train(recipe, data, out, resume=True, device="cpu", progress=False)
            os.write(write, str(count[0]).encode())
            os._exit(0)
        except BaseException as problem:  # noqa: BLE001  the child must not go on as a second test run
            print(repr(problem), file=sys.stderr, flush=True)
            os._exit(1)
    os.close(write)
    said = os.read(read, 20)
    os.close(read)
    return int(said) if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 else -1


def contents(out: Path) -> dict:
    "What a run left, by file: digests, and what differs from run to run taken out (times, TensorBoard, the folder's name)."
    import csv

    from cmr.files import digest
    from cmr.training import read_checkpoint
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or "tensorboard" in name: continue
        if path.name == "training.pt":
            state = read_checkpoint(path)
            for row in state["standing"]["rows"]: row.update(seconds=0, waiting=0)
            state["standing"].update(seconds=0, waiting=0)
            tensors = [x for key in ("weights", "best") for x in state[key].values()]
            found[name] = digest(repr([state[key] for key in ("standing", "recipe", "data", "words")]), *tensors)
        elif path.name == "metrics.csv":
            found[name] = [{**row, "seconds": 0, "waiting": 0} for row in csv.DictReader(path.open(encoding="utf-8"))]
        elif path.name == "curves.png": found[name] = "drawn"
        else: found[name] = digest(path.read_bytes())
    return found


def main(folder: Path) -> dict:
    "Every rename of each kind of training, before and after; what did not come back."
    import torch
    from tiny import RECIPE, write_world
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401  imported here once for all children

    from cmr.data import Vocabulary, open_split
    from cmr.training import loop, train
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    loop.curves = lambda *_: Drawing  # the picture itself takes longer than the training
    os.fsync = lambda _: None         # nobody pulls the plug of the machine here
    data = write_world(folder / "data", train=8, dev=4)
    Vocabulary.build(open_split(data, "train").captions, min_count=1).save(folder / "words.json")
    tiny = replace(RECIPE, epochs=2, batch_size=8)
    train(tiny, data, folder / "first", device="cpu", progress=False)  # everything is imported and warm before the first fork
    known = replace(tiny, epochs=1, vocabulary=str(folder / "words.json"))
    recipes = {"plain": tiny, "staged": replace(known, after=known)}
    lost, renames = [], {}
    for kind, recipe in recipes.items():
        whole, kept = folder / kind / "whole", folder / kind / "kept"
        renames[kind] = train_in_child(recipe, data, whole, kept)
        expected, cases = contents(whole), sorted(kept.iterdir())
        assert len(cases) == 2 * renames[kind] and contents(cases[0]) != expected
        for case in cases[::1 if kind == "plain" else 2]:  # after one rename is nearly before the next one
            if train_in_child(recipe, data, case) < 0 or contents(case) != expected: lost.append([kind, case.name])
    return {"renames": renames, "lost": lost}


class Drawing:
    "Stands for a figure."
    @staticmethod
    def savefig(path, **_): Path(path).write_bytes(b"\x89PNG")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system lacks")
def test_nothing_is_lost_at_any_rename(tmp_path):
    process = subprocess.run([sys.executable, __file__, str(tmp_path)], check=False, capture_output=True, text=True, timeout=900,
                             env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.strip().splitlines()[-1])
    assert found["lost"] == [], process.stderr[-2000:]
    assert set(found["renames"]) == set(KINDS) and min(found["renames"].values()) > 10


if __name__ == "__main__": print(json.dumps(main(Path(sys.argv[1]))))
