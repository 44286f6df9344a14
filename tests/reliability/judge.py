"""One case: a command on damaged input, run in a forked process; and what is to be thought of how it ended."""

import csv
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import h5py
import numpy as np
import psutil
from safetensors import safe_open

from .damage import Damage
from .let_in import LET_IN

SECONDS, MORE_MEMORY = 60, 6 * 2**30  # of one case; bytes beyond what the process has when it begins


@dataclass
class Case:
    "A damaged file, and the command that reads it."
    kind: str                     # of the file: "npy", "HDF5", ...
    file: str                     # in the samples' folder
    damage: str                   # its name
    do: Damage | None             # None: nothing is damaged
    words: tuple[str, ...]        # the command line
    needs: tuple[str, ...]        # samples that are copied: folders or files
    own: tuple[str, ...] = ()     # of these: what the command may change where it ends well
    named: tuple[str, ...] = ()   # besides the file's name: what the line may name instead

    @property
    def command(self) -> str: return " ".join(word for word in self.words[:2] if word in WORDS)


WORDS = {"train", "evaluate", "search", "compare", "ablate", "data", "convert", "scenes", "import", "captions", "checkpoint", "check", "models"}


@dataclass
class Outcome:
    "How a case ended."
    case: Case
    status: int | None      # None: it was ended after SECONDS
    said: str
    verdict: str            # "one line", "let in, same result", "let in", "reported", "fault"
    why: str = ""
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)


# --- running ---------------------------------------------------------------------------------------------------------------------

def _limit(more: int) -> None:
    size = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _as_nobody(folder: Path) -> None:
    "Permissions mean nothing to root: be another user where one is root."
    for path in (folder, *folder.rglob("*")): os.chown(path, 65534, 65534, follow_symlinks=False)
    os.setgid(65534)
    os.setuid(65534)


def calm_progress() -> None:
    "Progress bars share a lock between processes: one that is killed while it holds it would stop all others. Give each its own."
    import threading

    from tqdm.auto import tqdm
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())


def in_child(words: tuple[str, ...], folder: Path, log: Path, nobody: bool = False, prepare: Callable[[], None] | None = None,
             memory: int = MORE_MEMORY) -> int:
    "Start a command line in a forked process, in a folder, its output in a file; returns the process's number."
    sys.stdout.flush(); sys.stderr.flush()
    child = os.fork()
    if child: return child
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0); os.dup2(out, 1); os.dup2(out, 2)
        if nobody and os.getuid() == 0: _as_nobody(folder)
        if memory: _limit(memory)
        if prepare: prepare()
        from cmr.cli import app
        try: app(list(words))
        except SystemExit as end: status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        sys.stdout.flush(); sys.stderr.flush()
    except BaseException:  # noqa: BLE001  what the command line let through is the finding
        traceback.print_exc()
        sys.stderr.flush()
    finally: os._exit(status)


def wait(child: int, seconds: float = SECONDS) -> int | None:
    "The exit status of a child (negative: the signal that ended it), or None where it had to be ended."
    until, pause = time.monotonic() + seconds, 0.002
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


# --- what is on the disk ---------------------------------------------------------------------------------------------------------

def tree(folder: Path) -> dict[str, str]:
    "What stands where in a folder: a digest of each file."
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink(): found[name] = "link to " + os.readlink(path)
        elif path.is_file(): found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if os.access(path, os.R_OK) else "no permission"
        elif path.is_dir(): found[name] = "folder"
        else: found[name] = "other"
    return found


def _content(path: Path) -> object:
    "What a result file says, without what may differ between two equal runs (times, the order in an HDF5 file)."
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {name: hashlib.sha256(np.array(file[name][()]).astype("S" if file[name].dtype.kind == "O" else file[name].dtype).tobytes()).hexdigest()
                    for name in sorted(file)}
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file: return {name: hashlib.sha256(file.get_tensor(name).contiguous().reshape(-1).view(dtype=__import__("torch").uint8).numpy().tobytes()).hexdigest() for name in sorted(file.keys())}  # noqa: SIM118
    if path.suffix == ".csv":
        return [{k: v for k, v in row.items() if k and "second" not in k and "waiting" not in k} for row in csv.DictReader(path.open(encoding="utf-8"))]
    return hashlib.sha256(path.read_bytes()).hexdigest()


RESULTS = "*.h5", "*.safetensors", "vocab.json", "results.csv", "metrics.csv", "*.npy", "*.jsonl", "*_caps.txt", "*_ids.txt", "config.json"


