"""Measure rows one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.measure import measure_peak, product_rate, time_row
from benchmarks.operations import operations
from benchmarks.report import check_bars, write
from benchmarks.rows import Row
from cmr.training.compare import machine


def measure_row(row: Row, device: str, rates: dict, left: Callable[[], float]) -> dict:
    "All about one row: times, memory, floor."
    found = time_row(row, device, left)
    wanted = [variant for variant in ("literal", "engine") if row.memory and found["seconds"].get(variant)]
    if row.precision not in rates: rates[row.precision] = product_rate(device, row.precision)
    floor = operations(row) / rates[row.precision]
    return {"name": row.name, **asdict(row), "pairs": row.pairs, "operations": operations(row), "floor": floor, **found,
            "memory": {variant: measure_peak(row, variant, device) for variant in wanted}}


def about_seconds(row: Row, rate: float) -> float:
    "A guess at how long a row takes with all its rounds, for the progress bar."
    literal_s = 2 * operations(row, "literal") / rate if "literal" in row.variants else 0
    one = 3 * operations(row) / rate + (literal_s if literal_s < 6 * row.seconds else 0)
    return min(8 * one, max(one, row.seconds)) + 1 + row.memory * (one + 6)


def bench(rows: Sequence[Row], out: str | Path, device: str = "cpu", minutes: float = 12, progress: bool = True) -> dict:
    "Measure rows one after the other, writing after each; the literal form is left out for want of memory or time."
    start, rates = time.perf_counter(), {"float32": product_rate(device)}
    content = {"machine": {**machine(device), "rates": rates}, "rows": [], "bars": []}
    costs = [about_seconds(row, rates["float32"]) for row in rows]
    engine = [3 * operations(row) / rates["float32"] + 1 for row in rows]  # what later rows will need at least
    layout = "{desc} {percentage:.0f}%|{bar}| {elapsed}, about {remaining} left"
    with tqdm(total=sum(costs), disable=not progress, bar_format=layout) as bar:
        for n, row in enumerate(rows):
            bar.set_description_str(row.name)
            until = start + 60 * minutes - sum(engine[n + 1:])
            content["rows"].append(measure_row(row, device, rates, lambda: until - time.perf_counter()))  # noqa: B023 - called at once
            content["bars"] = check_bars(content["rows"], device)
            write(content, Path(out))
            bar.update(costs[n])
    write(content, Path(out), picture=True)
    return content
