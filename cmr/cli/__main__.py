"""`python -m cmr.cli` is `cmr`."""

import sys

from cmr.cli import app

if __name__ == "__main__": sys.exit(app(prog_name="cmr"))
