"""Two processes that share every batch train as one process does: loss, gradients, weights, and how a run ends.

Run by hand, `python tests/test_distributed.py FOLDER WHAT` is one of the processes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmr.data import Batch, Vocabulary, batches, open_split
from cmr.training.checkpoints import hold
from cmr.training import Recipe, Run, build, loop, read_checkpoint, train, train_step

pytestmark = pytest.mark.skipif(not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
                                reason="this PyTorch was built without torch.distributed or gloo")
SMALL = {"embed_dim": 8, "word_dim": 6}
RECIPE = Recipe("pair", "imram", {**SMALL, "steps": 2}, epochs=2, batch_size=8, lr=1e-5, min_count=1, standardise=True)
CASES = {
    f"{name}-{negatives}": (matcher, args, negatives)
    for negatives in ("hardest", "all")
    for name, matcher, args in (
        ("vse", "vse", {}),
        ("scan-text", "scan", {"direction": "text"}),
        ("scan-image", "scan", {"direction": "image", "pooling": "lse"}),
        ("imram", "imram", {"steps": 2, "direction": "full"}),
        ("imram-plain", "imram", {"steps": 2, "direction": "full"}),
        ("camp", "camp", {"fusion": "concat"}),
        ("grouped", "scan", {"direction": "text"}),
    )
}


def joint_batch(words: int) -> tuple[Batch, Batch]:
    "Two parts of a batch of 8, each padded for itself: captions and images of other sizes; images 1 and 2 are in both parts."
    torch.manual_seed(5)
    parts = []
    for images, most_regions, most_words in (([0, 1, 2, 2], 4, 5), ([3, 1, 2, 4], 6, 9)):
        regions, lengths = torch.randint(1, most_regions + 1, (4,)), torch.randint(1, most_words + 1, (4,))
        regions[0], lengths[0] = most_regions, most_words
        mask = torch.arange(most_regions) < regions[:, None]
        tokens = torch.randint(4, words, (4, most_words)) * (torch.arange(most_words) < lengths[:, None])
        features = torch.randn(4, most_regions, 6, dtype=torch.float64) * mask[..., None]
        parts.append(Batch(features, mask, tokens, lengths, torch.tensor(images), torch.arange(4)))
    return parts[0], parts[1]


def whole(parts: tuple[Batch, Batch]) -> Batch:
    "The joint batch, as one process has it."
    def grown(x, width): return torch.cat([x, x.new_zeros(len(x), width - x.shape[1], *x.shape[2:])], 1)
    def both(name):
        found = [getattr(part, name) for part in parts]
        return torch.cat([grown(x, max(y.shape[1] for y in found)) for x in found] if found[0].ndim > 1 else found)
    return Batch(*(both(name) for name in ("features", "mask", "tokens", "lengths", "image", "caption")))


def stepped(case: str, data: Path, out: Path, batch_of) -> dict:
    "Two steps in float64: losses, and the gradients and weights they leave."
    matcher, args, negatives = CASES[case]
    recipe = Recipe(case, matcher, {**SMALL, **args}, batch_size=8, lr=0.01, clip=0, negatives=negatives, warmup_steps=0, min_count=1)
    run = Run(recipe, data, out, "cpu", progress=False, engine=not case.startswith("imram-plain"))
    run.model.double()
    batch = batch_of(len(run.vocabulary))
    losses = [train_step(run, [batch] * (3 if case.startswith("grouped") else 1)) for _ in range(2)]
    return {"losses": torch.tensor(losses, dtype=torch.float64), **{f"weight {n}": x for n, x in run.model.state_dict().items()},
            **{f"gradient {n}": x.grad for n, x in run.model.named_parameters() if x.grad is not None}}


# one of the processes

def refused(act) -> str:
    "What an act that must fail says."
    try: act()
    except Exception as problem: return f"{type(problem).__name__}: {problem}"  # noqa: BLE001  whatever it is, the test reads it
    return "nothing"


def interrupted(data: Path, out: Path, rank: int) -> None:
    "A run that somebody stops at its third step, by Ctrl-C on the second process only; then it goes on."
    true, calls = loop.train_step, []
    def pressed(*args):
        calls.append(1)
        if len(calls) == 3 and rank == 1: os.kill(os.getpid(), signal.SIGINT)
        return true(*args)
    loop.train_step = pressed
    try: train(RECIPE, data, out, device="cpu", progress=False)
    except KeyboardInterrupt as stop: assert "stopped at step 3" in str(stop)
    loop.train_step = true
    assert read_checkpoint(out / "last" / "training.pt")["standing"]["step"] == 3
    train(RECIPE, data, out, resume=True, device="cpu", progress=False)


def play(folder: Path, what: str) -> None:
    "What a process does, and notes for the test to read."
    rank, data = int(os.environ["RANK"]), folder / "data"
    def run(out): return Run(RECIPE, data, folder / out, "cpu", progress=False)
    if what == "alone":
        true, calls = loop.train_step, []
        def out_of_memory(*args):
            calls.append(1)
            if len(calls) == 3 and rank: raise MemoryError("no room on this one")
            return true(*args)
        loop.train_step = out_of_memory
        if rank: train(RECIPE, data, folder / "alone", device="cpu", progress=False)
        said = {"alone": refused(lambda: train(RECIPE, data, folder / "alone", device="cpu", progress=False))}
    else:
        torch.save(
            {case: stepped(case, data, folder / "x", lambda words: joint_batch(words)[rank]) for case in CASES}, folder / f"steps{rank}.pt"
        )
        one, part = run("x"), joint_batch(8)[rank]
        before = {name: x.clone() for name, x in one.model.state_dict().items()}
        part = replace(part, features=part.features.float())
        if rank: one.model.image_encoder.project.weight.register_hook(lambda slope: slope * float("nan"))
        uneven = replace(
            part, **{name: getattr(part, name)[: 3 + rank] for name in ("features", "mask", "tokens", "lengths", "image", "caption")}
        )
        said = {"uneven": refused(lambda: train_step(one, [uneven])), "nan": refused(lambda: train_step(one, [part])),
                "kept": all(torch.equal(before[name], x) for name, x in one.model.state_dict().items())}
        said["summary"] = {
            key: value for key, value in train(RECIPE, data, folder / "pair", device="cpu", progress=False).items() if key != "seconds"
        }
        with hold(folder / "held"): said["held"] = refused(lambda: train(RECIPE, data, folder / "held", device="cpu", progress=False))
        interrupted(data, folder / "stopped", rank)
        train(replace(RECIPE, epochs=9, patience=1), data, folder / "patient", device="cpu", progress=False)
        said["unreadable"] = refused(
            lambda: train(replace(RECIPE, standardise=False), folder / "torn", folder / "unread", device="cpu", progress=False)
        )
    (folder / f"{what}{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__": play(Path(sys.argv[1]), sys.argv[2])


# the tests

def environment(**more) -> dict:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def pair(folder: Path, what: str, statuses=(0, 0)) -> list[dict]:
    "Two processes that find each other; what they noted."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), what],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
            ),
        )
        for rank in (0, 1)
    ]
    try: said = [process.communicate(timeout=100)[0] for process in launched]
    finally:
        for process in launched: process.kill()
    assert tuple(process.returncode for process in launched) == statuses, "\n".join(said)[-4000:]
    return [json.loads((folder / f"{what}{rank}.json").read_text()) for rank in (0, 1) if not statuses[rank]]


def launched(*words) -> subprocess.CompletedProcess:
    "`cmr train` in two processes, as a user starts it."
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--main_process_port",
            "0",
            "-m",
            "cmr.cli",
            "train",
            "--device",
            "cpu",
            *map(str, words),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import h5py
    from tiny import write_world
    folder = tmp_path_factory.mktemp("pair")
    write_world(folder / "data")
    with h5py.File(write_world(folder / "torn") / "train.h5", "r+") as file: file["features"][9] = float("nan")
    return folder


@pytest.fixture(scope="module")
def notes(folder): return pair(folder, "together")


def far(a: dict, b: dict) -> float:
    "The largest difference between two sets of tensors of the same names."
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def weights(out: Path) -> dict: return read_checkpoint(out / "last" / "training.pt")["weights"]


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_one_process_with_the_joint_batch(folder, notes, case):
    alone = stepped(case, folder / "data", folder / "x", lambda words: whole(joint_batch(words)))
    assert alone["losses"].min() > 0.01 and any(x.abs().max() > 1e-4 for name, x in alone.items() if name.startswith("gradient"))
    for rank in (0, 1): assert far(alone, torch.load(folder / f"steps{rank}.pt", weights_only=True)[case]) < 1e-10


def test_a_whole_run_is_that_of_one_process(folder, notes):
    result = train(RECIPE, folder / "data", folder / "single", device="cpu", progress=False)
    moved = far(weights(folder / "single"), build(RECIPE, 6, weights(folder / "single")["text_encoder.embed.weight"].shape[0]).state_dict())
    assert (
        far(weights(folder / "single"), weights(folder / "pair")) < 1e-6 < moved
    )  # Adam makes up to lr = 1e-5 a step of whatever rounding is left
    for told in notes:
        assert (told["summary"]["step"], told["summary"]["ranks"]) == (result["step"], 2)
        assert told["summary"]["best"]["rsum"] == pytest.approx(result["best"]["rsum"])
    assert not list((folder / "pair").rglob("*.part")) and (folder / "pair" / "curves.png").is_file()


def test_ctrl_c_on_one_stops_both_and_resuming_gives_the_same_bits(folder, notes):
    assert far(weights(folder / "stopped"), weights(folder / "pair")) == 0


def test_another_number_of_processes_may_go_on(folder, notes, tmp_path):
    train(RECIPE, folder / "data", tmp_path / "run", device="cpu", progress=False, max_steps=3)
    said = launched("--out", tmp_path / "run", "--resume")
    assert said.returncode == 0, said.stderr[-3000:]
    assert said.stderr.count("Training imram") == 1 and "with 2 processes" in said.stderr and said.stdout.count("all epochs done") == 1
    assert far(weights(tmp_path / "run"), weights(folder / "pair")) < 1e-6


def test_a_folder_that_another_run_holds_is_refused_by_both(folder, notes):
    said = {told["held"] for told in notes}
    assert len(said) == 1 and "held is being written to by process" in said.pop() and not (folder / "held").exists()


def test_patience_ends_both(folder, notes):
    standing = read_checkpoint(folder / "patient" / "last" / "training.pt")["standing"]
    assert standing["epoch"] == standing["best_epoch"] + 1 < 9


def test_batches_of_different_size_are_refused(notes):
    for told in notes: assert told["uneven"].startswith("ValueError: step 1") and "different size, [3, 4]" in told["uneven"]


def test_what_is_no_number_on_one_stops_both_before_the_weights_change(notes):
    for told in notes: assert "gradient nan" in told["nan"] and told["kept"]


def test_a_batch_that_one_cannot_read_stops_both(notes):
    said = sorted(told["unreadable"] for told in notes)
    assert said[0].startswith("RuntimeError: another process could not read its part")
    assert said[1].startswith("ValueError") and "train.h5: image 9, region 0 holds NaN" in said[1]


def test_a_process_that_fails_is_missed(folder):
    told, = pair(folder, "alone", (0, 1))
    assert told["alone"].startswith("RuntimeError: another process of this run has stopped") and "--resume" in told["alone"]


def test_a_batch_size_that_cannot_be_divided(folder, tmp_path):
    said = launched("--data", folder / "data", "--out", tmp_path / "run", "--batch-size", 7)
    assert said.returncode != 0 and "batch_size=7 cannot be divided among 2 processes" in said.stderr
    assert not (tmp_path / "run").exists()


def test_parts_make_up_the_joint_batch(folder):
    split = open_split(folder / "data", "train") # 40 captions
    words = Vocabulary.build(split.captions, min_count=1)
    def captions(size, **part): return [batch.caption.tolist() for batch in batches(split, words, size, seed=3, epoch=1, **part)]
    for size, ranks, last in ((8, 2, 8), (12, 4, 4), (9, 3, 3), (39, 3, 39), (38, 2, 2), (30, 3, 9)):
        joint = captions(size)
        parts = list(zip(*(captions(size, part=(rank, ranks)) for rank in range(ranks)), strict=True))
        assert [sum(part, []) for part in parts] == [*joint[:len(parts) - 1], joint[len(parts) - 1][:last]]
    assert captions(12, part=(1, 4), start=2) == captions(12, part=(1, 4))[2:]
    with pytest.raises(ValueError, match="cannot be divided among 3"): captions(8, part=(0, 3))


def test_what_cannot_be_shared_is_said(folder, tmp_path, monkeypatch):
    recipe = replace(RECIPE, batch_size=6, epochs=1)
    run = Run(recipe, folder / "data", tmp_path / "run", "cpu", progress=False)
    run.at.epoch = 1
    monkeypatch.setattr(loop, "rank_and_world_size", lambda: (0, 3))
    with pytest.warns(UserWarning, match="leaves out 1 of its captions: 3 processes"): assert loop.run_epochs(run) == "all epochs done"
