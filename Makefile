# The commands of daily work. Everything is installed into .venv, from locks with hashes, and nothing outside this tree.
#
#   make run        serve config/dev.yaml and print the address of its page
#   make test       all tests; ARGS="-k words" narrows them
#   make check      style, types, the order of the rooms, dead links
#   make fmt        lay the code out as make check wants it
#   make bench      measure (docs/performance.md says what); ARGS="--only fan-out" narrows it
#   make peers      install the other servers that the bench measures beside this one, under bench/peers
#   make torture    random faults, and what the checker says; SEED=1 STORE=embedded|redis|valkey RECEIVES=200000
#   make soak       a long run, and what it leaves behind; MINUTES=20 STORE=embedded|redis|valkey
#   make install    what test and check need; quick when it is done
#   make lock       write both locks anew (needs uv)
#   make clean      take away what the others made

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install run test check fmt bench peers torture soak lock clean js

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --require-hashes
SOURCES := rt server.py tests $(wildcard bench)

# The first Python that is new enough. Asked only when .venv is made; set PYTHON to choose another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

help:
	@sed -n '/^#   make/s/^#   /  /p' Makefile

$(PY):
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Python 3.11 or newer is needed; found: $$(python3 --version 2>&1 || true)." \
		     "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; fi
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# What the server itself needs. The development lock holds the same versions and more.
$(VENV)/.runtime: requirements.lock | $(PY)
	@echo "installing requirements.lock into $(VENV)"
	@$(PIP) -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements.lock | $(PY)
	@echo "installing requirements-dev.lock into $(VENV)"
	@$(PIP) -r requirements-dev.lock
	@touch $(VENV)/.runtime $@

install: $(VENV)/.dev

run: $(VENV)/.runtime
	@exec $(PY) server.py run config/dev.yaml

# The JavaScript SDK is tested where Node is; where it is not, the summary of the tests says so.
js:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory tests/js/node_modules/.stamp; fi

tests/js/node_modules/.stamp: tests/js/package-lock.json
	@echo "installing tests/js/package-lock.json"
	@cd tests/js && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

# Most tests wait more than they work, so two run at a time; those that count by the clock come after.
test: install js
ifdef ARGS
	@$(PY) -m pytest $(ARGS)
else
	@$(PY) -m pytest -m "not alone" --numprocesses 2 --dist loadfile
	@$(PY) -m pytest -m alone
endif

check: install
	@$(PY) -m ruff check $(SOURCES)
	@$(PY) -m ruff format --check $(SOURCES)
	@$(PY) -m mypy rt server.py tests
	@$(PY) -m pytest -q tests/test_rooms.py tests/test_docs.py

fmt: install
	@$(PY) -m ruff check --fix-only --quiet $(SOURCES)
	@$(PY) -m ruff format $(SOURCES)

bench: install
	@$(PY) bench/run.py $(ARGS)

# What is missing is skipped by the bench, with a word.
PEERS := bench/peers
peers: install
	@if command -v npm >/dev/null; then \
		cd $(PEERS) && npm ci --silent --no-audit --no-fund --ignore-scripts; else echo "no npm: ws and socket.io are left out"; fi
	@$(PY) -m venv $(PEERS)/.venv
	@$(PEERS)/.venv/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $(PEERS)/requirements.lock

# Both print what they were given, so that it can be given again; docs/reliability.md tells what they do.
RECEIVES ?= 200000
MINUTES ?= 20
STORE ?= embedded

torture: install
	@$(PY) -m tests.torture $(if $(SEED),--seed $(SEED)) --store $(STORE) --receives $(RECEIVES) $(ARGS)

soak: install
	@$(PY) -m tests.soak --minutes $(MINUTES) --store $(STORE) $(if $(SEED),--seed $(SEED)) $(ARGS)

# One lock for every supported Python: what only some of them need carries a marker.
LOCK := pip compile setup.cfg --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet \
	--custom-compile-command "make lock"
lock:
	@command -v uv >/dev/null || { echo "make lock needs uv on PATH" >&2; exit 1; }
	@uv $(LOCK) --output-file requirements.lock
	@uv $(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	@uv $(subst setup.cfg,$(PEERS)/requirements.in,$(LOCK)) --output-file $(PEERS)/requirements.lock

clean:
	@rm -rf $(VENV) $(PEERS)/.venv $(PEERS)/node_modules tests/js/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist rt.egg-info
	@find rt tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
