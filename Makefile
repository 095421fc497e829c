# matchgraph: `make demo` runs the main job, `make test` the tests; each sets up all it needs by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MATCHGRAPH := $(BIN)/matchgraph
NEW    := noto-food
# Small enough for two cores; the defaults of `ingest run` are the paper's.
SMALL  := --steps 200 --batch-size 16 --learning-rate 1e-3 --resolution 32 --samples 96 --sampling-steps 10 --guidance 1
# Models this small gain little from a second thread each, and figures then do not depend on the number of cores.
WORKERS := --workers 2

.PHONY: demo test lint bench clean
demo clean: export MATCHGRAPH_HOME := $(CURDIR)/.demo
demo: export MATCHGRAPH_PROBE := $(CURDIR)/minizoo/clip
demo: export OMP_NUM_THREADS := 1

# The tests' packages are few beside torch, so one environment serves all targets.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("matchgraph needs Python 3.11 or newer: make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(MATCHGRAPH) graph start
	# Throughput depends on what else the machine does; without it two demos predict the same.
	$(MATCHGRAPH) ingest models minizoo/models --no-throughput
	# Eight datasets are known; $(NEW) is the user's.
	$(MATCHGRAPH) ingest datasets $(filter-out %/$(NEW)/,$(wildcard minizoo/datasets/*/))
	$(MATCHGRAPH) ingest run $(SMALL) $(WORKERS)
	$(MATCHGRAPH) query average-rank
	$(MATCHGRAPH) evaluate
	# The question: which model for $(NEW)? Asked before anything was fine-tuned on it.
	$(MATCHGRAPH) predict minizoo/datasets/$(NEW) --save
	# The truth, which a user would not pay for: all three fine-tuned on it.
	$(MATCHGRAPH) ingest run $(SMALL) $(WORKERS) --dataset $(NEW)
	$(MATCHGRAPH) predict $(NEW)
	$(MATCHGRAPH) graph open --no-launch

test: $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Asks the demo's graph: run `make demo` before.
bench: $(VENV)/.installed
	$(BIN)/python -m bench.commands --home .demo --probe minizoo/clip --images minizoo/datasets

clean:
	-[ ! -x $(MATCHGRAPH) ] || $(MATCHGRAPH) graph stop
	rm -rf $(VENV) .demo build *.egg-info .pytest_cache .ruff_cache .hypothesis
