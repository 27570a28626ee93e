# make demo    install, train on generated scans, predict, evaluate; the result is demo/report.html
# make test    checks, then all tests, in one process for each core
# make docs    the documents as a site that needs no network: site/index.html
# make label-env      a second environment (.venv-label) with medseg and MONAI Label, which needs other versions than medseg
# make test-serving   tests with real servers in it, about six minutes
# make release-check  version, sdist and wheel, and the wheel at work in a new environment outside the checkout
# Variables: PYTHON (3.11 or newer makes the environment), VENV (where it is), PYTEST (further arguments)

PYTHON ?= python3
VENV ?= .venv
LABEL_VENV ?= .venv-label
PYTEST ?=

# a package is compiled as it is first imported: most of torch and what comes with it never is. None of the pinned ones
# warns as it is compiled, which tests would take for an error.
PIP_INSTALL := -m pip install --quiet --no-compile

BIN := $(VENV)/bin
STAMP := $(VENV)/.medseg-installed
LABEL_BIN := $(LABEL_VENV)/bin
LABEL_STAMP := $(LABEL_VENV)/.medseg-installed
SERVING := --constraint constraints.txt --constraint serving/constraints.txt

.PHONY: help env label-env demo docs test test-serving check release-check format clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^#/!q;s/^# //p' $(firstword $(MAKEFILE_LIST))

env: $(STAMP)

# torch goes first and pinned: an unpinned search may end at a build for another device
$(STAMP): constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

label-env: $(LABEL_STAMP)

$(LABEL_STAMP): constraints.txt pyproject.toml $(wildcard serving/*.txt)
	@test -x $(LABEL_BIN)/python || $(PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_BIN)/python $(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(LABEL_BIN)/python $(PIP_INSTALL) $(SERVING) --requirement serving/requirements.txt --editable .
	$(LABEL_BIN)/python $(PIP_INSTALL) --no-deps --requirement serving/no-deps.txt
	@touch $@

demo: env
	$(BIN)/medseg demo --output demo

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# a file's tests share what they make, so that each file goes to one process
test: check
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST)

# in two halves at a time, for they wait for servers; the second half's output comes after the first's
SERVING_TESTS := $(wildcard serving/tests/test_*.py)
# those that share the server of the fixture `app`, but for test_documents.py, which starts many of its own
OF_ONE_SERVER := $(patsubst %,serving/tests/test_%.py,access front_page guard label_app mistakes slicer)

test-serving: label-env
ifeq ($(PYTEST),)
	@said=$$(mktemp); \
	$(LABEL_BIN)/python -m pytest $(filter-out $(OF_ONE_SERVER),$(SERVING_TESTS)) >$$said 2>&1 & \
	$(LABEL_BIN)/python -m pytest $(OF_ONE_SERVER); status=$$?; \
	wait $$! || status=$$?; \
	cat $$said; rm -f $$said; exit $$status
else
	$(LABEL_BIN)/python -m pytest serving/tests $(PYTEST)
endif

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

release-check: env
	$(BIN)/python release/check.py

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist demo site .pytest_cache .ruff_cache .mypy_cache .hypothesis
