# What a newcomer needs: `make demo` and `make test`. Only Python 3.11 or newer and make are assumed.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults dev say check format migrations release bench lock clean

help: ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## install everything the project needs, into .venv and tests/local/node_modules

$(READY): requirements-dev.lock tests/local/package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 setup"; exit 1; }
	@echo "Setting up (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(RUN) -m tests.local.lite
	@touch $(READY)

demo: $(READY) ## show the main job and a campaign, from a frontend to Meta's stand-in and back
	@$(RUN) -m tests.demo

test: $(READY) ## run the whole test suite, on all processors
	@$(RUN) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

faults: $(READY) ## the experiment: 200,000 messages under 500 real faults, and books that must agree (half an hour)
	@$(RUN) -m tests.faults

dev: $(READY) ## start the local stack and leave it running
	@$(RUN) -m tests.local.dev

say: $(READY) ## somebody writes to a number of `make dev`: make say COUNTRY=MX TEXT=hola
	@COUNTRY="$(COUNTRY)" ACCOUNT="$(ACCOUNT)" FROM="$(FROM)" TEXT="$(TEXT)" $(RUN) -m tests.local.say

check: $(READY) ## format, lint, types and the walls between the modules
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/deno fmt --quiet --check --line-width 130 supabase/functions
	@$(VENV)/bin/deno lint --quiet supabase/functions
	@$(VENV)/bin/deno check --quiet supabase/functions/*/index.ts

format: $(READY) ## put the code into its format
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .
	@$(VENV)/bin/deno fmt --quiet --line-width 130 supabase/functions

migrations: $(READY) ## write supabase/migrations from supabase/schemas, where SQL is edited
	@$(RUN) -m tests.local.sources

release: $(READY) ## release the schema as it stands: its migration never changes again
	@$(RUN) -m tests.local.sources release

bench: $(READY) ## measure, side by side with what else there is
	@$(RUN) -m tests.benchmarks

lock: $(READY) ## pin the dependencies of pyproject.toml anew
	@$(PYTHON) -m venv .lock-venv && .lock-venv/bin/pip install --quiet pip-tools
	@.lock-venv/bin/pip-compile --quiet --strip-extras --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --allow-unsafe --extra direct -o requirements.lock pyproject.toml
	@.lock-venv/bin/pip-compile --quiet --strip-extras --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --allow-unsafe --extra direct --extra dev --extra bench -o requirements-dev.lock pyproject.toml

clean: ## remove what make made
	@rm -rf $(VENV) .lock-venv .local tests/local/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
