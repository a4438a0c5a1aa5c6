PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
# A file of tests stays in one process, and the order is that of tests/conftest.py. Three processes for two cores: tests wait
# for servers and workers half of the time.
PYTEST := $(RUN) pytest -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test test-all coverage slow faults compat readers train bench lint fix types docs wheel clean

help:  ## this list
	@echo 'make TARGET [PYTHON=python3.12]'; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

setup: .venv/.ready  ## .venv with everything pinned in requirements.txt (a download of 0.8 GB); the other targets start with it

# Compiled at once: uv compiles no bytecode by default, and where Python may write none, every import of TensorFlow pays.
# uv comes from the same pinned list as everything else; it trusts what the system trusts, as pip does.
.venv/.ready: pyproject.toml requirements.txt
	@$(RUN) pip --version >/dev/null 2>&1 || { \
	  if $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    echo 'Making .venv'; $(PYTHON) -m venv --clear .venv; \
	  elif command -v uv >/dev/null; then \
	    echo 'Making .venv with a Python that uv has or fetches'; uv venv --quiet --clear --seed --python '>=3.11,<3.14' .venv; \
	  else \
	    found=$$($(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null || echo missing); \
	    echo "noisemill needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$found. Try: make setup PYTHON=python3.12" >&2; \
	    exit 1; \
	  fi; }
	@echo 'Installing what requirements.txt pins (a download of 0.8 GB, most of it TensorFlow)'
	@$(RUN) pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --system-certs --python $(BIN)/python -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## 10,000 pictures of clothes in demo/fashion; again: goes on where it stopped
	$(BIN)/noisemill generate fashion demo/fashion --count 10k

quick: setup  ## units alone: seconds, no TensorFlow, no workers
	$(PYTEST) -q -m quick $(addprefix tests/,common fleet formats jobs spec workers)

test: setup  ## what shows nearly every mistake, in minutes
	$(PYTEST) --durations=15 -m 'not long and not slow and not faults and not compat'

test-all: setup  ## all tests but the suites below
	$(PYTEST) --durations=15

coverage: setup  ## which lines the tests run
	$(PYTEST) -q --cov=pipeline --cov=workers --cov=noisemill --cov-report=term:skip-covered

slow: setup  ## tests of minutes each, beside those of test-all
	$(RUN) pytest -m slow

faults: setup  ## kill, stop and cut off real workers and servers (minutes)
	$(RUN) pytest -m faults

compat: setup  ## other servers, versions and readers of the datasets (minutes)
	$(RUN) pytest -m compat

readers: setup .venv-readers/.ready  ## PyTorch, Hugging Face, DuckDB, Polars and others read datasets (6 GB on disk)
	$(RUN) pytest -m compat tests/compat/readers

.venv-readers/.ready: requirements-readers.txt
	@echo 'Installing what requirements-readers.txt pins (6 GB on disk, most of it CUDA, which PyTorch brings)'
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-readers
	@$(BIN)/uv pip install --quiet --system-certs --python .venv-readers/bin/python -r requirements-readers.txt
	@touch $@

train: setup  ## train the built-in generator fashion again (an hour or more on two cores)
	$(RUN) training.train

bench: setup  ## measure all side by side (a quiet half hour); tables and plot go to docs/performance.md
	$(RUN) benchmarks --docs

lint: setup  ## ruff: style and format
	$(RUN) ruff check .
	$(RUN) ruff format --check .

fix: setup  ## ruff: format, and mend what it can
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

types: setup  ## mypy, strict
	$(RUN) mypy

docs: setup  ## what README and docs say, against the code
	$(RUN) pytest tests/frame

wheel: setup  ## dist/noisemill-*.whl
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python

clean:  ## remove caches and built packages; .venv and demo/ stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
