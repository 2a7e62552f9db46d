# Two commands on a fresh machine: `make demo` and `make test`. Each sets itself up from a bare Python 3.11.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CORES  ?= all
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Two processes of one thread: a second thread would make each of them slower while the other runs.
TESTS  := OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile

.PHONY: demo test test-slow miniatures lint bench lock clean

demo: $(STAMP)  ## train real networks on scikit-learn's digits and show the table
	@echo "== training on digits; nothing is downloaded any more"
	snakemake --cores $(CORES) results/tables/digits.csv
	@echo "== results/tables/digits.md"
	@sed -n '/^|/,/^$$/p' results/tables/digits.md

test: $(STAMP)  ## fast tests
	$(TESTS)

test-slow: $(STAMP)  ## everything else: whole graphs, faults, servers
	$(TESTS) -m "slow and not bench"

miniatures: $(STAMP)  ## the recipes of every paper on every large set (not btm_official, livt_bal), two steps on generated images
	$(TESTS) -m "miniature or slow" tests/workflow/*miniatures.py

lint: $(STAMP)  ## style, workflow, imports
	ruff check lt scripts tests bench
	ruff format --check lt scripts tests bench
	snakefmt --check Snakefile workflow
	snakemake --lint
	lint-imports

bench: $(STAMP)  ## ratios against the ordinary way, measured in one run
	OMP_NUM_THREADS=1 pytest -m bench bench

lock:  ## write requirements.lock anew from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --all-extras --no-header --no-annotate --no-emit-index-url pyproject.toml \
		| sed 's/+cpu$$//' > requirements.lock.new
	(head -n 1 requirements.lock; cat requirements.lock.new) > requirements.lock.tmp
	mv requirements.lock.tmp requirements.lock; rm requirements.lock.new

$(STAMP): requirements.lock pyproject.toml
	@echo "== setting up $(VENV) with the pinned packages of requirements.lock"
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; say which: make PYTHON=/path/to/python3.11"; exit 2; }
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

clean:  ## computed files, not the environment
	rm -rf results/[!mt]* scratch logs benchmarks .snakemake
