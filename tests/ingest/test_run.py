"""One run from claim to record: recorded once and wholly, given back, lost, cancelled, or failed."""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from matchgraph.cli.display import ending
from matchgraph.graphdb.errors import ServerUnreachable
from matchgraph.graphdb.models import Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.runs.entries import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Run
from matchgraph.ingest.runs.jobs import Job, OnStep
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import Owner
from matchgraph.training.errors import BadAdapter, NonFiniteLoss
from tests.ingest.dump import dump
from tests.ingest.stub import CONFIG, Silent, StubExecutor, do, failing, plan

ELSEWHERE = Owner("another-host", 1, 0.0)


@pytest.mark.slow
def test_runs_are_done_once(zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path) -> None:
    executor = StubExecutor()
    summary = do(zoo, ledger, home, executor)
    assert (summary.total, summary.already_done, summary.done, summary.failed) == (4, 0, 4, {})
    assert [job.model for job in executor.jobs] == ["kolors", "kolors", "sd-1.5", "sd-1.5"]
    assert executor.closed
    performs = zoo.snapshot().performs
    assert (performs.initial == performs.value + 1).all()
    edge = runner.read(
        "MATCH (:Model {id: 'kolors'})-[e:PERFORMS]->(:Dataset {id: 'cats'}) RETURN properties(e) AS e"
    )
    job = executor.jobs[0]
    expected = {
        "clip_fid__run": job.run,
        "clip_fid__n_gen": 4,
        "clip_fid__n_real": 4,
        "clip_fid__extractor": "abc",
        "clip_fid__resize": "clean",
        "clip_fid__training_seconds": 7.5,
        "clip_fid__seconds_per_image": 0.5,
        "initial_clip_fid__run": job.run,
    }
    assert expected.items() <= edge[0]["e"].items()
    record = json.loads((job.out / "record.json").read_text())
    assert record["asked"]["steps"] == 3
    assert record["measured"]["finetuned"][0]["value"] == edge[0]["e"]["clip_fid"]
    before = dump(runner)
    again = do(zoo, ledger, home, StubExecutor(before=lambda job, _: pytest.fail(f"{job.run} was run again")))
    assert (again.total, again.already_done, again.done) == (4, 4, 0)
    assert dump(runner) == before


def test_several_metrics_come_from_one_run(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path
) -> None:
    config = replace(CONFIG, metrics=("clip_fid", "kid"))
    planned = plan(zoo, config, models=["kolors"], datasets=["cats"])
    assert do(zoo, ledger, home, StubExecutor(), planned).done == 1
    edge = runner.read("MATCH ()-[e:PERFORMS]->() RETURN properties(e) AS e")[0]["e"]
    assert edge["clip_fid"] == edge["kid"] == edge["initial_kid"] - 1
    assert edge["kid__std"] == 0.25
    assert (edge["kid__version"], edge["kid__extractor_name"]) == ("1", "probe")
    assert "clip_fid__std" not in edge
    # Without one of its values it is not done.
    runner.write("MATCH ()-[e:PERFORMS]->() REMOVE e.kid")
    assert do(zoo, ledger, home, StubExecutor(), planned).done == 1


