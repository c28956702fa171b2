# Crossfade's commands. Each sets up what it needs in .venv first (a moment when all is there): tools/setup.py.

PYTHON ?= python3
BIN    := .venv/bin
SETUP  := @command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' here: install Python 3.11 or newer," \
          "or name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }; $(PYTHON) tools/setup.py
TREES  := $(wildcard src tests tools bench examples)
TYPED  := $(wildcard src tests tools bench)
TESTS  := $(BIN)/python -m pytest
AGAIN  := make: the tests named above failed beside others. Many look at clocks, so they are tried again, alone:
BENCH  := PYTHONPATH=. $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format lock bench bench-switch bench-edge bench-deploy \
        bench-detection bench-judge bench-reaction bench-api bench-pipeline bench-migrations bench-regression bench-flags bench-year screenshots clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv with all that development needs
	$(SETUP) dev --debian

demo: ## Show it: a shop under load gets a canary, a bad release, a blue-green switch and a rollback
	$(SETUP) run
	@$(BIN)/crossfade demo

test: lint ## Run every check: format, lint, types, layers, tests (15 minutes at most)
	@$(TESTS) -n 3 --dist loadfile --no-loadscope-reorder || { [ $$? = 1 ] && echo "$(AGAIN)" \
	  && $(TESTS) --last-failed --last-failed-no-failures none --maxfail 10; }

lint: setup ## Run the checks that run nothing: format, lint, types, layers
	$(BIN)/ruff format --check $(TREES)
	$(BIN)/ruff check $(TREES)
	$(BIN)/mypy $(TYPED)
	$(BIN)/lint-imports

format: setup ## Put the code into its format, and mend what can be mended by rule
	$(BIN)/ruff check --fix-only $(TREES)
	$(BIN)/ruff format $(TREES)

# UPGRADE=1 takes the newest versions that pyproject.toml allows; without it what is locked stays.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
           --no-emit-index-url --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
lock: ## Write locks/*.txt anew from pyproject.toml (UPGRADE=1: with the newest versions)
	$(SETUP) lock
	$(COMPILE) pyproject.toml --group build --group dev -o locks/dev.txt
	$(COMPILE) pyproject.toml --group build -c locks/dev.txt -o locks/run.txt
	$(COMPILE) pyproject.toml --extra bench --group build -c locks/dev.txt -o locks/bench.txt
	$(COMPILE) --group pyproject.toml:build --group pyproject.toml:lock -c locks/dev.txt -o locks/lock.txt

bench: bench-switch bench-edge bench-deploy bench-detection bench-judge bench-reaction bench-api bench-pipeline bench-migrations bench-regression bench-flags bench-year ## Run all the benches, in turn

bench-switch: ## How fast and how clean a switch is, beside reloads of nginx and HAProxy and Traefik's file provider
	$(SETUP) bench
	$(BENCH) bench.switch

bench-edge: ## What the edge costs a request, beside bare HAProxy, nginx, Envoy, Traefik and Caddy
	$(SETUP) bench
	$(BENCH) bench.edge

bench-deploy: ## How long a blue-green deploy takes, and what the server costs when idle
	$(SETUP) bench
	$(BENCH) bench.deploy

bench-detection: ## False alarms and seconds to detect, beside Kayenta, Flagger, Lindon-Malek, thresholds and z-tests
	$(SETUP) bench
	$(BENCH) bench.detection

bench-judge: ## What a look of the judge costs, and a replay of 600,000 rows
	$(SETUP) bench
	$(BENCH) bench.judge

bench-reaction: ## From the first bad answer of a candidate to no traffic, on the real edge
	$(SETUP) bench
	$(BENCH) bench.reaction

bench-api: ## How fast the API answers with 10,000 releases, and what 200 live viewers cost
	$(SETUP) bench
	$(BENCH) bench.api

bench-pipeline: ## What a run of a pipeline costs beyond its commands, 50 runs at once, and a log of 100 MB
	$(SETUP) dev
	$(BENCH) bench.pipeline

bench-migrations: ## What a migration costs a database's clients, and how fast a backfill is
	$(SETUP) dev
	$(BENCH) bench.migrations

bench-regression: ## How often the comparison of two releases is wrong (some 50 minutes; --rounds for fewer)
	$(SETUP) bench
	$(BENCH) bench.regression

bench-flags: ## What flags cost: evaluated in one Python process beside others, and over OFREP with 500 clients
	$(SETUP) bench
	$(BENCH) bench.flags

bench-year: ## A year of deployments by four ways, a part of them bad, as clients see it (some 25 minutes)
	$(SETUP) run
	$(BENCH) bench.year

screenshots: setup ## Take the README's picture anew, and a set of others into build/screenshots
	$(BIN)/python tools/screenshots.py --all build/screenshots

clean: ## Remove .venv, caches and built files
	rm -rf .venv build dist src/crossfade/web/static/vendor .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(TREES) -name __pycache__ -type d -prune -exec rm -rf {} +
