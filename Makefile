# Two commands on a fresh machine (Python >= 3.11, pip, make):
#   make demo             compile the bundled assistant program with SmolLM2-135M, print the table (QUICK=1: tiny model)
#   make test             the whole test suite, lint, types and import floors
# PYTHON=python3.12 chooses the interpreter; WORKERS=4 is the number of test processes;
# PYTEST_ARGS="-k grpo" is handed to pytest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-alfworld pytest lint format types floors clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: $(STAMP) ## Make .venv with the pinned dependencies

# The stamp is younger than both files exactly when the environment matches them.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: '$(PYTHON)' is missing or older than Python 3.11; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -L agemem_dspy/data || \
		{ echo "error: agemem_dspy/data is not a link; check out with: git -c core.symlinks=true checkout -f HEAD" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) && \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; } || \
		{ echo "error: no virtual environment could be made (on Debian: apt install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Compile the bundled assistant and print the table; the run is kept in runs/demo
	$(BIN)/python examples/demo.py $(if $(QUICK),--quick)

test: pytest lint floors types ## Everything that has to pass

# loadfile: the tests of one file share the small models that its fixtures build.
pytest: $(STAMP) ## The test suite alone
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# The planner's build calls `python`, which some systems have in the environment alone.
test-alfworld: $(STAMP) ## ALFWorld's tests, minutes long; installs its extra, which compiles a planner
	@$(BIN)/python -c 'import fast_downward, jericho' 2>/dev/null || \
		{ command -v c++ && command -v cc && command -v make; } >/dev/null || \
		{ echo "error: ALFWorld's planner is compiled for minutes, which needs a C++ compiler and make; on Debian: apt install g++ make" >&2; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,alfworld]'
	AGEMEM_TEST_ALFWORLD=1 $(BIN)/python -m pytest tests/unit/test_alfworld.py $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Apply ruff's format and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

floors: $(STAMP) ## import-linter: a floor imports only what is below it
	$(BIN)/lint-imports

clean: ## Remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
