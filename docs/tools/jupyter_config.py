"JupyterLab's settings for the course: `make lab` starts it with them."
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tidy import before_save  # noqa: E402

c.FileContentsManager.pre_save_hook = before_save  # noqa: F821  `c` is JupyterLab's
