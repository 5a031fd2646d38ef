# `make demo` shows it, `make test` checks it. Everything lives in .venv; delete that folder to start over.
# Options: PYTHON=python3.12 (which interpreter makes .venv), PIP_FLAGS=... (more flags for every `pip install`).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(PIP_FLAGS)
PACKAGES := $(wildcard fgrpo_secure protocols threat_model)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2

.PHONY: help demo test quick lint format clean

help:
	@echo "make demo    train the quickstart with and without privacy, and say what was learned, protected and paid"
	@echo "make test    format, lint, types, import contracts and every test"
	@echo "make quick   the fast tests alone"
	@echo "make lint    all checks that run no test"
	@echo "make format  write the formatting that the checks ask for"
	@echo "make clean   remove the environment and all caches; runs/ stays"

demo: $(VENV)/.installed
	$(BIN)/fgrpo demo

test: lint
	$(PYTEST)

quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" --hypothesis-profile=quick

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache

# The stamps lie inside the environment, so that deleting it is enough to reinstall.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { echo \
	  "fgrpo_secure needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with 'make PYTHON=...'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo \
	  "'$(PYTHON)' cannot make virtual environments: install its venv package (on Debian: python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@
