# make demo | test | lint: each makes its own virtual environment in .venv and installs what is
# missing: python3-venv and mosquitto with apt, when it is root and says so.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# persist-queue's own tests, to run against our subclass: only its source archive has them.
UPSTREAM := .cache/upstream

.PHONY: demo test system-test soak lint format clean parts
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo    see events survive an outage and a kill -9, on this machine"
	@echo "make test    run all tests but those that need disks and networks of their own"
	@echo "make system-test  run those, as root: power cuts, full disks, broken networks"
	@echo "make soak    MINUTES=10 of random faults, from a SEED, as root"
	@echo "make lint    ruff and mypy --strict"
	@echo "make format  let ruff format the code"

parts:
	@PYTHON=$(PYTHON) sh .ci/parts

$(VENV)/.demo: pyproject.toml | parts
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.test: pyproject.toml | parts
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[demo,test]"
	touch $@ $(VENV)/.demo

$(UPSTREAM)/.fetched: $(VENV)/.test
	rm -rf $(UPSTREAM)
	$(BIN)/pip download --quiet --no-deps --no-binary :all: --dest $(UPSTREAM) \
		"persist-queue==$$($(BIN)/python -c 'import persistqueue; print(persistqueue.__version__)')"
	tar --extract --gzip --strip-components 1 --directory $(UPSTREAM) --file $(UPSTREAM)/*.tar.gz
	touch $@

demo: $(VENV)/.demo
	$(BIN)/ga4-agent demo

test: $(VENV)/.test $(UPSTREAM)/.fetched
	$(BIN)/python -m pytest

system-test: $(VENV)/.test
	@SYSTEM=1 PYTHON=$(PYTHON) sh .ci/parts
	$(BIN)/python -m pytest tests/system

soak: $(VENV)/.test
	@SYSTEM=1 PYTHON=$(PYTHON) sh .ci/parts
	$(BIN)/python tests/system/soak.py --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
