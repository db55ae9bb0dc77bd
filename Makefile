# make demo   edits bundled pictures by text, offline, and says where the results are
# make test   runs every test; PYTEST="-k align" hands options to pytest
# make fuzz   feeds every hostile file, 10,000 sets of options and 2,000 calls; make test does a slice of it
# make lint   style and types
# make clean  removes what the other targets made, the virtual environment included

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/.installed

.PHONY: demo test fuzz lint clean
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/sfumato demo

# one thread a process: at the sizes of the tests this is much faster than processes that share their cores
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST)

fuzz: $(READY)
	OMP_NUM_THREADS=1 SFUMATO_FUZZ=all $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/hostile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache dist build outputs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp makes a second run start at once; a changed pyproject.toml installs again.
# open-clip-torch and lpips are there for files that the tests read (CLIP's vocabulary, LPIPS's heads): their own
# dependencies stay out.
$(READY): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: sfumato needs Python 3.11 or newer, '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps open-clip-torch lpips
	@touch $@
