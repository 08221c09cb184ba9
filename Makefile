# Every target sets up what it needs; ARGS goes to the command behind it.
python := .venv/bin/python
# How long `make soak` goes on.
SECONDS ?= 60
# How many processes share the whole suite; most of it waits.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo quick test coverage bench lint format typecheck check pjdfstest xfstests soak lock man clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo:  ## show fusevol at work
	@scripts/setup runtime
	@scripts/demo $(ARGS)

quick: lint typecheck  ## lint, typecheck and the tests that need no mount: a minute
	@scripts/setup quick
	$(python) -m pytest tests/unit -n 2 --dist loadgroup $(ARGS)

test:  ## run the tests; in one process those chosen: make test ARGS="tests/unit -k rename"
	@scripts/setup test
	$(python) -m pytest $(or $(ARGS),-n $(WORKERS) --dist loadgroup)

coverage:  ## which lines tests run, other processes' too: make coverage ARGS=tests/unit
	@scripts/setup test
	rm -rf build/coverage && mkdir -p build/coverage
	$(python) -m coverage run -m pytest $(or $(ARGS),-n $(WORKERS) --dist loadgroup)
	@$(python) -m coverage combine -q
	@$(python) -m coverage report

bench:  ## measure fusevol and its peers
	@scripts/setup bench
	$(python) -m benchmarks $(ARGS)

lint:  ## check style and format
	@scripts/setup quick
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m codespell_lib

format:  ## format, and fix what can be fixed safely
	@scripts/setup quick
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

typecheck:  ## check types
	@scripts/setup quick
	$(python) -m mypy

check: lint typecheck test  ## all of lint, typecheck and test

pjdfstest:  ## run a checkout of the suite: make pjdfstest PJDFSTEST=DIR
	@test -n "$(PJDFSTEST)" || { echo 'usage: make pjdfstest PJDFSTEST=DIR' >&2; exit 2; }
	@scripts/setup runtime
	@scripts/pjdfstest $(PJDFSTEST) $(ARGS)

xfstests:  ## run a checkout of the suite: make xfstests XFSTESTS=DIR
	@test -n "$(XFSTESTS)" || { echo 'usage: make xfstests XFSTESTS=DIR' >&2; exit 2; }
	@scripts/setup runtime
	@scripts/xfstests $(XFSTESTS) $(ARGS)

soak:  ## kill what serves volumes, and more, while they are used: make soak SECONDS=600
	@scripts/setup test
	$(python) -m tests.crash $(SECONDS) $(ARGS)
	$(python) -m tests.promises $(SECONDS)

lock:  ## pin the newest releases of all Python packages
	@scripts/lock

man:  ## write manual pages to build/man
	@scripts/setup test
	$(python) scripts/man build/man

clean:  ## remove what was made here
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -exec rm -rf {} +
