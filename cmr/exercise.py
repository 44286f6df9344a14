"""Grade an exercise in its own cell: not written yet, wrong (with a hint), or right."""

import sys
import traceback
from functools import wraps
from html import escape

import numpy as np
import torch


class NotYet(AssertionError):
    "A wrong answer: what came, what was expected, the hint. A notebook shows it without a traceback."

    def __init__(self, found: str, hint: str):
        super().__init__(f"Not yet. {found}\nHint: {hint}")
        self.found = found

    def _render_traceback_(self) -> list[str]: return [f"Not yet. {self.found}", "The hint is folded above."]


def short(
    values: np.ndarray, # numbers
    at: tuple,          # the first place that differs, if there are too many to show
) -> str:
    "Numbers as one would write them down: all of them if they are few, else one and its place."
    if values.size > 12: return f"{values[at]:.6g} at {[int(n) for n in at]}" if at else "an array"
    whole = np.isfinite(values).all() and (values == values.round()).all()
    return " ".join(np.array2string(values.astype(int) if whole else values, separator=", ", precision=5).split())


def close(
    a,                       # numbers, lists, arrays or tensors
    b,                       # what they should be
    tolerance: float = 1e-6, # largest difference that counts as none
) -> None:
    "AssertionError unless both have the same shape and nearly the same numbers; a NaN is close to nothing."
    a, b = (x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=float) for x in (a, b))
    if a.shape != b.shape: raise AssertionError(f"yours {short(a, ())}, expected {short(b, ())}: shape {a.shape} instead of {b.shape}")
    off = ~(np.abs(a - b) <= tolerance) & (a != b)
    if off.any():
        at = tuple(np.argwhere(off)[0])
        yours, expected = short(a, at), short(b, at)
        if np.allclose(a[at], b[at], rtol=1e-4): yours, expected = (f"{x[at]:.17g} at {[int(n) for n in at]}" for x in (a, b))
        raise AssertionError(f"yours {yours}, expected {expected}")


def reason(
    problem: Exception, # what a check raised
) -> str:
    "One line: the two values, the check that failed, or the error of the reader's own code with its line."
    last = traceback.extract_tb(problem.__traceback__)[-1]
    line = (last.line or "").split("assert ")[-1].split("  #")[0].strip()
    said = str(problem).strip().split("\n")
    if isinstance(problem, AssertionError) and len(said) == 3 and said[0].endswith(":"): # fastcore's test_eq and its like
        return f"yours {said[1]:.150}, expected {said[2]:.150}"
    if isinstance(problem, AssertionError): return said[0] or f"This doesn't hold: {line}"
    return f"{type(problem).__name__}{': ' * bool(said[0])}{said[0]} (line {last.lineno} of {last.name})"


def attempt(
    solve,  # the reader's function or class
    check,  # called with it; raises anything at all where it is wrong
    hint,   # said where it is wrong: one sentence that helps, without the answer
) -> None:
    "Say where an exercise stands; a stub lets the notebook run on, a wrong answer stops it with `NotYet`."
    def asked(*what, **how):
        if (answer := solve(*what, **how)) is None: raise AssertionError("your function returned nothing: is there a return?")
        return answer
    try: check(solve if isinstance(solve, type) else wraps(solve)(asked))
    except Exception as problem:
        if isinstance(problem, NotImplementedError) and not str(problem): return print("Not attempted yet.") # PyTorch's have a message
        found = reason(problem)
    else: return print("Right.")
    if "ipykernel" in sys.modules:
        from IPython.display import HTML, display
        display(HTML(f"<details><summary>Hint</summary>{escape(hint)}</details>"))
    raise NotYet(found, hint)
