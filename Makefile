# The one task runner. `make` lists the tasks; each makes the environments it needs, under .venv/:
#   tools    uv, ruff, mypy                      any Python from 3.10    requirements/tools.txt
#   merlin   TensorFlow 2.12, Merlin, NVTabular  Python 3.11 or 3.10     requirements/merlin.txt
#   current  NumPy 2, newest pandas and Faiss    Python 3.12 or newer    requirements/current.txt
#   gpu      cuDF, CuPy, with CUDA=13 or 12      Python 3.12             requirements/gpu-cu13.txt, gpu-cu12.txt
#   gpu-cpu  of those what needs no card         Python 3.12             requirements/gpu-cpu.txt
#   triton   a Triton server, NumPy 1            Python 3.12 to 3.10     requirements/triton.txt

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
CHOICE_ARGS ?=
QUICK       ?=
# One of benchmarks.quality.training, in the place of a made-up catalog.
TRIAL       ?=
CPU_ARGS    ?=
SERVING_ARGS ?=
PICTURES_ARGS ?=
# Processes that tests run in; a file stays in one, with what it has trained or compiled.
PYTEST_JOBS ?= 2
GPU_PYTHON  ?= python
GPU_ARGS    ?=
MINUTES     ?= 5
EMULATE     ?=
CARD_ARGS   ?=
# Of a GPU machine's environment: 13 or 12.
CUDA        ?= 13
UPGRADE     ?=

# Name an interpreter to be used in the place of the first that is found.
TOOLS_PYTHON   ?= $$(scripts/find_python.sh 3.11 3.12 3.13 3.14 3.10)
MERLIN_PYTHON  ?= $$(scripts/find_python.sh 3.11 3.10)
CURRENT_PYTHON ?= $$(scripts/find_python.sh 3.12 3.13 3.14)
GPU_STACK_PYTHON ?= $$(scripts/find_python.sh 3.12)
TRITON_PYTHON  ?= $$(scripts/find_python.sh 3.12 3.11 3.10)

TOOLS := .venv/tools/bin
UV    := $(TOOLS)/uv

# The wheel with the Triton server is for this C library or a newer one; elsewhere its tests skip, and say so.
SERVER_GLIBC := 2.35
GLIBC   := $(lastword $(shell getconf GNU_LIBC_VERSION 2>/dev/null))
SERVER  := $(if $(GLIBC),$(shell printf '%s\n' $(SERVER_GLIBC) $(GLIBC) | sort -VC && echo .venv/triton/.ready))

# NVRTC of older releases, unpacked beside the environments; `make test` takes one of them.
COMPILERS     := $(patsubst requirements/nvrtc-%.in,%,$(wildcard requirements/nvrtc-*.in))
TEST_COMPILER := 13.0

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

.PHONY: serve-demo
serve-demo: .venv/merlin/.ready $(SERVER) ## train, export, serve with a real Triton server, ask, swap in a retrained index
	.venv/merlin/bin/python -m workflows.serving

.PHONY: bench-quality
bench-quality: .venv/merlin/.ready .venv/current/.ready ## train, choose on held out training pairs, then read the test pairs once, into results/quality/: [DATA=folder of ml-1m/ and gowalla/] [QUICK=1] [QUALITY_ARGS=--seeds 0 --variants ...] [JUDGE_ARGS=--queries 6000] [CHOICE_ARGS=--sizes 9]
	.venv/merlin/bin/python -m benchmarks.quality.training $(if $(DATA),--data "$(DATA)") $(if $(QUICK),--quick) $(QUALITY_ARGS)
	.venv/current/bin/python -m benchmarks.quality.choice $(if $(QUICK),--quick) $(JUDGE_ARGS) $(CHOICE_ARGS)
	.venv/merlin/bin/python -m benchmarks.quality.final train $(if $(DATA),--data "$(DATA)") $(if $(QUICK),--quick)
	.venv/current/bin/python -m benchmarks.quality.final judge $(if $(QUICK),--quick) $(JUDGE_ARGS)

.PHONY: bench-search
bench-search: .venv/$(BENCH_ENV)/.ready ## search speed with recall, into results/search.json: [BENCH_ENV=merlin|current]
	.venv/$(BENCH_ENV)/bin/python -m benchmarks.search

