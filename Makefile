# `make bench` on a fresh machine does all of the set-up; later calls reuse it.
#
#   VENV=path    another environment; empty (VENV=): the ambient python3, and nothing is installed
#   PYTHON=...   the Python (3.10 or newer) that the environment is made from
#   TORCH=...    cpu, cu12 or cu13, instead of what the NVIDIA driver serves
#   ARGS=...     more options for the benchmark, or for pytest
VENV = .venv
PYTHON = python3
TORCH =
ARGS =

SETUP = scripts/setup_env.py
ifeq ($(strip $(VENV)),)
PY = $(PYTHON)
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY = $(VENV)/bin/python
INSTALL = $(PYTHON) $(SETUP) $(VENV) $(if $(TORCH),--torch $(TORCH))
endif

.DEFAULT_GOAL := help
.PHONY: help bench test test-all lint format pytest setup setup-test clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@sed -n 's/^#   /  /p' $(firstword $(MAKEFILE_LIST))

bench: setup ## set up if needed, run the main benchmark, write results/
	@mkdir -p results
	@$(PY) -m w8a8_bench quick_bench --out results/quick_bench-$$(date +%s).jsonl $(ARGS)

test: lint pytest ## lint, then the tests: 5 minutes on two cores, once it is set up

test-all: SELECTED = -m 'slow or hypothesis' --hypothesis-profile all
test-all: pytest ## what `make test` leaves out: all builds, all interpreted shapes, 10,000 examples; 6 minutes

lint: setup-test ## ruff, mypy and the house's import rules
	@$(if $(INSTALL),,$(PY) $(SETUP) --check ruff mypy importlinter)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()'

pytest: setup-test ## the tests of `make test` alone
	@$(if $(INSTALL),,$(PY) $(SETUP) --check pytest xdist hypothesis)
	$(PY) -m pytest -n 4 --dist worksteal $(SELECTED) $(ARGS)

format: setup-test ## rewrite the sources in the one format
	@$(if $(INSTALL),,$(PY) $(SETUP) --check ruff)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

setup:
	@$(INSTALL)

setup-test:
	@$(if $(INSTALL),$(INSTALL) --test)

clean: ## remove the environment and the caches; results stay
	rm -rf .venv build dist src/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
