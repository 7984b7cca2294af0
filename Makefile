# make demo: set everything up and run the main job.  make test: set everything up and pass the tests.  make docs: build site/.
# make bench: every speed comparison, about an hour.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs bench clean

demo: .venv/installed
	$(BIN)/opkernels demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

docs: .venv/documentation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.venv/documentation: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

bench: .venv/installed
	$(BIN)/python benchmarks/run_all.py $(ARGS)

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache
