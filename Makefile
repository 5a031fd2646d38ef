# `make demo` shows it, `make test` checks it. Everything lives in .venv; delete that folder to start over.
# Options: PYTHON=python3.12 (which interpreter makes .venv), PIP_FLAGS=... (more flags for every `pip install`);
# for `make fuzz` MESSAGES=, GUIDED_SECONDS= and SEED=; for `make mutants` MUTANTS= and DRAW=; for `make pythons` PYTHONS=.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(PIP_FLAGS)
PACKAGES := $(wildcard fgrpo_secure protocols threat_model)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

.PHONY: help demo federation flower-pipe flare-pipe test quick device ends pythons docs fuzz mutants lint format clean

help:
	@echo "make demo    train the quickstart with and without privacy, and say what was learned, protected and paid"
	@echo "make federation  authority, server and five clients as processes of their own, over HTTPS, then verified"
	@echo "make flower-pipe  a run whose bytes a real Flower carries, as another user, compared with the embedded engine's"
	@echo "make flare-pipe   the same with NVIDIA FLARE in its POC mode; both need root and minutes"
	@echo "make test    format, lint, types, import contracts and every test"
	@echo "make quick   the fast tests alone"
	@echo "make device  on a machine with an accelerator: its tests, and what sampling and a step cost there; minutes"
	@echo "make ends    a small suite with the oldest and the newest libraries that pyproject.toml allows"
	@echo "make pythons the wheel without torch, and tests that need none, on Python 3.12 and 3.13"
	@echo "make docs    the documentation as a site that needs no network, in build/site; strictly: a dead link fails"
	@echo "make fuzz    a million changed messages into every decoder and state, then five minutes guided by coverage"
	@echo "make mutants single changes of the code, drawn with a seed, that tests must notice; goes on where it stopped"
	@echo "make lint    all checks that run no test"
	@echo "make format  write the formatting that the checks ask for"
	@echo "make clean   remove the environment and all caches; runs/ stays"

demo: $(VENV)/.installed
	$(BIN)/fgrpo demo

federation: $(VENV)/.installed
	$(BIN)/python examples/many_machines/federation.py

# Each engine has an environment of its own, made by an interpreter that its user can read, and from nothing but its list.
PIPE_PYTHON ?= /usr/bin/python3
ROUNDS ?= 2
TRAINING ?= 300
flower-pipe flare-pipe: %-pipe: $(VENV)/.installed build/pipes/%/.installed
	$(BIN)/python examples/pipes/trial.py $* --engine build/pipes/$* --out runs/$*-pipe --rounds $(ROUNDS) --training $(TRAINING)

build/pipes/%/.installed: examples/pipes/%/requirements.txt
	$(PIPE_PYTHON) -m venv --clear build/pipes/$*
	build/pipes/$*/bin/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) --requirement $<
	@touch $@

# What fails beside other tests is run once more with the machine to itself, and named either way: a test of real processes and
# deadlines can lose a race to its neighbours, a fault of the code fails twice. Anything but failed tests (exit 1) ends at once.
test: lint
	code=0; $(PYTEST) || code=$$?; [ $$code = 0 ] && exit 0; [ $$code = 1 ] || exit $$code; \
	echo "== Failed above; once more, alone. What passes now needs a look all the same:"; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --verbose --last-failed --last-failed-no-failures=none

quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" --hypothesis-profile=quick

# Without an accelerator the tests that need one are skipped, and the processor is measured.
DEVICE_RESULT ?= build/device.jsonl
device: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs --durations=5 tests/device
	mkdir -p build
	$(BIN)/python -m benchmarks device --out $(DEVICE_RESULT)

# Each end has an environment of its own, in build/. Warnings of other versions' own making are theirs: they do not fail here.
ENDS := oldest newest
SMALL_SUITE := tests/fgrpo_secure/test_library_versions.py tests/fgrpo_secure/learning/test_models.py \
  tests/fgrpo_secure/learning/grpo/test_forward.py tests/fgrpo_secure/config/test_files.py \
  tests/protocols/test_vectors.py tests/protocols/test_identity.py tests/protocols/test_hybrid_vectors.py
ends: $(ENDS:%=build/%/.installed)
	pids=(); for end in $(ENDS); do \
	  FGRPO_END=$$end OMP_NUM_THREADS=1 build/$$end/bin/python -m pytest --quiet --override-ini filterwarnings=default \
	    --disable-warnings $(SMALL_SUITE) & pids+=($$!); \
	done; failed=0; for pid in "$${pids[@]}"; do wait $$pid || failed=1; done; exit $$failed

build/%/.installed: pyproject.toml constraints/%.txt
	$(PYTHON) -m venv --clear build/$*
	$(MAKE) --no-print-directory install-end END=$*
	@touch $@

install-end: END_PIP = build/$(END)/bin/python -m pip --disable-pip-version-check install --quiet \
  --constraint constraints/$(END).txt $(PIP_FLAGS)
install-end:
	$(END_PIP) torch --editable '.[ends]'

# Each in a fresh environment outside of this folder, which goes away afterwards.
PYTHONS ?= python3.12 python3.13
pythons: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/pythons/pythons_run.py $(PYTHONS)

# The variable silences an advertisement for another program.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html"

# Corpus and findings stay in build/fuzz: the guided part goes on from there.
MESSAGES ?= 1000000
GUIDED_SECONDS ?= 300
SEED ?= 1
fuzz: $(VENV)/.installed-dev
	$(PIP) --editable '.[fuzz]'
	mkdir -p build/fuzz
	PYTHONPATH=. $(BIN)/python tests/fuzz/fuzz_run.py --messages $(MESSAGES) --seed $(SEED) --findings build/fuzz/findings
	PYTHONPATH=. $(BIN)/python tests/fuzz/fuzz_coverage.py build/fuzz/corpus \
	  -max_total_time=$(GUIDED_SECONDS) -seed=$(SEED) -artifact_prefix=build/fuzz/

# Finished mutants stay in build/mutation and are not run again; survivors are, with all tests of the present commit.
MUTANTS ?= 400
DRAW ?= 20261123
mutants: $(VENV)/.installed-dev
	$(PIP) --editable '.[mutation]'
	for package in privacy protocols; do for again in '' --again; do \
	  $(BIN)/python tests/mutation/mutation_run.py $$package --count $(MUTANTS) --seed $(DRAW) $$again; done; done
	$(BIN)/python tests/mutation/mutation_report.py

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
	$(PIP) --editable '.[dev,docs]'
	@touch $@
