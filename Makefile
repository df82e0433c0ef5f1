# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# OpenMP threads that spin while they wait make everything slower on a busy machine.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-slow check figures results choose bench wheel clean

demo: .venv/installed  ## fuse a packaged pair and say where the picture is
	$(BIN)/tectum fuse src/tectum/data/demo/vi/street-1.png src/tectum/data/demo/ir/street-1.png -o out/demo/fused.png --report --overwrite
	@echo "visible | infrared | fused | difference: out/demo/fused-report.png"

test: .venv/dev  ## all tests but the slow ones, a few minutes
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: .venv/dev  ## the slow tests
	$(BIN)/python -m pytest -m slow

check: .venv/dev  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

figures: .venv/installed  ## pictures of the README (synthetic), and of real pairs if TECTUM_DATA names a folder of them
	$(BIN)/python benchmarks/figures.py

results: .venv/dev  ## the tables of docs/results.md, from real pairs below TECTUM_DATA
	$(BIN)/python benchmarks/results.py --write
	$(BIN)/python benchmarks/learned.py scores --write
	$(BIN)/python benchmarks/learned.py maps --write

choose: .venv/dev  ## a blind page in out/choose: which of two results do you prefer? Real pairs below TECTUM_DATA
	$(BIN)/python benchmarks/choose.py page --ours swift-natural=swift@swift-natural \
	  --others adasffuse-infrared=adasffuse@adasffuse-infrared tdfusion-fixed-msrs=tdfusion@tdfusion-fixed-msrs

bench: .venv/installed  ## the table of docs/speed.md, on this machine
	$(BIN)/python benchmarks/fuser.py

wheel: .venv/dev
	$(BIN)/pip wheel --no-deps -w dist .

.venv/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'tectum needs Python 3.11 or newer: make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[report]"
	touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[all,yolo]" --group dev  # yolo (AGPL-3.0) for its tests only
	touch $@

clean:
	rm -rf .venv out dist build
