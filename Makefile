# Every target makes .venv and installs what it needs, and skips that the next time.
# Needs Python 3.11 or newer and make; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-rdma soak guards chaos fuzz lint docs bench rules figures clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: .venv/installed-demo ## Train a real model with four workers through a memory box
	$(BIN)/python examples/torch/demo.py

test: lint docs ## Check style and types, build the documentation, then run every test
	$(BIN)/python -m pytest

test-rdma: .venv/installed-lint ## Test RDMA alone, in a virtual machine with emulated devices
	$(BIN)/python -m pytest tests/rdma -rsA

WORLDS ?= 200000
soak: .venv/installed-lint ## Play simulated worlds of clients, servers and misfortune (WORLDS=200000)
	$(BIN)/python -m tests.simulation $(WORLDS)
	$(BIN)/python -m tests.simulation --replicas $$(( $(WORLDS) / 20 ))

guards: .venv/installed-lint ## Take out what keeps the box's promises, and see the simulation notice
	$(BIN)/python -m tests.simulation.guards

chaos: .venv/installed-lint ## Attack real servers and clients for minutes
	$(BIN)/python -m tests.chaos --operations 10000 --faults 500 --seed $$(date +%s)
	$(BIN)/python -m tests.chaos.replicas --kills 200 --seed $$(date +%s)

fuzz: .venv/installed-fuzz ## Feed every reader of strangers' bytes with made-up ones for minutes
	for target in frames messages prototxt weights; do \
	  $(BIN)/python -m tests.fuzz $$target -max_total_time=150 -print_final_stats=1 || exit 1; \
	done

lint: .venv/installed-lint ## Check style, types, docstrings and what may import what
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pydoclint -q src/modum

docs: .venv/installed-docs ## Build the documentation site in build/site, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/installed-bench ## Measure speed against peers and print the table
	$(BIN)/python -m bench

rules: .venv/installed-figures ## Train by every update rule in virtual time, and compare what comes out (hours)
	$(BIN)/python -m bench.rules

figures: .venv/installed-figures ## Measure the figures of docs/figures.md on an emulated cluster (root)
	$(BIN)/python -m bench.figures

clean: ## Remove .venv and everything generated, downloaded data excepted
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed-%: pyproject.toml hatch_build.py src/modum/caffe/caffe.proto scripts/make_venv.py scripts/constraints.txt
	$(PYTHON) scripts/make_venv.py $*
	@touch $@
