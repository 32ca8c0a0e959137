# make run: everything from nothing to figures on a simulated tissue.  make test: lint, types, layers, tests.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export DO_NOT_TRACK := true

.PHONY: help install run study test lint unit real audit docs viz lab ui

help:  ## List the targets
	@grep -E '^[A-Za-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([A-Za-z0-9_-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

install: $(INSTALLED)  ## Make .venv with every dependency pinned

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; name it with make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

run: $(INSTALLED)  ## Simulate a tissue, train a model, and run the main job to figures and an MLflow run
	$(BIN)/kedro run --pipelines=demo
	@$(BIN)/python -m tissue_crosstalk.outputs demo

# Through the environment: a name with a quote or a dollar sign is a name, not a command.
study: export STUDY_NAME := $(value NAME)
study: export STUDY_TISSUE := $(value TISSUE)
study: $(INSTALLED)  ## Configure a study of your tissue: make study NAME=embryo TISSUE=path/to/embryo.h5ad
	@test -n "$$STUDY_NAME" && test -n "$$STUDY_TISSUE" \
	  || { echo "Say make study NAME=embryo TISSUE=path/to/embryo.h5ad (NAME of the study, TISSUE its file)"; exit 2; }
	@$(BIN)/python -m tissue_crosstalk.new_study $(ARGS) -- "$$STUDY_NAME" "$$STUDY_TISSUE"

test: $(INSTALLED) lint unit  ## Lint, types, layers and tests

lint: $(INSTALLED)  ## Ruff, mypy and import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file's tests stay together: they share their runs of the project. tests/conftest.py has the longest files first.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

unit: $(INSTALLED)  ## The tests but for the slow, the browser's and the real-data ones, which CI runs as well
	$(PYTEST) $(if $(CI),,-m "not slow and not browser and not real_data") $(ARGS)

real: $(INSTALLED)  ## All tests, the slow, the browser's and the real-data ones, too
	$(PYTEST) $(ARGS)

audit: $(INSTALLED)  ## Known vulnerabilities of the dependencies, where they can be looked up
	@$(BIN)/python .ci/audit.py

docs: $(INSTALLED)  ## Build the documentation's site into site/
	# Nothing of it is wrong, or this fails. The notice of the theme's end of life is for its maintainers.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

viz: $(INSTALLED)  ## Look at the pipelines in a browser
	$(BIN)/kedro viz run

lab: $(INSTALLED)  ## Open the notebooks in JupyterLab (ARGS="--port 8890 --no-browser")
	$(BIN)/jupyter lab --notebook-dir=. notebooks/01_a_first_look.ipynb $(ARGS)

ui: $(INSTALLED)  ## Look at the runs in a browser (ARGS="--port 5001 --no-browser")
	$(BIN)/python -m tissue_crosstalk.ui $(ARGS)
