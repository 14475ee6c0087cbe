# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= demo-output
# Tests at the same time: one more than most machines here have cores, because many tests wait for processes that they kill.
JOBS ?= 3
# Without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu saves several GB; the default build serves both.
TORCH_INDEX ?=

.PHONY: demo test test-fast soak coverage audit docs setup lint clean

demo: setup
	$(BIN)/python -m demo --out $(DEMO_OUT)

# Each process takes a run of neighboring tests, whose set-ups it makes once, and then some from whoever has most left.
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

test: setup lint
	$(PYTEST) -m "not slow"

# The loop while writing code: what needs neither a service, a browser, a kill nor a training of its own.
test-fast: setup
	$(PYTEST) -m "not slow and not integration and not reliability and not azure and not browser"

# What `make test` leaves out, and the long form of the reliability tests: thousands of damaged bags, hundreds of kills.
soak: setup
	SOAK=1 $(PYTEST) -m "slow or reliability"

# The tests again, slower, and which lines of the product none of them reached.
coverage: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(JOBS) --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Known vulnerabilities in what is pinned; a package that the advisories' service does not answer for is a failure, too.
audit: .venv/audit/installed
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt
	npm audit --prefix tests/azurite

.venv/audit/installed: .venv/installed
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit
	touch $@

# site/index.html; a link that leads nowhere is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	! $(BIN)/vulture | grep -E "unused (function|class|method|property|import)"

setup: .venv/installed

# The stamp is written last, so a set-up that was interrupted is done again. Only torch brings its own dependencies, for those of
# its CUDA build are on no other machine; constraints.txt lists all the others, so that nothing has to be resolved.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --no-deps --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -m pip check
	touch $@

clean:
	rm -rf .venv site $(DEMO_OUT)
