# Everything runs from .venv, which the first target that needs it makes.
.DEFAULT_GOAL := help
.PHONY: help demo test test-full faults learn2learn lint types format check bench clean

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that is new enough and can make virtual environments.
CANDIDATES := $(PYTHON) python3 python3.13 python3.12 python3.11 python
FITS = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@for candidate in $(CANDIDATES); do \
		if $$candidate -c '$(FITS)' >/dev/null 2>&1; then \
			echo "making $(VENV) with $$candidate"; \
			$$candidate -m venv $(VENV) && exit 0; \
		fi; \
	done; \
	echo "No Python >= 3.11 with the venv module was found (tried: $(CANDIDATES)); install one, or name it: make PYTHON=/path/to/python." >&2; \
	rm -rf $(VENV); exit 1

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(VENV)/installed $@

# learn2learn 0.2.0 builds on Python >= 3.11 only when its Cython sources are compiled anew (hence build_ext, and a C
# compiler), imports nothing without gym, and asks for qpth and gsutil, which nothing here uses (hence --no-deps). It
# installs its own tests as the top-level package `tests`, where those of any project are looked for: they go again.
$(VENV)/installed-learn2learn: | $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check gym requests tqdm scipy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--config-settings="--build-option=build_ext" learn2learn==0.2.0 \
		|| { echo "learn2learn is built from C: install a compiler (Debian: apt-get install build-essential)." >&2; exit 1; }
	rm -rf $(VENV)/lib/python3*/site-packages/tests
	@touch $@

learn2learn: $(VENV)/installed-learn2learn  ## learn2learn beside gkd, for its tasksets and the tests about them

demo: $(VENV)/installed  ## train and compare on digits in three relations; a second call reports
	$(BIN)/gkd compare quickstart

# A process a core, each of one thread: two torch processes of two threads on two cores slow each other down.
test: $(VENV)/installed-learn2learn  ## the default suite: offline, CPU, under 5 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not full" -n auto --maxprocesses 4 --dist worksteal

test-full: $(VENV)/installed-learn2learn  ## what takes longer: under 40 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m full -n auto --maxprocesses 2 --dist worksteal

# Of one thread, as the tests. Goes on where it was stopped; stops after 55 minutes, and the same command goes on.
faults: $(VENV)/installed-dev  ## kills, crashes, damaged files, wrong configs: what survives (docs/reliability.md)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults
	$(BIN)/python docs/embed.py

lint: $(VENV)/installed-dev  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev  ## mypy on gkd/ and tasks/
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## rewrite the files in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test  ## what a commit should pass

bench: $(VENV)/installed-learn2learn  ## measure losses and episodes beside others; results as JSON, tables into the docs
	$(BIN)/python benchmarks/tuple_loss.py --out benchmarks/results/tuple_loss.json
	$(BIN)/python benchmarks/losses.py --out benchmarks/results/losses.json
	$(BIN)/python benchmarks/episodes.py --out benchmarks/results/episodes.json
	$(BIN)/python docs/embed.py

clean:  ## remove the environment and what the tools left; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
