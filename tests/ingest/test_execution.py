"""Carrying out a run for real on a tiny pipeline: a stop in the middle costs nothing and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graphdb.repository import MatchingGraph
from graphdb.runner import Runner
from ingest.config import RunConfig
from ingest.datasets import ingest_image_folders
from ingest.execution import INITIAL_FILE, LoraExecutor, read_scores
from ingest.ledger import DONE, QUEUED, Ledger
from ingest.models import ingest_models
from ingest.plan import plan_runs, queue_plan
from ingest.worker import work
from tests.ingest.dump import RUN_TIMES, dump
from tests.ingest.stub import Silent
from training.checkpoint import checkpoint_step
from training.files import file_hash

CONFIG = RunConfig(steps=4, batch_size=2, rank=2, resolution_px=32, samples=3, sampling_steps=2, seed=11)


class Stops(Silent):
    """Asks for a stop at a step of a stage, and counts what was done in each."""

    def __init__(self, stop: threading.Event, at: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.stages: dict[str, list[int]] = {}
        self.losses: list[float] = []
        self._stop, self._at = stop, at

    def step(self, stage: str, done: int, of: int, loss: float | None) -> None:  # noqa: ARG002
        self.stages.setdefault(stage, []).append(done)
        if loss is not None:
            self.losses.append(loss)
        if (stage, done) == self._at:
            self._stop.set()


@pytest.fixture
def scene(
    graph: MatchingGraph, pipelines: Path, probe: Path, image_folders: Path, tmp_path: Path
) -> Mapping[str, Any]:
    """One model, one dataset, and a run of them that nothing befell, in a folder of its own."""
    from training.extractors import load_clip

    extractor = load_clip(str(probe), device="cpu")
    ingest_models(graph, next(pipelines.iterdir()))
    ingest_image_folders(graph, image_folders / "cats", extractor)
    return {"extractor": extractor, "home": tmp_path / "home"}


def test_a_stopped_run_goes_on_where_it_was(
    graph: MatchingGraph, runner: Runner, scene: Mapping[str, Any], tmp_path: Path
) -> None:
    ledger, extractor, home = Ledger(runner), scene["extractor"], scene["home"]
    plan = plan_runs(graph, CONFIG, {"clip": extractor})

    def go(home: Path, at: tuple[str, int] | None = None) -> Stops:
        stop = threading.Event()
        reporter = Stops(stop, at)
        queue_plan(ledger, plan, home)
        executor = LoraExecutor("cpu", extractors={extractor.hash: extractor})
        if at is None:
            assert work(graph, ledger, executor, home, reporter, list(plan.requests), stop=stop).done == 1
        else:
            with pytest.raises(KeyboardInterrupt):
                work(graph, ledger, executor, home, reporter, list(plan.requests), stop=stop)
        return reporter

    whole = go(tmp_path / "other")
    clean = dump(runner, without=RUN_TIMES)
    (done,) = ledger.runs()
    runner.write("MATCH (r:Run) DETACH DELETE r")
    runner.write("MATCH ()-[e:PERFORMS]->() DELETE e")

    # The stop takes effect at the step after it, whose state is kept.
    first = go(home, ("fine-tuning", 2))
    (run,) = ledger.runs()
    assert (run.status, run.attempt) == (QUEUED, 0)
    checkpoint = home / "runs" / run.id / "claim-1" / "checkpoint"
    kept = checkpoint_step(checkpoint)
    assert kept == first.stages["fine-tuning"][-1] + 1 == 3
    scores = read_scores(checkpoint / INITIAL_FILE)
    assert scores is not None
    assert scores[0].value == done.properties["initial_clip_fid"]

    second = go(home, ("sampling after", 1))
    # Neither the pretrained model's images nor steps that were made are made again.
    assert "sampling before" not in second.stages
    assert first.losses + second.losses == whole.losses[:2] + whole.losses[3:]
    third = go(home)
    assert not third.losses
    assert dump(runner, without=RUN_TIMES) == clean
    (run,) = ledger.runs()
    assert (run.status, run.attempt) == (DONE, 1)
    adapter = home / run.properties["adapter"]
    assert file_hash(adapter) == done.properties["adapter_sha256"]
    assert (adapter.parent / "samples_before.png").exists()
    assert [path.name for path in adapter.parent.parent.iterdir()] == ["claim-3"]
    assert not (adapter.parent / "checkpoint").exists()


def test_another_extractor_at_the_same_place_is_refused(
    graph: MatchingGraph, runner: Runner, scene: Mapping[str, Any], tmp_path: Path
) -> None:
    from tests.training import tiny

    ledger, extractor, home = Ledger(runner), scene["extractor"], scene["home"]
    other = tiny.save_clip(tmp_path / "other-clip", seed=5)
    plan = plan_runs(graph, CONFIG, {"clip": extractor}, weights={"clip": f"clip:{other}"})
    queue_plan(ledger, plan, home)
    summary = work(graph, ledger, LoraExecutor("cpu"), home, Silent())
    assert "was planned with" in next(iter(summary.not_here.values()))
    assert ledger.runs()[0].status == QUEUED
    gone = plan_runs(graph, CONFIG, {"clip": extractor})
    queue_plan(ledger, gone, home)
    summary = work(graph, ledger, LoraExecutor("cpu"), home, Silent())
    assert "does not say where" in next(iter(summary.not_here.values()))


@pytest.mark.parametrize("content", [None, "", "{}", '{"scores": [{"metric": 1}]}', "[]"])
def test_scores_that_cannot_be_read_are_measured_again(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / INITIAL_FILE
    if content is not None:
        file.write_text(content)
    assert read_scores(file) is None
