# Two commands matter: `make demo` and `make test`. Both set up what they need.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
CODE := veilscore party_bank party_tax party_registry coordinator tests benchmarks examples

.PHONY: demo test check lint bench protos clean setup

demo: $(VENV)/.demo
	$(PY) examples/demo.py

test: $(VENV)/.dev
	sh tests/system_packages.sh
	$(PY) -m pytest

check: lint test

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/mypy veilscore party_bank party_tax party_registry coordinator

bench: $(VENV)/.dev
	$(PY) benchmarks/all.py $(NAME)

setup: $(VENV)/.core

$(VENV)/.core: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --editable .
	touch $@

$(VENV)/.demo: $(VENV)/.core
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[dev]'
	touch $@

# Generated code is committed; run this after a change under protos/.
protos: $(VENV)/.dev
	$(PY) -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. protos/veilscore/v1/*.proto

clean:
	rm -rf $(VENV) demo-run .pytest_cache .mypy_cache .ruff_cache build *.egg-info
