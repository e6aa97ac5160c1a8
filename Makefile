# haprobe: the commands of this checkout. `make` alone lists them.
#
# On a fresh Debian 12/13 or Ubuntu 24.04, as root or with sudo, `make drill` and `make test` install what is missing
# and build .venv from a lock with hashes. A machine that has everything is left as it is.
# PYTHON=/path/to/python picks another interpreter (3.11 or newer).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help drill test check format test-netns bench dashboards-check lab-down lock docs pictures clean

PYTHON ?=
OUT ?= runs
ARGS ?=
# Packet sockets and namespaces need root; everything else runs as the user.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo env PATH="$$PATH" PYTHONDONTWRITEBYTECODE=1)
BIN := .venv/bin

# Tests by name (ARGS="-k name") may be in one half of them only: pytest ends in 5 where it found none.
pytest = $(SUDO) $(BIN)/python -m pytest $(1) $(if $(SUDO),-p no:cacheprovider) $(ARGS) || [ $$? -eq 5 ]

help: ## list the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 25

drill: ## rehearse a failover in a lab on this machine; runs are stored in OUT=runs, options in ARGS
	@tools/packages python lab
	@PYTHON="$(PYTHON)" tools/venv lab
	@mkdir -p "$(OUT)"
	@status=0; $(SUDO) $(BIN)/haprobe drill --lab --out "$(OUT)" $(ARGS) || status=$$?; \
	 if [ -n '$(SUDO)' ]; then sudo chown -R "$$(id -u):$$(id -g)" "$(OUT)"; fi; exit $$status

test: ## everything CI runs: lint, format, types, tests with the namespace tests in them
	@tools/packages python lab test
	@PYTHON="$(PYTHON)" tools/venv dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(call pytest,-n auto --dist worksteal -m "not netns and not lab")
	$(call pytest,-m "netns or lab" --durations=25)

check: ## format, lint, type-check and run the tests that need no privilege
	@tools/packages python
	@PYTHON="$(PYTHON)" tools/venv dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto -m "not netns and not lab and not slow" $(ARGS)

test-netns: ## only the tests that make network namespaces
	@tools/packages python lab
	@PYTHON="$(PYTHON)" tools/venv dev
	$(SUDO) $(BIN)/python -m pytest -m "netns or lab" $(if $(SUDO),-p no:cacheprovider) $(ARGS)

bench: ## beside the tools a user would pick instead; ARGS="rate --quick" and the like, ARGS=--help lists them
	@tools/packages python lab bench
	@PYTHON="$(PYTHON)" tools/venv dev
	$(SUDO) $(BIN)/python -m tests.bench $(ARGS)

dashboards-check: ## hold what Grafana shows of a live lab drill to its report; ARGS="--down 300" kills Prometheus in it
	@tools/packages python lab test
	@PYTHON="$(PYTHON)" tools/venv dev
	$(SUDO) $(BIN)/python -m tests.bench dashboards $(ARGS)

lab-down: ## remove a lab that was left up
	$(SUDO) $(BIN)/haprobe lab down

docs: ## write the generated files in docs/ and dashboards/ again
	$(BIN)/python -m probe.config_docs docs
	$(BIN)/python -m probe.export.metrics > docs/metrics.md
	$(BIN)/python -m probe.report.awsd_page > docs/awsd.md
	$(BIN)/python -m probe.drill.expected > docs/scenarios.md
	$(BIN)/python -m probe.export.run_metrics > docs/run-metrics.md
	$(BIN)/python -m dashboards
	$(BIN)/python -m probe.report.model_page > docs/result.md

pictures: ## draw docs/pictures from a drill in a lab of its own; on a quiet machine, options in ARGS
	@tools/packages python lab pictures
	@PYTHON="$(PYTHON)" tools/venv dev
	@status=0; $(SUDO) $(BIN)/python -m tests.pictures $(ARGS) || status=$$?; \
	 if [ -n '$(SUDO)' ]; then sudo chown -R "$$(id -u):$$(id -g)" docs/pictures; fi; exit $$status

lock: ## pin all dependencies again (needs uv); an existing pin stays while it fits, UPGRADE=--upgrade renews it
	@tools/lock $(UPGRADE)

clean: ## remove what was built; stored runs stay
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
