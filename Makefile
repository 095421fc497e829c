# matchgraph: `make demo` runs the main job, `make test` the tests; each sets up all it needs by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
MATCHGRAPH := $(BIN)/matchgraph
# The user's dataset of the demo: known to the records, and left out of the graph.
NEW    := noto-food
ZOO    := minizoo
# How the records were measured: small enough for two cores; the defaults of `ingest run` are the paper's.
SMALL  := --steps 150 --batch-size 16 --learning-rate 5e-4 --resolution 32 --samples 1024 --sampling-steps 10 --seed 42
GUIDED := --guidance 2
# Its guidance is distilled into the weights, at the family's own scale.
FLUX   := --model tiny-flux --guidance 3.5
OTHERS := $(foreach model,$(filter-out tiny-flux,$(notdir $(wildcard $(ZOO)/models/*))),--model $(model)) $(GUIDED)
PROBES := --probe $(ZOO)/probes/clip --extractor dinov2=$(ZOO)/probes/dinov2 --extractor siglip=$(ZOO)/probes/siglip
FIGURES := --metric clip_fid --metric cmmd --metric dinov2_fid --metric dinov2_kid --metric siglip_fid
# The models close to the best of a dataset are measured under three seeds.
REPEATED := --repeats 3
ONCE := .records/once
CONTENDERS := $(BIN)/python -m matchgraph.minizoo.build.contenders $(ONCE)
MEASURE = $(MATCHGRAPH) ingest run $(SMALL) $(PROBES) $(FIGURES) $(WORKERS)
# Candidates of routing at 25 steps.
LONG   := tiny-sd15 tiny-vega tiny-pixart tiny-sana-small tiny-sd3
# Models this small gain little from a second thread each, and figures then do not depend on the number of cores.
WORKERS := --workers 2

.PHONY: setup demo records report test test-fast lint types docs bench clean
demo clean: export MATCHGRAPH_HOME := $(CURDIR)/.demo
records report: export MATCHGRAPH_HOME := $(CURDIR)/.records
demo records: export MATCHGRAPH_PROBE := $(CURDIR)/$(ZOO)/probes/clip
demo records report: export OMP_NUM_THREADS := 1
# By default glibc gives large tensors back after each use; to fetch them again takes up to a third of the time.
records: export MALLOC_MMAP_THRESHOLD_ := 4294967296
records: export MALLOC_TRIM_THRESHOLD_ := 8589934592
# Bytecode is kept when a module is first loaded, and not made of all that is installed, which takes minutes.
export PYTHONDONTWRITEBYTECODE :=

PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
EVERYTHING := --constraint constraints.txt --editable '.[test]'
# Beside torch the tests' packages are small, so one environment serves all targets. uv takes a fourth of pip's time; pip
# takes over where uv fails, since it reads the pip.conf of a mirror, which uv does not.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("matchgraph needs Python 3.11 or newer: make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt uv && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python $(EVERYTHING) || $(PIP) $(EVERYTHING)
	touch $@

setup: $(VENV)/.installed

# The measurements of 31 datasets are shipped; the likeliest models are measured on the 32nd.
demo: $(VENV)/.installed
	# Its own graph, in .demo, empty as at the first time.
	$(MATCHGRAPH) graph reset --yes
	$(MATCHGRAPH) graph start
	# Ten models measured on 32 datasets; what is known of $(NEW) is left out, as if it were a user's own.
	$(MATCHGRAPH) ingest minizoo --without $(NEW)
	$(MATCHGRAPH) ingest models $(ZOO)/models --no-throughput
	$(MATCHGRAPH) query average-rank
	# The question: which model for the images in $(ZOO)/datasets/$(NEW)?
	$(MATCHGRAPH) predict $(ZOO)/datasets/$(NEW) --confidence 0.9
	# The first two are fine-tuned on them and measured.
	$(MATCHGRAPH) predict $(ZOO)/datasets/$(NEW) --measure 2
	# The truth, which a user would not pay for: all ten fine-tuned on it, those close to the best under three seeds.
	$(MATCHGRAPH) ingest minizoo
	$(MATCHGRAPH) query repeated-runs --dataset $(NEW)
	$(MATCHGRAPH) graph open --no-launch

# Measures the whole matrix again: about five hours on two idle cores of a current server. Stop it at any time; another call resumes it.
records: $(VENV)/.installed
	$(MATCHGRAPH) graph start
	$(MATCHGRAPH) ingest models $(ZOO)/models --no-throughput
	$(MATCHGRAPH) ingest datasets $(ZOO)/datasets $(PROBES) $(FIGURES)
	$(MEASURE) $(OTHERS)
	$(MEASURE) $(FLUX)
	# Chosen by the first seed alone, whenever this is resumed.
	[ -d $(ONCE) ] || $(MATCHGRAPH) graph export --shareable $(ONCE)
	$(CONTENDERS) $(filter --model tiny-%,$(OTHERS)) --out .records/contenders.csv
	$(CONTENDERS) --model tiny-flux --out .records/contenders-flux.csv
	$(MEASURE) $(GUIDED) $(REPEATED) --pairs .records/contenders.csv
	$(MEASURE) --guidance 3.5 $(REPEATED) --pairs .records/contenders-flux.csv
	$(MATCHGRAPH) route prompts $(ZOO)/prompts.txt
	$(MATCHGRAPH) route variants --steps 1,2,4,10 $(OTHERS)
	$(MATCHGRAPH) route variants --steps 25 $(GUIDED) $(foreach model,$(LONG),--model $(model))
	$(MATCHGRAPH) route variants --steps 50 $(GUIDED) --model tiny-vega
	$(MATCHGRAPH) route variants --steps 25 $(GUIDED) --model tiny-sdxl --cache-interval 3
	$(MATCHGRAPH) route variants --steps 1,2,4,10,25 $(FLUX)
	$(MATCHGRAPH) route score --metric clip_score --metric sharpness
	$(MATCHGRAPH) graph export --shareable $(ZOO)/records

report: $(VENV)/.installed
	$(MATCHGRAPH) graph start
	$(MATCHGRAPH) ingest minizoo
	$(MATCHGRAPH) report --out build/report

# Each process starts a Neo4j of its own.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal
test test-fast: export OMP_NUM_THREADS := 1
# `make test SLOW=1` adds whole stories, killed servers and workers, and every family at its real size.
test: $(VENV)/.installed
	$(PYTEST) $(if $(SLOW),,-m "not slow")

# For quick feedback: without Neo4j, pipelines and what builds the small zoo.
test-fast: $(VENV)/.installed
	$(PYTEST) --ignore tests/minizoo -m "not server and not pipeline and not slow"

# Style, and which package may import which.
lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

types: $(VENV)/.installed
	$(BIN)/mypy

# The site in build/site; a warning, such as a link that leads nowhere, fails.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Uses the demo's graph: run `make demo` first.
bench: $(VENV)/.installed
	$(BIN)/python -m bench.commands --home .demo --probe $(ZOO)/probes/clip --images $(ZOO)/datasets

clean:
	-[ ! -x $(MATCHGRAPH) ] || $(MATCHGRAPH) graph stop
	rm -rf $(VENV) .demo .records build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
