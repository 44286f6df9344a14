"""Grade an exercise in its own cell: not written yet, wrong (with a hint), or right."""


def attempt(
    solve,  # the reader's function or class
    check,  # called with it; raises anything at all where it is wrong
    hint,   # said where it is wrong: one sentence that helps, without the answer
):
    "Say where an exercise stands; a stub lets the notebook run on, a wrong answer stops it with the hint (AssertionError)."
    try:
        check(solve)
    except Exception as problem:
        if isinstance(problem, NotImplementedError) and not str(problem):  # a bare one is the stub's; PyTorch's own carry a message
            print("Not attempted yet.")
            return
        raise AssertionError(f"Not yet. {hint}") from problem
    print("Right.")
