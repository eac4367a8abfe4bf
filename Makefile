# Two commands matter: `make demo` and `make test`. Both set up what they need.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
CODE := veilscore party_bank party_court party_tax party_registry coordinator tests benchmarks examples tools
PINNED := pyproject.toml $(wildcard requirements*.lock)
OLD := Veilscore needs Python 3.11 or newer; name one with `make PYTHON=...`
SET_UP = $(PYTHON) -c 'import sys; sys.exit("$(OLD)" if sys.version_info < (3, 11) else 0)' && \
	$(PYTHON) tools/set_up.py $(VENV)

JOBS ?= 2
PYTEST := $(PY) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --processor-time 20

N ?= 10000
HOURS ?= 2
SEED ?= 0
INPUTS ?= 1000000

.PHONY: demo test slow check campaign campaign-real soak fuzz lint bench protos messages clean setup lock sbom

demo: $(VENV)/.demo
	$(PY) examples/demo.py

test: $(VENV)/.dev
	sh tests/system_packages.sh
	$(PYTEST) -m "not slow"

# Attacks with many trials, statistics, schedules, wheels, and what else takes long for what it shows.
slow: $(VENV)/.dev
	sh tests/system_packages.sh
	$(PYTEST) -m slow

check: lint test slow

# Schedules of faults over a whole federation in memory: `make campaign N=300 SEED=7`, of single scores `OF=--scores`.
campaign: $(VENV)/.dev
	$(PY) tests/simulation/campaign.py --schedules $(N) --seed $(SEED) $(OF)

# The same against real processes, killed, stopped, restarted, and on full disks: `make campaign-real N=100 SEED=7`.
campaign-real: N = 100
campaign-real: $(VENV)/.dev
	$(PY) tests/simulation/real_campaign.py --schedules $(N) --seed $(SEED)

# Mixed load on real nodes; a report with plots in soak/: `make soak HOURS=0.5`.
soak: $(VENV)/.dev
	$(PY) tests/simulation/soak.py --hours $(HOURS) --out soak

# A million inputs for every parser of what peers or files bring.
fuzz: $(VENV)/.dev
	$(PY) tests/fuzzing/fuzz.py --inputs $(INPUTS) --seed $(SEED)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/mypy veilscore party_bank party_court party_tax party_registry coordinator

bench: $(VENV)/.dev
	$(PY) benchmarks/all.py $(NAME)

setup: $(VENV)/.core

$(VENV)/.core: $(PINNED)
	@$(SET_UP) core
	touch $@

$(VENV)/.demo: $(PINNED)
	@$(SET_UP) demo
	touch $(VENV)/.core $@

$(VENV)/.dev: $(PINNED)
	@$(SET_UP) dev
	touch $(VENV)/.core $@

# Pins every package by version and hash, for all platforms and Python 3.11 to 3.13.
lock: $(VENV)/.tools
	$(VENV)/tools/bin/python tools/lock.py

# What is installed, with licences and what needs what (CycloneDX), into sbom.json.
sbom: $(VENV)/.core $(VENV)/.tools
	$(VENV)/tools/bin/cyclonedx-py environment --output-reproducible --output-file sbom.json $(PY)

# Apart from the environment that they are to describe.
$(VENV)/.tools: tools/requirements.txt
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# Generated code is committed; run this after a change under protos/.
protos: $(VENV)/.dev
	$(PY) -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. protos/veilscore/v1/*.proto

# Texts of the console's pages into its catalogues, and these into what runs; both are committed.
messages: $(VENV)/.dev
	$(PY) tools/messages.py

clean:
	rm -rf $(VENV) demo-run .pytest_cache .mypy_cache .ruff_cache build dist sbom.json *.egg-info
