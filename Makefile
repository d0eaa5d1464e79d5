# Needs make and a Python >= 3.11; everything else goes into .venv. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Python keeps what it compiled, whatever the environment says: services and workers of tests start in half the time.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# All paths are relative, so that a checkout below a folder with spaces in its name works too.
BIN := .venv/bin
READY := .venv/.ready
# Two more environments, for what the first one must not have in it (torch).
TRAIN_READY := models/training/.venv/.ready
PEERS_READY := tests/bench/peers/.venv/.ready

# uv installs in seconds what takes pip a minute. Where only pip knows the way, by a mirror in its own settings, pip does it.
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
install = $(BIN)/uv pip install --quiet --python .venv $(1) || { echo "uv could not; with pip"; $(PIP) $(1); }

# A file's tests run in one worker, which starts what they share once. Files are taken in the order of testpaths. One
# worker more than there are cores, since tests wait as well; at most 4, since each starts services of its own.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) < 3 ? $$(getconf _NPROCESSORS_ONLN) + 1 : 4 )))
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(LOCK_FLAGS)

.PHONY: help setup demo up check test lint types unit all-tests test-deploy truth bench bench-peers gen train lock release-contract clean

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Makes .venv: locked packages, this checkout, a fast BLAS

demo: $(READY) ## Runs the tour on the bundled model
	@$(BIN)/neuroscope demo

up: $(READY) ## Starts the services: inference, analysis, gateway
	@$(BIN)/neuroscope up

check: lint ## Before a commit: lint, types, layers, contract and unit tests; at most 90 s on 2 cores
	@$(MAKE) --jobs 2 types unit

test: lint ## Everything: what check runs, and the tests that start services; at most 9 minutes on 2 cores
	@$(MAKE) --jobs 2 types all-tests

lint: $(READY) ## Lints the contract, Python, layers of imports and deploy/
	@echo "buf lint"
	@$(BIN)/buf lint
	@echo "buf breaking, against the released contract"
	@$(BIN)/buf breaking --against protos/released.binpb
	@echo "ruff check"
	@$(BIN)/ruff check --quiet
	@echo "ruff format --check"
	@$(BIN)/ruff format --check --quiet
	@echo "lint-imports"
	@$(BIN)/lint-imports --no-cache --no-logo
	@echo "hadolint"
	@$(BIN)/hadolint deploy/Dockerfile
	@echo "compose schema"
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml deploy/compose.metal.yaml

types: $(READY) ## Checks types with basedpyright
	@echo "basedpyright"
	@$(BIN)/basedpyright

unit: $(READY) ## Runs contract and unit tests
	@$(PYTEST) tests/contract tests/unit $(PYTEST_ARGS)

all-tests: $(READY)
	@$(PYTEST) $(PYTEST_ARGS)

test-deploy: $(READY) ## Builds the images, runs the cluster, asks it what the demo asks, takes it down
	@$(BIN)/python -m scripts.test_deploy $(TEST_DEPLOY_ARGS)

truth: $(READY) ## Runs analyses where the answer is known, and writes docs/truth.md (TRUTH_ARGS=...)
	@$(BIN)/python -m tests.truth $(TRUTH_ARGS)

bench: $(READY) ## Measures speed and memory (BENCH_ARGS=...)
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

bench-peers: $(READY) $(PEERS_READY) ## Measures beside TransformerLens, nnsight, Hugging Face and mlx-lm (BENCH_ARGS=...)
	@$(BIN)/python -m tests.bench.peers $(BENCH_ARGS)

gen: $(READY) ## Regenerates sdk/neuroscope/v1 from protos/
	@echo "stubs of protos/ into sdk/"
	@$(BIN)/python scripts/generate_stubs.py

train: $(TRAIN_READY) ## Trains the bundled model anew, in an environment of its own
	@cd models && training/.venv/bin/python -m training $(TRAIN_ARGS)

lock: $(READY) ## Locks the newest versions that the present locks allow (LOCK_FLAGS=--upgrade for newer)
	@echo "requirements/dev.txt"
	@$(LOCK) --all-extras --output-file requirements/dev.txt pyproject.toml
	@echo "requirements/uv.txt"
	@echo uv | $(LOCK) --constraint requirements/dev.txt --output-file requirements/uv.txt -
	@echo "requirements/build.txt"
	@echo hatchling | $(LOCK) --constraint requirements/dev.txt --output-file requirements/build.txt -
	@for extra in sdk inference analysis gateway; do \
		echo "requirements/$$extra.txt"; \
		flag="--extra $$extra"; if [ "$$extra" = sdk ]; then flag=; fi; \
		$(LOCK) $$flag --constraint requirements/dev.txt --output-file "requirements/$$extra.txt" pyproject.toml; \
	done
	@! grep -nE '://|--(extra-)?index-url|--find-links' requirements/*.txt || { echo "a lock names an address" >&2; exit 1; }
	@! grep -nE '^torch==' requirements/*.txt || { echo "torch is in a lock" >&2; exit 1; }

release-contract: $(READY) ## Makes protos/ the released contract that later changes are compared with
	@$(BIN)/buf build -o protos/released.binpb
	@echo "protos/released.binpb is now the released contract"

clean: ## Removes environments, caches and build results
	@echo "removing .venv, caches, build results"
	@rm -rf .venv models/training/.venv build dist tests/bench/peers/.venv .pytest_cache .ruff_cache .hypothesis
	@find sdk services scripts tests models -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi
	@echo "environment: .venv, of $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

$(READY): requirements/dev.txt pyproject.toml | .venv/bin/python
	@$(PIP) --require-hashes -r requirements/uv.txt
	@echo "packages: requirements/dev.txt"
	@$(call install,--require-hashes -r requirements/dev.txt)
	@echo "this checkout, editable"
	@$(call install,--no-deps --no-build-isolation --editable .)
	@echo "BLAS"
	@$(BIN)/python -m neuroscope_inference.blas
	@touch $@

%/.venv/.ready: %/requirements.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi
	@echo "environment: $*/.venv"
	@$(PYTHON) -m venv $*/.venv
	@$*/.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check -r $*/requirements.txt
	@touch $@
