# Two commands for a newcomer: `make run` trains ten clients, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
export FEDPS_DATA ?= $(realpath ../shared/data)

.PHONY: setup run test test-all check bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup  ## ten clients train NCF on MovieLens-1M (or, said loudly, on a synthetic twin)
	$(BIN)/fedps data prepare movielens --out .data/ml-1m --or-synthetic
	$(BIN)/fedps run examples/quickstart.yaml

check: setup  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## all checks, then the tests, a file a process at a time
	$(BIN)/pytest $(PARALLEL)

test-all: check  ## the long ones too
	$(BIN)/pytest $(PARALLEL) -m "slow or not slow" --timeout 900

bench: setup  ## all measurements, about 10 minutes on two cores; tables and plots in bench/results
	$(BIN)/fedps data prepare movielens --out .data/ml-1m --or-synthetic
	$(BIN)/python -m bench --data .data/ml-1m --out bench/results

clean:
	rm -rf $(VENV) .data runs
