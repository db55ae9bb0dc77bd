# make demo         edits bundled images by text, offline, and says where the results are
# make test         runs every test, of the golden cases the quickest of each kind (at latents of 32x32 or more its first steps);
#                   PYTEST="-k align" hands options to pytest
# make conformance  runs every golden case, at every size, to its end; SFUMATO_CONFORMANCE=FOLDER those of another folder
# make test-lowest  runs what make test runs in .venv-lowest, with the lowest versions that pyproject.toml admits
# make fuzz         feeds every hostile file, 10,000 sets of options and 2,000 calls; make test does a slice of it
# make browser      installs what the tests of the page need (Debian's Chromium, playwright, axe-core); without it they are skipped
# make pages        writes every page of docs/ and the README's tables from figures that are stored
# make lint         style and types
# make clean        removes what the other targets made, the virtual environments included

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/.installed
LOWEST := .venv-lowest/bin
LOWEST_READY := .venv-lowest/.installed

# One thread a process: at the sizes of the tests this is much faster than processes that share their cores. And memory of
# tensors up to 1 GiB is kept for the next ones: to get it from the system anew, page by page, takes 9 % of the time.
# What Python compiles is kept, too: tests start some thirty processes.
SETTINGS := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 PYTHONDONTWRITEBYTECODE=
RUN := -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test conformance test-lowest fuzz browser pages lint clean
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/sfumato demo

test: $(READY)
	$(SETTINGS) $(BIN)/python $(RUN) -m "not thorough" $(PYTEST)

conformance: $(READY)
	$(SETTINGS) $(BIN)/python $(RUN) tests/conformance -m "not first_steps" $(PYTEST)

test-lowest: $(LOWEST_READY)
	$(SETTINGS) $(LOWEST)/python $(RUN) -m "not thorough" $(PYTEST)

fuzz: $(READY)
	$(SETTINGS) SFUMATO_FUZZ=all $(BIN)/python $(RUN) tests/hostile

browser: $(READY)
	command -v $${SFUMATO_CHROMIUM:-chromium} >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; }
	$(BIN)/python -m pip install --quiet --editable ".[browser]"
	npm install --silent --no-fund --no-audit --no-save --prefix .browser axe-core@4

pages: $(READY)
	$(BIN)/python -m tools.pages

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-lowest .pytest_cache .mypy_cache .ruff_cache dist build outputs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define CHECK_PYTHON
@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: sfumato needs Python 3.11 or newer, '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
endef

# The stamp makes a second run start at once; a changed pyproject.toml installs again.
# lpips is there for a file that the tests read (its heads): its own dependencies stay out.
$(READY): pyproject.toml
	$(CHECK_PYTHON)
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps lpips
	@touch $@

# Not $(TORCH), but the lowest: on Linux that may be a build with CUDA's libraries, 4 GB, if no other is on offer.
# Python 3.11 or 3.12: for newer ones there are no wheels of the lowest numpy.
$(LOWEST_READY): pyproject.toml tests/lowest.py
	$(CHECK_PYTHON)
	@test -x $(LOWEST)/python || "$(PYTHON)" -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet --upgrade pip
	$(LOWEST)/python tests/lowest.py > .venv-lowest/constraints.txt
	$(LOWEST)/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable ".[test]"
	$(LOWEST)/python -m pip install --quiet --no-deps lpips
	@touch $@
