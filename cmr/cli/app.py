"""What all commands share: the application, its errors, and options that several of them have."""

from __future__ import annotations

import ctypes
import inspect
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Annotated

import typer

from cmr.bars import QUIET, as_lines

# Threads that wait sleep instead of spinning: on a machine that does other work too, spinning costs several times what it saves.
# Set before torch is imported; a value that is set already stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_memory() -> None:
    "Where the C library is glibc: keep freed memory instead of handing it back and fetching fresh pages in each training step."
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"): return
    for option, value in ((-3, 2**25), (-1, 2**30)): libc.mallopt(option, value)  # M_MMAP_THRESHOLD, its largest; M_TRIM_THRESHOLD


keep_memory()

# A console or a pipe that knows few characters (cp1252, gbk) gets "?" for the others: printing never ends a command.
for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"): stream.reconfigure(errors="replace")


def printable(text: object) -> str:
    "As `cmr.files.printable`, imported late: --help needs no PyTorch."
    from cmr import files
    return files.printable(text)


def one_line(problem: BaseException) -> str:
    "An error as one line: its message, and its kind where it is one that no door of the package words."
    worded = isinstance(problem, (ValueError, OSError, ImportError, RuntimeError, MemoryError)) and str(problem)
    if worded: return printable(problem)
    return printable(f"{type(problem).__name__}: {problem or 'no reason given'} (an error of the package: CMR_DEBUG=1 shows where)")


class Terminated(KeyboardInterrupt):
    "SIGTERM where no training grants it between two steps: files and locks are left in order, as after Ctrl-C."
    number, status = signal.SIGTERM, 143


