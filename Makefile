# Everything runs in .venv, which is made on first use and refreshed when setup.cfg changes.
# Needs: a Python of 3.10 or newer with venv, and a network for the first install.
PYTHON ?= python3
OUT ?= out
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint typecheck clean

demo: $(STAMP)
	$(BIN)/edgeloc demo --out $(OUT)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow an editable install's folder mapping, so it reads a plain copy.
typecheck: $(STAMP)
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/typecheck .
	cd build/typecheck && MYPYPATH=. ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml \
		--cache-dir ../../.mypy_cache -p edgeloc

clean:
	rm -rf build dist out edgeloc.egg-info .venv .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) --version >/dev/null 2>&1 || \
		{ echo "make: $(PYTHON) does not run; name a Python of 3.10 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: $(PYTHON) is older than Python 3.10; name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv (TensorFlow among it: some minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[convert,bench,dev]'
	@touch $@
