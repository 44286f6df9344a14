"""Time and memory of a row's variants."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import torch

from benchmarks.operations import operations
from benchmarks.rows import REGIONS, SCORES, Row, make_fragments, make_model, products_in, work


def timed(task: Callable, device: str) -> float:
    "Seconds of one call; on a GPU, until it is done."
    if device == "cuda": torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    if device == "cuda": torch.cuda.synchronize()
    return time.perf_counter() - start


def product_rate(device: str = "cpu", precision: str = "float32", size: int | None = None) -> float:
    "Operations a second of this machine's own product of two large matrices: the best of ten."
    size = size or (2048 if device == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32) for _ in range(2))
    with products_in(precision): return 2 * size ** 3 / min(timed(lambda: a @ b, device) for _ in range(10))


def kept_for_backward(row: Row, variant: str, device: str = "cpu") -> float:
    "Bytes that autograd keeps for a pair, counted on 2 x 2 pairs."
    model, (images, captions) = make_model(replace(row, what="both"), device), make_fragments(2, 2, row.width, device)
    kept, known = {}, {x.untyped_storage().data_ptr() for x in (*model.parameters(), images.values, captions.values)}

    def note(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        scores = SCORES[variant](model, images, captions)  # noqa: F841 - keeps the graph
    return sum(size for at, size in kept.items() if at not in known) / 4


def bytes_needed(row: Row, variant: str, device: str = "cpu") -> float:
    "An estimate of the memory a variant takes above what is there before it."
    if variant in ("engine", "compiled"): return 0.0                                                     # bounded by its blocks
    if row.what != "forward": return row.pairs * kept_for_backward(row, variant, device)
    at_once = row.images if variant == "literal" else row.pairs
    return 4.0 * at_once * (6 * REGIONS * 16 + 10 * row.width * REGIONS)


def free_bytes(device: str) -> float:
    "What a variant may take: half of the free memory of a machine that others use too, nearly all of a GPU's."
    if device != "cuda": return 0.5 * psutil.virtual_memory().available
    torch.cuda.empty_cache()
    return 0.9 * torch.cuda.mem_get_info()[0]


def gigabytes(count: float) -> str:
    "Bytes as people read them: 0.26 GB, 83 GB."
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"


def why_not(row: Row, variant: str, device: str, need: float) -> str:
    "Why a variant can't be run for want of memory; empty where it can."
    free = free_bytes(device)
    return "" if 1.2 * need <= free else f"would need about {gigabytes(need)} (estimated from 2 x 2 pairs), may have {gigabytes(free)}"


def expected_seconds(task: Callable, row: Row, variant: str, device: str) -> float:
    "About how long a variant takes, from a part of it."
    task(min(4, row.images))
    return timed(lambda: task(8), device) * operations(row, variant) / operations(row, variant, 8)


def runnable(row: Row, device: str, left: Callable[[], float], found: dict) -> tuple[dict[str, Callable], float]:
    "The variants for which there is memory and time, and how long one round of them takes; `found` is told of the others, and why."
    world = (make_model(row, device), *make_fragments(row.images, row.captions, row.width, device))
    tasks: dict[str, Callable] = {}
    round_s = 0.0
    for variant in row.variants:
        found["needs"][variant] = bytes_needed(row, variant, device)
        if why := why_not(row, variant, device, found["needs"][variant]):
            found["skipped"][variant] = why
            continue
        task = work(row, variant, device, world)
        seconds, allowed = expected_seconds(task, row, variant, device), min(6 * row.seconds, left())
        if variant != "engine" and seconds > allowed:
            found["skipped"][variant] = f"would take about {seconds:.0f} s, may take {max(allowed, 0):.0f} s"
        else: tasks[variant], round_s = task, round_s + seconds
    return tasks, round_s


def time_row(row: Row, device: str, left: Callable[[], float]) -> dict:
    "Run a row's variants in turns, A B A B; `left` says how many seconds there are for it."
    found: dict[str, dict] = {"seconds": {variant: [] for variant in row.variants}, "skipped": {}, "needs": {}}
    tasks, round_s = runnable(row, device, left, found)
    rounds = max(1, min(7, int(min(row.seconds, left()) / max(round_s, 1e-9))))
    for n in range(-(rounds > 1), rounds):                                                               # a first round is for warming up
        for variant, task in tasks.items():
            try: took = timed(task, device)
            except torch.cuda.OutOfMemoryError: found["skipped"][variant] = "ran out of memory"
            else: found["seconds"][variant] += [took] if n >= 0 else []
    found["seconds"] = {variant: [] if variant in found["skipped"] else many for variant, many in found["seconds"].items()}
    return found


def resident() -> tuple[int, int]:
    "Bytes of this process in memory, now and at most."
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines: return tuple(1024 * int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM"))
    import resource
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def forget_peak() -> None:
    "Let the system count the peak from now on, where it can."
    try: Path("/proc/self/clear_refs").write_text("5")
    except OSError: pass


def own_peak(row: Row, variant: str, device: str) -> dict:
    "Run a variant once in this process, which should have done nothing before: bytes above the same on a few pairs, and bytes in all."
    task = work(row, variant, device)
    task(8 if row.what == "step" else 2)  # what libraries take once; and Adam's memory is there from the second step on
    if device == "cuda":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        timed(task, device)
        most = torch.cuda.max_memory_allocated()
        return {"above": most - base, "all": most}
    before = resident()[1]
    forget_peak()
    base = resident()[0]
    task()
    return {"above": resident()[1] - base, "all": max(before, resident()[1])}


def measure_peak(row: Row, variant: str, device: str) -> dict:
    "`own_peak` in a process of its own. RuntimeError with what that process said where it fails."
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps(asdict(row)), variant, device]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode: raise RuntimeError(f"measuring the memory of {row.name}, {variant}, failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":  # a process of its own, for `measure_peak`
    given = json.loads(sys.argv[1])
    print(json.dumps(own_peak(Row(**{**given, "variants": tuple(given["variants"])}), *sys.argv[2:])))
