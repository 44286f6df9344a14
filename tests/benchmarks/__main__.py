"""Measure time and memory of scoring and training: the engine against the published way of computing.

Examples:
  python tests/benchmarks --quick
  python tests/benchmarks --out runs/bench
  python tests/benchmarks --rows "both-full-*-256" --rows "step-*"
  python tests/benchmarks --rows "*-camp-*"

A row is called what-direction-K-IMAGESxCAPTIONS-width, CAMP's what-camp-IMAGESxCAPTIONS-width, what being
  forward   scoring, no gradient
  both      scoring, loss and gradients
  step      a whole training step, with encoders and Adam
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # where `benchmarks` is found

import torch

from benchmarks.report import table
from benchmarks.rows import all_rows, bar_rows, chosen, with_compiled
from benchmarks.run import bench


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    "What was asked for on the command line."
    parser = argparse.ArgumentParser("python tests/benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"),
                        help="folder for benchmarks.json, benchmarks.csv, table.md and benchmark.png")
    parser.add_argument("--quick", action="store_true", help="only the rows that have a bar, about eight minutes")
    parser.add_argument("--rows", action="append", default=[],
                        help="only rows of this name; * stands for anything; can be given several times")
    parser.add_argument("--minutes", type=float, default=12,
                        help="where time runs out, only the engine is measured in the rows that are left")
    parser.add_argument("--compile", action="store_true", help="on a GPU: measure scoring through torch.compile too")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    "Measure, print the table, say where it was written. SystemExit where the arguments fit nothing."
    asked = arguments(given)
    try: rows = chosen(bar_rows() if asked.quick else all_rows(asked.device), asked.rows)
    except ValueError as problem: raise SystemExit(str(problem)) from None
    if asked.compile and asked.device == "cpu": print("--compile: no GPU here, nothing to compare")
    content = bench(with_compiled(rows) if asked.compile and asked.device == "cuda" else rows, asked.out, asked.device, asked.minutes)
    print(f"{table(content)}\nWritten to {asked.out}: benchmarks.json, benchmarks.csv, table.md, benchmark.png")


if __name__ == "__main__": main()
