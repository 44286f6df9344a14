"Loads a program of docs/tools as a module, under a name that hides nobody's (`site` is Python's own)."

import importlib.util
import sys
from pathlib import Path


def tool(name: str):
    path = Path(__file__).parent.parent / "docs" / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
