# make demo    set up and train a recurrent model on real data
# make test    set up and run every test
# make check   format, lint, types
# make bench   compare with other libraries
# make help    all targets

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN = $(VENV)/bin
# One XLA client per pytest worker; two fit a small machine.
WORKERS ?= 2

.PHONY: help demo forecast test bench check fix test-lowest clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# A stamp for each set of packages: a second call installs nothing unless the project file or the versions changed.
$(VENV)/.base: pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "make: no Python found; say which: make $(MAKECMDGOALS) PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[plot]'
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[plot,test]'
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[plot,test,check]'
	@touch $@

demo: $(VENV)/.base  ## train a bidirectional GRU on Japanese Vowels
	$(BIN)/noria demo

forecast: $(VENV)/.base  ## train a GRU on the CO2 series
	$(BIN)/noria demo forecast

test: $(VENV)/.test  ## run every test
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

bench: $(VENV)/.base  ## compare with other libraries, as far as they are installed; ARGS="--quick" and the like
	$(BIN)/noria bench $(ARGS)

check: $(VENV)/.check  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(VENV)/.check  ## format and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-lowest:  ## run the tests on the lowest versions that pyproject.toml declares
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

clean:  ## remove the virtual environments and caches
	rm -rf .venv .venv-lowest .mypy_cache .ruff_cache .pytest_cache
