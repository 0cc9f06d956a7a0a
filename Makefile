# Every target installs the project into .venv first; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart clip-quickstart detection-quickstart bench test check clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/vpt quickstart configs/quickstart.yaml --overwrite

clip-quickstart: $(STAMP)
	$(BIN)/vpt clip-eval configs/clip_quickstart.yaml --overwrite

detection-quickstart: $(STAMP)
	$(BIN)/vpt detection-quickstart configs/detection_quickstart.yaml --overwrite

bench: $(STAMP)
	$(BIN)/vpt benchmark --along num_tokens=100 --precision fp32,bf16 --turns 3 \
		--json benchmarks/latest.json --plot benchmarks/latest.png

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
