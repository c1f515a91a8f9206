# Everything a developer or CI runs. Needed: Python 3.11+ and make; `make test` also wants Java 17+ and Maven for a real Kafka.

PYTHON ?= python3
BIN := .venv/bin
UV := $(or $(shell command -v uv),$(BIN)/uv)
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
TYPED := $(wildcard worker/kworker plugins/*/src plugins/*/tests tests benchmarks demo docs deploy/grafana deploy/lock)
CONSTRAINTS := constraints.txt

.DEFAULT_GOAL := help
.PHONY: help venv demo test check lint types imports unit test-long test-cluster soak bench bench-smoke bench-guard docs fmt dist constraints lock dashboards clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.13 make venv: another Python.  KWORKER_TEST_BOOTSTRAP=host:port make test: a running Kafka."

venv: .venv/installed ## the virtual environment, with the worker and every plugin installed editable
.venv/installed: $(PROJECTS) $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kworker needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.13")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) uv
	$(UV) pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) --build-constraint $(CONSTRAINTS) \
		--group dev $(PROJECTS:%pyproject.toml=--editable ./%)
	@touch $@

demo: venv ## two workers, thousands of tasks, one kill: no Kafka, no Docker, no Java
	@$(BIN)/python demo/demo.py

# What failed is run once more, alone, when nothing else has the machine, with the same seed: a fault fails twice. What
# passes then is named in the last lines and is unstable; why it failed stands above: mend it.
test: export KWORKER_TEST_SEED := $(or $(KWORKER_TEST_SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
test: check ## everything: check, then all tests on real Kafkas that they start: two at a time, each with its own
	$(BIN)/pytest -n 2 --dist loadfile -m "not long" || { test $$? = 1 && \
		$(BIN)/pytest -v -m "not long" --last-failed --last-failed-no-failures none; }

check: lint types imports ## lint, types and import contracts: what needs no broker
lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
types: venv
	$(BIN)/mypy $(TYPED)
imports: venv
	$(BIN)/lint-imports --no-cache

unit: venv ## the tests that need no broker
	$(BIN)/pytest -m "not kafka and not long"

test-long: venv ## the tests that take minutes: soaks and storms
	$(UV) pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) --group long
	$(BIN)/pytest -m long

CLUSTER ?= $(wildcard ../shared/tools/cluster)
test-cluster: venv ## the chart on a real API server: KWORKER_TEST_KUBECONFIG=one to spare, or CLUSTER=a tool that starts one
	CLUSTER=$(CLUSTER) $(BIN)/pytest tests/deploy/chart/on_cluster.py

soak: venv ## all faults at random for MINUTES=30, then the ledger; KWORKER_TEST_SEED repeats one
	MINUTES=$(or $(MINUTES),30) $(BIN)/pytest -s tests/faults/test_soak.py

BENCH := PYTHONPATH=tests $(BIN)/python -m benchmarks
RUN ?= first
bench: venv ## kworker and its peers side by side, into docs/benchmarks.md: hours of a machine with nothing else to do; RUN=second
	$(UV) pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) --group bench
	-$(BENCH) $(ONLY:%=--only %) --into build/bench/$(RUN).jsonl
	$(BENCH).document --write docs/benchmarks.md build/bench/*.jsonl
bench-smoke: venv ## the same with few tasks: shows that the benchmark works, measures nothing
	$(BENCH) --smoke --peer kworker --peer raw --peer hand
bench-guard: venv ## is the tree slower than BASE=<commit>, HEAD unless given? fails beyond the noise that it measures
	$(BENCH).guard --base $(or $(BASE),HEAD)

docs: venv ## the site of docs/, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

fmt: venv ## format, and mend what the linter can
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

dist: venv ## wheels and sdists of the worker and every plugin, in dist/
	rm -rf dist
	$(UV) build --quiet --python $(BIN)/python --build-constraint $(CONSTRAINTS) --all-packages --out-dir dist
	@ls dist

COMPILE = $(UV) pip compile --quiet --python $(BIN)/python --universal --no-header --no-annotate --no-emit-package kworker-kafka
constraints: venv ## renew the pinned versions of constraints.txt, and the locks of the image
	$(COMPILE) --upgrade --group dev --group image --group long --group bench $(PROJECTS) --output-file $(CONSTRAINTS)
	$(MAKE) --no-print-directory lock
lock: venv ## the image's parts as they are pinned in constraints.txt, with the hash of each file; and their licences
	$(COMPILE) --constraint $(CONSTRAINTS) --generate-hashes --extra otel --extra uvloop $(PROJECTS) --output-file deploy/lock/image.txt
	$(COMPILE) --constraint $(CONSTRAINTS) --generate-hashes --group image --output-file deploy/lock/build.txt
	$(BIN)/python deploy/lock/licences.py

dashboards: venv ## write the Grafana dashboards that deploy/grafana describes
	PYTHONPATH=deploy $(BIN)/python -m grafana

clean: ## remove all that was made here, the virtual environment too
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find worker plugins tests demo benchmarks -name __pycache__ -prune -exec rm -rf {} +
