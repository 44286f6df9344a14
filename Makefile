# Two commands do everything on a fresh machine: make quickstart, make test. `make lab` opens the course.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: quickstart test lab data notebooks tables benchmarks clean help

help:            ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/ -/'

$(BIN)/cmr: constraints.txt settings.ini setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(BIN)/cmr

data/scenes/test.h5: | $(BIN)/cmr
	$(BIN)/cmr data scenes

data: data/scenes/test.h5   ## draw the built-in world and encode it

quickstart: $(BIN)/cmr data ## install, make the data, train IMRAM, print R@K, write a figure
	@if [ -f runs/quickstart/last/training.pt ]; then $(BIN)/cmr train --resume --out runs/quickstart; \
	else $(BIN)/cmr train --recipe scenes --epochs 3 --out runs/quickstart; fi
	$(BIN)/cmr evaluate runs/quickstart
	@echo "The curves of loss and recall are in runs/quickstart/curves.png"

test: $(BIN)/cmr data       ## install, run every notebook, then pytest
	OMP_NUM_THREADS=$(THREADS) $(BIN)/nbdev-test --n-workers 2
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -q tests

lab: $(BIN)/cmr data        ## open the course in JupyterLab
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/00_index.ipynb

notebooks: $(BIN)/cmr data  ## run the notebooks and write their outputs and the package
	$(BIN)/nbdev-export
	OMP_NUM_THREADS=$(THREADS) $(BIN)/nbdev-test --n-workers 2 --save
	$(BIN)/nbdev-clean

tables: $(BIN)/cmr data     ## run each notebook alone, and write the tables of docs/results.md and README.md
	$(BIN)/python tests/tables.py --seconds --write

benchmarks: $(BIN)/cmr      ## speed and memory of the engine against the published way of computing
	$(BIN)/python tests/benchmarks --quick

clean:           ## remove what was built, not the data or the runs
	rm -rf $(VENV) build dist *.egg-info
