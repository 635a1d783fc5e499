# `make run` and `make test` set themselves up first; everything that is installed goes to .venv.
PYTHON ?= python3
# further arguments for snakemake or pytest
ARGS ?=
# what is started here finds the programs of .venv first
INSIDE := PATH="$(CURDIR)/.venv/bin:$$PATH"
INSTALL := .venv/bin/python -m pip install -c constraints.txt

.PHONY: help install run test lint bench

help:
	@echo "make run       the whole pipeline on the default configuration, ending with report.html and the results"
	@echo "make test      all tests"
	@echo "make bench     every stage against the published algorithms, some forty minutes; writes docs/speed.md"
	@echo "make lint      ruff, mypy, snakefmt and snakemake --lint"
	@echo "make install   .venv with pinned versions; the others do it first (make install PYTHON=/path/to/python)"

install: .venv/installed

run: install
	$(INSIDE) .venv/bin/snakemake --cores all $(ARGS)

test: install
	$(INSIDE) .venv/bin/pytest $(ARGS)

bench: install
	$(INSIDE) .venv/bin/python -m benchmarks --write $(ARGS)

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/snakefmt --check workflow
	$(INSIDE) .venv/bin/snakemake --lint

# a .venv that was copied or moved here holds the paths of its old place and would run the code there
ifneq ($(shell cat .venv/installed 2>/dev/null),$(CURDIR))
.PHONY: .venv/installed
endif

# pydensecrf2 asks for a Cython that knows no Python newer than 3.12, hence ours and no build isolation
.venv/installed: pyproject.toml constraints.txt
	@sh .ci/preflight "$(PYTHON)"
	@test "$$(cat $@ 2>/dev/null || echo "$(CURDIR)")" = "$(CURDIR)" && .venv/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	$(INSTALL) cython setuptools
	$(INSTALL) --no-build-isolation -e ".[test]"
	@echo "$(CURDIR)" > $@
