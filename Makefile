# The one task runner. `make` lists the tasks; each makes the environments it needs, under .venv/:
#   tools    uv, ruff, mypy                      any Python from 3.10    requirements/tools.txt
#   merlin   TensorFlow 2.12, Merlin, NVTabular  Python 3.11 or 3.10     requirements/merlin.txt
#   current  NumPy 2, newest pandas and Faiss    Python 3.12 or newer    requirements/current.txt

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:

# What the tasks take.
DATASET     ?= tutorial
DATA        ?=
SEED        ?= 0
ROWS        ?= 2000000
BENCH_ENV   ?= merlin
PYTEST_ARGS ?=
# More of what trains: --tasks, --variants, --seeds; QUICK=1 takes little data and one seed.
QUALITY_ARGS ?=
QUICK       ?=
# Processes that tests run in; a file stays in one, with what it has trained or compiled.
PYTEST_JOBS ?= 2
GPU_PYTHON  ?= python
GPU_ARGS    ?=
UPGRADE     ?=

# Name an interpreter to be used in the place of the first that is found.
TOOLS_PYTHON   ?= $$(scripts/find_python.sh 3.11 3.12 3.13 3.14 3.10)
MERLIN_PYTHON  ?= $$(scripts/find_python.sh 3.11 3.10)
CURRENT_PYTHON ?= $$(scripts/find_python.sh 3.12 3.13 3.14)

TOOLS := .venv/tools/bin
UV    := $(TOOLS)/uv

export TF_CPP_MIN_LOG_LEVEL ?= 2
export MPLBACKEND ?= Agg
export UV_PYTHON_DOWNLOADS := never

.PHONY: help
help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# --- running -------------------------------------------------------------------------------------

demo_tutorial       = workflows.poeem_tutorial --seed $(SEED)
demo_movielens-100k = workflows.movielens --variant 100k $(if $(DATA),--data "$(DATA)")
demo_movielens-1m   = workflows.movielens --variant 1m $(if $(DATA),--data "$(DATA)")
demo_gowalla        = workflows.gowalla --seed $(SEED) $(if $(DATA),--data "$(DATA)",$(error DATA=: expected the folder of the LightGCN split, train.txt.gz and test.txt.gz))
demo_aliccp-sim     = workflows.aliccp --rows $(ROWS) --seed $(SEED)

.PHONY: demo
demo: .venv/merlin/.ready ## train, index, search: [DATASET=tutorial|movielens-100k|movielens-1m|gowalla|aliccp-sim] [DATA=folder] [SEED=0] [ROWS=2000000]
	.venv/merlin/bin/python -m $(or $(demo_$(DATASET)),$(error DATASET=$(DATASET): expected tutorial, movielens-100k, movielens-1m, gowalla or aliccp-sim))

.PHONY: bench-quality
bench-quality: .venv/merlin/.ready .venv/current/.ready ## train, then judge beside Faiss and ScaNN, into results/quality/: [DATA=folder of ml-1m/ and gowalla/] [QUICK=1] [QUALITY_ARGS=--seeds 0 --variants ...] [JUDGE_ARGS=--queries 6000 --sizes 8]
	.venv/merlin/bin/python -m benchmarks.quality.training $(if $(DATA),--data "$(DATA)") $(if $(QUICK),--quick) $(QUALITY_ARGS)
	.venv/current/bin/python -m benchmarks.quality $(if $(QUICK),--quick) $(JUDGE_ARGS)

.PHONY: bench-search
bench-search: .venv/$(BENCH_ENV)/.ready ## search speed with recall, into results/search.json: [BENCH_ENV=merlin|current]
	.venv/$(BENCH_ENV)/bin/python -m benchmarks.search

.PHONY: bench-gpu
bench-gpu: ## speed, latency and recall on this machine's GPU, into results/search_gpu.json: [GPU_PYTHON=python] [GPU_ARGS=...]
	$(GPU_PYTHON) -m benchmarks.search_gpu $(GPU_ARGS)

.PHONY: notebooks
notebooks: .venv/merlin/.ready .venv/current/.ready ## run every notebook at full scale, with outputs, into results/notebooks/
	.venv/merlin/bin/python -m scripts.execute_notebooks --environment merlin
	.venv/current/bin/python -m scripts.execute_notebooks --environment current

# --- checking ------------------------------------------------------------------------------------

.PHONY: test
test: ## both test suites; MERLIN_POEEM_DATA=folder adds the tests on real data
	@python="$(CURRENT_PYTHON)"
	$(MAKE) --no-print-directory -j 2 .venv/merlin/.ready $${python:+.venv/current/.ready}
	$(MAKE) --no-print-directory test-merlin $${python:+MARKED="not once"}
	$(MAKE) --no-print-directory test-current

.PHONY: test-merlin
test-merlin: .venv/merlin/.ready ## the whole suite, in the pinned environment: [PYTEST_ARGS=...]
	.venv/merlin/bin/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(if $(MARKED),-m "$(MARKED)") $(PYTEST_ARGS)

.PHONY: test-current
test-current: .venv/tools/.ready ## the half without TensorFlow, on Python 3.12 or newer: [PYTEST_ARGS=...]
	@if python="$(CURRENT_PYTHON)" && [ -n "$$python" ]; then
		$(MAKE) --no-print-directory .venv/current/.ready CURRENT_PYTHON="$$python"
		.venv/current/bin/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	else
		echo "NOT RUN on Python 3.12 or newer: the half without TensorFlow was tested in the pinned environment only."
	fi

.PHONY: lint
lint: .venv/tools/.ready ## ruff, ruff format, mypy
	$(TOOLS)/ruff check .
	$(TOOLS)/ruff format --check .
	$(TOOLS)/mypy

.PHONY: format
format: .venv/tools/.ready ## mend what ruff can mend
	$(TOOLS)/ruff check --fix-only .
	$(TOOLS)/ruff format .

# --- environments --------------------------------------------------------------------------------

COMPILE = $(UV) pip compile --quiet --generate-hashes --custom-compile-command 'make requirements' $(UPGRADE)

.PHONY: requirements
requirements: .venv/tools/.ready ## compile requirements/*.txt anew: [UPGRADE=--upgrade]
	$(COMPILE) --python-version 3.10 --universal requirements/tools.in -o requirements/tools.txt
	$(COMPILE) --python-version 3.10 --universal \
		pyproject.toml --extra train --extra systems --extra dask --extra cpu requirements/merlin.in -o requirements/merlin.txt
	$(COMPILE) --python-version 3.12 --universal \
		pyproject.toml --extra dask --extra cpu requirements/current.in -o requirements/current.txt

.PHONY: clean
clean: ## remove the environments and every cache; results/ stays
	rm -rf .venv build dist *.egg-info .emulation .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/tools/.ready: requirements/tools.txt
	python="$(TOOLS_PYTHON)"
	"$$python" -m venv .venv/tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

.venv/merlin/.ready:  python = $(MERLIN_PYTHON)
.venv/current/.ready: python = $(CURRENT_PYTHON)

.venv/merlin/.ready .venv/current/.ready: .venv/%/.ready: requirements/%.txt pyproject.toml | .venv/tools/.ready
	python="$(python)"
	"$$python" -m venv --without-pip .venv/$*
	$(UV) pip sync --quiet --require-hashes --python .venv/$*/bin/python $<
	$(UV) pip install --quiet --no-deps --build-constraints requirements/tools.txt --python .venv/$*/bin/python --editable .
	touch $@
