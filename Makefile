# `make` alone prints what there is. Needs Python 3.11 to 3.13 with its venv module; all else comes into .venv.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= auto
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(firstword $(foreach p,python3 python python3.13 python3.12 python3.11,$(shell $(p) -c '$(FITS)' 2>/dev/null && echo $(p))))

.DEFAULT_GOAL := help
.PHONY: help demo test slow bundles lint format docs clean

help:  ## print this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.stamp  ## draw a 256^3 thorax CT with the shipped weights into demo_output/ (ARGS="--tile_size 96")
	@$(BIN)/python scripts/demo.py $(ARGS)

test: $(VENV)/.stamp  ## run the quick tests and the examples of the docstrings (ARGS="tests/metrics -x" JOBS=1)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 4 --dist loadfile $(ARGS)

slow: $(VENV)/.stamp  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

bundles: $(VENV)/.stamp  ## export every bundle as a folder that stands alone, and as a zip, into dist/ (ARGS="--output_dir /tmp/out")
	$(BIN)/python scripts/export_bundle.py bundles/* $(ARGS)

lint: $(VENV)/.stamp  ## check style, layout and types of the code, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.stamp  ## repair what the tool can repair of it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the documentation site into site/, without the network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet $(ARGS)
	@echo "The site is site/index.html; its search wants a server: $(BIN)/python -m http.server -d site"

clean:  ## remove the environments, caches and the demo's output
	rm -rf $(VENV) .venv-* site demo_output .pytest_cache .ruff_cache .coverage build dist common/*.egg-info
	find bundles common scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

# made anew when what it is made from has changed; without the stamp, that is, after an interruption, too
$(VENV)/.stamp: setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with its venv module is needed, but none was found;" \
		"install one, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into $(VENV) (a few minutes, once) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[train,dicom,test]'
	@touch $@

# what the site needs beyond that comes into the same environment when it is first built
$(VENV)/.docs: $(VENV)/.stamp
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[docs]'
	@touch $@
