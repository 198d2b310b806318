# make demo and make test do all the set-up on a machine that has Python 3.11 and make.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test check wheel crash-test sweep-test export-test fuzz zoo audit lock clean
.DELETE_ON_ERROR:

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## Build .venv from requirements.lock; does nothing when it is up to date

demo: setup  ## Search, train, evaluate, export and benchmark on real digits (minutes), into runs/demo
	@$(BIN)/sharpkeras quickstart --out runs/demo

test: setup  ## Run the whole test suite on two processes
	@$(BIN)/python -m pytest -n 2

check: setup  ## Style, types, doctests and packaging data, in less than two minutes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q --doctest-modules $$(grep -rl --include='*.py' '^ *>>> ' sharpkeras cli)
	@$(BIN)/python -W ignore -c "from setuptools.config.pyprojecttoml import read_configuration as read; \
	    read('pyproject.toml', expand=False)"
	@echo "pyproject.toml is valid."

wheel: setup  ## Build the wheel, install it into an empty environment, and use it outside the checkout
	@.ci/wheel $(BIN)/python

crash-test: setup  ## Kill a search and a training at 20 random instants each; the end must be the same (CRASH="--seed 1")
	@PYTHONPATH=tests $(BIN)/python -m support.crash --kills 20 $(CRASH)

sweep-test: setup  ## Kill a sweep of 8 jobs twice, here and on Ray; the table must be the same (SWEEP="--on local")
	@PYTHONPATH=tests $(BIN)/python -m support.sweeps --kills 2 $(SWEEP)

export-test: setup  ## Export 200 networks of random genotypes, each compared with Keras (EXPORTS="--seed 1000")
	@PYTHONPATH=tests $(BIN)/python -m support.exports --count 200 $(EXPORTS)

fuzz: setup  ## Hostile files and command lines, two minutes of each kind (FUZZ="--minutes 1 --seed 1")
	@PYTHONPATH=tests $(BIN)/python -m support.fuzz --minutes 2 $(FUZZ)

zoo: setup  ## Export and time all published genotypes, into exported/ (ZOO="--only SHARP_DARTS --sizes cifar10")
	@$(BIN)/python benchmarks/zoo.py $(ZOO)

audit: setup  ## Look the locked packages up in a database of known holes, over the network, by pip-audit in .audit
	@test -x .audit/bin/pip-audit || { $(BIN)/python -m venv .audit && .audit/bin/pip -qq install pip-audit; }
	@.audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock || { \
	    echo "Holes, or no answer of the database: the lines above say which. Without an answer nothing is known." >&2; \
	    exit 1; }

lock: setup  ## Write requirements.lock anew from pyproject.toml (LOCK_FLAGS=--upgrade for newer versions)
	@echo "Resolving pyproject.toml (about a minute) ..."
	@CUSTOM_COMPILE_COMMAND="make lock" \
	    $(BIN)/pip-compile --quiet $(LOCK_FLAGS) pyproject.toml --output-file requirements.lock
	@sed -i -e 's/^tensorflow-cpu==[^ ]*/& ; platform_machine in "x86_64 AMD64"/' \
	    -e 's/^tensorflow==[^ ]*/& ; platform_machine not in "x86_64 AMD64"/' requirements.lock
	@echo "Wrote requirements.lock; make setup installs it."

clean:  ## Remove .venv and what builds and tests leave; runs/ and exported/ stay
	@rm -rf $(VENV) .audit build dist ./*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The third-party packages, each checked against its hash. pip and setuptools go first: promise comes as source only,
# and would otherwise be built with whatever is newest that day.
$(VENV)/.locked: requirements.lock
	@python=$$(for name in python3.11 python3; do \
	    $$name -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; \
	done); \
	if [ -z "$$python" ]; then \
	    echo "sharpkeras needs Python 3.11 or newer with its venv module; neither python3.11 nor python3 is that." >&2; \
	    echo "  next:    install it, e.g. apt-get install python3.11 python3.11-venv, then type make again" >&2; \
	    exit 1; \
	fi; \
	echo "Building $(VENV) with $$python from requirements.lock: 0.6 GB to download, 2.6 GB on disk, about a minute" \
	    "on a fast network ..."; \
	start=$$(date +%s); \
	$$python -m venv --clear $(VENV) && \
	awk '/^(pip|setuptools)==/, !/\\$$/' requirements.lock > $(VENV)/tools.lock && \
	$(PIP) install --require-hashes -r $(VENV)/tools.lock && \
	$(PIP) install --require-hashes --no-build-isolation -r requirements.lock && \
	echo "Built $(VENV) in $$(( $$(date +%s) - start )) s."
	@touch $@

# The project itself, editable: `sharpkeras` in .venv/bin follows what is edited here.
$(VENV)/.ready: $(VENV)/.locked pyproject.toml cli/build_backend.py
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
