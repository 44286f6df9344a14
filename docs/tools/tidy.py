"""One rule for every notebook that is saved: what changes from run to run, and widgets, are left out.

    python docs/tools/tidy.py nbs/*.ipynb nbs/*/*.ipynb
    python docs/tools/tidy.py --run nbs/07_attention.ipynb   # run it first, in a kernel as readers have it

JupyterLab applies it at each save when started by `make lab`, so that Run All leaves git clean."""

import argparse
import json
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.config import get_config

WIDGET = "application/vnd.jupyter.widget-view+json"


def passing(output: dict) -> bool:
    "Whether an output is of this run only: a bar, a warning with a path of this machine, or a widget."
    return output.get("name") == "stderr" or "\r" in "".join(output.get("text", "")) or WIDGET in output.get("data", {})


def joined(outputs: list[dict]) -> list[dict]:
    "Outputs with the pieces of a stream in one: where a kernel cuts it differs from run to run."
    found: list[dict] = []
    for one in outputs:
        if found and one["output_type"] == found[-1]["output_type"] == "stream" and one["name"] == found[-1]["name"]:
            found[-1]["text"] = "".join([*found[-1]["text"], *one["text"]]).splitlines(keepends=True)
        else: found.append(one)
    return found


def tidy(notebook: dict) -> dict:
    "The notebook, changed in place: no counts, no widgets' state, no outputs of cells tagged `widget`; metadata as nbdev keeps them."
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code": continue
        cell["outputs"] = [] if "widget" in cell["metadata"].get("tags", []) else joined([one for one in cell["outputs"] if not passing(one)])
        cell["execution_count"] = None
    notebook["metadata"].pop("widgets", None)
    clean_nb(notebook, allowed_cell_metadata_keys=list(get_config().allowed_cell_metadata_keys), clean_ids=True)
    return notebook


def before_save(model: dict, **_) -> None:
    "For jupyter_server's `pre_save_hook`."
    if model["type"] == "notebook" and model["content"]["nbformat"] == 4: tidy(model["content"])


def run(notebook: dict, folder: Path) -> dict:
    "With fresh outputs, from a new kernel in the notebook's folder."
    fresh = nbformat.reads(json.dumps(notebook), as_version=4)
    NotebookClient(fresh, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return json.loads(nbformat.writes(fresh))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("notebooks", nargs="+", type=Path)
    options.add_argument("--run", action="store_true", help="run each first, and keep what it shows")
    given = options.parse_args()
    for path in given.notebooks:
        text, clock = path.read_text(encoding="utf-8"), time.perf_counter()
        notebook = json.loads(text)
        if given.run: notebook = run(notebook, path.parent)
        tidied = json.dumps(tidy(notebook), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if tidied != text: path.write_text(tidied, encoding="utf-8")
        if given.run: print(f"{path}: {time.perf_counter() - clock:.0f} s", file=sys.stderr)


if __name__ == "__main__": main()
