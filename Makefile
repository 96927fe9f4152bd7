# Everything a developer or a newcomer types. `make` alone lists it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SLMQUANT := $(BIN)/slmquant
READY := $(VENV)/.ready
# Evaluation data beside the checkout, where there is some; without it the demo takes text and tasks from packages.
export SLMQUANT_DATA ?= $(wildcard $(abspath ../shared/data))

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable ".[engines]"
	@touch $@

setup: $(READY) ## make the virtual environment and install slmquant with its tools

demo: $(READY) ## pull SmolLM2-135M-Instruct, quantize it nine ways, measure, show a table and a page
	$(SLMQUANT) pull smollm2-135m-instruct
	$(SLMQUANT) bench --plan plans/demo.yaml
	@echo "open results/report/index.html"

check: $(READY) ## lint, format, types, import directions, file sizes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/file_sizes.py

test: $(READY) ## unit and contract tests; those of core/ with the shapes in its signatures checked
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal --ignore=tests/core
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --jaxtyping-packages=slmquant.core,tests.shapes.checked tests/core

test-engines: $(READY) ## export to every engine and format, run it there, compare
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -m "engine and not real_model"

test-ray: $(READY) ## install Ray, and run plans on a cluster of two nodes on this machine; minutes
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[ray]"
	$(BIN)/pytest -q -m engine tests/runs/test_ray.py

test-real: $(READY) ## tests on real trained models (they are pulled where they are missing)
	$(SLMQUANT) pull smollm2-135m-instruct stories15m
	$(BIN)/pytest -q -m real_model

test-gpu: $(READY) ## on a machine with an NVIDIA card: every method on every architecture, then a real model; minutes
	$(BIN)/pytest -q -n 8 -m gpu
	$(BIN)/python benchmarks/gpu_check.py

test-fuzz: $(READY) ## 300 spoilt inputs: no traceback, no wrong success
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -m fuzz tests/fuzz

test-faults: $(READY) ## one fault of each kind of `make faults`
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto -m faults tests/faults

faults: $(READY) ## 207 faults (kills, full disks, damaged files, ...): every sweep ends as if undisturbed; an hour
	$(BIN)/python -m tests.faults.campaign --faults 207 --seed 0

test-slow: $(READY) ## minutes to hours
	$(BIN)/pytest -q -m slow

clean: ## remove what was built and measured here; pulled models stay in the cache
	rm -rf $(VENV) build results/report results/*.sqlite* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.PHONY: help setup demo check test test-engines test-ray test-real test-fuzz test-faults faults test-gpu test-slow clean
