"""The ledger's promises, on the real database: one winner of a race, expiring leases, fenced writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from matchgraph.graphdb.models import Dataset, Model, Result
from matchgraph.graphdb.queries import load
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import IngestError, RunOutdated, StaleFence, UnknownRun
from matchgraph.ingest.runs.entries import (
    BEFORE,
    CANCELLED,
    DONE,
    FAILED,
    QUEUED,
    RUNNING,
    TRAINING,
    Run,
    RunProgress,
    RunRequest,
)
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import Owner

LONG_MS = 60_000
SHORT_MS = 1
AT_WORK = RunProgress("fine-tuning", 3, 10, 0.5)
# A process that cannot be on this host, so that nobody here takes it for dead.
ELSEWHERE = Owner("another-host", 1, 0.0)


def request(model: str = "m", dataset: str = "d", **config: object) -> RunRequest:
    return RunRequest(model, dataset, {"steps": 10, "metrics": ["clip_fid"], **config}, "mf", "df")


@pytest.fixture
def zoo(graph: MatchingGraph) -> MatchingGraph:
    graph.save_models([Model("m", {}), Model("n", {})])
    graph.save_datasets([Dataset("d", {}), Dataset("e", {})])
    return graph


@pytest.fixture
def ledger(zoo: MatchingGraph, runner: Runner) -> Ledger:  # noqa: ARG001
    return Ledger(runner, lease_ms=LONG_MS)


def result(value: float, stage: str = "finetuned") -> Result:
    return Result("m", "d", "clip_fid", value, stage, {"n_gen": 10})  # type: ignore[arg-type]


def claim(ledger: Ledger, run: str, owner: Owner = ELSEWHERE) -> Run:
    taken = ledger.claim(run, owner)
    assert taken is not None
    return taken


def wait_for_expiry() -> None:
    time.sleep(0.05)


def test_the_same_question_is_the_same_run() -> None:
    assert request(seed=1, rank=4).id == request(rank=4, seed=1).id
    others = [
        request(),
        request(seed=2, rank=4),
        request("n", seed=1, rank=4),
        request("m", "e", seed=1, rank=4),
        RunRequest("m", "d", {"steps": 10}, "other", "df"),
        RunRequest("m", "d", {"steps": 10}, "mf", "other"),
    ]
    assert len({other.id for other in others}) == len(others)


def test_enqueue_is_idempotent_and_leaves_progress_alone(ledger: Ledger, runner: Runner) -> None:
    ids = ledger.enqueue([request(), request("m", "e")])
    held = claim(ledger, ids[0])
    assert ledger.enqueue([request(), request("m", "e"), request("n", "d")])[:2] == ids
    assert [run.status for run in ledger.runs(ids)] == [RUNNING, QUEUED]
    assert ledger.run(ids[0]).fence == held.fence
    assert len(ledger.runs()) == 3
    counts = runner.read("MATCH (:Run)-[e:OF|ON]->() RETURN count(e) AS n")
    assert counts[0]["n"] == 6


def test_enqueue_needs_model_and_dataset(ledger: Ledger) -> None:
    with pytest.raises(IngestError, match="'absent'"):
        ledger.enqueue([request("absent")])
    assert not ledger.runs()


def test_a_claimed_run_is_taken(ledger: Ledger) -> None:
    (run,) = ledger.enqueue([request()])
    assert ledger.run(run).is_waiting
    held = claim(ledger, run, Owner.here())
    assert (held.attempt, held.fence) == (1, 1)
    assert ledger.claim(run, ELSEWHERE) is None
    assert ledger.claim_next([run], ELSEWHERE) is None
    stored = ledger.run(run)
    assert (stored.status, stored.owner, stored.expired) == (RUNNING, Owner.here(), False)
    assert (stored.replicate, stored.is_waiting) == (False, False)
    with pytest.raises(UnknownRun):
        ledger.run("0" * 16)


def test_exactly_one_of_racing_claims_wins(ledger: Ledger) -> None:
    workers = 8
    for attempt in range(6):
        (run,) = ledger.enqueue([request(attempt=attempt)])
        barrier = threading.Barrier(workers)

        def take(number: int, run: str = run, barrier: threading.Barrier = barrier) -> Run | None:
            barrier.wait()
            return ledger.claim(run, Owner("another-host", number, 0.0))

        with ThreadPoolExecutor(workers) as pool:
            taken = [one for one in pool.map(take, range(workers)) if one is not None]
        assert len(taken) == 1
        assert ledger.run(run).fence == taken[0].fence == 1


def test_racing_workers_share_the_queue_without_overlap(ledger: Ledger) -> None:
    ids = ledger.enqueue([request(number=number) for number in range(12)])

    def drain(number: int) -> list[str]:
        taken = []
        while (one := ledger.claim_next(ids, Owner("another-host", number, 0.0))) is not None:
            taken.append(one.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [run for share in pool.map(drain, range(4)) for run in share]
    assert sorted(taken) == sorted(ids)


def test_claim_next_keeps_the_order(ledger: Ledger) -> None:
    ids = ledger.enqueue([request(number=number) for number in range(3)])
    order = [ids[2], ids[0], ids[1]]
    assert [claim_.id for _ in order if (claim_ := ledger.claim_next(order, ELSEWHERE))] == order


def test_an_expired_lease_goes_to_the_next(ledger: Ledger, runner: Runner) -> None:
    (run,) = ledger.enqueue([request()])
    short = Ledger(runner, lease_ms=SHORT_MS)
    first = claim(short, run)
    wait_for_expiry()
    assert ledger.run(run).expired
    assert ledger.run(run).is_waiting
    second = claim(ledger, run)
    # A lost lease is no failed attempt.
    assert (second.attempt, second.fence, second.properties["lost"]) == (1, 2, 1)
    assert not ledger.run(run).expired
    for late in (
        lambda: ledger.heartbeat(first, AT_WORK),
        lambda: ledger.fail(first, "too late"),
        lambda: ledger.release(first),
    ):
        with pytest.raises(StaleFence):
            late()
    ledger.heartbeat(second, AT_WORK)
    assert ledger.run(run).fence == 2


def test_a_heartbeat_keeps_the_run(ledger: Ledger, runner: Runner) -> None:
    (run,) = ledger.enqueue([request()])
    held = claim(Ledger(runner, lease_ms=SHORT_MS), run)
    ledger.heartbeat(held, AT_WORK)
    wait_for_expiry()
    assert not ledger.run(run).expired
    assert ledger.claim(run, ELSEWHERE) is None


def test_lost_workers_are_no_failed_attempts_until_too_many_were_lost(
    ledger: Ledger, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("entries", "ledger"):
        monkeypatch.setattr(f"matchgraph.ingest.runs.{module}.MOST_LOST", 3)
    (run,) = ledger.enqueue([request()], max_attempts=1)
    short = Ledger(runner, lease_ms=SHORT_MS)
    claim(short, run)
    wait_for_expiry()
    assert ledger.recover(ledger.runs()) == [run]
    assert (ledger.run(run).status, ledger.run(run).attempt) == (QUEUED, 0)
    assert "lease" in str(ledger.run(run).error)
    # Claimed again before anybody noticed that its worker is gone.
    claim(short, run)
    wait_for_expiry()
    assert ledger.run(run).is_waiting
    assert (held := short.claim_next(None, ELSEWHERE)) is not None
    assert (held.attempt, held.properties["lost"]) == (1, 2)
    wait_for_expiry()
    assert not ledger.run(run).is_waiting
    assert ledger.claim_next(None, ELSEWHERE) is None
    assert ledger.claim(run, ELSEWHERE) is None
    assert ledger.recover(ledger.runs()) == [run]
    assert ledger.run(run).status == FAILED
    # Queued again, it may lose as many.
    ledger.requeue([run], statuses=[FAILED])
    assert ledger.fail(claim(ledger, run), "wrong") == FAILED
    assert ledger.run(run).properties["lost"] == 0


def test_lost_workers_count_in_a_row(ledger: Ledger, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchgraph.ingest.runs.ledger.MOST_LOST", 3)
    (run,) = ledger.enqueue([request()])
    lost = []

    def lose(stage: str, step: int) -> None:
        held = claim(ledger, run)
        ledger.heartbeat(held, RunProgress(stage, step, 9))
        runner.write("MATCH (r:Run) SET r.lease_until = timestamp() - 1")
        assert ledger.recover(ledger.runs()) == [run]
        lost.append(ledger.run(run).properties["lost"])

    lose(BEFORE, 4)
    lose(TRAINING, 1)
    # Each came further than all before it; these two did not.
    lose("loading", 8)
    lose(BEFORE, 9)
    assert lost == [1, 1, 2, 3]
    assert ledger.run(run).status == FAILED
    ledger.requeue([run], statuses=[FAILED])
    assert ledger.run(run).progress is None
    # Whoever gave it back was not lost.
    lose(BEFORE, 1)
    ledger.release(claim(ledger, run))
    lose(BEFORE, 1)
    assert lost[4:] == [1, 1]


def test_complete_writes_edge_and_status_at_once(ledger: Ledger, zoo: MatchingGraph, runner: Runner) -> None:
    (run,) = ledger.enqueue([request()])
    held = claim(ledger, run)
    ledger.complete(
        held, zoo, [result(5.0), result(9.0, "initial")], {"adapter": "a", "training_seconds": 1.5}
    )
    done = ledger.run(run)
    assert (done.status, done.owner, done.properties["adapter"]) == (DONE, None, "a")
    assert ledger.measured([ledger.run(run)]) == {run}
    edge = zoo.snapshot().performs
    assert edge[["model", "dataset", "value", "initial"]].values.tolist() == [["m", "d", 5.0, 9.0]]
    # The same edge as ordinary results leave.
    edges = "MATCH ()-[e:PERFORMS]->() RETURN properties(e) AS properties"
    completed = runner.read(edges)
    assert completed[0]["properties"]["clip_fid__n_gen"] == 10
    runner.write("MATCH ()-[e:PERFORMS]->() DELETE e")
    zoo.save_results([result(5.0), result(9.0, "initial")])
    assert runner.read(edges) == completed
    ledger.complete(held, zoo, [result(5.0)], {"adapter": "a"})
    assert ledger.claim(run, ELSEWHERE) is None


def test_a_late_worker_writes_nothing(ledger: Ledger, zoo: MatchingGraph, runner: Runner) -> None:
    (run,) = ledger.enqueue([request()])
    late = claim(Ledger(runner, lease_ms=SHORT_MS), run)
    wait_for_expiry()
    current = claim(ledger, run)
    with pytest.raises(StaleFence, match=run):
        ledger.complete(late, zoo, [result(1.0)], {"adapter": "late"})
    assert zoo.snapshot().performs.empty
    assert ledger.run(run).status == RUNNING
    assert "adapter" not in ledger.run(run).properties
    ledger.complete(current, zoo, [result(2.0)], {"adapter": "current"})
    with pytest.raises(StaleFence):
        ledger.complete(late, zoo, [result(1.0)], {"adapter": "late"})
    with pytest.raises(StaleFence):
        ledger.fail(late, "too late")
    assert zoo.snapshot().performs["value"].tolist() == [2.0]
    assert ledger.run(run).properties["adapter"] == "current"


def test_a_bad_result_leaves_the_run_as_it_was(ledger: Ledger, zoo: MatchingGraph) -> None:
    (run,) = ledger.enqueue([request()])
    held = claim(ledger, run)
    with pytest.raises(Exception, match="less than"):
        ledger.complete(held, zoo, [result(-1.0)], {})
    assert ledger.run(run).status == RUNNING
    assert zoo.snapshot().performs.empty


def test_failures_go_back_to_the_queue_until_attempts_run_out(ledger: Ledger) -> None:
    (run,) = ledger.enqueue([request()], max_attempts=2)
    assert ledger.fail(claim(ledger, run), "first") == QUEUED
    assert ledger.fail(claim(ledger, run), "second") == FAILED
    failed = ledger.run(run)
    assert (failed.status, failed.error, failed.attempt) == (FAILED, "second", 2)
    assert ledger.claim(run, ELSEWHERE) is None
    assert ledger.requeue([run], statuses=[DONE]) == []
    assert ledger.requeue([run], statuses=[FAILED]) == [run]
    assert claim(ledger, run).attempt == 1
    assert ledger.run(run).error is None


def test_a_final_failure_is_not_tried_again(ledger: Ledger) -> None:
    (run,) = ledger.enqueue([request()])
    assert ledger.fail(claim(ledger, run), "cannot work", final=True) == FAILED


def test_giving_a_run_back_costs_no_attempt(ledger: Ledger) -> None:
    (run,) = ledger.enqueue([request()])
    held = claim(ledger, run)
    ledger.release(held)
    assert ledger.run(run).status == QUEUED
    again = claim(ledger, run)
    assert (again.attempt, again.fence) == (1, 2)
    with pytest.raises(StaleFence):
        ledger.heartbeat(held, AT_WORK)


def test_dead_processes_of_this_host_are_recognised(ledger: Ledger) -> None:
    here = Owner.here()
    assert not here.is_dead_here()
    assert not ELSEWHERE.is_dead_here()
    assert Owner.from_json(here.to_json()) == here
    reused = Owner(here.host, here.pid, here.started - 100)
    assert reused.is_dead_here()
    ids = ledger.enqueue([request(number=number) for number in range(3)])
    for run, owner in zip(ids, (here, ELSEWHERE, reused), strict=True):
        claim(ledger, run, owner)
    assert ledger.recover(ledger.runs(ids)) == [ids[2]]
    assert {run.id: run.status for run in ledger.runs(ids)} == {
        ids[0]: RUNNING,
        ids[1]: RUNNING,
        ids[2]: QUEUED,
    }


def test_a_heartbeat_tells_how_far_the_run_is(ledger: Ledger, runner: Runner) -> None:
    (run,) = ledger.enqueue([request()])
    held = claim(ledger, run)
    assert ledger.run(run).progress == RunProgress("claimed")
    assert ledger.run(run).pace is None
    ledger.heartbeat(held, RunProgress("fine-tuning", 100, 1000, 0.5))
    first = ledger.run(run)
    ledger.heartbeat(held, RunProgress("fine-tuning", 150, 1000, 0.25))
    second = ledger.run(run)
    assert second.progress == RunProgress("fine-tuning", 150, 1000, 0.25)
    assert first.pace is not None
    assert second.pace is not None
    # The stage's beginning stays, its last heartbeat moves on.
    assert (second.pace.began, second.pace.first) == (first.pace.began, 100)
    assert second.pace.heard >= first.pace.heard
    ledger.heartbeat(held, RunProgress("sampling after", 1, 5))
    third = ledger.run(run)
    assert third.progress == RunProgress("sampling after", 1, 5, None)
    assert third.pace is not None
    assert third.pace.first == 1
    # A new claim begins at zero; what is done has no progress.
    ledger.release(held)
    again = claim(ledger, run)
    assert ledger.run(run).progress == RunProgress("claimed")
    ledger.heartbeat(again, AT_WORK)
    ledger.complete(again, MatchingGraph(runner), [result(1.0)], {})
    assert ledger.run(run).progress is None


def test_a_cancelled_run_is_taken_from_its_worker(ledger: Ledger, zoo: MatchingGraph) -> None:
    queued, running, done = ledger.enqueue([request(number=number) for number in range(3)])
    held = claim(ledger, running)
    ledger.complete(claim(ledger, done), zoo, [result(1.0)], {})
    assert sorted(ledger.cancel([queued, running, done])) == sorted([queued, running])
    assert [ledger.run(run).status for run in (queued, running, done)] == [CANCELLED, CANCELLED, DONE]
    for late in (
        lambda: ledger.heartbeat(held, AT_WORK),
        lambda: ledger.fail(held, "too late"),
        lambda: ledger.release(held),
        lambda: ledger.complete(held, zoo, [result(2.0)], {}),
    ):
        with pytest.raises(StaleFence, match="cancelled"):
            late()
    assert ledger.claim_next(None, ELSEWHERE) is None
    assert ledger.recover(ledger.runs()) == []
    assert zoo.snapshot().performs["value"].tolist() == [1.0]
    # Queued again it is another's: the worker that had it stays out.
    assert ledger.requeue([running], statuses=[CANCELLED]) == [running]
    with pytest.raises(StaleFence):
        ledger.fail(held, "too late", final=True)
    assert ledger.run(running).status == QUEUED
    claim(ledger, running)
    with pytest.raises(StaleFence):
        ledger.heartbeat(held, AT_WORK)
    assert ledger.cancel([]) == []


def test_cancelling_and_claiming_race_without_harm(ledger: Ledger) -> None:
    for number in range(8):
        (run,) = ledger.enqueue([request(number=number)])
        barrier = threading.Barrier(2)

        def together(what: str, run: str = run, barrier: threading.Barrier = barrier) -> object:
            barrier.wait()
            return ledger.cancel([run]) if what == "cancel" else ledger.claim(run, ELSEWHERE)

        with ThreadPoolExecutor(2) as pool:
            cancelled, held = pool.map(together, ["cancel", "claim"])
        assert cancelled == [run]
        assert ledger.run(run).status == CANCELLED
        if held is not None:
            with pytest.raises(StaleFence):
                ledger.heartbeat(held, AT_WORK)  # type: ignore[arg-type]


def test_a_worker_gets_runs_of_its_own_model_and_others_a_model_of_their_own(ledger: Ledger) -> None:
    ids = ledger.enqueue([request(model, number=number) for model in ("m", "n") for number in range(3)])
    model_of = {run.id: run.model for run in ledger.runs()}

    def take(**preferences: object) -> str:
        taken = ledger.claim_next(ids, ELSEWHERE, **preferences)  # type: ignore[arg-type]
        assert taken is not None
        return taken.id

    assert take() == ids[0]
    # Somebody is at m already.
    assert take() == ids[3]
    assert model_of[take(model="m")] == "m"
    assert take(last=[ids[4], ids[2]], model="m") == ids[5]
    assert take(without=[ids[2]]) == ids[4]
    assert ledger.claim_next(ids[3:], ELSEWHERE) is None
    assert ledger.claim_next(None, ELSEWHERE, without=[ids[2]]) is None
    assert ledger.claim_next(None, ELSEWHERE).id == ids[2]  # type: ignore[union-attr]


def test_a_replicate_is_a_question_of_its_own_and_done_by_its_figures(
    ledger: Ledger, zoo: MatchingGraph
) -> None:
    plain = request(seed=7)
    again = RunRequest("m", "d", plain.config, "mf", "df", replicate=True, extractors={"clip": "there"})
    assert plain.id != again.id
    assert RunRequest("m", "d", plain.config, "mf", "df", extractors={"clip": "there"}).id == plain.id
    run, _ = ledger.enqueue([again, plain])
    assert ledger.run(run).replicate
    assert ledger.run(run).extractors == {"clip": "there"}
    zoo.save_results([result(5.0)])
    ledger.complete(claim(ledger, run), zoo, [], {"adapter": "a"})
    assert ledger.measured([ledger.run(run)]) == set()
    ledger.requeue([run], statuses=[DONE])
    ledger.complete(claim(ledger, run), zoo, [], {"adapter": "a", "clip_fid": 6.0})
    assert ledger.measured([ledger.run(run)]) == {run}
    assert zoo.snapshot().performs["value"].tolist() == [5.0]


def test_where_an_extractor_is_can_change(ledger: Ledger) -> None:
    here, there = (
        RunRequest("m", "d", request().config, "mf", "df", extractors={"clip": place})
        for place in ("here", "there")
    )
    (run,) = ledger.enqueue([here])
    held = claim(ledger, run)
    ledger.enqueue([there])
    assert ledger.run(run).extractors == {"clip": "there"}
    ledger.heartbeat(held, AT_WORK)


def test_a_process_is_known_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Owner.here()
    moved = psutil.Process().create_time() + 3600
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: moved)
    assert not here.is_dead_here()
    assert Owner.here() == here


def test_a_result_is_not_written_on_content_that_changed_during_the_run(
    ledger: Ledger, zoo: MatchingGraph
) -> None:
    """Nor on a node that was replaced, with which the run is removed."""
    zoo.save_datasets([Dataset("d", {"content_hash": "df"})])
    run = request()
    ledger.enqueue([run])
    held = claim(ledger, run.id)
    zoo.save_datasets([Dataset("d", {"content_hash": "other"})])
    with pytest.raises(RunOutdated, match="ingested again with different content"):
        ledger.complete(held, zoo, [result(5.0)], {"adapter": "a"})
    zoo.save_datasets([Dataset("d", {"content_hash": "df"})], replaced=["d"])
    with pytest.raises(StaleFence):
        ledger.complete(held, zoo, [result(5.0)], {"adapter": "a"})
    assert zoo.snapshot().performs.empty


def refused(*writes: Callable[[], object]) -> None:
    for write in writes:
        with pytest.raises(StaleFence):
            write()


def test_a_lease_expires_when_its_time_is_over_and_not_before(ledger: Ledger, runner: Runner) -> None:
    (run,) = ledger.enqueue([request()])
    held = claim(ledger, run)
    lease = "MATCH (run:Run {id: $id}) SET run.lease_until = timestamp() + $ms RETURN run.lease_until AS at"
    runner.write(lease, id=run, ms=5_000)
    assert not ledger.run(run).expired
    assert ledger.claim(run, ELSEWHERE) is None
    assert ledger.claim_next(None, ELSEWHERE) is None
    assert ledger.recover(ledger.runs()) == []
    runner.write(lease, id=run, ms=-1)
    wait_for_expiry()
    assert ledger.run(run).expired
    # Until somebody takes it, its worker may still be heard of, for as long as a lease lasts.
    ledger.heartbeat(held, AT_WORK)
    now = runner.read("MATCH (run:Run {id: $id}) RETURN run.lease_until - timestamp() AS ms", id=run)
    assert LONG_MS - 10_000 < now[0]["ms"] <= LONG_MS
    runner.write(lease, id=run, ms=-1)
    wait_for_expiry()
    taken = ledger.claim_next(None, ELSEWHERE)
    assert taken is not None
    assert (taken.attempt, taken.fence) == (1, 2)


def test_a_claim_that_is_committed_twice_counts_once(ledger: Ledger, runner: Runner) -> None:
    (run,) = ledger.enqueue([request()])
    held = claim(ledger, run)
    token = ledger.run(run).properties["token"]
    values = {"id": run, "token": token, "owner": ELSEWHERE.to_json(), "host": "h"}
    values |= {"lease_ms": LONG_MS, "most_lost": 10}
    again = runner.write(load("ledger/claim"), **values)[0]["run"]
    assert (again["attempt"], again["fence"]) == (held.attempt, held.fence) == (1, 1)
    assert runner.write(load("ledger/claim"), **{**values, "token": "another"}) == []


def test_a_claim_holds_the_run_as_the_ledger_has_it(ledger: Ledger) -> None:
    (run,) = ledger.enqueue([request(seed=3)])
    held = claim(ledger, run)
    stored = ledger.run(run)
    assert (held.id, held.model, held.dataset, held.config) == (run, "m", "d", stored.config)
    assert (held.status, held.owner, held.properties) == (RUNNING, ELSEWHERE, stored.properties)


def test_an_attempt_that_ended_is_over(ledger: Ledger, zoo: MatchingGraph) -> None:
    """Its fence is still the run's, so each write looks at the status as well."""
    given_back, failed, done = ledger.enqueue([request(number=number) for number in range(3)])
    held = claim(ledger, given_back)
    ledger.release(held, "not here")
    assert (ledger.run(given_back).error, ledger.run(given_back).owner) == ("not here", None)
    refused(
        lambda: ledger.release(held),
        lambda: ledger.heartbeat(held, AT_WORK),
        lambda: ledger.complete(held, zoo, [result(1.0)], {}),
    )
    assert ledger.run(given_back).attempt == 0
    broken = claim(ledger, failed)
    assert ledger.fail(broken, "first") == ledger.fail(broken, "first") == QUEUED
    assert ledger.run(failed).owner is None
    refused(lambda: ledger.heartbeat(broken, AT_WORK), lambda: ledger.complete(broken, zoo, [], {}))
    finished = claim(ledger, done)
    assert ledger.complete(finished, zoo, [result(1.0)], {}).status == DONE
    refused(
        lambda: ledger.fail(finished, "too late"),
        lambda: ledger.release(finished),
        lambda: ledger.heartbeat(finished, AT_WORK),
    )
    assert ledger.run(done).status == DONE


