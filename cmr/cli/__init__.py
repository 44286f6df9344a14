"""The command line: `cmr data`, `import`, `check`, `train`, `evaluate`, ... Thin: the work is done elsewhere."""

from cmr.cli.app import app

from cmr.cli import (demo, data, download, imports, check, features, train, evaluate, search, calibrate, mine, compare,  # isort: skip
                     reproduce, speedrun, push, models)  # in the order in which the help lists them

__all__ = ["app", "calibrate", "check", "compare", "data", "demo", "download", "evaluate", "features", "imports", "mine", "models", "push",
           "reproduce", "search", "speedrun", "train"]
