PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)

# Small graphs: more threads only wait for each other.
export OMP_NUM_THREADS ?= 1

# Processes that run the tests.
JOBS ?= 2

DEMO_METHODS ?= retrain utu gradient_ascent npo inpo
DEMO ?= run --dataset digits --methods $(DEMO_METHODS) --forget edges --ratio 0.05 --seeds 0 --out runs/demo

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch first: it brings setuptools, so that the package itself is built without a second, isolated environment.
$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt $(TORCH) setuptools
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[test]"
	@touch $@

install: $(STAMP)  ## Install the package and its test tools into .venv, as pinned in constraints.txt

demo: $(STAMP)  ## Compare a few unlearning methods on a small graph
	$(VENV)/bin/gunlearn $(DEMO)

test: $(STAMP)  ## Run the fast tests and the examples in docstrings, on both cores
	$(PY) -m pytest -q -n $(JOBS) --dist loadfile --benchmark-disable

test-all: $(STAMP)  ## Run all tests, the slow ones too
	$(PY) -m pytest -q -m ""

lint: $(STAMP)  ## Check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) .ci/type_errors.py

bench: $(STAMP)  ## Time what has a benchmark
	$(PY) -m pytest -q -m "" --benchmark-only

clean:  ## Remove .venv and build products, not runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
