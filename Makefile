# make run: everything from nothing to figures on a simulated tissue.  make test: lint, types, layers, tests.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export DO_NOT_TRACK := true

.PHONY: help install run test lint unit real audit docs viz ui

help:  ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

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

test: $(INSTALLED) lint unit  ## Lint, types, layers and tests

lint: $(INSTALLED)  ## Ruff, mypy and import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file's tests stay together: they share their runs of the project.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

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

ui: $(INSTALLED)  ## Look at the runs in a browser (ARGS="--port 5001 --no-browser")
	$(BIN)/python -m tissue_crosstalk.ui $(ARGS)