def test_success_forgets_the_failures_before_it(ledger: Ledger, zoo: MatchingGraph) -> None:
    (run,) = ledger.enqueue([request()])
    ledger.fail(claim(ledger, run), "first", traceback="line 1")
    assert ledger.run(run).properties["traceback"] == "line 1"
    held = claim(ledger, run)
    assert (held.attempt, held.fence) == (2, 2)
    done = ledger.complete(held, zoo, [result(1.0)], {})
    assert done == ledger.run(run)
    assert (done.error, "traceback" in done.properties) == (None, False)


def test_only_the_statuses_asked_for_are_queued_again_and_only_open_runs_cancelled(
    ledger: Ledger, zoo: MatchingGraph
) -> None:
    queued, running, done, failed, cancelled = ids = ledger.enqueue(
        [request(number=number) for number in range(5)]
    )
    claim(ledger, running)
    ledger.complete(claim(ledger, done), zoo, [result(1.0)], {})
    ledger.fail(claim(ledger, failed), "broken", traceback="line 1", final=True)
    assert ledger.cancel([cancelled]) == [cancelled]
    assert ledger.claim(cancelled, ELSEWHERE) is None
    assert ledger.requeue(ids, statuses=[FAILED]) == [failed]
    again = ledger.run(failed)
    assert (again.status, again.attempt, again.error) == (QUEUED, 0, None)
    assert not {"traceback", "ended_at"} & again.properties.keys()
    assert ledger.requeue(ids, statuses=[CANCELLED]) == [cancelled]
    assert ledger.requeue(ids, statuses=[DONE]) == [done]
    ledger.fail(claim(ledger, failed), "broken", final=True)
    ledger.complete(claim(ledger, done), zoo, [result(1.0)], {})
    assert set(ledger.cancel(ids)) == {queued, running, cancelled}
    assert ledger.run(running).owner is None
    assert {ledger.run(run).status for run in (done, failed)} == {DONE, FAILED}


