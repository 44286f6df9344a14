"""Grade an exercise in its own cell: not written yet, wrong (with a hint), or right."""

import numpy as np
import torch


def close(
    a,                       # numbers, lists, arrays or tensors
    b,                       # what they should be
    tolerance: float = 1e-6, # largest difference that counts as none
) -> None:
    "AssertionError unless both have the same shape and nearly the same numbers; a NaN is close to nothing."
    a, b = (x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=float) for x in (a, b))
    assert a.shape == b.shape, f"shape {a.shape}, expected {b.shape}"
    off = ~(np.abs(a - b) <= tolerance) & (a != b)
    assert not off.any(), f"{a[off][:1]} at {np.argwhere(off)[0].tolist()}, expected {b[off][:1]}"


def attempt(
    solve,  # the reader's function or class
    check,  # called with it; raises anything at all where it is wrong
    hint,   # said where it is wrong: one sentence that helps, without the answer
) -> None:
    "Say where an exercise stands; a stub lets the notebook run on, a wrong answer stops it with the hint (AssertionError)."
    try:
        check(solve)
    except Exception as problem:
        if isinstance(problem, NotImplementedError) and not str(problem):  # a bare one is the stub's; PyTorch's own carry a message
            print("Not attempted yet.")
            return
        raise AssertionError(f"Not yet. {hint}") from problem
    print("Right.")
