"""A failed test says in a few lines which function it is, what it should do and where its chapter builds it. `--tb=long` adds the traceback."""

import inspect
import sys
from pathlib import Path

import adapters
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))


def where(problem: BaseException) -> str:
    "The last line of the student's own files that the error went through."
    trace, found = problem.__traceback__, ""
    while trace:
        file, code = Path(trace.tb_frame.f_code.co_filename), trace.tb_frame.f_code
        if file.parent.name == adapters.PACKAGE: found = f"{getattr(code, 'co_qualname', code.co_name)} (line {trace.tb_lineno} of {file.parent.name}/{file.name})"
        trace = trace.tb_next
    return found


def message(item: pytest.Item, problem: BaseException) -> str:
    "What a student reads."
    name = item.name.removeprefix("test_").split("__")[0]
    about = inspect.getdoc(getattr(adapters, name)).split("\n")
    place, first = where(problem), str(problem).strip().split("\n")[0]
    if isinstance(problem, NotImplementedError) and not first:
        found = f"{place} isn't written yet" if place.startswith(name) else f"{name} needs {place}, which isn't written yet"
    elif isinstance(problem, pytest.fail.Exception): found = f"{name} takes what it should refuse ({first.lower()})"
    elif isinstance(problem, AssertionError): found = f"{name} is not right: {first or 'see the test'}"
    else: found = f"{name} stops with {type(problem).__name__}: {first}" + (f", in {place}" if place else "")
    return "\n".join([found, f"What it should do: {about[0]}", f"Where: {about[-1]}", f"Tested here: {inspect.getdoc(item.obj) or item.name}"])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" and report.failed and item.config.option.tbstyle != "long": report.longrepr = message(item, call.excinfo.value)
