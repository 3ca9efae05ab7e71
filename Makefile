# `make smoke` and `make test` are all that a fresh machine needs: Python 3.10 or newer, and make.
#   PYTHON=python3.12   the Python that makes .venv
#   TORCH=cpu           PyTorch's small CPU build instead of the default one; later calls keep what was chosen first

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
TORCH_THERE := $(firstword $(patsubst $(VENV)/torch-%,%,$(wildcard $(VENV)/torch-*)))
ifeq ($(strip $(TORCH)),)
override TORCH := $(or $(TORCH_THERE),default)
endif
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help torch-choice smoke test coverage test-processors reliability fuzz soak bench check format completions docs build clean

help: ## Show the targets
	@echo "make smoke        install into $(VENV), then train, resume, evaluate and plot on synthetic data (about a minute)"
	@echo "make test         install with the test tools, then run the tests"
	@echo "make coverage     run the tests, then show the line coverage of dbbd_cli and the least covered files"
	@echo "make test-processors  the numeric tests as other processors would run them (20 minutes); ONLY=\"name name\""
	@echo "make reliability  all experiments on what docs/reliability.md promises, at their full count (hours)"
	@echo "make fuzz         100,000 damaged inputs for every reader, guided by coverage (Linux, Python 3.11 to 3.13)"
	@echo "make soak         2,000 short epochs of both tasks, watching memory and open files (an hour)"
	@echo "make bench        how near to the machine's limit everything is, to bench.json; COMPARE=old.json, ONLY=\"name name\""
	@echo "make check        ruff and mypy"
	@echo "make format       format the code"
	@echo "make completions  write the shell completion scripts anew"
	@echo "make docs         write docs/configuration.md anew"
	@echo "make build        build wheel and sdist into dist/"
	@echo "make clean        remove $(VENV) and everything that was built"
	@echo
	@echo "PYTHON=python3.12 chooses the Python; TORCH=cpu takes PyTorch's small CPU build."
	@echo "Both choices are kept until make clean."

torch-choice:
	@case "$(TORCH)" in default|cpu) ;; *) echo "TORCH=$(TORCH) is not known: use TORCH=cpu, or leave it out" >&2; exit 2 ;; esac
ifneq ($(TORCH),$(or $(TORCH_THERE),$(TORCH)))
	@echo "$(VENV) was made with TORCH=$(TORCH_THERE), and pip would not replace that PyTorch." >&2
	@echo "For TORCH=$(TORCH) run make clean first; to keep what is there, leave TORCH out." >&2; exit 2
endif

$(VENV)/made: | torch-choice
	@$(PYTHON) -c "" 2>/dev/null || { \
	  echo "There is no '$(PYTHON)'. Install Python 3.10 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { \
	  echo "dbbd needs Python 3.10 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install a newer one and name it: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
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
	$(BIN)/python -m pytest -n auto

coverage: export COVERAGE_FILE := $(CURDIR)/$(VENV)/coverage
coverage: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --cov=dbbd_cli --cov-report=
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

bench: $(VENV)/installed-dev
	$(BIN)/python tests/benchmarks/bench.py $(if $(COMPARE),--compare "$(COMPARE)") $(if $(ONLY),--only "$(ONLY)")

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

completions: $(VENV)/installed-dev
	$(BIN)/python -m dbbd_cli.cli.completion.scripts completions

docs: $(VENV)/installed-dev
	$(BIN)/python docs/make_configuration.py

build: $(VENV)/installed-dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
