# Everything runs in .venv, which is made on first use and refreshed when setup.cfg changes.
# Needs: a Python of 3.10 or newer with venv, and a network for the first install.
PYTHON ?= python3
OUT ?= out
BIN := .venv/bin
STAMP := .venv/.installed
# PyTorch's CPU build, where the package index has one under this name; any below 2.15 does.
TORCH ?= torch==2.13.0
OLD := .venv-numpy1
OLD_STAMP := $(OLD)/.installed
# Three workers, since many tests wait and each may load TensorFlow and take 3 GB; tests side by side in a file share what
# they set up.
WORKERS := -n 3 --dist worksteal

.PHONY: demo test long fuzz faults soak compat lint typecheck docs clean

demo: $(STAMP)
	$(BIN)/edgeloc demo --out $(OUT)

test: $(BIN)/.frameworks
	$(BIN)/python -m pytest $(WORKERS) -m 'not long' $(ARGS)

# What takes longer: real boards' failures, repeated measurements, a second demonstration.
long: $(BIN)/.frameworks
	$(BIN)/python -m pytest $(WORKERS) -m long $(ARGS)

# Hostile model files: COUNT of them, of the seed SEED. The same line again goes on where it was interrupted.
COUNT ?= 10000
SEED ?= 0
fuzz: $(BIN)/.frameworks
	$(BIN)/python tests/fuzz/run.py --seed $(SEED) --count $(COUNT) --out $(OUT)/fuzz-$(SEED) $(ARGS)

# A hundred runs that signals interrupt, fifty that are killed.
faults: $(STAMP)
	EDGELOC_FAULT_RUNS=100 $(BIN)/python -m pytest tests/faults $(ARGS)

# A run at full speed for MINUTES, with a fault every few seconds.
MINUTES ?= 20
soak: $(STAMP)
	MALLOC_ARENA_MAX=2 $(BIN)/python tests/soak/run.py --minutes $(MINUTES) --seed $(SEED) $(ARGS)

# The runtime's tests again on the oldest pair that boards still have: NumPy 1.26 and tflite-runtime 2.14.
compat: $(OLD_STAMP)
	$(OLD)/bin/python -c 'import numpy, tflite_runtime; print("NumPy", numpy.__version__, "tflite-runtime 2.14")'
	$(OLD)/bin/python -m pytest tests/sdk tests/device $(WORKERS) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow an editable install's folder mapping, so it reads a plain copy.
typecheck: $(STAMP)
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/typecheck .
	cd build/typecheck && MYPYPATH=. ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml \
		--cache-dir ../../.mypy_cache -p edgeloc

# The documentation site, in site/. mkdocstrings reads a plain copy too.
docs: $(BIN)/.docs
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/docs .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Open site/index.html"

clean:
	rm -rf build dist out site edgeloc.egg-info .venv $(OLD) .pytest_cache .mypy_cache .ruff_cache
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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[convert,bench,robot,dev]'
	@touch $@

$(BIN)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(BIN)/.frameworks: $(STAMP)
	@echo "Installing PyTorch, ONNX and MAVProxy beside it, for the tests with them"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[torch,onnx,tensorrt,power]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'MAVProxy>=1.8.70'
	@touch $@

$(OLD_STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' || \
		{ echo "make: tflite-runtime 2.14 exists for Python 3.10 and 3.11 alone: make compat PYTHON=python3.11" >&2; exit 1; }
	test -x $(OLD)/bin/python || $(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check \
		'numpy==1.26.*' 'tflite-runtime==2.14.*' 'opencv-python<4.12' 'tflite>=2.18' 'av>=13' 'pytest>=8' 'pytest-xdist>=3.6'
	$(OLD)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