def test_runs_wait_in_the_order_in_which_they_were_queued(ledger: Ledger) -> None:
    ids = []
    for number in range(3):
        ids += ledger.enqueue([request(number=number)])
        time.sleep(0.01)
    ledger.fail(claim(ledger, ids[0]), "broken", final=True)
    time.sleep(0.01)
    ledger.requeue([ids[0]], statuses=[FAILED])
    taken = [held.id for _ in ids if (held := ledger.claim_next(None, ELSEWHERE))]
    assert taken == [ids[1], ids[2], ids[0]]


def test_runs_are_found_by_model_and_dataset(ledger: Ledger) -> None:
    pairs = [("m", "d"), ("m", "e"), ("n", "d"), ("n", "e")]
    ids = ledger.enqueue([request(*pair) for pair in pairs])
    assert [run.id for run in ledger.runs_of({"m"}, {"e"})] == [ids[1]]
    assert {run.id for run in ledger.runs_of({"m", "n"}, {"d"})} == {ids[0], ids[2]}
    assert len(ledger.runs()) == len(ids)


def test_a_loaded_model_counts_more_than_one_that_nobody_is_at(ledger: Ledger) -> None:
    first, second, other = ledger.enqueue([request(number=1), request(number=2), request("n")])
    claim(ledger, first)
    assert ledger.claim_next([other, second], ELSEWHERE, model="m").id == second  # type: ignore[union-attr]
    assert ledger.claim_next([other], ELSEWHERE, model="m").id == other  # type: ignore[union-attr]
