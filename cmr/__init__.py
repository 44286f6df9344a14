"""Cross-modal image-text retrieval, built piece by piece: IMRAM, CAMP and the models they grew from."""

import importlib

__version__ = "0.1.0"

_WHERE = {"VSE": "matcher", "SCAN": "attention", "IMRAM": "imram", "CAMP": "camp", "Matcher": "matcher", "score_all": "matcher", "load": "matcher",
          **dict.fromkeys(("CMPM", "DEVISE", "DVSA", "ORDER", "PVSE", "VSRN"), "baselines")}
__all__ = sorted(_WHERE)


def __getattr__(name):
    "Import the public names when they are first asked for, so that `import cmr` stays quick."
    if name in _WHERE:
        return getattr(importlib.import_module(f"cmr.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'cmr' has no attribute {name!r}")
