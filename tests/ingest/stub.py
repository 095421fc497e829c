"""An executor that trains nothing, and what it needs: the database and the folders stay real."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from matchgraph.graphdb.models import Dataset, Model, Statistics
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs.config import RunConfig, Selection
from matchgraph.ingest.runs.jobs import Job, OnStep, Outcome
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.plan import Plan, make_plan, queue_plan
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.ingest.runs.worker import WorkSummary, work
from matchgraph.ingest.tables.image_folders import listed_hash
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.training.measure.scoring import Score

ZOO = Path(__file__).parents[2] / "zoo"
CONFIG = RunConfig(steps=3, samples=4, resolution_px=32)
EXTRACTOR: Any = SimpleNamespace(dimension=2, hash="abc", name="probe", resize="clean")
ADAPTER = "pytorch_lora_weights.safetensors"


def score(metric: str, value: float) -> Score:
    std = 0.25 if metric == "kid" else None
    return Score(metric, value, std, 4, 4, "abc", "probe", "clean", "1", standard_error=0.5, bias=0.25)


class StubExecutor:
    """Writes a file in place of an adapter; `before` may break it, run by run."""

    def __init__(self, before: Callable[[Job, OnStep], None] = lambda *_: None) -> None:
        self.jobs: list[Job] = []
        self.closed = False
        self._before = before

    def execute(self, job: Job, on_step: OnStep) -> Outcome:
        self.jobs.append(job)
        self._before(job, on_step)
        adapter = job.out / ADAPTER
        adapter.write_bytes(job.run.encode())
        value = float(int(job.run[:4], 16))
        finetuned = tuple(score(metric, value) for metric in job.config.metrics)
        initial = tuple(score(metric, value + 1) for metric in job.config.metrics if job.config.initial)
        return Outcome(finetuned, initial, adapter, 7.5, 0.5, {"losses": [1.0]})

    def close(self) -> None:
        self.closed = True


class Silent(Reporter):
    """A reporter that remembers how runs ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def ended(self, run: Any, outcome: str) -> None:  # noqa: ARG002
        self.ends.append(outcome)


def fill(graph: MatchingGraph, images: Path) -> None:
    """Put two models and two datasets with folders into the graph, and a model from a table."""
    for name in ("sd-1.5", "kolors"):
        ingest_models(graph, ZOO / name)
    graph.save_models([Model("from-a-table", {"params": 1})])
    names = ("cats", "dogs")
    graph.save_datasets(
        [
            Dataset(name, {"source": str(images / name), "content_hash": listed_hash(images / name)})
            for name in names
        ],
        [Statistics(name, "abc", "clean", 4, np.zeros(2), np.eye(2)) for name in names],
    )


def elsewhere(graph: MatchingGraph, model: str, folder: Path) -> Path:
    """Copy a model's folder into another one, where the graph then has it."""
    copied = shutil.copytree(ZOO / model, folder / model)
    ingest_models(graph, copied)
    return copied


def plan(graph: MatchingGraph, config: RunConfig = CONFIG, **selection: Any) -> Plan:
    weights = selection.pop("weights", None)
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in selection.items()}
    runs = Ledger(graph.runner).runs()
    return make_plan(graph, config, {"clip": EXTRACTOR}, Selection(**given), weights=weights, runs=runs)


def do(
    graph: MatchingGraph,
    ledger: Ledger,
    home: Path,
    executor: StubExecutor,
    planned: Plan | None = None,
    *,
    reporter: Silent | None = None,
    retry_failed: bool = False,
    **options: Any,
) -> WorkSummary:
    """Queue a plan and work it off, as `ingest run` does."""
    planned = planned or plan(graph)
    queue_plan(ledger, planned, home, retry_failed=retry_failed)
    return work(graph, ledger, executor, home, reporter or Silent(), list(planned.requests), **options)


def failing(error: BaseException, model: str = "kolors") -> StubExecutor:
    def before(job: Job, _: OnStep) -> None:
        if job.model == model:
            raise error

    return StubExecutor(before)
