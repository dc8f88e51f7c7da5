# Each target is enough alone on a fresh machine with Python >= 3.11, make and g++.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

# Jupyter, IPython and Matplotlib keep files in the home folder unless told otherwise.
HOME_OF_TOOLS := $(CURDIR)/build/home
export JUPYTER_CONFIG_DIR := $(HOME_OF_TOOLS)/jupyter/config
export JUPYTER_DATA_DIR := $(HOME_OF_TOOLS)/jupyter/data
export JUPYTER_RUNTIME_DIR := $(HOME_OF_TOOLS)/jupyter/runtime
export JUPYTERLAB_SETTINGS_DIR := $(HOME_OF_TOOLS)/jupyter/lab/settings
export JUPYTERLAB_WORKSPACES_DIR := $(HOME_OF_TOOLS)/jupyter/lab/workspaces
export IPYTHONDIR := $(HOME_OF_TOOLS)/ipython
export MPLCONFIGDIR := $(HOME_OF_TOOLS)/matplotlib
export TMPDIR := $(CURDIR)/build/tmp
_ := $(shell mkdir -p $(IPYTHONDIR) $(MPLCONFIGDIR) $(TMPDIR))

# All other Python is exported from the chapters, and the export formats it.
HAND_WRITTEN := minisgl/book minisgl/cli.py tests benchmarks

.PHONY: help setup book lab nccl test sanitize lint format bench clean

help:
	@echo "make book      run every chapter on this machine and build the site (site/index.html)"
	@echo "make lab       open the book in JupyterLab"
	@echo "make test      run all tests and every chapter"
	@echo "make sanitize  run the tests of C++ code with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make lint      check style, types, and that chapters and exported files agree"
	@echo "make format    format everything and export the chapters"
	@echo "make bench     measure speed on this machine"
	@echo "make clean     remove what was built in this folder (compiled kernels stay in the user's cache)"

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@command -v $${CXX:-g++} >/dev/null || { echo "A C++ compiler is needed: install g++ or set CXX."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[book,docs,dev,nvcc]"
	@touch $@

book: setup
	minisgl book build
	mkdocs build --strict
	@echo "The site: $(CURDIR)/site/index.html"

lab: setup
	jupytext-config set-default-viewer markdown # a link to a chapter's .md opens it as a notebook
	jupyter lab --notebook-dir=notebooks --LabApp.default_url=/lab/tree/00_how_this_book_works.ipynb

# NVIDIA's own NCCL, to hold our declarations against. Not in the environment, where it might stand beside PyTorch's.
NCCL := build/nccl/cu12/installed
nccl: $(NCCL)
$(NCCL): constraints.txt | setup
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(dir $@) -c constraints.txt nvidia-nccl-cu12
	@touch $@

# Two workers with two threads each would get in each other's way.
test: export OMP_NUM_THREADS := 1
test: setup $(NCCL)
	pytest -n auto --dist worksteal --nbmake notebooks tests

# A sanitizer's library, and that of C++, must be there before Python. Python itself frees little at its end.
sanitize: export OMP_NUM_THREADS := 1
sanitize: export ASAN_OPTIONS := detect_leaks=0
sanitize: SANITIZER_LIBRARIES = $(foreach name,libasan.so libstdc++.so,$(shell g++ -print-file-name=$(name)))
sanitize: setup
	MINISGL_SANITIZE=address,undefined LD_PRELOAD="$(SANITIZER_LIBRARIES)" \
		pytest -n auto --dist worksteal -m "not gpu" -k "not nvcc and not compiles and not microscope" \
		tests/kernel tests/kvcache tests/host $(patsubst %,tests/distributed/test_nccl_%.py,operations arguments failures lifetime)

lint: setup
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $$(git ls-files '*.h' '*.cuh' '*.cu' '*.cpp')
	mypy
	minisgl book check

format: setup
	ruff format $(HAND_WRITTEN)
	ruff check --fix-only --quiet $(HAND_WRITTEN)
	clang-format -i $$(git ls-files 'tests/*.cu')
	minisgl book export

bench: setup
	python benchmarks/build_times.py
	python benchmarks/call_cost.py
	python benchmarks/index.py
	python benchmarks/store.py
	python benchmarks/host_target.py
	python benchmarks/radix.py
	python benchmarks/prefix_cache.py
	python benchmarks/prefix_cache_growth.py

clean:
	rm -rf build site docs/chapters .pytest_cache .mypy_cache .ruff_cache .hypothesis
