"""Cross-modal image-text retrieval, built piece by piece: IMRAM, CAMP and the models they grew from."""

import importlib

__version__ = "0.1.0"

MODEL_HOMES = {"VSE": "cmr.matcher", "SCAN": "cmr.attention", "IMRAM": "cmr.imram", "CAMP": "cmr.camp",  # the package's models
               **dict.fromkeys(("CMPM", "DEVISE", "DVSA", "ORDER", "PVSE", "VSRN"), "cmr.shelf.baselines"),
               "HardAssignment": "cmr.shelf.assignment"}
_HOMES = {**MODEL_HOMES, **dict.fromkeys(("Matcher", "register"), "cmr.matcher"), **dict.fromkeys(("encode_all", "score_all"), "cmr.fast"),
          **dict.fromkeys(("create_model", "list_models", "load", "save"), "cmr.saving"),
          **dict.fromkeys(("Recipe", "evaluate", "train"), "cmr.training"), "Search": "cmr.search.explain"}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    "Import the public names when they are first asked for, so that `import cmr` stays quick."
    if name in _HOMES: return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cmr' has no attribute {name!r}")


def __dir__() -> list[str]:
    "What tab completion shows."
    return sorted({*globals(), *__all__})
