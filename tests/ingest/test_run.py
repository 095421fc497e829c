"""Planning and working off runs: done stays done, failures are told, interrupted runs are given back."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from graphdb.repository import MatchingGraph
from graphdb.runner import Runner
from ingest.config import RunConfig
from ingest.errors import BadInput, ExtractorMismatch, NothingToDo, SourceChanged
from ingest.ledger import DONE, FAILED, QUEUED, RUNNING, Ledger, Owner
from ingest.plan import plan_runs, queue_plan
from ingest.run import Job, OnStep
from ingest.worker import work
from tests.ingest.dump import RUN_TIMES, dump
from tests.ingest.stub import CONFIG, Silent, StubExecutor, do, fill, plan
from training.errors import InvalidConfig, NonFiniteLoss

ELSEWHERE = Owner("another-host", 1, 0.0)


@pytest.fixture
def zoo(graph: MatchingGraph, tmp_path: Path, image_folders: Path) -> MatchingGraph:
    fill(graph, tmp_path / "models", image_folders)
    return graph


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def ledger(runner: Runner) -> Ledger:
    return Ledger(runner)


def test_the_paper_s_recipe_is_the_default() -> None:
    config = RunConfig()
    assert (config.steps, config.batch_size, config.learning_rate, config.samples) == (
        10_000,
        8,
        1e-5,
        10_000,
    )


def test_bad_settings_are_refused() -> None:
    for change in ({"steps": 0}, {"learning_rate": float("nan")}, {"precision": "fp8"}, {"guidance": -1.0}):
        with pytest.raises(InvalidConfig):
            replace(CONFIG, **change)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="samples is 1"):
        replace(CONFIG, samples=1)


def test_all_models_and_datasets_with_a_folder_grouped_by_model(zoo: MatchingGraph) -> None:
    requests = list(plan(zoo).requests.values())
    assert [(request.model, request.dataset) for request in requests] == [
        ("kolors", "cats"),
        ("kolors", "dogs"),
        ("sd-1.5", "cats"),
        ("sd-1.5", "dogs"),
    ]
    assert {"steps", "extractor", "alpha", "caption_dropout", "samples"} <= set(requests[0].config)
    assert "device" not in requests[0].config


def test_selections(zoo: MatchingGraph, tmp_path: Path) -> None:
    assert len(plan(zoo, models=["kolors"], datasets=["cats"]).requests) == 1
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("model,dataset\nsd-1.5,dogs\nkolors,cats\nsd-1.5,dogs\n")
    wanted = plan(zoo, pairs=pairs).requests.values()
    assert [(request.model, request.dataset) for request in wanted] == [
        ("kolors", "cats"),
        ("sd-1.5", "dogs"),
    ]
    pairs.write_text("model,dataset\nsd-1.5,birds\n")
    with pytest.raises(BadInput, match="dataset 'birds' is not in the graph"):
        plan(zoo, pairs=pairs)
    with pytest.raises(NothingToDo, match="no model 'absent'"):
        plan(zoo, models=["absent"])
    with pytest.raises(SourceChanged, match="'from-a-table' has no folder"):
        plan(zoo, models=["from-a-table"])


def test_an_empty_graph_has_nothing_to_do(graph: MatchingGraph) -> None:
    with pytest.raises(NothingToDo, match="ingest models FOLDER"):
        plan(graph)


def test_changed_or_missing_folders_are_refused(
    zoo: MatchingGraph, image_folders: Path, tmp_path: Path
) -> None:
    (image_folders / "cats" / "metadata.jsonl").unlink()
    with pytest.raises(SourceChanged, match="'cats' holds something else"):
        plan(zoo)
    shutil.rmtree(tmp_path / "models" / "kolors")
    with pytest.raises(SourceChanged, match=r"'kolors', .* is not here"):
        plan(zoo)


def test_another_probe_is_refused(zoo: MatchingGraph) -> None:
    with pytest.raises(ExtractorMismatch, match="'other'"):
        plan_runs(zoo, CONFIG, SimpleNamespace(hash="xyz", name="other", resize="clean"))  # type: ignore[arg-type]


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
        "run": job.run,
        "n_gen": 4,
        "n_real": 4,
        "extractor": "abc",
        "resize": "clean",
        "training_seconds": 7.5,
        "seconds_per_image": 0.5,
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


@pytest.mark.parametrize("metrics", [(), ("kid", "kid"), ("KID",)])
def test_metrics_are_named_once(metrics: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match="metric") as refused:
        replace(CONFIG, metrics=metrics)
    assert refused.value.matchgraph_user_error


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
        runner.write("MATCH ()-[e:PERFORMS]->() WHERE e.run = $run DELETE e", run=job.run)
    repaired = StubExecutor()
    summary = do(zoo, ledger, home, repaired)
    assert [one.run for one in repaired.jobs] == [job.run]
    assert (summary.already_done, summary.done) == (3, 1)
    assert dump(runner, without=RUN_TIMES) == before
    assert len(list((home / "runs" / job.run).iterdir())) == 1


def failing(error: BaseException, model: str = "kolors") -> StubExecutor:
    def before(job: Job, _: OnStep) -> None:
        if job.model == model:
            raise error

    return StubExecutor(before)


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
        for _ in range(2000):
            on_step("fine-tuning", 1, 3)
            noticed.wait(0.005)
        pytest.fail("the heartbeat did not notice that the run was taken")

    reporter = Silent()
    summary = do(zoo, ledger, home, StubExecutor(be_robbed), reporter=reporter, heartbeat_s=0.02)
    assert reporter.ends == ["taken by another worker", "done", "done", "done"]
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
