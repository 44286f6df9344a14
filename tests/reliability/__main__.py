"""Try the command line with bad files, kills, full disks and narrow consoles, and count how it ends.

Examples:
  python tests/reliability --quick
  python tests/reliability --only "HDF5*"
  python tests/reliability --write          docs/reliability.md
"""

import argparse
import collections
import fnmatch
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

PARTS = "files,kills,limits"
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reliability.md"
sys.path[0] = str(Path(__file__).resolve().parent.parent)  # where `reliability` is found
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", COLUMNS="200", MPLBACKEND="Agg", MPLCONFIGDIR=tempfile.mkdtemp())
warnings.simplefilter("ignore")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    "What was asked for on the command line."
    parser = argparse.ArgumentParser("python tests/reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every seventh bad file, six kills, 50 steps")
    parser.add_argument("--every", type=int, default=1, help="only every so many of the bad files")
    parser.add_argument("--only", default="*", help="only bad files of this kind; * stands for anything; no kills then")
    parser.add_argument("--command", default="*", help="only bad files for this command; no kills then")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments of the kills")
    parser.add_argument("--parts", default=PARTS, help="which of files, kills and limits")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md; what was not tried now stays as it was")
    parser.add_argument("--verbose", action="store_true", help="print what each case said")
    return parser.parse_args(given)


def try_files(base: Path, asked: argparse.Namespace) -> list:
    "Run the catalogue; every fault is printed as it is found."
    from reliability.catalogue import all_cases
    from reliability.judge import lines_of, run_case
    cases = [case for case in all_cases(base, 7 if asked.quick else asked.every) if fnmatch.fnmatch(case.kind, asked.only) and fnmatch.fnmatch(case.command, asked.command)]
    found, expected, started = [], {}, time.monotonic()
    for i, case in enumerate(cases, 1):
        outcome = run_case(case, base, base.parent / "case", expected)
        found.append(outcome)
        if outcome.verdict == "fault" or asked.verbose or case.do is None and outcome.status:
            last = (lines_of(outcome.said) or [""])[-1][:300]
            print(f"{outcome.verdict} | {case.kind} | {case.file} | {case.damage} | cmr {' '.join(case.words)} | {outcome.status} | {outcome.why} | {last}", flush=True)
        if i % 100 == 0: print(f"{i} of {len(cases)} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"{len(found)} cases: {dict(collections.Counter(outcome.verdict for outcome in found))}")
    return found


def measure(base: Path, asked: argparse.Namespace) -> list[str]:
    "All that was asked for, as parts of the page."
    from reliability import kills, limits, report
    whole, said = asked.only == asked.command == "*", []
    if "files" in asked.parts: said.append(report.files(try_files(base, asked)))
    if "kills" in asked.parts and whole: said.append(report.kills(kills.kill_all(base, base.parent / "kills", 6 if asked.quick else 54, asked.seed)))
    if "limits" in asked.parts and whole:
        steps, searches = (50, 20) if asked.quick else (500, 200)
        said += [report.memory(limits.memory(base, steps, searches)),
                 report.limits(limits.consoles(base, asked.quick), limits.full_disks(base, base.parent / "disks", asked.quick))]
    for part in said[1 if "files" in asked.parts else 0:]: print(part)
    return said


def main(given: list[str] | None = None) -> None:
    "Everything that was asked for."
    asked, started = arguments(given), time.monotonic()
    from reliability import samples
    from reliability.judge import calm_progress
    calm_progress()
    with tempfile.TemporaryDirectory(prefix="cmr-reliability-") as folder:
        os.chmod(folder, 0o755)
        base = Path(folder) / "samples"
        samples.write_all(base)
        parts = measure(base, asked)
        os.chdir("/")
    if asked.write:
        from reliability.report import page
        command = "python tests/reliability --write" + " --quick" * asked.quick + f" --every {asked.every}" * (asked.every > 1) + f" --parts {asked.parts}" * (asked.parts != PARTS)
        earlier = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
        PAGE.write_text(page(parts, asked.seed, command, time.monotonic() - started, earlier), encoding="utf-8")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__": main()
