PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup test lint demo demo-live bench-stream bench-nightly bench-faults bench-serving bench-outages bench-frameworks bench-analysis bench-false-alarms bench-forget bench-rotation lock clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/ready: requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit("Python %d.%d, must be 3.11 or newer" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "setting up .venv from requirements.lock (about two minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: .venv/ready  ## .venv from the lock file

lint: .venv/ready  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## everything that CI runs
	$(BIN)/python -m pytest -n 2 -m 'not alone'
	$(BIN)/python -m pytest -m alone

demo: .venv/ready  ## a simulated marketplace through the stream into SQLite
	$(BIN)/forecourt demo

demo-live: .venv/ready  ## the same through the Pub/Sub and Bigtable emulators
	$(BIN)/forecourt demo --live

bench-stream: .venv/ready  ## speed, freshness and memory, beside the ways people do it today
	$(BIN)/python -m benchmarks.stream

bench-nightly: .venv/ready  ## the night beside DuckDB and pandas on the same files
	$(BIN)/python -m benchmarks.nightly

bench-faults: .venv/ready  ## 25 kills at random moments under load, outages
	$(BIN)/python -m benchmarks.faults --kills 25

bench-serving: .venv/ready  ## the gateway beside the bare Bigtable client and Feast
	$(BIN)/python -m benchmarks.serving

bench-outages: .venv/ready  ## the gateway while its store freezes, dies, crawls and holds nonsense
	$(BIN)/python -m benchmarks.outages

bench-frameworks: .venv/ready  ## what a web framework costs
	$(BIN)/python -m benchmarks.frameworks

bench-analysis: .venv/ready  ## ten million sessions analysed, beside pandas and statsmodels
	$(BIN)/python -m benchmarks.analysis

bench-false-alarms: .venv/ready  ## 2,000 experiments with nothing in them, read in every way
	$(BIN)/python -m benchmarks.false_alarms

bench-forget: .venv/ready  ## people forgotten in an archive of ten million events
	$(BIN)/python -m benchmarks.forget

bench-rotation: .venv/ready  ## rows and archive moved to the next pseudonym key
	$(BIN)/python -m benchmarks.rotation

lock:  ## pin the dependencies anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --custom-compile-command "make lock" requirements-dev.in -o requirements.lock

clean:  ## remove what was made here
	rm -rf .venv build demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
