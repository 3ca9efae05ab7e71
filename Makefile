# `make smoke` and `make test` need only Python 3.10 or newer, and make.
#   PYTHON=python3.12   the Python for .venv
#   TORCH=cpu           PyTorch's small CPU build instead of the default one; later calls keep the first choice

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
TORCH_INSTALLED := $(firstword $(patsubst $(VENV)/torch-%,%,$(wildcard $(VENV)/torch-*)))
ifeq ($(strip $(TORCH)),)
override TORCH := $(or $(TORCH_INSTALLED),default)
endif
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help torch-choice smoke test coverage test-processors reliability fuzz soak scale bench check format docs build clean

help: ## Show the targets
	@echo "make smoke        install into $(VENV), then train, resume, evaluate and plot on synthetic data (about a minute)"
	@echo "make test         install with the test tools, then run the tests"
	@echo "make coverage     run the tests, then show the line coverage of dbbd_cli and the least covered files"
	@echo "make test-processors  run the numeric tests as other processors would (20 minutes); ONLY=\"name name\""
	@echo "make reliability  run all experiments behind docs/reliability.md in full (hours)"
	@echo "make fuzz         fuzz every reader with 100,000 inputs, guided by coverage (Linux, Python 3.11 to 3.13)"
	@echo "make soak         train 2,000 short epochs of both tasks, watching memory and open files (an hour)"
	@echo "make scale        run all experiments with several processes in full, and measure how data and training scale (hours)"
	@echo "make bench        measure speed against the machine's limits, to bench.json; COMPARE=old.json, ONLY=\"name name\""
	@echo "make check        run ruff and mypy"
	@echo "make format       format the code"
	@echo "make docs         regenerate docs/configuration.md and docs/images/"
	@echo "make build        build wheel and sdist into dist/"
	@echo "make clean        remove $(VENV) and all build results"
	@echo
	@echo "PYTHON=python3.12 selects the Python; TORCH=cpu selects PyTorch's small CPU build."
	@echo "Both choices are kept until make clean."

torch-choice:
	@case "$(TORCH)" in default|cpu) ;; *) echo "unknown TORCH=$(TORCH): use TORCH=cpu, or omit it" >&2; exit 2 ;; esac
ifneq ($(TORCH),$(or $(TORCH_INSTALLED),$(TORCH)))
	@echo "$(VENV) was created with TORCH=$(TORCH_INSTALLED), and pip would not replace that PyTorch." >&2
	@echo "For TORCH=$(TORCH), run make clean first; to keep the current one, omit TORCH." >&2; exit 2
endif

$(VENV)/made: | torch-choice
	@$(PYTHON) -c "" 2>/dev/null || { \
	  echo "'$(PYTHON)' not found. Install Python 3.10 or newer, or specify one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { \
	  echo "dbbd needs Python 3.10 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install a newer one and specify it: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot create virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/torch-$(TORCH): $(VENV)/made
ifeq ($(TORCH),cpu)
	$(BIN)/python -m pip install --disable-pip-version-check --index-url $(TORCH_CPU_INDEX) torch torchvision
endif
	@touch $@

$(VENV)/installed: $(VENV)/torch-$(TORCH) pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/torch-$(TORCH) pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-fuzz: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,fuzz]"
	@touch $@

smoke: $(VENV)/installed
	$(BIN)/dbbd smoke --epochs 2

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

coverage: export COVERAGE_FILE := $(CURDIR)/$(VENV)/coverage
coverage: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal --cov=dbbd_cli --cov-report=
	@$(BIN)/coverage report --sort=cover --skip-covered | head -25
	@echo "Lines covered: $$($(BIN)/coverage report --format=total)%"

test-processors: $(VENV)/installed-dev
	$(BIN)/python tests/processors.py -n auto $(if $(ONLY),--only "$(ONLY)")

reliability: $(VENV)/installed-dev
	DBBD_RELIABILITY=full $(BIN)/python -m pytest tests/reliability

fuzz: $(VENV)/installed-fuzz
	$(BIN)/python tests/reliability/fuzz/fuzz.py --cases 100000

soak: $(VENV)/installed-dev
	$(BIN)/python tests/reliability/soak.py --epochs 2000

SCALE := $(VENV)/scale
scale: $(VENV)/installed-dev
	DBBD_RELIABILITY=full $(BIN)/python -m pytest tests/unit/engine tests/test_scaling_page.py \
	  $(wildcard tests/reliability/test_several_*.py tests/reliability/test_two_*.py tests/reliability/test_divided_*.py \
	  tests/reliability/test_remote_*.py)
	$(BIN)/python tests/benchmarks/scaling.py
	$(BIN)/python tests/benchmarks/prepare_scenes.py $(SCALE)/scenes --scenes 1513
	$(BIN)/python tests/benchmarks/image_shards.py $(SCALE)/shards
	$(BIN)/python tests/benchmarks/many_images.py --folder $(SCALE)/images
	rm -rf $(SCALE)

bench: $(VENV)/installed-dev
	$(BIN)/python tests/benchmarks/bench.py $(if $(COMPARE),--compare "$(COMPARE)") $(if $(ONLY),--only "$(ONLY)")

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-dev
	$(BIN)/python docs/make_configuration.py
	$(BIN)/python docs/make_terminal_picture.py
	$(BIN)/python docs/make_scan_picture.py

build: $(VENV)/installed-dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
