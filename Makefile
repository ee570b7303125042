# Everything runs in .venv, made from the pinned versions of requirements.txt. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
JOBS ?= 2
SEED := $(or $(SEED),$(shell echo $$RANDOM))

# DATA and PROMPT reach the recipe through the environment: a quote in a prompt stays a quote.
DATA ?=
PROMPT ?=
ARGS ?=
export DATA PROMPT

OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 WANDB_MODE=disabled

.PHONY: help install test fuzz lint format types demo bench clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv with the pinned versions (about 5 minutes, 8 GB)

$(STAMP): requirements.txt pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "error: no python3 found: install Python 3.11, or name one with PYTHON=..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11: name a newer one with PYTHON=..." >&2; exit 2; }
	[ -x $(BIN)/python ] || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

test: $(STAMP) ## Run the whole test suite, without network (ARGS="-k name" for a part)
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0 $(ARGS)

fuzz: $(STAMP) ## Damage files and options at random, in about 15 minutes (ARGS="-k name" for a part; SEED=1)
	@echo "seed $(SEED)"
	$(OFFLINE) OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -n $(JOBS) --max-worker-restart 0 --hypothesis-seed=$(SEED) tests/fuzz $(ARGS)

lint: $(STAMP) ## Check formatting, lint and what may import what
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports pyproject.toml

format: $(STAMP) ## Format the code and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## Check the types
	$(BIN)/pyright

demo: $(STAMP) ## Train, edit, compare: make demo [DATA=folder] [PROMPT="turn red things blue"]
	@$(OFFLINE) $(BIN)/csd-demo $${DATA:+--data "$$DATA"} $${PROMPT:+--prompt "$$PROMPT"} $(ARGS)

bench: $(STAMP) ## Measure what an edit costs, in about 20 minutes (ARGS="--quick" to try it)
	@$(OFFLINE) $(BIN)/csd-bench $(ARGS)

clean: ## Remove caches and the outputs of the demo (the environment stays)
	rm -rf outputs/demo .pytest_cache .ruff_cache
