# make demo   install everything here, run the default recipe, export its student and measure the exports
# make check  lint, and run the quick tests that need neither torch nor llama.cpp: under a minute
# make test   install everything here, lint, and run the tests
# make test-lmms   add lmms-eval, and run the tests that need it
# make test-clients   add LangChain and LiteLLM in a folder of their own, and ask a server by them
# make test-cpus   run exports on emulated processors (docs/processors.md): VARIANTS, or a small student's in every precision
# make test-real   export a real language model in every variant and measure each on real text
# All of it can be repeated: what is there already is not made again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Test processes. Each computes in one thread: on a busy machine two make a step ten times slower, not faster.
TEST_JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

pinned = $(shell grep '^$(1)==' constraints.txt)
TORCH := $(call pinned,torch)
LLAMA := $(call pinned,llama-cpp-python)

# llama.cpp takes minutes to compile, so its wheel is kept outside the environment. A ready one serves as well:
# make test SKD_LLAMA_WHEEL=path/to/llama_cpp_python-….whl
WHEELS := .cache/wheels
SKD_LLAMA_WHEEL ?=
BUILD_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# llama.cpp's AMX kernels end the process at the first prompt of a quantized model (llama.cpp's issue 20824).
NO_AMX := $(if $(filter x86_64,$(shell uname -m)),-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8)
LLAMA_CMAKE_ARGS ?= -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/llama.cmake $(NO_AMX)

.PHONY: assets check demo test test-all test-clients test-cpus test-lmms test-real lint format setup gguf clean

PICTURE := runs/latest/data/images/test/000000.png

demo: setup gguf
	$(BIN)/skd distill
	$(BIN)/skd export --format gguf --quant q4 --force
	$(BIN)/skd export --format onnx --quant q4 --force
	$(BIN)/skd export --format onnx --quant q8 --force
	$(BIN)/skd chat student-gguf-q4 --image $(PICTURE) --prompt "what does the sign say ?"
	$(BIN)/skd bench --device cpu

check: lint
	$(PYTEST) --light --quiet -m "not slow and not long"

test: lint gguf
	$(PYTEST)

test-all: lint gguf
	$(PYTEST) -m "slow or not slow"

# lmms-eval's own list of requirements has torchvision and dozens more, which its image tasks don't import.
test-lmms: gguf
	@$(PIP) install --quiet --no-deps --requirement lmms-eval.txt
	$(PYTEST) tests/runtime/lmms/test_lmms.py

# LiteLLM needs older versions of some packages than the tested set has.
test-clients: setup
	@$(PIP) install --quiet --upgrade --target .cache/clients --requirement clients.txt
	$(PYTEST) tests/runtime/server/test_clients.py

VARIANTS ?=

test-cpus: gguf
	PYTHON=$(BIN)/python benchmarks/processors.sh $(VARIANTS)

# Every variant of a real language model, downloaded as packages of the index; hours on two cores, goes on where it stopped.
test-real: gguf
	$(BIN)/python benchmarks/real_variants.py .cache/real

# Hours on two cores; goes on where it stopped.
assets: setup
	$(BIN)/skd assets

# mypy finds switchkd.export in export/ and so on through links, as the installed package would lie.
MYPY_TREE := .cache/mypy/switchkd

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(MYPY_TREE) && mkdir -p $(MYPY_TREE)
	@ln -s $(addprefix $(CURDIR)/,$(wildcard switchkd/*) cli export hardware runtime) $(MYPY_TREE)
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.setup

$(VENV)/.setup: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skd needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV): $(TORCH), then the rest of the tested set"
	@$(PIP) install --quiet $(TORCH)
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[train,onnx-export,serve,ship,dev]'
	@touch $@

gguf: $(VENV)/.gguf

$(VENV)/.gguf: $(VENV)/.setup $(or $(SKD_LLAMA_WHEEL),$(WHEELS)/.$(LLAMA))
	@$(PIP) install --quiet --constraint constraints.txt $(or $(SKD_LLAMA_WHEEL),$(WHEELS)/llama_cpp_python-*.whl) --editable '.[gguf]'
	@touch $@

$(WHEELS)/.$(LLAMA): | $(VENV)/.setup
	@echo "compiling $(LLAMA), once; about three minutes on two cores"
	@rm -rf $(WHEELS) && mkdir -p $(WHEELS)
	@CMAKE_ARGS="$(LLAMA_CMAKE_ARGS)" CMAKE_BUILD_PARALLEL_LEVEL=$(BUILD_JOBS) \
		$(PIP) wheel --quiet --no-deps --no-cache-dir --wheel-dir $(WHEELS) $(LLAMA)
	@touch $@

# Leaves the compiled wheel and the runs.
clean:
	rm -rf $(VENV) .cache/mypy build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
