# flowguard: every verb sets up what it needs. `make help` lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=

SOURCES := $(wildcard ext/*.pyx ext/includes/*.pxd)

# Stamps: what the environment holds, so that a repeated run costs nothing.
ENV   := $(BIN)/python
DEMO  := $(VENV)/.demo
DEV   := $(VENV)/.dev

# Half of what tests do is wait, so two files run at once; in the order of their names, in which
# the short ones are last. One process: ARGS="-n 0 ...", as --pdb wants it.
PYTEST := $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# The demo needs less than development; where that is installed already, it is enough.
READY := $(if $(wildcard $(DEV)),$(DEV),$(DEMO))

INSTALL = @echo "installing flowguard for development into $(VENV), one or two minutes" \
	&& $(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
BUILD = @echo "building the compiled core" \
	&& $(BIN)/python setup.py -q build_ext --inplace --parallel 2 >/dev/null

.DEFAULT_GOAL := help
.PHONY: install demo test lint types check docs kafka chaos bench clean help

install: $(DEV) ## set up .venv with everything for development and build the core
	@echo "ready: $(BIN)/flowguard"

demo: $(READY) ## run the demo; ARGS="--seconds 20 --no-browser"
	@$(BIN)/flowguard demo $(ARGS)

test: $(DEV) ## run the tests, two files at once; ARGS="-k lanes", ARGS="-m slow", ARGS="-n 0 --pdb"
	@$(PYTEST) $(ARGS)

lint: $(DEV) ## check style with ruff; ARGS=--fix repairs
	@$(BIN)/ruff check $(ARGS) .
	@$(BIN)/ruff format --check .

types: $(DEV) ## check types with mypy
	@$(BIN)/mypy $(ARGS)

check: lint types ## lint and types

docs: $(DEV) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict $(ARGS)

kafka: $(DEV) ## run Apache Kafka in the foreground and print its address
	@$(BIN)/python -m tests.kafka_broker $(ARGS)

chaos: $(DEV) ## kill, pause and restart workers on Kafka; ARGS="--seed 7 --minutes 10 --kills 100"
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: $(DEV) ## measure scheduler, intake, egress, codecs, end to end; ARGS="--only codecs"
	@$(BIN)/python benchmarks/run_all.py $(ARGS)

clean: ## delete what was built; .venv and .cache stay
	@rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -f ext/*.c ext/*.cpp ext/*.html flowguard/_native/*.so $(DEMO) $(DEV)
	@find . -path './.*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list these verbs
	@echo "usage: make VERB [ARGS=...]"
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | while IFS='	' read -r verb does; do \
		printf '  %-9s %s\n' "$$verb" "$$does"; done

# Some systems ship venv without pip (Debian without python3-venv); virtualenv brings its own.
$(ENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "flowguard needs Python 3.11 or newer as $(PYTHON); name another with: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
		echo "Python.h is missing, the core cannot be built; on Debian: apt install python3-dev" >&2; exit 1; }
	@command -v "$${CC:-cc}" >/dev/null || { \
		echo "a C compiler is missing, the core cannot be built; on Debian: apt install gcc" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
		|| { rm -rf $(VENV); $(PYTHON) -m virtualenv -q $(VENV) 2>/dev/null; } \
		|| { rm -rf $(VENV); virtualenv -q -p $(PYTHON) $(VENV) 2>/dev/null; } \
		|| { rm -rf $(VENV); echo "$(PYTHON) cannot create a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }

$(DEMO): pyproject.toml setup.py $(SOURCES) | $(ENV)
	@echo "installing flowguard with its demo into $(VENV), about a minute"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[demo]'
	@touch $@

# Where only ext/ changed, only what changed is compiled; pip would compile everything.
$(DEV): pyproject.toml setup.py $(SOURCES) | $(ENV)
	$(if $(filter pyproject.toml setup.py,$?),$(INSTALL),$(BUILD))
	@touch $@