.PHONY: bench-cpu
bench-cpu: .venv/current/.ready ## recall against queries/s beside Faiss, ScaNN and usearch, into results/cpu_peers/: [TRIAL=folder of a trained trial] [QUICK=1] [CPU_ARGS=--methods ours faiss --threads 2]
	.venv/current/bin/python -m benchmarks.cpu_peers $(if $(TRIAL),--trial "$(TRIAL)") $(if $(QUICK),--quick) $(CPU_ARGS)

.PHONY: bench-serving
bench-serving: .venv/merlin/.ready $(SERVER) ## latency on a real Triton server beside raw Faiss there and search_frame, into results/serving/: [QUICK=1] [SERVING_ARGS=--n-probes 32 --threads 1]
	.venv/merlin/bin/python -m benchmarks.serving $(if $(QUICK),--quick) $(SERVING_ARGS)

.PHONY: bench-gpu
bench-gpu: ## speed, latency and recall on this machine's GPU, into results/search_gpu.json: [GPU_PYTHON=python] [GPU_ARGS=...]
	$(GPU_PYTHON) -m benchmarks.search_gpu $(GPU_ARGS)

.PHONY: card-check
card-check: $(if $(EMULATE),.venv/current/.ready) ## everything a GPU can be asked, into results/card_check.jsonl: [GPU_PYTHON=python] [MINUTES=5] [EMULATE=1] [CARD_ARGS=...]
	$(if $(EMULATE),.venv/current/bin/python,$(GPU_PYTHON)) -m benchmarks.card_check --minutes $(MINUTES) $(if $(EMULATE),--emulate) $(CARD_ARGS)

.PHONY: notebooks
notebooks: .venv/merlin/.ready ## run every notebook at full scale, with outputs, into results/notebooks/
	.venv/merlin/bin/python -m scripts.execute_notebooks --environment merlin
	if python="$(CURRENT_PYTHON)" && [ -n "$$python" ]; then
		$(MAKE) --no-print-directory .venv/current/.ready CURRENT_PYTHON="$$python"
		.venv/current/bin/python -m scripts.execute_notebooks --environment current
	else
		echo "NOT RUN: notebooks 04, 05 and 06. They need Python 3.12 or newer."
	fi

.PHONY: pictures
pictures: .venv/merlin/.ready ## draw docs/pictures/ from the figures there, or from a new run's: [PICTURES_ARGS=--tutorial results/demo_tutorial.json --cpu-peers results/cpu_peers/NAME.json]
	.venv/merlin/bin/python -m scripts.draw_pictures $(PICTURES_ARGS)

# --- checking ------------------------------------------------------------------------------------

.PHONY: test
test: ## both test suites, the wheel among them; MERLIN_POEEM_DATA=folder adds the tests on real data
	@python="$(CURRENT_PYTHON)"
	$(MAKE) --no-print-directory -j 2 .venv/merlin/.ready $${python:+.venv/current/.ready} $(SERVER)
	$(MAKE) --no-print-directory test-merlin $${python:+MARKED="not once"}
	$(MAKE) --no-print-directory test-current
	$(MAKE) --no-print-directory test-gpu-stack

.PHONY: test-merlin
test-merlin: .venv/merlin/.ready $(SERVER) ## the whole suite, in the pinned environment: [PYTEST_ARGS=...]
	.venv/merlin/bin/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(if $(MARKED),-m "$(MARKED)") $(PYTEST_ARGS)

.PHONY: test-current
test-current: .venv/tools/.ready ## the half without TensorFlow, on Python 3.12 or newer: [PYTEST_ARGS=...]
	@if python="$(CURRENT_PYTHON)" && [ -n "$$python" ]; then
		$(MAKE) --no-print-directory .venv/current/.ready .venv/nvrtc-$(TEST_COMPILER)/.ready CURRENT_PYTHON="$$python"
		.venv/current/bin/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	else
		echo "NOT RUN on Python 3.12 or newer: the half without TensorFlow was tested in the pinned environment only."
	fi

.PHONY: test-gpu-stack
test-gpu-stack: .venv/tools/.ready ## what NumPy, pandas and PyArrow decide, on those of cuDF; no GPU: [PYTEST_ARGS=...]
	@if python="$(GPU_STACK_PYTHON)" && [ -n "$$python" ]; then
		$(MAKE) --no-print-directory .venv/gpu-cpu/.ready GPU_STACK_PYTHON="$$python"
		.venv/gpu-cpu/bin/python -m pytest -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(GPU_STACK_TESTS) $(PYTEST_ARGS)
	else
		echo "NOT RUN on cuDF's NumPy and pandas: there is no Python 3.12."
	fi