def test_a_run_has_a_page_and_a_card(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    executor = StubExecutor()
    do(zoo, ledger, home, executor)
    for job in executor.jobs:
        assert job.model in (job.out / "index.html").read_text()
        assert job.dataset in (job.out / "README.md").read_text()
        assert "note" not in ledger.run(job.run).properties


def test_a_page_that_cannot_be_written_is_noted_and_fails_nothing(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    executor = StubExecutor(before=lambda job, _: (job.out / "index.html").mkdir())
    assert do(zoo, ledger, home, executor).done == 4
    job = executor.jobs[0]
    note = ledger.run(job.run).properties["note"]
    assert note.startswith("no page: IsADirectoryError")
    assert json.loads((job.out / "record.json").read_text())["note"] == note
    assert (job.out / "README.md").is_file()


def test_a_failed_run_leaves_no_edge_and_no_weights(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    summary = do(zoo, ledger, home, failing(NonFiniteLoss("the loss became NaN at step 2")))
    assert summary.done == 2
    assert set(summary.failed.values()) == {"the loss became NaN at step 2"}
    assert zoo.snapshot().performs.model.tolist() == ["sd-1.5", "sd-1.5"]
    failed = [run for run in ledger.runs() if run.status == FAILED]
    assert [run.model for run in failed] == ["kolors", "kolors"]
    assert not list((home / "runs" / failed[0].id).glob("*"))
    # It would fail again, so it is not tried again unless that is asked for.
    assert do(zoo, ledger, home, StubExecutor(lambda job, _: pytest.fail(job.run))).failed == summary.failed
    assert do(zoo, ledger, home, StubExecutor(), retry_failed=True).done == 2


def test_ctrl_c_gives_the_run_back(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    executor = failing(KeyboardInterrupt(), "sd-1.5")
    with pytest.raises(KeyboardInterrupt):
        do(zoo, ledger, home, executor)
    assert executor.closed
    by_status = {
        status: [run for run in ledger.runs() if run.status == status] for status in (DONE, QUEUED, RUNNING)
    }
    assert (len(by_status[DONE]), len(by_status[QUEUED]), by_status[RUNNING]) == (2, 2, [])
    assert all(run.attempt == 0 for run in by_status[QUEUED])
    assert not executor.jobs[-1].out.exists()
    assert do(zoo, ledger, home, StubExecutor()).done == 2


def test_a_worker_that_lost_its_run_stops_and_writes_nothing(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path
) -> None:
    stolen: list[str] = []

    def be_robbed(job: Job, on_step: OnStep) -> None:
        if stolen:
            return
        stolen.append(job.run)
        # The lease runs out, as when this process was suspended for long, and another worker takes the run; a
        # heartbeat in between extends it once more.
        while ledger.claim(job.run, ELSEWHERE) is None:
            runner.write("MATCH (run:Run {id: $id}) SET run.lease_until = 0", id=job.run)
        noticed = threading.Event()
        for _ in range(20_000):
            on_step("fine-tuning", 1, 3)
            noticed.wait(0.005)
        pytest.fail("the heartbeat did not notice that the run was taken")

    reporter = Silent()
    summary = do(zoo, ledger, home, StubExecutor(be_robbed), reporter=reporter, heartbeat_s=0.02)
    assert reporter.ends == ["taken by another worker", "done", "done", "done"]
    assert (summary.done, summary.done_elsewhere) == (3, 0)
    assert summary.elsewhere == tuple(stolen)
    assert len(zoo.snapshot().performs) == 3
    assert not (home / "runs" / stolen[0] / "claim-1").exists()


def test_a_worker_that_lost_its_run_without_noticing_is_refused(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path
) -> None:
    def be_robbed(job: Job, _: OnStep) -> None:
        while ledger.claim(job.run, ELSEWHERE) is None:
            runner.write("MATCH (run:Run {id: $id}) SET run.lease_until = 0", id=job.run)

    summary = do(zoo, ledger, home, StubExecutor(be_robbed))
    assert (summary.done, len(summary.elsewhere)) == (0, 4)
    assert zoo.snapshot().performs.empty


def test_a_cancelled_run_stops_at_a_heartbeat_and_leaves_nothing(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    def be_cancelled(job: Job, on_step: OnStep) -> None:
        if job.model != "kolors":
            return
        (job.checkpoint / "state").write_text("half of it")
        ledger.cancel([job.run])
        pause = threading.Event()
        for _ in range(20_000):
            on_step("fine-tuning", 1, 3)
            pause.wait(0.005)
        pytest.fail("the heartbeat did not notice that the run was cancelled")

    reporter = Silent()
    summary = do(zoo, ledger, home, StubExecutor(be_cancelled), reporter=reporter, heartbeat_s=0.02)
    assert reporter.ends == ["cancelled", "cancelled", "done", "done"]
    assert (summary.done, len(summary.cancelled), summary.failed) == (2, 2, {})
    assert not any((home / "runs" / run).exists() for run in summary.cancelled)
    assert {run.status for run in ledger.runs()} == {CANCELLED, DONE}


def test_a_stop_comes_at_the_next_step_and_keeps_the_checkpoint(
    zoo: MatchingGraph, ledger: Ledger, home: Path
) -> None:
    stop = threading.Event()

    def be_stopped(job: Job, on_step: OnStep) -> None:
        (job.checkpoint / "state").write_text("half of it")
        (job.out / "litter").write_text("x")
        stop.set()
        on_step("fine-tuning", 1, 3)
        pytest.fail("it went on")

    chosen = plan(zoo, models=["kolors"], datasets=["cats"])
    with pytest.raises(KeyboardInterrupt):
        do(zoo, ledger, home, StubExecutor(be_stopped), chosen, stop=stop)
    (run,) = ledger.runs()
    assert (run.status, run.attempt) == (QUEUED, 0)
    folder = home / "runs" / run.id
    assert [path.name for path in (folder / "claim-1").iterdir()] == ["checkpoint"]
    found: list[str | None] = []

    def look(job: Job, _: OnStep) -> None:
        found.append(job.resume_from and (job.resume_from / "state").read_text())
        # The claim has the checkpoint for itself.
        (job.checkpoint / "state").unlink()
        assert (folder / "claim-1" / "checkpoint" / "state").exists()
        raise MemoryError

    do(zoo, ledger, home, StubExecutor(look), chosen)
    assert found[0] == "half of it"
    assert do(zoo, ledger, home, StubExecutor(), chosen, retry_failed=True).done == 1
    assert len(list(folder.iterdir())) == 1
    assert not (next(folder.iterdir()) / "checkpoint").exists()


def test_a_full_disk_is_nobody_s_fault(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    def fill_up(_: Job, __: OnStep) -> None:
        try:
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        except RuntimeError as error:
            # As a library wraps it.
            raise BadAdapter("cannot be written") from error

    with pytest.raises(OSError, match="No space left") as full:
        do(zoo, ledger, home, StubExecutor(fill_up))
    assert full.value.errno == errno.ENOSPC
    assert [(run.status, run.attempt) for run in ledger.runs()] == [(QUEUED, 0)] * 4
    assert do(zoo, ledger, home, StubExecutor()).done == 4


def test_an_adapter_damaged_on_the_way_is_tried_again(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    seen: list[str] = []

    def damage(job: Job, _: OnStep) -> None:
        seen.append(job.run)
        if seen.count(job.run) == 1:
            raise BadAdapter("cut short")

    assert do(zoo, ledger, home, StubExecutor(damage)).done == 4
    assert len(seen) == 8


class Flaky(Ledger):
    """A ledger whose database is away at the first two attempts to complete a run."""

    def __init__(self, runner: Runner, *, commit: bool) -> None:
        super().__init__(runner)
        self.failures = 0
        self._commit = commit

    def complete(self, *arguments: object) -> Run:
        if self.failures < 2:
            self.failures += 1
            if self._commit:
                super().complete(*arguments)  # type: ignore[arg-type]
            raise ServerUnreachable("nobody answers")
        return super().complete(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("commit", [False, True])
def test_a_database_that_comes_back_gets_its_result(
    zoo: MatchingGraph,
    runner: Runner,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    commit: bool,
) -> None:
    monkeypatch.setattr("matchgraph.ingest.runs.recording.RETRY_S", 0.01)
    ledger = Flaky(runner, commit=commit)
    assert do(zoo, ledger, home, StubExecutor()).done == 4
    assert ledger.failures == 2
    assert len(zoo.snapshot().performs) == 4


def test_what_was_recorded_stays_recorded_whatever_comes_right_after(
    zoo: MatchingGraph, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = Ledger.complete

    def interrupted(self: Ledger, *arguments: object) -> None:
        complete(self, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    chosen = plan(zoo, models=["kolors"], datasets=["cats"])
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "complete", interrupted)
        with pytest.raises(KeyboardInterrupt):
            do(zoo, ledger, home, StubExecutor(), chosen)
    assert [run.status for run in ledger.runs()] == [DONE]
    assert do(zoo, ledger, home, StubExecutor(), chosen).already_done == 1


def test_the_ledger_hears_of_each_stage_at_once(zoo: MatchingGraph, ledger: Ledger, home: Path) -> None:
    heard: list[str] = []

    def watch(job: Job, on_step: OnStep) -> None:
        pause = threading.Event()
        for stage in ("sampling before", "fine-tuning"):
            on_step(stage, 1, 2, 0.5)
            for _ in range(10_000):
                progress = ledger.run(job.run).progress
                if progress is not None and progress.stage == stage:
                    heard.append(stage)
                    break
                pause.wait(0.005)

    chosen = plan(zoo, models=["kolors"], datasets=["cats"])
    # The heartbeat itself would take its time.
    do(zoo, ledger, home, StubExecutor(watch), chosen, heartbeat_s=60)
    assert heard == ["sampling before", "fine-tuning"]


def test_what_another_worker_finished_is_its_own_doing(
    zoo: MatchingGraph, ledger: Ledger, runner: Runner, home: Path
) -> None:
    def be_overtaken(job: Job, _: OnStep) -> None:
        while (held := ledger.claim(job.run, ELSEWHERE)) is None:
            runner.write("MATCH (run:Run {id: $id}) SET run.lease_until = 0", id=job.run)
        values = {"machine": "another", "training_seconds": 1.0, "clip_fid": 1.0}
        ledger.complete(held, zoo, [Result(job.model, job.dataset, "clip_fid", 1.0, "finetuned", {})], values)

    reporter = Silent()
    chosen = plan(zoo, models=["kolors"], datasets=["cats"])
    summary = do(zoo, ledger, home, StubExecutor(be_overtaken), chosen, reporter=reporter)
    assert (summary.done, summary.done_elsewhere) == (0, 1)
    assert reporter.ends == ["taken by another worker"]
    (run,) = ledger.runs()
    assert ending(run, reporter.ends[0]) == "kolors x cats: taken by another worker"
    assert ending(run, "done").startswith("kolors x cats: clip_fid 1")
    assert not list((home / "runs" / run.id).iterdir())
    assert zoo.snapshot().performs["value"].tolist() == [1.0]
