# The commands that people use. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
# A Python of at least 3.11: the first of these that is one.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# uv does not read pip's settings: hand it the folder of local wheels (a CPU build of torch, say) that pip knows.
FIND_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
export UV_FIND_LINKS ?= $(FIND_LINKS)
export ZENML_ANALYTICS_OPT_IN ?= false
export GX_ANALYTICS_ENABLED ?= False
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup run test test-processes test-vllm lint format bench ui clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## Make .venv with the tested versions

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "regrow needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.8
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[pipeline,dev]'
	touch $@

run: setup ## Run the whole pipeline on the bundled default
	$(BIN)/regrow run configs/demo.yaml

test: setup ## Run the tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-processes: setup ## Run the tests that stop, kill and resume training processes
	$(BIN)/python -m pytest -m processes tests/tune
	@echo "test-processes: passed"

test-vllm: setup $(VLLM)/.ready ## Run the tests with vLLM on the CPU, in .venv-vllm
	$(BIN)/python -m pytest -m vllm tests/vllm
	@echo "test-vllm: passed"

$(VLLM)/.ready: infra/vllm/requirements.txt infra/vllm/constraints.txt infra/vllm/excludes.txt | $(VENV)/.ready
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VLLM)
	$(BIN)/uv pip install --quiet --python $(VLLM)/bin/python --requirement infra/vllm/requirements.txt \
		--constraint infra/vllm/constraints.txt --excludes infra/vllm/excludes.txt
	touch $@

lint: setup ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup $(VLLM)/.ready ## Measure against what a user would pick instead
	$(BIN)/python -m benchmarks.importance
	$(BIN)/python -m benchmarks.prune
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.tuning
	$(BIN)/python -m benchmarks.kl

ui: setup ## Start the MLflow UI and the ZenML dashboard for this checkout's runs
	$(BIN)/python -m infra.local.ui

clean: ## Remove the environments and every run of this checkout
	rm -rf $(VENV) $(VLLM) runs
