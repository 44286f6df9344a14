"""What `help` says of a model: its parameters, and its own methods without the hundreds that every network has."""

import inspect
import re

SHARED = {"region_dim": "width of a region's feature", "vocab_size": "words in the vocabulary, marks included",
          "embed_dim": "d, width of a fragment in the common space", "word_dim": "width of a word's embedding"}  # arguments of every model
FOREIGN = ("torch", "huggingface_hub")  # packages whose methods `help(cmr.IMRAM)` leaves out


def parameters_text(cls: type) -> str:
    "A line for each argument of `__init__`, with its default and the comment beside it; nothing where there is no source."
    made = inspect.getattr_static(cls, "__init__")
    if (made.__module__ or FOREIGN[0]).startswith(FOREIGN): return ""
    try: lines = inspect.getsource(made).splitlines()
    except (OSError, TypeError): return ""
    said = {found[1]: found[2] for line in lines if (found := re.match(r"\s*(\w+)\b[^#]*#\s*(.*)", line))}
    arguments = list(inspect.signature(made).parameters.values())[1:]
    def default(argument): return "" if argument.default is argument.empty else f" = {argument.default!r}"
    return "\n\nParameters:\n" + "\n".join(f"    {x.name}{default(x)}: {SHARED.get(x.name, said.get(x.name, ''))}" for x in arguments)


class Documented(type):
    "A class whose docstring has the comments of its arguments (nbdev's docments), and whose `dir` leaves out what is not ours."
    def __new__(cls, name, bases, space, **options):
        made = super().__new__(cls, name, bases, space, **options)
        made.__doc__ = (space.get("__doc__") or "") + parameters_text(made)
        return made

    def __dir__(cls) -> list[str]:
        "Names that our own classes define."
        owners = [owner for owner in cls.__mro__ if not owner.__module__.startswith(FOREIGN)]
        return sorted({name for owner in owners for name in vars(owner) if name == "__init__" or not name.startswith("__")})
