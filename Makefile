# make demo    install, train on generated scans, predict, evaluate; the result is demo/report.html
# make test    checks, then all tests, slow ones last
# Variables: PYTHON (3.11 or newer makes the environment), VENV (where it is), PYTEST (further arguments)

PYTHON ?= python3
VENV ?= .venv
PYTEST ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.medseg-installed

.PHONY: help env demo test check format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

env: $(STAMP)

# torch goes first and pinned: an unpinned search may end at a build for another device
$(STAMP): constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: env
	$(BIN)/medseg demo --output demo

test: check
	$(BIN)/python -m pytest $(PYTEST)

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