# Without the cluster of Dask, which starts processes, and the kernels, which are the same everywhere.
GPU_STACK_TESTS := -m "not once" --ignore tests/distributed/test_cluster.py --ignore tests/search/test_contract.py \
	--ignore tests/search/gpu tests/frames tests/index tests/convert tests/distributed tests/quantization tests/search \
	tests/test_arrays.py tests/test_evaluate.py tests/test_gpu_signatures.py

.PHONY: test-compilers
test-compilers: .venv/current/.ready $(COMPILERS:%=.venv/nvrtc-%/.ready) ## every kernel with every NVRTC that users may have, for every card; minutes: nightly
	MERLIN_POEEM_COMPILERS=all .venv/current/bin/python -m pytest tests/search/gpu/test_compile.py $(PYTEST_ARGS)

.PHONY: lint
lint: .venv/tools/.ready ## ruff, ruff format, mypy
	$(TOOLS)/ruff check .
	$(TOOLS)/ruff format --check .
	$(TOOLS)/mypy

.PHONY: docs
docs: .venv/merlin/.ready ## the pages, into docs/_build/html; a warning is an error
	.venv/merlin/bin/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

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
		pyproject.toml --extra train --extra systems --extra serving --extra dask --extra cpu --extra plots requirements/merlin.in -o requirements/merlin.txt
	$(COMPILE) --python-version 3.12 --universal \
		pyproject.toml --extra dask --extra cpu requirements/current.in -o requirements/current.txt
	for cuda in cu13 cu12; do
		$(COMPILE) $(OF_GPU_MACHINES) --extra $$cuda requirements/gpu-$$cuda.in -o requirements/gpu-$$cuda.txt
	done
	$(COMPILE) $(OF_GPU_MACHINES) requirements/gpu-cpu.in -o requirements/gpu-cpu.txt
	$(COMPILE) --python-version 3.10 --universal \
		pyproject.toml --extra cpu requirements/triton.in -o requirements/triton.txt
	for compiler in $(COMPILERS:%=nvrtc-%); do
		$(COMPILE) --python-version 3.12 requirements/$$compiler.in -o requirements/$$compiler.txt
	done

OF_GPU_MACHINES = --python-version 3.12 --python-platform x86_64-manylinux_2_28 pyproject.toml --extra dask --extra cpu

.PHONY: wheel
wheel: .venv/tools/.ready ## the package as dist/*.whl, which pip installs anywhere
	@rm -rf build dist
	$(UV) build --quiet --build-constraints requirements/tools.txt --out-dir dist
	echo 'Built. Next: pip install "$$(ls dist/*.whl)[cpu]"'

.PHONY: clean
clean: ## remove the environments and every cache; results/ stays
	rm -rf .venv build dist docs/_build *.egg-info .emulation .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/tools/.ready: requirements/tools.txt
	python="$(TOOLS_PYTHON)"
	"$$python" -m venv .venv/tools
	$(TOOLS)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

.venv/merlin/.ready:  python = $(MERLIN_PYTHON)
.venv/current/.ready: python = $(CURRENT_PYTHON)
.venv/gpu-cpu/.ready .venv/gpu-cu13/.ready .venv/gpu-cu12/.ready: python = $(GPU_STACK_PYTHON)
.venv/triton/.ready:  python = $(TRITON_PYTHON)

ENVIRONMENTS := merlin current gpu-cpu gpu-cu13 gpu-cu12 triton

$(ENVIRONMENTS:%=.venv/%/.ready): .venv/%/.ready: requirements/%.txt pyproject.toml | .venv/tools/.ready
	python="$(python)"
	"$$python" -m venv --without-pip .venv/$*
	$(UV) pip sync --quiet --require-hashes --python .venv/$*/bin/python $<
	$(UV) pip install --quiet --no-deps --build-constraints requirements/tools.txt --python .venv/$*/bin/python --editable .
	touch $@

.PHONY: .venv/gpu
.venv/gpu: .venv/gpu-cu$(CUDA)/.ready ## the environment of a GPU machine; then GPU_PYTHON=.venv/gpu/bin/python: [CUDA=13|12]
	ln -sfn gpu-cu$(CUDA) $@

.venv/nvrtc-%/.ready: requirements/nvrtc-%.txt | .venv/tools/.ready
	rm -rf $(@D)
	$(UV) pip install --quiet --no-deps --require-hashes --python $(TOOLS)/python --target $(@D) -r $<
	touch $@
