"""What comes out: bars, a table, a figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import gigabytes
from cmr.files import atomic_write

BARS = (  # what, device, row, measure, bound
    ("forward", "cpu", "forward-full-3-16x16-1024", "time", 4.0), ("forward, text", "cpu", "forward-text-3-32x32-64", "time", 5.0),
    ("forward and backward", "cpu", "both-full-3-16x16-1024", "time", 6.5),
    ("forward and backward", "cpu", "both-full-3-48x48-256", "time", 11.0),
    ("forward and backward", "cpu", "both-full-3-128x128-64", "time", 12.0),
    ("forward and backward, engine : floor", "cpu", "both-full-3-48x48-256", "floor", 2.2),
    ("forward and backward, K = 1", "cpu", "both-full-1-16x16-1024", "time", 25.0),
    ("peak memory above the base", "cpu", "both-full-3-48x48-256", "memory", 10.0),
    ("training step, peak memory in all", "cpu", "step-full-3-128x128-1024", "resident", 4e9),
    ("CAMP, forward", "cpu", "forward-camp-12x12-1024", "time", 2.0),
    ("CAMP, forward and backward", "cpu", "both-camp-12x12-1024", "time", 2.5),
    ("CAMP, peak memory above the base", "cpu", "both-camp-12x12-1024", "memory", 2.0),
    ("training step", "cuda", "step-full-3-128x128-1024", "time", 10.0))


def ratio(result: dict, what: str = "time") -> float | None:
    "How many times as much the literal form needs as the engine, of time or of memory; None where one of them was not measured."
    if what == "time": found = {variant: median(many) for variant, many in result["seconds"].items() if many}
    else: found = {variant: held["above"] for variant, held in result["memory"].items()}
    return found["literal"] / found["engine"] if {"literal", "engine"} <= found.keys() else None


def over_floor(result: dict) -> float | None:
    "How many times as long the engine takes as its operations would at the rate of a large product; None where it was not measured."
    seconds = result["seconds"].get("engine")
    return median(seconds) / result["floor"] if seconds else None


def judged(result: dict | None, measure: str, bound: float) -> tuple[str, str, bool | None]:
    "What a bar asks, what was measured, and whether it was met (None: not measured)."
    if measure == "resident":
        asked, held = f"below {gigabytes(bound)}", result and result["memory"].get("engine", {}).get("all")
        if not held: return asked, "", None
        return asked, gigabytes(held) + ("" if held < bound else f", {held / bound:.2f} times what is allowed"), held < bound
    if measure == "floor":
        over = over_floor(result) if result else None
        return f"at most {bound:g}", f"{over:.1f}" if over else "", over <= bound if over else None
    asked, times = f"at least {bound:g} times less than literal", result and ratio(result, measure)
    if not times: return asked, "", None
    return asked, f"{times:.1f} times" + ("" if times >= bound else f", {times / bound:.2f} of what is asked"), times >= bound


def check_bars(results: Sequence[dict], device: str = "cpu") -> list[dict]:
    "What each bar asks, what was measured, and whether it was met (None: not measured)."
    found, bars = {result["name"]: result for result in results}, []
    for what, kind, name, measure, bound in BARS:
        if kind != device: continue
        asked, measured, met = judged(found.get(name), measure, bound)
        bars.append({"bar": what, "row": name, "asked": asked, "measured": measured, "met": met})
    return bars


# What comes out


def machine_line(about: dict) -> str:
    "The machine in one line."
    where = "no GPU used" if about["device"] == "cpu" else about["device"]
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s ({name})" for name, rate in about["rates"].items())
    return (f"{about['processor']}, {about['cores']} cores, {about['threads']} threads, {about['memory_bytes'] / 2**30:.0f} GiB, {where}; "
            f"{about['system']}, Python {about['python']}, torch {about['torch']}; {about['date']}; matrix products at {rates}")


def spread(many: Sequence[float]) -> str:
    "Median, and smallest to largest where there is more than one."
    if not many: return ""
    places = 3 if median(many) < 10 else 1
    return f"{median(many):.{places}f}" + (f" ({min(many):.{places}f}-{max(many):.{places}f})" if len(many) > 1 else "")


COLUMNS = ("row", "literal s", "plain s", "engine s", "literal : engine", "engine : floor", "literal memory", "engine memory",
           "literal : engine, memory")


def cells(result: dict) -> list[str]:
    "One row of the table."
    seconds, memory, (times, bytes_) = result["seconds"], result["memory"], (ratio(result), ratio(result, "memory"))
    held = [gigabytes(memory[variant]["above"]) if variant in memory else "" for variant in ("literal", "engine")]
    timed = [spread(seconds.get(variant, [])) for variant in ("literal", "plain", "engine")]
    return [result["name"], *timed, f"{times:.1f}" if times else "",
            f"{over:.1f}" if (over := over_floor(result)) else "", *held, f"{bytes_:.1f}" if bytes_ else ""]


def remarks(results: Sequence[dict]) -> list[str]:
    "Why something is missing, what else was measured."
    said = [f"{result['name']}: {variant} not run, {why}" for result in results for variant, why in result["skipped"].items()]
    said += [f"{result['name']}: engine's peak {gigabytes(result['memory']['engine']['all'])} in all, everything counted"
             for result in results if result["what"] == "step" and "engine" in result["memory"]]
    compiled = {result["name"]: result["seconds"].get("compiled") for result in results}
    return said + [f"{name}: compiled {spread(seconds)} s" for name, seconds in compiled.items() if seconds]


def table(content: dict) -> str:
    "Everything measured, in markdown."
    results, about = content["rows"], content["machine"]
    lines = [machine_line(about), "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += [*("| " + " | ".join(cells(result)) + " |" for result in results), ""]
    lines += ["| bar | row | asked | measured | met |", "|---|---|---|---|---|"]
    lines += [f"| {bar['bar']} | {bar['row']} | {bar['asked']} | {bar['measured']} | {verdict(bar['met'])} |" for bar in content["bars"]]
    if about["device"] == "cpu" and about["threads"] != 2:
        lines += ["", f"The bars are meant for 2 CPU cores; this was with {about['threads']}."]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks(results))]).rstrip() + "\n"


def verdict(met: bool | None) -> str:
    "Whether a bar was met, in words."
    return {True: "yes", False: "no", None: "not measured"}[met]


def plotted(results: Sequence[dict], variant: str) -> list[dict]:
    "The rows in which a variant was timed."
    return [result for result in results if result["seconds"].get(variant)]


def curve(runs: Sequence[dict], width: int) -> list[dict]:
    "The rows of IMRAM, forward and backward, both directions, K = 3, of one width, the smallest first."
    sought = {"what": "both", "model": "imram", "direction": "full", "steps": 3, "width": width, "precision": "float32"}
    return sorted((run for run in runs if all(run[key] == value for key, value in sought.items())), key=lambda run: run["pairs"])


def figure(content: dict):
    "Time against pairs, and time over the floor: a matplotlib Figure."
    from matplotlib.figure import Figure
    shape = Figure(figsize=(10, 4), layout="constrained")
    left, right = shape.subplots(1, 2)
    for colour, variant in (("C3", "literal"), ("C1", "plain"), ("C0", "engine")):
        runs = plotted(content["rows"], variant)
        seconds = {run["name"]: median(run["seconds"][variant]) for run in runs}
        for width, line in ((256, "o-"), (1024, "s--")):
            some, about = curve(runs, width), f"{variant}, d = {width}"
            times = [seconds[run["name"]] for run in some]
            if some: left.plot([run["pairs"] for run in some], times, line, ms=4, color=colour, label=about)
        floors = [run["floor"] for run in runs]
        if runs: right.plot(floors, [seconds[run["name"]] / run["floor"] for run in runs], "o", ms=4, color=colour, label=variant)
    right.axhline(1, color="grey", lw=.8, label="the floor: matrix products alone")
    left.set(xscale="log", yscale="log", xlabel="pairs of image and caption", ylabel="seconds",
             title="IMRAM, forward and backward, full, K = 3")
    right.set(xscale="log", yscale="log", xlabel="seconds at the machine's own matrix-product rate", ylabel="times as long as that",
              title="How near the floor, all rows")
    for panel in (left, right):
        if panel.get_legend_handles_labels()[0]: panel.legend(fontsize=7)
    return shape


FIELDS = ("name", "what", "model", "direction", "steps", "images", "captions", "width", "precision", "variant",
          "rounds", "median_s", "lowest_s", "highest_s", "floor_s", "bytes_above_base", "bytes_in_all", "not_run")


def flat(results: Sequence[dict]) -> list[dict]:
    "One line for each row and variant, for the csv file; CAMP has neither direction nor steps."
    lines = []
    for result in results:
        if result["model"] != "imram": result = {**result, "direction": "", "steps": ""}
        for variant in result["variants"]:
            many, held = result["seconds"].get(variant) or [], result["memory"].get(variant, {})
            times = {"median_s": median(many) if many else None, "lowest_s": min(many, default=None), "highest_s": max(many, default=None)}
            memory = {"bytes_above_base": held.get("above"), "bytes_in_all": held.get("all")}
            lines.append({**{key: result[key] for key in FIELDS[:9]}, "variant": variant, "rounds": len(many), **times,
                          "floor_s": result["floor"], **memory, "not_run": result["skipped"].get(variant, "")})
    return lines


def write(content: dict, out: Path, picture: bool = False) -> None:
    "benchmarks.json, benchmarks.csv, table.md and, at the end, benchmark.png; each whole or not at all."
    with atomic_write(out / "benchmarks.json") as partial: partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with atomic_write(out / "table.md") as partial: partial.write_text(table(content), encoding="utf-8")
    with atomic_write(out / "benchmarks.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, FIELDS)
        lines.writeheader()
        lines.writerows(flat(content["rows"]))
    if picture:
        with atomic_write(out / "benchmark.png") as partial: figure(content).savefig(partial, format="png", dpi=120)
