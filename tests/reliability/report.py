"""docs/reliability.md: what was tried and how it ended, in tables."""

import collections
import datetime
import platform
from pathlib import Path

import psutil

from .judge import SECONDS, Outcome
from .kills import Killed
from .limits import Memory

VERDICTS = "one line", "reported", "let in, same result", "let in", "fault"
PROMISES = """
## What cannot be promised

- **Crafted HDF5 files.** What an HDF5 file says about its arrays is checked before they are read, but opening the file is the HDF5 library's work,
  and a file that was made to break that library may end the process. Nothing of the file's is run as code by this package.
- **A number that is another number.** Features, boxes and pictures carry no sum. A bit that turned in one of them gives another finite number, which nobody can
  tell from the right one; NaN and infinity are found. A letter that turned in a caption is another caption.
- **Power that fails.** Every file is written under another name, flushed to the disk (fsync) and renamed. The folder's own entry is not flushed: after a power cut the
  older file may stand there instead of the newer one. It is whole in either case.
- **Network disks.** Renames and locks are used as a local disk has them. Where a network disk answers locks without holding them, two trainings can get into one folder.
- **Memory that others take.** Room on the disk and in memory is asked for first; another process can take it afterwards. The error is then the system's, in one line where
  Python still can say it; a process that the system ends for lack of memory says nothing.
- **Files that are changed while they are read.** A features file that is written to or cut short during a run is refused when the next rows are read; what was read before was used.
- **Modules given with --import** are Python and are run: they can do anything that their user can.
"""


def processor() -> str:
    "The processor's name, as Linux tells it."
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return f"{names[0] if names else platform.processor()}, {psutil.cpu_count()} processors, {psutil.virtual_memory().total / 2**30:.0f} GB"


def _table(head: list[str], rows: list[list[object]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(['---'] + ['---:' if isinstance(x, int) else '---' for x in (rows[0][1:] if rows else head[1:])])}|"]
    return "\n".join([*lines, *(f"| {' | '.join(f'{x:,}' if isinstance(x, int) else str(x) for x in row)} |" for row in rows)])


def files(found: list[Outcome]) -> str:
    "How many cases of each kind of file ended how, and what was let in."
    damaged = [outcome for outcome in found if outcome.case.do]
    kinds = list(dict.fromkeys(outcome.case.kind for outcome in damaged))
    def row(name: str, of: list[Outcome]) -> list[object]: return [name, len(of), *(sum(outcome.verdict == verdict for outcome in of) for verdict in VERDICTS)]
    rows = [row(kind, [outcome for outcome in damaged if outcome.case.kind == kind]) for kind in kinds] + [row("**all**", damaged)]
    commands = sorted({outcome.case.command for outcome in damaged})
    by_command = [row(f"cmr {command}", [outcome for outcome in damaged if outcome.case.command == command]) for command in commands]
    head = ["tried", "one clear line, status 2", "reported, status 1", "let in, same result", "let in, with reason", "fault"]
    let_in = collections.Counter((outcome.case.kind, outcome.why) for outcome in damaged if outcome.verdict == "let in")
    faults = [f"- {o.case.kind}, {o.case.damage}, `cmr {o.case.command}`: {o.why}" for o in damaged if o.verdict == "fault"]
    pickles = sum("runs a command" in outcome.case.damage or "command to run" in outcome.case.damage for outcome in damaged)
    return f"""## Bad files

{len(damaged):,} damaged files were given to the command line, each in a process of its own with at most {SECONDS} s. "One clear line" means: exit status 2, exactly one line that
begins with `Error:` and names the file, no traceback, no unfinished file left, and nothing changed outside the place for results. "Reported" is `cmr check` that found something.
"Let in, same result" are those that changed nothing: the answer, or the files that were written, equal those of the undamaged input (a byte order mark, line ends of Windows, a key
too many, a bit in a part that is not used). {pickles} of the files were pickles that would have run a command; none did.

{_table(["kind of file", *head], rows)}

{_table(["command", *head], by_command)}

### What is let in and changes the result

{_table(["kind of file", "reason", "cases"], [[kind, why, count] for (kind, why), count in let_in.items()]) if let_in else "Nothing."}

### Faults

{chr(10).join(faults) if faults else "None."}
"""


def kills(found: list[Killed]) -> str:
    "What came of the kills."
    rows = [[f"cmr {k.name}", k.kills, k.rounds, k.finished, k.same, k.parts] for k in found]
    faults = [f"- {fault}" for k in found for fault in k.faults]
    return f"""## Kills

{sum(k.kills for k in found)} times a command was killed (SIGKILL) at a random moment, once to three times in a row, and then typed again (a training with `--resume`, or without it where it was
killed before its first checkpoint). Equal means: every array, weight, score and number of the results the same as without a kill, bit by bit, times apart.

{_table(["command", "kills", "brought to the end", "finished", "equal to the unbroken run", "with unfinished files left"], rows)}

{chr(10).join(faults) if faults else "No faults."}
"""


def memory(found: list[Memory]) -> str:
    "Growth of resident memory."
    rows = [[m.what, m.count, f"{m.warm:.1f}", f"{m.end:.1f}", f"{m.grown:+.1f}"] for m in found]
    return f"""## Memory

Resident memory of one process, in MB, after the first fifth and at the end.

{_table(["what", "how many", "after a fifth", "at the end", "growth"], rows)}
"""


def limits(consoles: list[tuple[str, str, str]], disks: list[tuple[str, str, str]]) -> str:
    "Narrow consoles and full disks."
    good = {"": "as it should be"}
    return f"""## Narrow consoles

Names of images in Chinese and French with a symbol, printed into a pipe.

{_table(["console", "command", "how it went"], [[a, b, good.get(c, c)] for a, b, c in consoles])}

## Full disks

One line, nothing unfinished left; and with room again the same command ends well.

{_table(["command", "room", "how it went"], [[f"cmr {a}", b, good.get(c, c)] for a, b, c in disks])}
"""


ORDER = "Bad files", "Kills", "Memory", "Narrow consoles", "Full disks", "What cannot be promised"


def sections(text: str) -> dict[str, str]:
    "The sections of a page by their headings."
    return {part.split("\n", 1)[0]: "## " + part.strip() for part in ("\n" + text).split("\n## ")[1:]}


def page(parts: list[str], seed: int, command: str, seconds: float, earlier: str = "") -> str:
    "The whole page; of what was not measured now, what the earlier page says."
    about = (f"Made by `{command}` (seed {seed}) in {seconds / 60:.0f} minutes on {datetime.date.today():%d %B %Y}: {processor()}, "
             f"Linux, Python {platform.python_version()}.")
    found = {**sections(earlier), **sections(PROMISES)}
    for part in parts:
        for name, text in sections(part).items(): found[name] = text.replace("\n", f"\n\n{about}\n", 1)
    head = ("# Reliability\n\nWhat the command line does with files that are damaged, with kills, full disks and narrow consoles: tried from outside, and counted. "
            "Every time stands for that run on that machine, which did other work, too.")
    return "\n\n".join([head, *(found[name] for name in ORDER if name in found)]) + "\n"
