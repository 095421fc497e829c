"""A worker and the queue: done stays done, poison stops, one machine's faults are not the run's."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from matchgraph.graphdb.models import Dataset, Model, Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import NothingToDo
from matchgraph.ingest.runs.entries import FAILED, QUEUED, Run
from matchgraph.ingest.runs.jobs import Job, OnStep
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import Owner
from matchgraph.ingest.runs.plan import queue_plan
from matchgraph.ingest.runs.repeats import averaged, mean_error, write_means
from matchgraph.ingest.runs.worker import WorkerOptions, stopped_by_signals, work, work_queue
from tests.ingest.dump import RUN_TIMES, dump
from tests.ingest.stub import CONFIG, Silent, StubExecutor, do, elsewhere, failing, plan

ELSEWHERE = Owner("another-host", 1, 0.0)
WAIT_S = 10


def test_another_question_is_another_run(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    do(zoo, ledger, home, StubExecutor())
    other = plan(zoo, replace(CONFIG, steps=4, initial=False), models=["kolors"], datasets=["cats"])
    assert do(zoo, ledger, home, StubExecutor(), other).done == 1
    assert len(ledger.runs()) == 5


@pytest.mark.parametrize("loss", ["adapter gone", "adapter changed", "edge gone"])
def test_done_means_artefact_hash_and_edge(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path, loss: str
) -> None:
    executor = StubExecutor()
    do(zoo, ledger, home, executor)
    before = dump(runner, without=RUN_TIMES)
    job = executor.jobs[1]
    adapter = job.out / "pytorch_lora_weights.safetensors"
    if loss == "adapter gone":
        adapter.unlink()
    elif loss == "adapter changed":
        adapter.write_bytes(b"x")
    else:
        runner.write("MATCH ()-[e:PERFORMS]->() WHERE e.clip_fid__run = $run DELETE e", run=job.run)
    repaired = StubExecutor()
    summary = do(zoo, ledger, home, repaired)
    assert [one.run for one in repaired.jobs] == [job.run]
    assert (summary.already_done, summary.done) == (3, 1)
    assert dump(runner, without=RUN_TIMES) == before
    assert len(list((home / "runs" / job.run).iterdir())) == 1


def test_out_of_memory_is_tried_again_when_nothing_else_is_left(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    executor = failing(MemoryError("no more"))
    summary = do(zoo, ledger, home, executor)
    assert summary.done == 2
    assert set(summary.failed.values()) == {"out of memory: no more"}
    models = [job.model for job in executor.jobs]
    assert models == ["kolors", "kolors", "sd-1.5", "sd-1.5", *["kolors"] * 4]
    assert {run.attempt for run in ledger.runs() if run.status == FAILED} == {3}
    assert do(zoo, ledger, home, StubExecutor(), retry_failed=True).done == 2


@pytest.mark.slow
def test_a_poison_pair_stops_after_its_attempts_and_tells_where(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    summary = do(zoo, ledger, home, failing(ZeroDivisionError("oops")))
    assert (summary.done, len(summary.failed)) == (2, 2)
    for run in ledger.runs(list(summary.failed)):
        assert (run.status, run.attempt, run.error) == (FAILED, 3, "ZeroDivisionError: oops")
        assert "raise error" in run.properties["traceback"]
    assert do(zoo, ledger, home, StubExecutor(), retry_failed=True).done == 2
    assert not any("traceback" in run.properties or run.error for run in ledger.runs())


def test_a_broken_machine_does_not_use_up_everybody_s_attempts(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    def breaks(job: Job, _: OnStep) -> None:
        raise ZeroDivisionError(job.run)

    queue_plan(ledger, plan(zoo, replace(CONFIG, seed=1)), home)
    queue_plan(ledger, plan(zoo, replace(CONFIG, seed=2)), home)
    with pytest.raises(ZeroDivisionError):
        work(zoo, ledger, StubExecutor(breaks), home, Silent())
    assert sum(run.attempt for run in ledger.runs()) == 5
    assert {run.status for run in ledger.runs()} == {QUEUED}


def test_a_run_of_another_worker_is_left_alone(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    ids = ledger.enqueue(list(plan(zoo).requests.values()))
    assert ledger.claim(ids[0], ELSEWHERE)
    summary = do(zoo, ledger, home, StubExecutor())
    assert (summary.done, summary.elsewhere) == (3, (ids[0],))


def test_a_dead_process_of_this_host_is_replaced_at_once(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    ids = ledger.enqueue(list(plan(zoo).requests.values()))
    here = Owner.here()
    assert ledger.claim(ids[0], Owner(here.host, here.pid, here.started - 1000))
    assert do(zoo, ledger, home, StubExecutor()).done == 4


@pytest.mark.slow
def test_a_worker_takes_what_the_ledger_has_and_no_more_than_it_may(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    queue_plan(ledger, plan(zoo), home)
    first, second = StubExecutor(), StubExecutor()
    summary = work(zoo, ledger, first, home, Silent(), max_runs=1)
    assert (summary.done, len(summary.queued), len(first.jobs)) == (1, 3, 1)
    assert first.closed
    summary = work(zoo, ledger, second, home, Silent())
    assert (summary.total, summary.done, len(second.jobs)) == (3, 3, 3)
    # It goes on with the model that it has loaded.
    assert [job.model for job in second.jobs] == ["kolors", "sd-1.5", "sd-1.5"]
    assert work(zoo, ledger, StubExecutor(), home, Silent()).total == 0


def test_a_waiting_worker_finds_runs_that_come_later(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    stop = threading.Event()

    class Last(Silent):
        def ended(self, run: object, outcome: str) -> None:
            super().ended(run, outcome)
            if len(self.ends) == 4:
                stop.set()

    reporter = Last()
    later = threading.Timer(0.3, lambda: queue_plan(ledger, plan(zoo), home))
    later.start()
    with pytest.raises(KeyboardInterrupt):
        work(zoo, ledger, StubExecutor(), home, reporter, stop=stop, poll_s=0.05)
    later.join()
    assert reporter.ends == ["done"] * 4


def test_what_is_not_here_is_left_to_others(
    zoo: MatchingGraph, ledger: Ledger, home: Path, tmp_path: Path
) -> None:
    folder = elsewhere(zoo, "kolors", tmp_path)
    runs = queue_plan(ledger, plan(zoo), home)
    folder.rename(tmp_path / "away")
    summary = work(zoo, ledger, StubExecutor(), home, Silent())
    assert summary.done == 2
    assert len(summary.not_here) == 2
    for run in ledger.runs(list(summary.not_here)):
        assert (run.status, run.model, run.attempt) == (QUEUED, "kolors", 0)
        assert "does not exist" in str(run.error)
    (tmp_path / "away").rename(folder)
    assert work(zoo, ledger, StubExecutor(), home, Silent()).done == 2
    assert not any(run.error for run in ledger.runs([run.id for run in runs]))


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_was_ingested_again_is_asked_about_again(
    zoo: MatchingGraph, ledger: Ledger, home: Path, kind: str
) -> None:
    queue_plan(ledger, plan(zoo, models=["kolors"], datasets=["cats"]), home)
    if kind == "model":
        zoo.save_models([Model("kolors", {"content_hash": "other", "source": "there"})])
    else:
        zoo.save_datasets([Dataset("cats", {"content_hash": "other", "source": "there"})])
    summary = work(zoo, ledger, StubExecutor(), home, Silent())
    assert (summary.done, len(summary.failed)) == (0, 1)
    assert "ingested again" in next(iter(summary.failed.values()))


def test_a_replicate_leaves_the_edge_alone(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path
) -> None:
    chosen = {"models": ["kolors"], "datasets": ["cats"]}
    do(zoo, ledger, home, StubExecutor(), plan(zoo, **chosen))
    edges = "MATCH ()-[e:PERFORMS]->() RETURN properties(e) AS e"
    before = runner.read(edges)
    again = plan(zoo, replace(CONFIG, seed=7), replicate=True, **chosen)
    assert do(zoo, ledger, home, StubExecutor(), again).done == 1
    assert runner.read(edges) == before
    (run,) = ledger.runs(list(again.requests))
    assert run.properties["clip_fid"] == run.properties["initial_clip_fid"] - 1
    assert do(zoo, ledger, home, StubExecutor(), again).already_done == 1
    (home / run.properties["adapter"]).unlink()
    assert do(zoo, ledger, home, StubExecutor(), again).done == 1


def test_an_edge_is_the_mean_over_its_seeds(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"models": ["kolors"], "datasets": ["cats"]}
    # Two are measured, and a replicate that is to stay out of the mean.
    do(zoo, ledger, home, StubExecutor(), plan(zoo, **chosen))
    do(zoo, ledger, home, StubExecutor(), plan(zoo, replace(CONFIG, seed=1), **chosen))
    do(zoo, ledger, home, StubExecutor(), plan(zoo, replace(CONFIG, seed=2), replicate=True, **chosen))
    own, asked = Ledger.averaged_with, []

    def averaged_with(ledger: Ledger, run: str) -> tuple[str | None, list[Run]]:
        asked.append(run)
        average, others = own(ledger, run)
        # First as read just before it was asked for as a repeat, and then before another was completed.
        return None if len(asked) == 1 else average, others if len(asked) > 2 else []

    monkeypatch.setattr(Ledger, "averaged_with", averaged_with)
    repeated = plan(zoo, repeats=3, **chosen)
    summary = do(zoo, ledger, home, StubExecutor(), repeated)
    assert (summary.done, summary.already_done, len(asked)) == (1, 2, 3)
    measured = [run.properties for run in ledger.runs(list(repeated.requests))]
    ((edge,),) = runner.read("MATCH ()-[e:PERFORMS]->() RETURN [properties(e)] AS e")[0].values()
    # The pretrained model was scored where it was asked for, and not under the further seed.
    for name, seeds in (("clip_fid", [0, 1, 2]), ("initial_clip_fid", [0, 1])):
        values = [properties[name] for properties in measured if name in properties]
        assert edge[name] == pytest.approx(np.mean(values))
        assert edge[f"{name}__standard_error"] == pytest.approx(np.std(values, ddof=1) / len(seeds) ** 0.5)
        assert edge[f"{name}__seeds"] == seeds
        assert edge[f"{name}__run"] == next(iter(repeated.requests))
    # A further seed is one more run, from wherever they are counted, and no replicate.
    assert do(zoo, ledger, home, StubExecutor(), plan(zoo, repeats=4, **chosen)).done == 1
    again = plan(zoo, replace(CONFIG, seed=2, initial=False), repeats=2, **chosen)
    assert do(zoo, ledger, home, StubExecutor(), again).already_done == 2
    seeds = "MATCH ()-[e:PERFORMS]->() RETURN e.clip_fid__seeds AS seeds"
    assert runner.read(seeds) == [{"seeds": [0, 1, 2, 3]}]
    # Where it is scored under one of them after all, that seed counts once.
    do(zoo, ledger, home, StubExecutor(), plan(zoo, replace(CONFIG, seed=3), repeats=2, **chosen))
    assert runner.read(seeds) == [{"seeds": [0, 1, 2, 3, 4]}]
    with pytest.raises(NothingToDo, match="under seed 3 already"):
        queue_plan(ledger, plan(zoo, replace(CONFIG, seed=3), replicate=True, **chosen), home)
    # Whatever the edge holds meanwhile, the mean is not measured again.
    do(zoo, ledger, home, StubExecutor(), plan(zoo, replace(CONFIG, seed=9), **chosen))
    assert runner.read(seeds) == [{"seeds": [9]}]
    write_means(zoo, ledger, queue_plan(ledger, again, home))
    ((restored,),) = runner.read("MATCH ()-[e:PERFORMS]->() RETURN [properties(e)] AS e")[0].values()
    assert restored["clip_fid__seeds"] == [0, 1, 2, 3, 4]
    kept = ("n_real", "n_gen", "extractor", "resize", "version", "bias", "training_seconds")
    assert {restored[f"clip_fid__{name}"] == edge[f"clip_fid__{name}"] for name in kept} == {True}


def test_a_run_joins_the_mean_while_it_is_carried_out(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path
) -> None:
    chosen = {"models": ["kolors"], "datasets": ["cats"]}

    def joins(*_: object) -> None:
        queue_plan(ledger, plan(zoo, repeats=2, **chosen), home)
        assert work(zoo, ledger, StubExecutor(), home, Silent()).done == 1

    do(zoo, ledger, home, StubExecutor(joins), plan(zoo, **chosen))
    found = runner.read("MATCH ()-[e:PERFORMS]->() RETURN e.clip_fid__seeds AS seeds")
    assert found == [{"seeds": [0, 1]}]


def test_a_mean_keeps_what_all_agree_on_and_mixes_no_versions() -> None:
    def measured(seed: int, value: float, **own: object) -> list[Result]:
        known = {"run": f"r{seed}", "seeds": [seed], "n_gen": 4, "version": "2", "extractor": "abc", **own}
        return [Result("m", "d", "kid", value, provenance=known)]

    (found,) = averaged(
        [
            measured(2, 5.0, bias=0.1, std=0.2, seconds_per_image=1.0, n_gen=8),
            measured(4, 99.0, version="1"),
            measured(1, 3.0, bias=0.3, std=0.4, seconds_per_image=3.0),
        ]
    )
    assert found.value == 4.0
    assert found.provenance == {
        "run": "r1",
        "seeds": [1, 2],
        "version": "2",
        "extractor": "abc",
        "bias": pytest.approx(0.2),
        "seconds_per_image": 2.0,
        "standard_error": pytest.approx(1.0),
    }


@pytest.mark.parametrize(
    ("values", "errors", "expected"),
    [
        ([1.0, 3.0], [0.1, 0.1], 1.0),
        # Equal by chance.
        ([2.0, 2.0], [0.3, 0.4], 0.25),
        ([2.0, 2.0, 2.0, 2.0], [0.4], 0.2),
        ([1.0, 3.0], [], 1.0),
        ([1.0], [0.5], 0.5),
        ([1.0], [], None),
    ],
)
def test_the_error_of_a_mean_is_at_least_that_of_sampling(
    values: list[float], errors: list[float], expected: float | None
) -> None:
    # Of 0.3 and 0.4: the root of (0.09 + 0.16) / 4.
    found = mean_error(values, errors)
    assert found == (None if expected is None else pytest.approx(expected))


def test_everything_comes_from_the_graph(
    zoo: MatchingGraph, ledger: Ledger, home: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster calls it: by settings alone."""
    queue_plan(ledger, plan(zoo, replace(CONFIG, guidance=3.0), weights={"clip": "there"}), home)
    executor = StubExecutor()
    monkeypatch.setattr("matchgraph.ingest.runs.worker.LoraExecutor", lambda *_, **__: executor)
    summary = work_queue(replace(settings), None, WorkerOptions(device="cpu", max_runs=1))
    assert summary.done == 1
    (job,) = executor.jobs
    assert job.config == replace(CONFIG, guidance=3.0, precision="fp32")
    assert job.extractors == {"clip": "there"}
    assert "abc" in json.dumps(dict(job.asked))
    assert job.model_folder.name == job.model
    assert job.reference.n == 4


def test_a_signal_asks_first_and_then_insists() -> None:
    asked: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(lambda: asked.append(True)) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        assert asked == [True]
        with pytest.raises(KeyboardInterrupt):
            ask_and_wait(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), stopped_by_signals(grace_s=0.05):
        ask_and_wait(signal.SIGTERM)
    assert time.monotonic() - began < WAIT_S


def ask_and_wait(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(WAIT_S)
