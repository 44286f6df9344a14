"""Commands killed (SIGKILL) at random moments and typed again: do they end as if nothing had been?"""

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .catalogue import CPU, compare
from .judge import Case, in_child, lines_of, result, tree, wait
from .samples import QUICK

DATA = ("--data", "big")
COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {  # what is killed; how it is typed again, the first that ends well
    "data scenes": (("data", "scenes", "--train", "60", "--dev", "20", "--test", "20", "--out", "out/w"),),
    "data convert": (("data", "convert", "big", "out/h5"),),
    "features": (("features", "photos", "-o", "out/p.h5", *CPU),),
    "train": (("train", *DATA, "--out", "out/run", *QUICK, "--epochs", "4"), ("train", "--out", "out/run", "--resume", *CPU)),
    "evaluate --scores": (("evaluate", "run", *DATA, "--split", "train", "--scores", "out/s.npy", "--max-memory", "200KB", *CPU),),
    "search --index": (("search", "run", "a red dog", *DATA, "--split", "train", "--index", "out/g.safetensors", *CPU),),
    "compare": (compare("big"),),
}


@dataclass
class Killed:
    "What came of the kills of one command."
    name: str
    kills: int = 0
    rounds: int = 0      # times that it was killed, once or several times, and then brought to its end
    finished: int = 0
    same: int = 0        # of these with the result of an unbroken run
    parts: int = 0       # of these with unfinished files left
    faults: tuple[str, ...] = ()


def _again(commands: tuple[tuple[str, ...], ...], folder: Path, log: Path) -> tuple[bool, str]:
    "Type the command again, or the other that goes on; did one of them end well, and what was said."
    said = []
    for words in commands[::-1]:
        status = wait(in_child(words, folder, log, memory=0), 300)
        said.append((lines_of(log.read_text(errors="replace")) or [""])[-1])
        if status == 0: return True, said[-1]
    return False, " / ".join(said)


def _found(words: tuple[str, ...], folder: Path, said: str) -> dict:
    "What a command gave, by content; of a training the weights and the metrics."
    return result(Case("", "", "", None, words, ()), folder, said)


def _kill_once(words: tuple[str, ...], folder: Path, log: Path, longest: float, dice: random.Random) -> bool:
    "Start, and kill at a random moment; False where it ended before."
    child = in_child(words, folder, log, memory=0)
    time.sleep(dice.uniform(0.01, longest))
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill_command(name: str, base: Path, folder: Path, kills: int, seed: int) -> Killed:
    "Kill one command so many times, one to three times in a row, and bring it to its end each time."
    commands, dice, log = COMMANDS[name], random.Random(f"{name} {seed}"), folder / "log.txt"
    done, faults = Killed(name), []
    def fresh(at: Path) -> None:
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir(parents=True)
        for needed in ("big", "run", "photos"): shutil.copytree(base / needed, at / needed)
    fresh(folder / "calm")
    started = time.monotonic()
    if wait(in_child(commands[0], folder / "calm", log, memory=0), 300) != 0: return Killed(name, faults=("the unbroken run failed: " + log.read_text()[-300:],))
    longest = time.monotonic() - started
    expected = _found(commands[0], folder / "calm", log.read_text(errors="replace"))
    while done.kills < kills:
        fresh(folder / "killed")
        row = dice.randint(1, 3)
        killed = [_kill_once(commands[0] if i == 0 or len(commands) == 1 else commands[-1], folder / "killed", log, longest, dice) for i in range(row)]
        if not any(killed): continue
        done.kills, done.rounds = done.kills + sum(killed), done.rounds + 1
        ended, said = _again(commands, folder / "killed", log)
        done.finished += ended
        same = ended and _found(commands[0], folder / "killed", log.read_text(errors="replace")) == expected
        if commands[-1][0] == "train" and ended: same = same or _trained(folder / "killed") == _trained(folder / "calm")
        done.same += same
        parts = [left for left in tree(folder / "killed") if ".part" in left]
        done.parts += bool(parts)
        if not (ended and same) or parts: faults.append(f"{name}, killed {sum(killed)} times: {'ended' if ended else 'did not end'}, {'same' if same else 'not the same'}, {parts} {said[:200]}")
    done.faults = tuple(faults)
    return done


def _trained(folder: Path) -> object:
    return _found(("train",), folder, "")


def kill_all(base: Path, folder: Path, kills: int, seed: int) -> list[Killed]:
    "Kill every command, `kills` times in all."
    each = -(-kills // len(COMMANDS))
    return [kill_command(name, base, folder, each, seed) for name in COMMANDS]