def result(case: Case, folder: Path, said: str) -> dict[str, object]:
    "What a command gave: its answer, and the content of the files that it wrote."
    found: dict[str, object] = {}
    if case.words[0] in ("evaluate", "search", "check", "models"):
        found["said"] = [line for line in lines_of(said) if not line.startswith("Note:") and "%|" not in line]
    for name in ("out", *case.own) if case.words[0] != "search" else ():  # a gallery is judged by its answers
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*")):
            if path.is_file() and any(fnmatchcase(path.name, kind) for kind in RESULTS): found[str(path.relative_to(folder))] = _content(path)
    return found


# --- judging ---------------------------------------------------------------------------------------------------------------------

def lines_of(said: str) -> list[str]:
    "The lines of an output, without empty ones."
    return [line.rstrip() for line in re.split(r"[\n\r]", said) if line.strip()]


def one_clear_line(case: Case, said: str) -> str:
    "Empty where the output ends with one line that begins with Error: and names the file; else what is wrong with it."
    lines = lines_of(said)
    errors = [i for i, line in enumerate(lines) if line.startswith("Error:")]
    if "Traceback" in said: return "a traceback"
    if len(errors) != 1: return f"{len(errors)} lines begin with Error:"
    if lines[errors[0] + 1:]: return f"more lines after the error: {lines[errors[0] + 1][:80]!r}"
    if "an error of the package" in lines[errors[0]]: return "caught by the last net only"
    if any(ord(c) < 32 and c not in "\n\r\t" for c in said): return "control characters in the output"
    names = {Path(case.file).name, *case.named}
    if not any(name in lines[errors[0]] for name in names): return f"names no culprit ({', '.join(sorted(names))})"
    return ""


def reason(case: Case) -> str | None:
    "Why another result is right where this was let in; None: nobody has looked at it, so it counts as a fault."
    for (kind, damage, command), why in LET_IN.items():
        if fnmatchcase(case.kind, kind) and fnmatchcase(case.damage, damage) and fnmatchcase(case.command, command): return why
    return None


def leftovers(before: dict[str, str], after: dict[str, str], case: Case, ended_well: bool) -> list[str]:
    "Files that should not be there, or that changed though nobody asked for it."
    free = ("out", "log.txt", *(case.own if ended_well else ()))
    wrong = [f"changed: {name}" for name in before if after.get(name) != before[name] and name.split("/")[0] not in free
             and not name.endswith(".lock") and not name.startswith(free) and before[name] != "no permission"]
    wrong += [f"new: {name}" for name in after if name not in before and name.split("/")[0] not in free and not name.startswith(free)
              and "__pycache__" not in name and not name.endswith(".lock")]
    parts = [f"unfinished: {name}" for name in after if ".part" in name and name not in before]
    return wrong + parts


def judge(case: Case, status: int | None, said: str, left: list[str], same: bool) -> tuple[str, str]:
    "The verdict and why."
    if any("PICKLE_WAS_RUN" in name for name in left): return "fault", "code in a pickle was run"
    if status is None: return "fault", f"not ended after {SECONDS} s"
    if status < 0: return "fault", f"ended by signal {signal.Signals(-status).name}"
    if status == 2:
        wrong = one_clear_line(case, said)
        return ("fault", wrong) if wrong else ("fault", "; ".join(left)) if left else ("one line", "")
    if status == 1 and case.words[0] == "check" and "Traceback" not in said: return "reported", ""
    if status != 0: return "fault", f"exit status {status}"
    if "Traceback" in said: return "fault", "a traceback in the output"
    if any(ord(c) < 32 and c not in "\n\r\t" for c in said): return "fault", "control characters in the output"
    if left: return "fault", "; ".join(left)
    if same: return "let in, same result", ""
    why = reason(case)
    return ("let in", why) if why else ("fault", "let in with another result, unsaid" + (" (with a Note)" if "Note:" in said else ""))


def run_case(case: Case, base: Path, folder: Path, expected: dict[tuple, dict]) -> Outcome:
    "Copy the samples, damage one, run the command, judge."
    if folder.exists(): shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in case.needs:
        if (base / name).is_dir(): shutil.copytree(base / name, folder / name)
        else: (folder / name).parent.mkdir(parents=True, exist_ok=True); shutil.copy(base / name, folder / name)
    (folder / "victim.h5").write_text("not yours")
    if case.do: case.do(folder / case.file)
    before, started = tree(folder), time.monotonic()
    log = folder.parent / "log.txt"
    status = wait(in_child(case.words, folder, log, nobody=case.damage in ("no permission", "may not be written")))
    took = time.monotonic() - started
    said = log.read_bytes().decode("utf-8", "replace")
    left = leftovers(before, tree(folder), case, status == 0)
    same = False
    if status == 0:
        try: found = result(case, folder, said)
        except (OSError, ValueError, KeyError, json.JSONDecodeError) as problem: found = {"result unreadable": str(problem)}
        if case.do is None: expected[case.words] = found
        same = found == expected.get(case.words)
    return Outcome(case, status, said, *judge(case, status, said, left, same), took, left)
