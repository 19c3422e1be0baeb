# `make demo` runs the main job, `make test` the tests; both make .venv when it is missing or out of date.
# `make test-random` looks for new cases with the property tests, which `make test` runs on the same cases every time.
# Each round prints the seed that repeats it: make test-random ROUNDS=1 SEED=...
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROUNDS ?= 3
SEED := $(or $(SEED),$(shell od -A n -N 3 -t u4 /dev/urandom | tr -d ' '))

.PHONY: demo test test-quick test-random lint bench clean
demo: $(VENV)/.installed
	$(BIN)/python flows/evaluate.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST)

test-quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow"

test-random: $(VENV)/.installed-test
	@for seed in $$(seq $(SEED) $$(($(SEED) + $(ROUNDS) - 1))); do \
		echo "make test-random ROUNDS=1 SEED=$$seed"; \
		$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=random --hypothesis-seed=$$seed $(PYTEST) || exit 1; \
	done

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "simet-cache needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group test --group lint
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group bench
	@touch $@
