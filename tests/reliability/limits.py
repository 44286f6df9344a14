"""Memory over many steps and searches, narrow consoles, and full disks."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from .catalogue import CPU
from .judge import Case, in_child, lines_of, one_clear_line, tree, wait
from .samples import QUICK

# --- memory ----------------------------------------------------------------------------------------------------------------------

WARM = 0.2  # of the steps: until then libraries still take what they keep


@dataclass
class Memory:
    "Resident memory of one process, MB."
    what: str
    count: int
    warm: float     # after the warm-up
    end: float
    @property
    def grown(self) -> float: return self.end - self.warm


def _resident() -> float: return psutil.Process().memory_info().rss / 1e6


def _summary(what: str, seen: list[float]) -> Memory:
    warm, tail = seen[int(WARM * len(seen))], seen[-max(1, len(seen) // 20):]
    return Memory(what, len(seen), warm, sum(tail) / len(tail))


def _measure(folder: Path, act) -> list[float]:
    "In a forked process: do something that appends to a list, and bring the list back."
    report = folder / "memory.json"
    child = os.fork()
    if not child:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (1, 2): os.dup2(null, stream)
            seen: list[float] = []
            act(seen)
            report.write_text(json.dumps(seen))
        finally: os._exit(0)
    wait(child, 900)
    return json.loads(report.read_text())


def _train(seen: list[float], steps: int) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from cmr.cli import app
    register_optimizer_step_post_hook(lambda *_: seen.append(_resident()))
    with contextlib.suppress(SystemExit):
        app(["train", "--data", "big", "--out", "out/memory", *QUICK, "--model", "imram", "--epochs", str(-(-steps // 50)), "--max-steps", str(steps)])


def _search(seen: list[float], count: int) -> None:
    from cmr.cli import app
    for _ in range(count):
        with contextlib.suppress(SystemExit): app(["search", "run", "a red dog", "--data", "big", "--index", "out/g.safetensors", *CPU])
        seen.append(_resident())


def memory(base: Path, steps: int, searches: int) -> list[Memory]:
    "Resident memory over training steps, and over searches in one process."
    os.chdir(base)
    return [_summary("training steps (IMRAM, batches of 8)", _measure(base.parent, lambda seen: _train(seen, steps))),
            _summary("searches (`cmr search --index`)", _measure(base.parent, lambda seen: _search(seen, searches)))]


# --- narrow consoles -------------------------------------------------------------------------------------------------------------

CONSOLES = {"PYTHONIOENCODING=cp1252": {"PYTHONIOENCODING": "cp1252"}, "PYTHONIOENCODING=gbk": {"PYTHONIOENCODING": "gbk"},
            "PYTHONIOENCODING=ascii": {"PYTHONIOENCODING": "ascii"}, "TERM=dumb, 20 columns": {"TERM": "dumb", "COLUMNS": "20"},
            "LC_ALL=C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}


def consoles(base: Path, quick: bool) -> list[tuple[str, str, str]]:
    "(console, command, what went wrong or nothing): captions in several scripts, printed to a pipe."
    other = base / "scripts"
    shutil.copytree(base / "scan", other)
    for split in ("train", "dev", "test"):
        names = (other / f"{split}_ids.txt").read_text().replace(split, "\u72d7 \u00e9t\u00e9 \u263a").splitlines()
        (other / f"{split}_ids.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    commands = {"search": ["search", "run", "a red \u72d7 \u00e9", "--data", "scripts", *CPU], "train": ["train", "--data", "scripts", "--out", "out/narrow", *QUICK],
                "train --help": ["train", "--help"], "evaluate, of nothing": ["evaluate", "\u72d7", "--data", "scripts"]}
    found = []
    for console, environment in list(CONSOLES.items())[:2 if quick else None]:
        for name, words in commands.items():
            shutil.rmtree(base / "out" / "narrow", ignore_errors=True)
            done = subprocess.run([sys.executable, "-m", "cmr.cli", *words], cwd=base, env={**os.environ, **environment}, capture_output=True, check=False, timeout=120)
            said = (done.stdout + done.stderr).decode("utf-8", "replace")
            wanted = 2 if "nothing" in name else 0
            wrong = "a traceback" if "Traceback" in said or "UnicodeEncodeError" in said else "" if done.returncode == wanted else f"exit status {done.returncode}: {said[-150:]}"
            found.append((console, name, wrong))
    for name, words in (("models", "models"), ("--help", "train --help")):
        line = f"{sys.executable} -m cmr.cli {words} | head -1; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], cwd=base, capture_output=True, text=True, check=False, timeout=120)
        clean = not done.stderr.strip() and done.stdout.splitlines()[-1] in ("0", "1", "141")  # click ends --help with 1, quietly
        found.append(("a pipe that is closed (head -1)", name, "" if clean else (done.stderr or done.stdout)[-200:]))
    return found


# --- full disks ------------------------------------------------------------------------------------------------------------------

WRITES = {"data scenes": ("data", "scenes", "--train", "30", "--dev", "4", "--test", "4", "--out", "out/w"), "data convert": ("data", "convert", "big", "out/h5"),
          "train": ("train", "--data", "big", "--out", "out/run", *QUICK), "evaluate --scores": ("evaluate", "run", "--data", "big", "--split", "train", "--scores", "out/s.npy", *CPU),
          "search --index": ("search", "run", "a red dog", "--data", "big", "--split", "train", "--index", "out/g.safetensors", *CPU)}


def _small_files(size: int):
    def limit() -> None: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return limit


def _one_full(name: str, base: Path, folder: Path, size: int, disk: bool) -> tuple[str, str, str]:
    "One command with too little room, then again with enough."
    words, log = WRITES[name], folder / "log.txt"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "full" / "out").mkdir(parents=True)
    for needed in ("big", "run"): shutil.copytree(base / needed, folder / "full" / needed)
    what = f"a disk of {size // 1000} kB" if disk else f"files of at most {size // 1000} kB"
    if disk and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder / "full" / "out")], capture_output=True, check=False).returncode:
        return name, what, "not tried: nothing may be mounted here"
    try:
        status = wait(in_child(words, folder / "full", log, prepare=None if disk else _small_files(size)))
        said, left = log.read_text(errors="replace"), [path for path in tree(folder / "full" / "out") if ".part" in path]
    finally:
        if disk: subprocess.run(["umount", str(folder / "full" / "out")], capture_output=True, check=False)
    if status == 0: return name, what, "enough room"
    case = Case("", "out", "", None, words, (), named=tuple(part for part in words if part.startswith("out/")))
    wrong = f"exit status {status}: {said[-200:]}" if status != 2 else one_clear_line(case, said) or ("left: " + ", ".join(left) if left else "")
    if wrong or disk: return name, what, wrong
    status = wait(in_child(words, folder / "full", log))
    if status and name == "train": status = wait(in_child(("train", "--out", "out/run", "--resume", *CPU), folder / "full", log))
    if status: return name, what, f"again, with room: exit status {status}, {(lines_of(log.read_text()) or [''])[-1][:200]}"
    return name, what, ""


def full_disks(base: Path, folder: Path, quick: bool) -> list[tuple[str, str, str]]:
    "(command, how little room, what went wrong or nothing)."
    sizes = ((4_000, False), (40_000, False), (100_000, True)) if not quick else ((4_000, False),)
    return [_one_full(name, base, folder, size, disk) for name in WRITES for size, disk in (*sizes, *(((1_000, False),) if not quick else ()))]