def halt(number: int, frame) -> None:
    "A signal's handler: raise Terminated or KeyboardInterrupt; in the midst of an import, half of which is worse than none, end at once."
    while frame and "importlib" not in frame.f_code.co_filename: frame = frame.f_back
    if frame: os.write(2, b"stopped; what was finished is kept\n"); os._exit(128 + number)
    raise Terminated("stopped by SIGTERM; what was finished is kept") if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def plain_errors() -> Iterator[None]:
    "A line instead of a traceback (CMR_DEBUG=1 shows both), and for a warning; exit status 2, 130 after Ctrl-C, 143 after SIGTERM."
    def note(message, *_, **__): typer.secho(f"Note: {printable(message)}", fg=typer.colors.YELLOW, err=True)
    warnings.showwarning = note
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}  # others' stay
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, halt) for number, handler in usual.items() if main and signal.getsignal(number) is handler}
    try: yield
    except KeyboardInterrupt as stop:
        typer.secho(printable(stop) or "stopped; what was finished is kept", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(getattr(stop, "status", getattr(stop.__context__, "status", 130))) from None  # also where it was worded anew
    except (typer.Exit, typer.Abort): raise
    except BrokenPipeError:  # who read the output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except Exception as problem:  # noqa: BLE001  the last net
        if os.environ.get("CMR_DEBUG"): traceback.print_exc()
        typer.secho(f"Error: {one_line(problem)}", fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from None
    finally:
        for number, handler in before.items(): signal.signal(number, handler)


def typed(path: object) -> str:
    "A path as a shell takes it."
    return shlex.quote(str(path))


def imported(imports: list[str] | None) -> str:
    "What a command about a run has to say of them."
    return "".join(f" --import {typed(name)}" for name in imports or [])


def say(line: str, note: bool = False) -> None:
    "Print a line that tells how far a command has come, which is no result, so not with --quiet; or a note."
    if (note or not QUIET[0]) and os.environ.get("RANK", "0") == "0": typer.echo(line, err=True)  # the first of several processes


@contextmanager
def bars(quiet: bool) -> Iterator[None]:
    "Others' bars, such as the hub's, as our own: on a terminal only; with --quiet nothing, and no line above a bar."
    from tqdm.std import tqdm
    own = {name: vars(tqdm)[name] for name in ("status_printer", "write")}
    def printer(bar, file): return own["status_printer"].__func__(file) if file.isatty() and not quiet else as_lines(bar, file)
    tqdm.status_printer, QUIET[0] = printer, quiet
    if quiet: tqdm.write = classmethod(lambda *_, **__: None)
    try: yield
    finally:
        QUIET[0] = False
        for name, value in own.items(): setattr(tqdm, name, value)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no progress: results, notes and errors only.")]


class App(typer.Typer):
    "An application whose commands print their errors as `plain_errors` has it, and take --quiet."
    def command(self, *words, **options):
        "As typer's."
        add = super().command(*words, **options)
        def wrapped(function):
            @plain_errors()
            @wraps(function)
            def run(*args, quiet: bool = False, **how):
                with bars(quiet): return function(*args, **how)
            about = inspect.signature(function, eval_str=True)
            last = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
            run.__signature__ = about.replace(parameters=[*about.parameters.values(), last])
            return add(run)
        return wrapped


@plain_errors()
def import_own(modules: list[str] | None) -> list[str] | None:  # as given with --import -> the same
    "Import modules with models of one's own; the current folder is looked at, too. ImportError names one that is not there."
    if not modules: return None
    from cmr.saving import import_models
    if os.getcwd() not in sys.path: sys.path.insert(0, os.getcwd())
    import_models([name.removesuffix(".py") for name in modules])
    return modules


app = App(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
          context_settings={"help_option_names": ["-h", "--help"]})

# Paths: what is wrong with one is said by the doors of cmr.files, in one line.
PathArgument, PathOption = partial(typer.Argument, readable=False), partial(typer.Option, readable=False)

Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: the GPU if there is one.")]
Engine = Annotated[bool, typer.Option("--engine/--no-engine", help="Score by the fast engine, or by the model as it is written.")]
Imports = Annotated[list[str] | None, typer.Option("--import", metavar="MODULE", callback=import_own,
                   help="A Python module with models of your own (my_module for my_module.py in this folder). Can be given several times.")]
Seeds = Annotated[str, typer.Option(help="Seeds, with commas between them.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the recipe, its loss or the "
                                                    "model, such as margin=0.3 or word_dim=100. Can be given several times.")]


def print_table(heads: list[str], rows: list[list[str]]) -> None:  # heads: of all columns but the first, which holds names
    "Print numbers to the right of names; a file has room for whole lines."
    from rich.console import Console
    from rich.table import Table
    table = Table("", *heads)
    for column in table.columns: column.overflow = "fold"
    for column in table.columns[1:]: column.justify = "right"
    for row in rows: table.add_row(*row)
    wide = None if Console().is_terminal else 120 + max(len(row[0]) for row in rows)
    Console(markup=False, emoji=False, highlight=False, width=wide).print(table)


def read_settings(words: list[str] | None, seeds: bool = False) -> dict[str, str]:  # as given with --set -> by name
    "Settings by name. ValueError for one without =, one that is given twice, and the seed where the command has --seeds."
    settings: dict[str, str] = {}
    for word in words or []:
        key, equals, value = word.partition("=")
        if not (key and equals): raise ValueError(f"--set {word!r}: write a name, = and a value, as in --set margin=0.3")
        if key in settings: raise ValueError(f"--set {key} is given twice: {settings[key]} and {value}")
        settings[key.replace("-", "_")] = value
    if seeds and "seed" in settings: raise ValueError(f"--set seed={settings['seed']}: say --seeds {settings['seed']}")
    return settings


def read_seeds(text: str) -> list[int]:  # as given with --seeds
    "Seeds. ValueError for anything but whole numbers with commas between them, and for one that stands twice."
    try: seeds = [int(seed) for seed in text.split(",")]
    except ValueError: raise ValueError(f"--seeds {text!r}: write whole numbers with commas between them, such as 0,1,2") from None
    if len(set(seeds)) < len(seeds): raise ValueError(f"--seeds {text!r}: a seed stands twice")
    return seeds


def show_version(wanted: bool) -> None:
    "Print the version and stop."
    if not wanted: return
    from cmr import __version__
    typer.echo(f"cmr {__version__}")
    raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")] = False,
):
    """Image-text retrieval: make or convert data, train a model, measure how often the right one is found.

    \b
    To begin:
      cmr demo                         a sentence, the pictures found, and why
      cmr train                        IMRAM on built-in scenes, drawn first
      cmr evaluate runs/scenes-imram   how often it finds the right one
    Every command has a --help with examples. Set CMR_DEBUG=1 to see where an error comes from.
    Ctrl-C ends one with status 130, SIGTERM with 143, an error with 2; what was finished is kept.
    """
