"""The command line: `cmr data`, `features`, `train`, `evaluate`, `search`, `compare`, `models`, ... Thin: the work is done elsewhere."""

from cmr.cli.app import app

from cmr.cli import data, features, train, evaluate, search, compare, models  # isort: skip  # noqa: E401  in the order in which the help lists them

__all__ = ["app", "compare", "data", "evaluate", "features", "models", "search", "train"]
