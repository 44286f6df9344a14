"""`cmr models`: what can be trained."""

from __future__ import annotations

import inspect
import textwrap
from typing import Annotated

import typer

from cmr.cli.app import Imports, app


def describe(name: str) -> str:  # of a model
    "Name, what it is in a line, and its arguments with what they are by default."
    from cmr.saving import model_class
    cls = model_class(name)
    given = inspect.signature(cls).parameters.values()
    known = [str(one.replace(annotation=inspect.Parameter.empty)) for one in given if one.name not in ("region_dim", "vocab_size")]
    about = (inspect.getdoc(cls) or "").split("\n")[0]
    return f"{name:8} {about}\n" + textwrap.fill(", ".join(known), 100, initial_indent=" " * 9, subsequent_indent=" " * 9)


@app.command("models")
def models_command(names: Annotated[list[str] | None, typer.Argument(help="Only these. Default: all.")] = None, imports: Imports = None):
    """List the models that can be trained, and their arguments (for --set and the options of cmr train).

    \b
    Examples:
      cmr models
      cmr models imram camp
      cmr models --import my_module

    Models come from the package, from --import, and from installed packages that name theirs as entry points of the group cmr.models.
    """
    from cmr.saving import list_models
    for name in names or list_models(): typer.echo(describe(name.lower()))
