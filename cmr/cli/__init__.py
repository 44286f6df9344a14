"""The command line: `cmr data`, `import`, `check`, `train`, `evaluate`, ... Thin: the work is done elsewhere."""

from cmr.cli.app import app

from cmr.cli import data, download, imports, check, features, train, evaluate, search, calibrate, mine, compare, reproduce, speedrun, models  # isort: skip  # noqa: E401  in the order in which the help lists them

__all__ = ["app", "calibrate", "check", "compare", "data", "download", "evaluate", "features", "imports", "mine", "models", "reproduce",
           "search", "speedrun", "train"]
