# The two commands of this project are `make run` and `make test`; `make help` lists the rest.
#
# Everything is installed into .venv and nothing outside of it. PYTHON names the interpreter that makes it:
#     make run PYTHON=/usr/bin/python3.11

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pipeline tests benchmarks docker grafana/source
# Test processes side by side, each with a broker and an engine of its own; 0: one, whose output -s shows.
PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help run test test-long simulation chaos chaos-outage walks walk-screens protections check format dashboards dashboard-screens bench bench-ledger bench-accounts bench-commands bench-recovery secrets clean
# An install that failed half-way must not count as done.
.DELETE_ON_ERROR:

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

run: $(VENV)/installed-embedded ## Start broker, ClickHouse, worker and a sample gateway; watch them; Ctrl-C stops
	@exec $(BIN)/msgmeter up $(ARGUMENTS)

test: $(VENV)/installed-dev ## Run every test, on a real broker and a real ClickHouse engine
	$(BIN)/pytest -n $(PROCESSES) --dist loadfile $(ARGUMENTS)

test-long: $(VENV)/installed-dev ## A million messages and five kills against the simulation (minutes)
	AGREEMENT_RECORDS=1000000 AGREEMENT_TENANTS=10000 $(BIN)/pytest -s tests/e2e/test_agreement.py $(ARGUMENTS)

simulation: $(VENV)/installed-dev ## 20 000 simulated worlds in which workers die, freeze and repeat themselves (15 minutes)
	SIMULATION_SEEDS=20000 $(BIN)/pytest tests/simulation $(ARGUMENTS)

chaos: $(VENV)/installed-dev ## 200 kills of workers, brokers and ClickHouse under load (20 minutes); writes the report
	CHAOS_KILLS=200 CHAOS_REPORT=benchmarks/chaos.md $(BIN)/pytest -s tests/chaos/test_chaos.py $(ARGUMENTS)

chaos-outage: $(VENV)/installed-dev ## ClickHouse away for ten minutes under load (15 minutes); writes the report
	OUTAGE_SECONDS=600 OUTAGE_REPORT=benchmarks/outage.md $(BIN)/pytest -s tests/chaos/test_long_outage.py $(ARGUMENTS)

walks: $(VENV)/installed-dev ## Break a deployment in three ways, find each cause from the page alone, write it down (15 minutes)
	$(BIN)/python -m tests.walks $(ARGUMENTS)

# Not a part of `walks`, which needs neither Node 20 nor Chromium.
walk-screens: $(VENV)/installed-dev ## The same, with pictures of the dashboards in docs/walks/screens (15 minutes)
	cd grafana/render && npm ci --ignore-scripts --legacy-peer-deps --no-audit --no-fund
	$(BIN)/python -m tests.walks --screens grafana/render/answers.json $(ARGUMENTS)
	cd grafana/render && node build.mjs answers.json pages && node shoot.mjs pages ../../docs/walks/screens

protections: $(VENV)/installed-dev ## Take each protection away, on a copy, and see its test fail (minutes)
	@$(BIN)/python -m tests.protections $(ARGUMENTS)

check: $(VENV)/installed-dev ## Format, lint, types and the tests that start nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/pytest tests/core tests/properties tests/golden tests/test_tidy.py

format: $(VENV)/installed-dev ## Format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

dashboards: $(VENV)/installed-dev ## Write the Grafana dashboards from their source
	$(BIN)/python -m grafana.source

# Not a part of `test`: it takes a quarter of an hour, and Node 20 and Chromium besides.
dashboard-screens: $(VENV)/installed-dev ## Draw the dashboards with real data into docs/screens (15 minutes)
	cd grafana/render && npm ci --ignore-scripts --legacy-peer-deps --no-audit --no-fund
	$(BIN)/python -m tests.grafana.screens grafana/render/answers.json
	cd grafana/render && node build.mjs answers.json pages && node shoot.mjs pages ../../docs/screens

bench: $(VENV)/installed-dev ## Measure raw -> stored events a second, memory and latency (minutes)
	$(BIN)/python -m benchmarks.throughput $(ARGUMENTS)

bench-ledger: $(VENV)/installed-dev ## Measure the ledger's CPU per message
	$(BIN)/python -m benchmarks.ledger $(ARGUMENTS)

bench-accounts: $(VENV)/installed-dev ## Measure memory and files of a million accounts
	$(BIN)/python -m benchmarks.accounts $(ARGUMENTS)

bench-commands: $(VENV)/installed-dev ## Measure how soon account commands are answered, alone and under load
	$(BIN)/python -m benchmarks.commands $(ARGUMENTS)

bench-recovery: $(VENV)/installed-dev ## Measure restarts with a million accounts and 20 million identities (minutes)
	$(BIN)/python -m benchmarks.recovery $(ARGUMENTS)

secrets: ## Make the secrets that docker-compose.yml mounts, where there are none
	@$(PYTHON) docker/make_secrets.py docker/secrets

clean: ## Remove the environment and caches; ./var with its data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -d var ]; then echo "./var holds the embedded stack's data and was left alone"; fi

# The stamps are files, so that pip runs only when the dependencies have changed.
$(VENV)/installed-embedded: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed-embedded

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	    { echo "There is no $(PYTHON). Install Python 3.11 (Debian: apt-get install python3 python3-venv)," >&2; \
	      echo "or name one: make run PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	    { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and 3.11 or 3.12 is needed." >&2; \
	      echo "Name one: make run PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments. Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version); the first installation takes a minute or two."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
