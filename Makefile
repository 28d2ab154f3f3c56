# The two main commands are `make run` and `make test`. Each installs what it needs on its first run.
# `make test-all` runs everything; tests whose Debian or npm packages cannot be installed are skipped, unless CI=true.

# Another Python: make PYTHON3=python3.13 run, in a checkout without .venv.
export PYTHON3
SET_UP := sh .ci/set-up
PYTHON := .venv/bin/python

# Seconds for which random schedules run in `make soak`, after its campaigns.
SECONDS ?= 600

# Variables that change what Python imports, and how, are meant for other programs. With the last one, each start of the
# program would compile its files again, and each worker those of the tests.
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONPLATLIBDIR PYTHONUSERBASE PYTHONSTARTUP PYTHONINSPECT PYTHONOPTIMIZE \
	PYTHONWARNINGS PYTHONDONTWRITEBYTECODE

# Whole files are distributed in the order of tests/conftest.py. Many tests wait, so two cores run four workers.
PYTEST := $(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# The tests whose program has a database that matters, for `make test-pgbouncer`.
ON_DATABASES := tests/handlers tests/web tests/relay tests/db tests/test_invariants.py tests/test_database_trouble.py \
	tests/test_retention.py tests/test_first_chat.py

# The requirements files whose packages the tests import.
TEST_PACKAGES := requirements-dev.txt requirements-postgres.txt requirements-model.txt
# What tests/clients needs beside: curl, and the libraries in Java and Go.
CLIENTS := curl default-jdk-headless libokhttp-java golang-go golang-github-donovanhide-eventsource-dev

.PHONY: run test test-all test-extended test-pgbouncer soak bench screenshots vendor audit check format clean

run:
	@$(SET_UP) requirements.txt
	@$(PYTHON) -m embedded.install $(ARGS)
	@exec $(PYTHON) server.py $(ARGS)

test: tests/node_modules/.package-lock.json
	@$(SET_UP) $(TEST_PACKAGES)
	@sh .ci/debian-packages --optional chromium-headless-shell haproxy nginx pgbouncer prometheus
	@$(PYTEST) -m "not extended" $(ARGS)

# The tests that take long and seldom fail.
test-extended: tests/node_modules/.package-lock.json
	@$(SET_UP) $(TEST_PACKAGES)
	@sh .ci/debian-packages --optional chromium-headless-shell haproxy nginx pgbouncer prometheus $(CLIENTS)
	@$(PYTEST) -m extended $(ARGS)

test-all:
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-extended

# The tests that use a database again, behind PgBouncer.
test-pgbouncer: tests/node_modules/.package-lock.json
	@$(SET_UP) $(TEST_PACKAGES)
	@sh .ci/debian-packages --optional pgbouncer
	@CHATTERD_BEHIND_PGBOUNCER=1 $(PYTEST) $(ON_DATABASES) $(ARGS)

soak:
	@$(SET_UP) $(TEST_PACKAGES)
	@sh .ci/debian-packages haproxy nginx
	@$(PYTHON) -m tests.soak $(ARGS)
	@CHATTERD_SECONDS=$(SECONDS) $(PYTHON) -m pytest -q -s -m "not extended" tests/test_schedules.py

# All of it, about 45 minutes on 2 idle cores: make bench. About two minutes: make bench QUICK=1.
# A part: make bench ARGS="--only=table --peers=chatterd,rust". Two revisions, about 9 minutes:
# make bench ARGS="--revisions=HEAD~1,worktree"; one scenario: ARGS="--revisions=A,B,C --only=table --runs=7".
bench:
	@$(SET_UP) requirements.txt requirements-model.txt
	@$(SET_UP) --environment=.venv/bench bench/requirements.txt
	@.venv/bench/bin/python -m bench $(if $(QUICK),--quick) $(ARGS)

screenshots:
	@$(SET_UP) $(TEST_PACKAGES)
	@sh .ci/debian-packages chromium-headless-shell
	@$(PYTHON) -m tests.browser.screenshots

vendor:
	@sh .ci/debian-packages npm
	@node .ci/vendor.mjs

audit:
	@$(SET_UP) $(TEST_PACKAGES)
	@$(SET_UP) --environment=.venv/audit .ci/audit-requirements.txt
	@$(PYTHON) -m tests.packages
	@.venv/audit/bin/pip-audit --strict --no-deps --disable-pip -r .venv/audit/installed.txt

check:
	@$(SET_UP) $(TEST_PACKAGES)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy .

format:
	@$(SET_UP) $(TEST_PACKAGES)
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

clean:
	rm -rf .venv tests/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis

tests/node_modules/.package-lock.json: tests/package-lock.json
	@sh .ci/npm-packages
