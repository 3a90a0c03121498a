# Every target works on a machine that has Python 3.11+, make and a network: nothing else is assumed.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
TOOLS := .tidelock/tools
UV := $(TOOLS)/bin/uv
BIN := $(VENV)/bin
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup check format test demo bench lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## make the virtual environment from the lock file

$(UV):
	@mkdir -p $(TOOLS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tidelock needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V). Name another one: make PYTHON=/path/to/python3.12 …"; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "'$(PYTHON) -m pip' does not work. On Debian or Ubuntu: apt-get install python3-pip"; exit 1; }
	@echo "installing uv $(UV_VERSION)"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-warn-script-location --root-user-action ignore --prefix "" --target $(TOOLS) uv==$(UV_VERSION)

$(VENV)/.ready: $(UV) pyproject.toml uv.lock
	@$(UV) sync --locked --all-extras --python $(PYTHON) --quiet
	@touch $@

$(VENV)/.clients: $(VENV)/.ready
	@$(UV) sync --locked --all-extras --group clients --python $(PYTHON) --quiet
	@touch $@

check: setup $(VENV)/.clients  ## format, lint, types, import arrows, module sizes, docs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q tests/unit/test_layout.py

format: setup  ## format the code and apply safe lint fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test: check  ## run every check and the whole test suite
	@$(BIN)/pytest

demo: setup  ## the whole product on real input, verified; under three minutes after downloads
	@$(BIN)/tidelock demo

bench: setup  ## measure against Debezium and PostgreSQL's own replication
	@$(BIN)/python -m bench

lock: setup  ## resolve Python packages and jars anew, and pin them
	@$(UV) lock --upgrade
	@$(BIN)/python -m tidelock.embedded.lock

clean:  ## remove the virtual environment and all embedded data (downloads stay cached)
	@rm -rf $(VENV) .tidelock
