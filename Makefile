# make demo    set up, play a bag to the node over DDS, and write pictures and a table
# make test    set up and run the tests
# make lint    ruff and mypy
# make bench   measure the figures of the README
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BAG ?=
ARGS ?=

.PHONY: setup test lint demo bench clean

setup: $(READY)

$(READY): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar on --editable '.[ros,dev,nuscenes]'
	$(BIN)/python -m pip install --no-deps nuscenes-devkit==1.2.0
	touch $@

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy bench --allow-untyped-defs --disable-error-code import-not-found \
	  --disable-error-code union-attr --disable-error-code arg-type

demo: $(READY)
	$(BIN)/python examples/demo.py $(if $(BAG),--bag $(BAG)) $(ARGS)

bench: $(READY)
	$(BIN)/python bench/roundtrip.py
	$(BIN)/python bench/kitti_ap.py

clean:
	rm -rf $(VENV) build install log demo_out
