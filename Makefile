# The targets set up .venv themselves; nothing else needs to be done by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PINS := $(VENV)/pins.txt

.PHONY: help setup simulate test test-all check docs scoreboard field proto kernels clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## Make .venv and install plait with its tools

# PINNED= installs what pyproject.toml allows, for a Python or an index without the versions in constraints.txt.
PINNED ?= yes
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Versions without hashes, which pip accepts together with an editable install.
$(PINS): constraints.txt
	mkdir -p $(VENV)
	sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' constraints.txt > $(PINS)

$(STAMP): pyproject.toml $(PINS) constraints-torch.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "plait needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifneq ($(PINNED),)
	$(PIP) --constraint constraints-torch.txt torch
	$(PIP) --no-deps --require-hashes --requirement constraints.txt || { echo "constraints.txt cannot be installed here; to take other versions: make setup PINNED="; exit 1; }
	$(PIP) --constraint $(PINS) --editable '.[dev]'
else
	$(PIP) --editable '.[dev]'
endif
	touch $(STAMP)

simulate: $(STAMP)  ## Federated rounds on a real language model, 8 clients, with a report
	$(BIN)/plait simulate $(ARGS)

# Workers take tests from each other, so that a long file does not leave the others idle. Tests are compiled once, whatever
# the environment says of bytecode: rewriting all their assertions takes each worker seconds.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --maxprocesses 4 --dist worksteal

# One worker more than processors: many of the slow tests wait for other processes.
WORKERS = --numprocesses $$(( $$(getconf _NPROCESSORS_ONLN) + 1 ))

test: $(STAMP)  ## Five minutes: all quick tests, and each promise once from end to end
	$(PYTEST) $(WORKERS) -m 'not gpu and (not slow or promise)' $(ARGS)

test-all: $(STAMP)  ## All tests that need no GPU
	$(PYTEST) $(WORKERS) -m 'not gpu' $(ARGS)

check: $(STAMP)  ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# EXECUTE_NOTEBOOKS=true runs the notebooks too, in their own folder: a quarter of an hour and 2.5 GB.
docs: export EXECUTE_NOTEBOOKS ?= false
docs: export NO_MKDOCS_2_WARNING = 1
docs: export PYTHONWARNINGS = ignore:IProgress not found
docs: export PATH := $(abspath $(BIN)):$(PATH)
docs: $(STAMP)  ## Build the documentation site in build/site, in about a minute; a broken link is an error
	mkdocs build --quiet $(ARGS)
	cd docs/notebooks && rm -rf fed letters.csv runs state

scoreboard: $(STAMP)  ## Test and count what plait withstands
	$(BIN)/python tests/scoreboard/run.py $(ARGS)

field: $(STAMP)  ## The same work for plait and others (ARGS=--quick)
	$(BIN)/python simulations/field/run.py $(ARGS)

proto: $(STAMP)  ## Regenerate plait/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. plait/v1/envelope.proto plait/v1/messages.proto
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. --grpc_python_out=. plait/v1/federation.proto

PACK := python3 -c "import json, sys; print(json.dumps([open(name).read() for name in sys.argv[1:]], indent=1))"
kernels:  ## Pack the C++ for a Flower App Bundle, which carries no .cpp
	cd plait/training/fused && $(PACK) kernels.cpp low_rank.cpp attention.cpp > cpp.json
	cd plait/wire/codecs && $(PACK) trellis.cpp ans.cpp > cpp.json

clean:  ## Remove what the other targets made
	rm -rf $(VENV) build dist
