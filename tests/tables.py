"""What the course and the package measure, as tables: `python tests/tables.py --seconds --write`.

The numbers that the tests hold notebooks to are computed here, once."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parent.parent
NBS = ROOT / "nbs"
COURSE = sorted(NBS.glob("[0-9]*.ipynb"))
WORKSHOP = sorted(NBS.glob("*/*.ipynb"))
CHECK = re.compile(r"\bassert\b|\btest_\w+\(|\bgradcheck\b|\battempt\(|\bcheck_\w+\(|\bclose\(")
EXERCISE = re.compile(r"^#\| *exercise: *(\S+)", re.MULTILINE)
NUMBERED = re.compile(r"^#+ (?:[\d.]+ )?", re.MULTILINE)  # what stands before a heading's words
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)  # hints, solutions and answers
EXPORT = re.compile(r"^#\| *export", re.MULTILINE)
MEASURED = ROOT / "docs" / "seconds.json"  # seconds that each notebook took, with machine and date


def cells(path: Path, kind: str | None = None) -> list[dict]:
    "Cells of a notebook, of one kind if asked."
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if kind in (None, c["cell_type"])]


def source(cell: dict) -> str: return "".join(cell["source"])


def name(path: Path) -> str: return path.relative_to(NBS).with_suffix("").as_posix()


def numbers(path: Path) -> dict:
    "Counts of a notebook, every code cell included; minutes to read are words / 200 + lines of code / 10, without folded answers and empty lines."
    code = [source(c) for c in cells(path, "code")]
    text = NUMBERED.sub("", FOLDED.sub("", "\n".join(source(c) for c in cells(path, "markdown"))))
    words, filled = len(text.split()), sum(bool(line.strip()) for cell in code for line in cell.splitlines())
    lines = [len(text.splitlines()) for text in code if text.strip()]
    return {"cells": len(cells(path)), "words": words, "median": median(lines), "p90": quantiles(lines, n=10)[-1], "max": max(lines),
            "over": sum(n > 20 for n in lines) / len(lines), "width": max(len(line) for text in code for line in text.splitlines()),
            "per_line": words / filled, "checks": sum(bool(CHECK.search(text)) for text in code), "code": len(code),
            "exercises": sum(len(EXERCISE.findall(text)) for text in code), "minutes": words / 200 + filled / 10}


def seconds(paths: list[Path]) -> dict[str, float]:
    "Run each notebook once, one after the other, on one thread, as `nbdev-test` does; seconds, the kernel's start included."
    found = {}
    for path in paths:
        clock = time.perf_counter()
        subprocess.run([Path(sys.executable).parent / "nbdev-test", str(path), "--n-workers", "0"], cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found[name(path)] = round(time.perf_counter() - clock, 1)
        print(f"{name(path):32} {found[name(path)]:6.1f} s", file=sys.stderr)
    return found


def notebook_table(paths: list[Path], took: dict[str, float]) -> str:
    "A markdown table, a row a notebook, and the sums."
    rows = [(name(path), numbers(path)) for path in paths]
    lines = ["| notebook | cells | words | lines per code cell: median / p90 / max | over 20 | words per line | checks | exercises | minutes to read | seconds to run |", "|---" * 10 + "|"]
    for title, n in rows:
        lines.append(f"| {title} | {n['cells']} | {n['words']:,} | {n['median']:g} / {n['p90']:.0f} / {n['max']} | {n['over']:.0%} | {n['per_line']:.1f} | {n['checks']} of {n['code']} | {n['exercises']} | {n['minutes']:.0f} | {took.get(title, float('nan')):.0f} |")
    total = sum(n["minutes"] for _, n in rows)
    lines.append(f"| together | {sum(n['cells'] for _, n in rows)} | {sum(n['words'] for _, n in rows):,} | | | | | {sum(n['exercises'] for _, n in rows)} | {total:.0f} ({total / 60:.1f} hours) | {sum(took.get(title, 0) for title, _ in rows):.0f} |")
    return "\n".join(lines)


def attached(tree: ast.Module) -> list[str]:
    "Methods that are attached to a class of the module from outside it."
    own = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    targets = [part for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
               for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [f"{t.value.id}.{t.attr}" for t in targets if isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) and t.value.id in own]


def package_numbers() -> dict:
    "Lines of the package, lengths of its functions, attached methods."
    files = [path for path in sorted((ROOT / "cmr").rglob("*.py"))]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    lengths = [node.end_lineno - node.lineno + 1 for tree in trees.values() for node in ast.walk(tree)
               if isinstance(node, ast.FunctionDef) and not node.name.endswith("_command")]  # a command's lines are its options and their help
    written = [path for path in files if path.name != "_modidx.py"]
    texts = [path.read_text(encoding="utf-8").splitlines() for path in written]
    def ours(line): return bool(line.strip()) and not line.startswith(("# %%", "# AUTOGENERATED"))
    return {"lines, without blank ones, nbdev's marks and its index": sum(map(ours, (line for text in texts for line in text))),
            "lines, with blank ones and marks": sum(map(len, texts)), "functions": len(lengths), "median of their lines": median(lengths),
            "p90": quantiles(lengths, n=10)[-1], "longest, commands of the command line left out": max(lengths), "attached methods": sum(len(attached(tree)) for tree in trees.values())}


def mypy_errors() -> int:
    "How many errors mypy finds in cmr/."
    said = subprocess.run([sys.executable, "-m", "mypy", "cmr"], cwd=ROOT, capture_output=True, text=True).stdout
    found = re.search(r"Found (\d+) error", said)
    return int(found[1]) if found else 0


def tables(took: dict[str, float], about: str) -> str:
    "Both tables of notebooks and the package's numbers, as markdown."
    package = {**package_numbers(), "errors that mypy finds": mypy_errors()}
    rows = "\n".join(f"| {key} | {value:,g} |" for key, value in package.items())
    return (f"Course (seconds: {about}):\n\n{notebook_table(COURSE, took)}\n\nWorkshop:\n\n{notebook_table(WORKSHOP, took)}\n\n"
            f"Package:\n\n| `cmr/` | |\n|---|---|\n{rows}\n")


SESSIONS = {1: "00 01 02", 2: "03 04 05", 3: "06 07", 4: "08 09", 5: "10 11 12", 6: "13 16"}  # and at home: what is left


def course_table(took: dict[str, float], about: str) -> str:
    "README's table: a row a chapter, with what it builds from its own head."
    lines = ["| | chapter | you will have built | session | to read | to run |", "|---|---|---|---|---|---|"]
    for path in COURSE:
        first, second = (source(c) for c in cells(path)[:2])
        title, built = NUMBERED.sub("", first.splitlines()[0]), re.search(r"\*\*You will have built\*\* *\| *(.*?) *\|", first + second)
        session = next((str(n) for n, chapters in SESSIONS.items() if path.name[:2] in chapters.split()), "home")
        links = re.sub(r"\]\((?!http)", "](nbs/", built[1] if built else "")
        lines.append(f"| {path.name[:2]} | [{title}](nbs/{path.name}) | {links} | {session} | {numbers(path)['minutes']:.0f} min | {took.get(name(path), float('nan')):.0f} s |")
    return "\n".join(lines) + f"\n\nTimes to read are counted (words / 200 + lines of code / 10, without folded answers), times to run measured: {about}.\n"


def between(path: Path, marker: str, content: str) -> None:
    "Put content between <!-- marker --> and <!-- end of marker --> of a file."
    text = path.read_text(encoding="utf-8")
    before, after = text.split(f"<!-- {marker} -->")[0], text.split(f"<!-- end of {marker} -->")[1]
    path.write_text(f"{before}<!-- {marker} -->\n{content}<!-- end of {marker} -->{after}", encoding="utf-8")


HEAD = re.compile(r"\d+ minutes? to read; runs in \d+ s")


def head(path: Path, took: dict[str, float]) -> str:
    "What a notebook's own head says of its time, as the README's table does."
    minutes = round(numbers(path)["minutes"])
    return f"{minutes} minute{'s' * (minutes != 1)} to read; runs in {took[name(path)]:.0f} s"


def write_heads(took: dict[str, float]) -> None:
    "Put the counted minutes and the measured seconds into the head of each notebook."
    for path in (*COURSE, *WORKSHOP):
        text = path.read_text(encoding="utf-8")
        path.write_text(HEAD.sub(head(path, took), text, count=1), encoding="utf-8")


def main() -> None:
    "Print the tables, or put them where they belong."
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", action="store_true", help="run every notebook first, and keep the seconds in docs/seconds.json")
    options.add_argument("--write", action="store_true", help="put the tables into docs/results.md and README.md, and times into the heads of notebooks")
    given = options.parse_args()
    if given.seconds:
        sys.path.insert(0, str(ROOT))
        from cmr.training.compare import machine
        about = machine("cpu")
        said = f"{about['processor']}, {about['cores']} cores, one thread, {about['date']}"
        MEASURED.write_text(json.dumps({"about": said, "seconds": seconds([*COURSE, *WORKSHOP])}, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {"about": "not measured", "seconds": {}}
    content = tables(kept["seconds"], kept["about"])
    if not given.write: print(content); return
    write_heads(kept["seconds"])
    between(ROOT / "docs" / "results.md", "tables", content)
    between(ROOT / "README.md", "course", course_table(kept["seconds"], kept["about"]))


if __name__ == "__main__": main()
