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
# Images of containers like to set it. Then every process compiles all that it imports anew: ten seconds for ZenML and torch.
unexport PYTHONDONTWRITEBYTECODE

KUBEFLOW := .venv-kubeflow
CLUSTER ?= /var/tmp/regrow-cluster

.PHONY: help setup run test test-processes test-evaluation test-servers test-terraform test-vllm test-cluster test-kubeflow \
	cluster cluster-down lint format bench ui clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.ready ## Make .venv with the tested versions

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "regrow needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.8
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[pipeline,s3,kubernetes,dev]'
	touch $@

run: setup ## Run the whole pipeline on the bundled default
	$(BIN)/regrow run configs/demo.yaml

test: setup ## Run the tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-processes: setup ## Run the tests with many processes: training, runs and registrations that are killed and resumed, a study
	$(BIN)/python -m pytest -m processes --numprocesses auto --dist loadfile --no-loadscope-reorder tests/tune tests/pipelines tests/registry tests/promotion
	@echo "test-processes: passed"

test-evaluation: setup ## Run the tests of evaluation on real models: scores beside lm_eval run by hand, speed, drafts, drift
	$(BIN)/python -m pytest -m evaluation tests/evaluate
	@echo "test-evaluation: passed"

test-vllm: setup $(VLLM)/.ready ## Run the tests with vLLM on the CPU, in .venv-vllm
	$(BIN)/python -m pytest -m vllm tests/vllm
	@echo "test-vllm: passed"

$(VLLM)/.ready: infra/vllm/requirements.txt infra/vllm/constraints.txt infra/vllm/excludes.txt | $(VENV)/.ready
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VLLM)
	$(BIN)/uv pip install --quiet --python $(VLLM)/bin/python --requirement infra/vllm/requirements.txt \
		--constraint infra/vllm/constraints.txt --excludes infra/vllm/excludes.txt
	touch $@

test-servers: setup ## Run the tests with real servers: MLflow on PostgreSQL, ZenML on MariaDB, S3
	$(BIN)/python -m pytest -m servers tests/servers tests/infra
	@echo "test-servers: passed"

test-terraform: setup ## Run the tests of infra/terraform, which need terraform and its AWS provider
	$(BIN)/python -m pytest -m terraform tests/infra
	@echo "test-terraform: passed"

test-cluster: setup ## Run the tests on a real one-node Kubernetes cluster (root, Debian packages)
	$(BIN)/python -m pytest -m cluster tests/cluster tests/infra tests/pipelines/test_preempted.py
	@echo "test-cluster: passed"

test-kubeflow: setup $(KUBEFLOW)/.ready ## Run the tests of the Kubeflow stack, in .venv-kubeflow (root, Debian's docker.io)
	$(KUBEFLOW)/bin/python -m pytest -m kubeflow tests/kubeflow
	@echo "test-kubeflow: passed"

$(KUBEFLOW)/.ready: pyproject.toml infra/kubeflow/requirements.txt infra/kubeflow/constraints.txt | $(VENV)/.ready
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(KUBEFLOW)
	$(BIN)/uv pip install --quiet --python $(KUBEFLOW)/bin/python --constraint infra/kubeflow/constraints.txt \
		--requirement infra/kubeflow/requirements.txt --editable '.[pipeline,s3,kubernetes,kubeflow]'
	touch $@

cluster: setup ## Start a one-node Kubernetes cluster with servers on this machine (root)
	$(BIN)/python -m infra.cluster build
	$(BIN)/python -m infra.cluster up --folder $(CLUSTER)
	eval "$$($(BIN)/python -m infra.cluster env --folder $(CLUSTER))" && \
		$(BIN)/python -m infra.kubernetes apply test --node-folder $(CLUSTER)/cache
	$(BIN)/python -m infra.cluster register --folder $(CLUSTER)

cluster-down: setup ## Stop it, and leave nothing behind but its folder
	$(BIN)/python -m infra.cluster down --folder $(CLUSTER)

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
	$(BIN)/python -m benchmarks.merge

ui: setup ## Start the MLflow UI and the ZenML dashboard for this checkout's runs
	$(BIN)/python -m infra.local.ui

clean: ## Remove the environments and every run of this checkout
	rm -rf $(VENV) $(VLLM) $(KUBEFLOW) runs
