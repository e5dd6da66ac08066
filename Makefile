# Each target works on a fresh clone with Python 3.11+ and make: the environment is made on the way.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

# A village is many processes: each would compile all that it imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run demo test thorough check format lock bench mutation storm chaos clean system-packages

run: $(STAMP)
	$(BIN)/village up

demo: $(STAMP)
	$(BIN)/village demo $(DEMO)

# Processes share the tests by file: one more than CI has cores, for tests wait more than they compute.
# WORKERS=0 runs them in one, as a debugger wants it.
WORKERS ?= 3

test: $(STAMP) system-packages
	$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(TESTS)

# The long forms of all tests: new examples, ten times as many where a test names no number, and every point of a crash.
thorough: $(STAMP) system-packages
	THOROUGH=1 $(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(TESTS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/domain/test_event_catalogue.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)
	{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

# The long form of tests/simulation: parts of the bus are killed at random while 100,000 facts are recorded.
storm: $(STAMP)
	$(BIN)/python -m tests.simulation.bus_storm $(STORM)

# A whole village under load for ten minutes while its parts are killed, frozen and restarted, and what must hold then.
chaos: $(STAMP)
	$(BIN)/python -m tests.simulation.chaos $(CHAOS)

# Changes the rules of tokenomics one at a time, and counts the changes that no test of them notices; takes up again
# where it was stopped.
MUTANTS := .mutants.sqlite
mutation: $(STAMP) $(MUTANTS)
	$(BIN)/python -m tests.mutants mutation.toml $(MUTANTS)

$(MUTANTS): mutation.toml $(wildcard domain/tokenomics/*.py tests/domain/tokenomics/*.py) | $(STAMP)
	rm -f $@
	PATH="$(CURDIR)/$(BIN):$$PATH" cosmic-ray init mutation.toml $@
	PATH="$(CURDIR)/$(BIN):$$PATH" cr-filter-operators $@ mutation.toml

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) $(MUTANTS) .village .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Nearly all modules of the packages are never imported: what is, is compiled then.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,demo,bench]'
	touch $@

# promtool checks the alert rules; it is taken out of its package, whose server is neither installed nor started.
# Debian keeps from starting a server of its own when postgresql-15 is installed for the tests.
system-packages:
	@set -e; missing=""; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	test -x /usr/lib/postgresql/15/bin/postgres || missing="$$missing postgresql-15"; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "not installed:$$missing (needs root and apt-get); the tests that use them are skipped"; exit 0; \
	fi; \
	mkdir -p /etc/postgresql-common/createcluster.d; \
	echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/village-tests.conf; \
	apt-get update -qq; \
	for package in $$missing; do \
	  if [ $$package = prometheus ]; then \
	    here=$$(mktemp -d); (cd $$here && apt-get download -qq prometheus 2>/dev/null && dpkg -x prometheus_*.deb . \
	      && install usr/bin/promtool /usr/local/bin/promtool) || echo "could not get promtool"; \
	    rm -rf $$here; continue; \
	  fi; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null \
	    || echo "could not install $$package"; \
	done
