# `make demo` and `make test` install what they need into .venv and run.
SHELL := /bin/bash
PYTHON ?= python3
EXTRA ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
BIN := .venv/bin
INSTALLED := .venv/.installed-$(EXTRA)
# Start-up of torch and vLLM is mostly compiling bytecode where none is kept.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-slow multinode chaos fuzz lint setup system clean

help:
	@echo "make demo       train both stages on synthetic rooms, ground in 3D, write runs/demo/report.html"
	@echo "make test       lint, type check, default tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make multinode  several Ray nodes on this machine: lost, added back, cut off (root, for the last)"
	@echo "make chaos      kill processes of a run at random, SCENERL_CHAOS_KILLS (10) times"
	@echo "make fuzz       coverage-guided fuzzing of the binary and JSON readers (FUZZ_SECONDS=300)"
	@echo "make setup      only install (EXTRA=cpu or gpu; found: $(EXTRA))"

demo: $(INSTALLED)
	$(BIN)/launch demo

test: $(INSTALLED) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not multinode"

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not multinode and not chaos"

multinode: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m multinode

chaos: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/chaos

FUZZ_SECONDS ?= 300
fuzz: $(INSTALLED)
	$(BIN)/python tests/fuzz/fuzz_sens.py -max_total_time=$(FUZZ_SECONDS) .fuzz/sens
	for what in depth poses trajectory boxes record tsv; do \
	  $(BIN)/python tests/fuzz/fuzz_raw.py $$what -max_total_time=$(FUZZ_SECONDS) .fuzz/$$what || exit; \
	done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	set -o pipefail; $(BIN)/mypy | sed 's#typings/scenerl/##'

setup: $(INSTALLED)

system:
	@PYTHON="$(PYTHON)" bash launch/system_packages.sh

# Two steps: deepspeed and sam2 are built without isolation, so torch has to be there first.
$(INSTALLED): pyproject.toml | system
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode "torch==2.13.0" "setuptools>=77" wheel ninja
	DS_BUILD_OPS=0 SAM2_BUILD_CUDA=0 $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --no-build-isolation -e ".[$(EXTRA),dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info runs
