# Two commands do everything on a fresh machine: make quickstart, make test. `make lab` opens the course.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: quickstart test lab data notebooks tables benchmarks site slides edition clean help

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

quickstart: $(BIN)/cmr data ## install, make the data, train IMRAM, print R@K, and find pictures with it
	@if [ -f runs/quickstart/last/training.pt ]; then $(BIN)/cmr train --resume --out runs/quickstart; \
	else $(BIN)/cmr train --recipe scenes --epochs 3 --dev-images 100 --out runs/quickstart; fi
	$(BIN)/cmr evaluate runs/quickstart
	$(BIN)/cmr search runs/quickstart "a big striped green frame surrounds a plain yellow square" --html runs/quickstart/found.html --figure runs/quickstart/found.png
	@echo "Pictures found, and where each word looked: runs/quickstart/found.html. Loss and recall: runs/quickstart/curves.png"

test: $(BIN)/cmr data       ## install, run every notebook, then pytest
	OMP_NUM_THREADS=$(THREADS) $(BIN)/nbdev-test --n-workers 2
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -q -n 2 --dist loadfile tests

lab: $(BIN)/cmr data        ## open the course in JupyterLab; what it saves is tidied, so that Run All leaves git clean
	$(BIN)/jupyter lab --config=docs/tools/jupyter_config.py --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/00_index.ipynb

notebooks: $(BIN)/cmr data  ## run the notebooks and write their outputs and the package
	$(BIN)/nbdev-export
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python docs/tools/tidy.py --run nbs/*.ipynb nbs/*/*.ipynb

tables: $(BIN)/cmr data     ## run each notebook alone, and write the tables of docs/results.md and README.md
	$(BIN)/python tests/tables.py --seconds --write

site: $(BIN)/cmr            ## the course as a static site in build/site
	$(BIN)/python docs/tools/site.py --out build/site

slides: $(BIN)/cmr          ## a deck per session in build/slides
	$(BIN)/python docs/tools/slides.py --out build/slides

edition: $(BIN)/cmr         ## student's and instructor's versions, and packages to fill in, in build/edition
	$(BIN)/python docs/tools/edition.py --out build/edition

benchmarks: $(BIN)/cmr      ## speed and memory of the engine against the published way of computing
	$(BIN)/python tests/benchmarks --quick

clean:           ## remove what was built, not the data or the runs
	rm -rf $(VENV) build dist *.egg-info
