"""Ended in the middle and run again, a command gives the graph that an undisturbed one gives. For runs see
`tests/faults`.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matchgraph.graphdb.models import Dataset, Model
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.tables.datasets import ingest_image_folders
from matchgraph.ingest.tables.results import ingest_results
from tests.ingest.conftest import write_images
from tests.ingest.dump import dump

Start = Callable[..., "subprocess.Popen[str]"]
PATIENCE_S = 300
MODELS, DATASETS = 50, 50


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Kill a process without warning at the first moment that `reached` says."""
    give_up = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None, f"ended too soon: {process.communicate()}"
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def waiting(runner: Runner, statement: str) -> bool:
    """Whether a transaction waits for another one in a statement with this text."""
    rows = runner.read("SHOW TRANSACTIONS YIELD currentQuery, status")
    return any(
        statement in (row["currentQuery"] or "") and row["status"].startswith("Blocked") for row in rows
    )


def settled(runner: Runner) -> None:
    """Wait until the server has undone what the killed client had begun."""
    give_up = time.monotonic() + PATIENCE_S
    while len(runner.read("SHOW TRANSACTIONS YIELD transactionId")) > 1:
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_table_is_written_wholly_or_not_at_all(
    graph: MatchingGraph, runner: Runner, tmp_path: Path, start: Start
) -> None:
    results = tmp_path / "results.csv"
    pairs = [(f"m{model}", f"d{dataset}") for model in range(MODELS) for dataset in range(DATASETS)]
    rows = [f"{model},{dataset},clip_fid,{number}" for number, (model, dataset) in enumerate(pairs)]
    results.write_text("\n".join(["model,dataset,metric,value", *rows]))

    def fill() -> None:
        graph.clear()
        graph.save_models([Model(f"m{number}") for number in range(MODELS)])
        graph.save_datasets([Dataset(f"d{number}") for number in range(DATASETS)])

    fill()
    before = dump(runner)
    with runner._session() as session, session.begin_transaction() as other:
        # Another's change of a dataset: the statement waits there, so it is seen and killed in its middle.
        other.run("MATCH (d:Dataset {id: 'd25'}) SET d.held = true").consume()
        process = start("ingest", "results", results)
        kill_when(process, lambda: waiting(runner, "PERFORMS"))
        other.rollback()
    settled(runner)
    after = dump(runner)
    ingest_results(graph, results)
    complete = dump(runner)
    assert after in (before, complete)
    assert complete != before
    fill()
    ingest_results(graph, results)
    assert dump(runner) == complete


def test_ended_among_image_folders(
    graph: MatchingGraph, runner: Runner, tmp_path: Path, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matchgraph.training.measure.extractors import load_clip

    folder = tmp_path / "many"
    for number in range(5):
        write_images(folder / f"set-{number:02d}", number, ["a", "b", "c"])
    extractor = load_clip(str(probe), device="cpu")
    with monkeypatch.context() as patched:
        own, saved = MatchingGraph.save_datasets, []

        def save_two(self: MatchingGraph, *arguments: Any, **named: Any) -> Any:
            if len(saved) == 2:
                raise KeyboardInterrupt
            saved.append(arguments)
            return own(self, *arguments, **named)

        patched.setattr(MatchingGraph, "save_datasets", save_two)
        with pytest.raises(KeyboardInterrupt):
            ingest_image_folders(graph, folder, extractor)
    # What is there is whole: each dataset has its statistics and its distances to those before it.
    assert len(graph.datasets()) == len(graph.statistics(extractor.hash)) == 2
    assert len(graph.snapshot().similar) == 1
    report = ingest_image_folders(graph, folder, extractor)
    assert len(report.unchanged) == 2
    resumed = dump(runner)
    graph.clear()
    ingest_image_folders(graph, folder, extractor)
    assert dump(runner) == resumed
