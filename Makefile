# The one place that names commands. `make` alone lists them. Nothing here needs the environment
# to be activated: each target that wants it installs it first, and finds its tools by path.

.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp
COVER := $(BIN)/coverage run --parallel-mode -m

PYTHON ?= # the interpreter to build .venv with; empty: the first that is 3.11 or newer
SEEDS  ?= 1000# how many histories `make simulate` tries
SECONDS ?= 60# that `make fuzz` gives each decoder
ARGS   ?= # passed on by test, bench, demo and simulate

.PHONY: help install demo cluster-demo test test-faults check coverage format proto docs bench bench-cluster simulate fuzz lock clean dist

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv with everything, pinned by version and hash
	@:

$(STAMP): requirements/dev.txt pyproject.toml
	@sh scripts/install.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: install ## a day of departures in half a minute, then ten thousand e-mails
	@$(BIN)/python -m demo.departures $(ARGS)

cluster-demo: install ## the departures on three nodes, one of which is killed half way
	@$(BIN)/python -m demo.cluster $(ARGS)

# Three at a time, since most of a test of processes is waiting.
test: install ## run the tests
	$(BIN)/pytest -q -n 3 --dist worksteal -m "not fault" $(ARGS)

fuzz: install ## random bytes against every decoder, SECONDS each; then hostile requests, and properties
	$(BIN)/python -m fuzz --seconds $(SECONDS) $(ARGS)
	$(BIN)/pytest -q -n 2 --hypothesis-profile=fuzz tests/integration/test_hostile_requests.py
	$(BIN)/pytest -q -n 2 --hypothesis-profile=fuzz -m hypothesis tests/unit tests/property tests/conformance/ports

test-faults: install ## kill, tear, fill and starve real processes for longer than `make test` does
	$(BIN)/pytest -q -n 3 --dist worksteal -m fault $(ARGS)

check: install ## format, lint, types, imports, generated code, docs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/gen_proto.py --check
	$(BIN)/python scripts/gen_docs.py --check
	$(BIN)/pytest -q -n 2 tests/tidy

coverage: install ## hold the branches of core/ and replication/ at 100 %: unit tests, properties, some histories
	@rm -f .coverage .coverage.*
	$(COVER) pytest -q -p no:randomly tests/unit/core tests/unit/replication tests/property & core=$$!; \
	$(COVER) pytest -q -p no:randomly tests/unit/broker && $(COVER) sandglass.testing.simulate --seeds 40; \
	shell=$$?; wait $$core && exit $$shell
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

format: install ## put the code into its form, and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format --quiet

proto: install ## generate the stubs from proto/
	$(BIN)/python scripts/gen_proto.py

docs: install ## generate the reference pages that come from the code
	$(BIN)/python scripts/gen_docs.py

bench: install ## rates, CPU per message and latencies beside their floors
	@$(BIN)/python -m bench $(ARGS)

bench-cluster: install ## three nodes beside their bare engines: rates, failover, idle partitions, replicas that catch up
	@$(BIN)/python -m bench.cluster $(ARGS)

simulate: install ## try SEEDS random histories in virtual time
	@$(BIN)/python -m sandglass.testing.simulate --seeds $(SEEDS) $(ARGS)

lock: install ## pin requirements/dev.txt anew; ARGS=--upgrade for newer releases
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe \
		--strip-extras --no-annotate --no-emit-index-url --no-emit-trusted-host \
		--no-emit-find-links --no-emit-options --extra server --extra cluster \
		--output-file requirements/dev.txt $(ARGS) pyproject.toml requirements/dev.in

dist: install ## build the wheel and the source package into dist/
	$(BIN)/python -m build --no-isolation --outdir dist

clean: ## take away .venv and every cache
	rm -rf $(VENV) dist build .fuzz .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
