"""How long a report with its intervals takes at COCO's size, 5,000 images by 25,000 captions: `python tests/benchmarks/yardstick.py`.

Prints the best of three of each, in seconds, and the machine. The aim: a report, ranks and intervals together, under 5 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from cmr.recall import compare, hits, intervals, report
from cmr.training.compare import machine


def best(f: Callable[[], object], times: int = 3) -> float:
    "Seconds of the fastest of so many calls."
    def once():
        clock = time.perf_counter()
        f()
        return time.perf_counter() - clock
    return min(once() for _ in range(times))


def main() -> None:
    "Measure and print."
    images = np.arange(25_000) // 5
    scores = np.random.default_rng(0).standard_normal((5_000, 25_000), dtype=np.float32)
    scores[images, np.arange(25_000)] += 4
    counts = hits(scores, images)
    other = counts[:, ::-1]                                     # every image has five captions, so any order will do
    rows: dict[str, Callable[[], object]] = {
        "report with intervals": lambda: report(scores, images), "report without": lambda: report(scores, images, draws=0),
        "report with intervals, 5 folds": lambda: report(scores, images, folds=5), "intervals alone": lambda: intervals(counts),
        "compare, of hits": lambda: compare(counts, other)}
    for name, f in rows.items(): print(f"{name:32}{best(f):6.2f} s")
    about = machine("cpu")
    print(f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, {about['date']}")


if __name__ == "__main__": main()
