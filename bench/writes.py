"""What a write costs: bulk import beside plain driver loops, and one more result in graphs of several sizes.

All sides write the same rows to the same server, in turns. The plain loops are what a script with the
official driver would do: batches of 2,000 rows, by CREATE, and by MERGE with a key that a constraint keeps
unique. On a busy machine look at the processor times, which are those of this process and of the server
together.

    python -m bench.writes --home HOME
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import psutil

from bench.scale import RESULTS, peak_mib
from matchgraph.graphdb.connection import Settings, connect
from matchgraph.graphdb.models import Dataset, Model, Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer

MODELS, DATASETS = 1_000, 100
# For a first turn that does not count: it warms the server, or whatever runs first would pay for that.
WARMING_DATASETS = 10
LARGE_DATASETS = 1_000
ROWS = 2_000
SINGLES = 20
METRIC = "clip_fid"
ENDS = "UNWIND $rows AS row MATCH (m:PlainModel {id: row.model}) MATCH (d:PlainDataset {id: row.dataset}) "
CREATE = ENDS + "CREATE (m)-[e:PLAIN {key: row.key}]->(d) SET e += row.properties"
MERGE = ENDS + "MERGE (m)-[e:PLAIN {key: row.key}]->(d) SET e += row.properties"


class Meter:
    """Wall and processor seconds of what runs inside, by name, one of each turn.

    Args:
        server: process id of the database server.
    """

    def __init__(self, server: int) -> None:
        self._processes = psutil.Process(), psutil.Process(server)
        self.taken: dict[str, list[dict[str, float]]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        wall, processor = time.perf_counter(), self._processor()
        yield
        taken = {"seconds": time.perf_counter() - wall, "cpu_seconds": self._processor() - processor}
        self.taken.setdefault(name, []).append(taken)
        click.echo(f"  {name}: {taken['seconds']:.2f} s, {taken['cpu_seconds']:.2f} s of processor", err=True)

    def _processor(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(each.user + each.system for each in times)

    def medians(self) -> dict[str, dict[str, float]]:
        """By name, the median over the turns."""
        return {
            name: {key: round(statistics.median(each[key] for each in rows), 4) for key in rows[0]}
            for name, rows in self.taken.items()
        }


def results(datasets: int, shift: float = 0.0) -> list[Result]:
    """One result of each model on each dataset."""
    return [
        Result(f"m{i}", f"d{j}", METRIC, 1 + (i * 31 + j * 17) % 997 + shift)
        for j in range(datasets)
        for i in range(MODELS)
    ]


def fill_ends(graph: MatchingGraph, datasets: int) -> None:
    """An empty graph, but for models and datasets."""
    graph.clear()
    graph.save_models([Model(f"m{i}") for i in range(MODELS)])
    graph.save_datasets([Dataset(f"d{j}") for j in range(datasets)])


def clear_plain(runner: Runner) -> None:
    """No edge of the plain loops, and their models and datasets."""
    for label, count, letter in (("PlainModel", MODELS, "m"), ("PlainDataset", DATASETS, "d")):
        while runner.write(f"MATCH (n:{label}) WITH n LIMIT 100 DETACH DELETE n RETURN count(*) AS n")[0][
            "n"
        ]:
            pass
        runner.schema(
            f"CREATE CONSTRAINT {label.lower()} IF NOT EXISTS FOR (n:{label}) REQUIRE n.id IS UNIQUE"
        )
        runner.write(
            f"UNWIND range(0, $count - 1) AS i CREATE (:{label} {{id: $letter + i}})",
            count=count,
            letter=letter,
        )


def plain_rows(values: list[Result]) -> list[dict[str, Any]]:
    """Rows of the plain loops."""
    return [
        {
            "model": each.model,
            "dataset": each.dataset,
            "key": json.dumps([each.model, each.dataset]),
            "properties": {METRIC: each.value},
        }
        for each in values
    ]


def plain_loop(runner: Runner, statement: str, rows: list[dict[str, Any]]) -> None:
    """Write rows in batches."""
    for start in range(0, len(rows), ROWS):
        runner.write(statement, rows=rows[start : start + ROWS])


def one_more(graph: MatchingGraph, meter: Meter, name: str, datasets: int) -> None:
    """Save single results, of models and datasets all over the graph."""
    for number in range(SINGLES):
        value = Result(f"m{number * 7}", f"d{number * 3 % datasets}", METRIC, 5.0 + number)
        with meter(name):
            graph.save_results([value])


def measure(runner: Runner, server: int, turns: int, large: bool) -> dict[str, Any]:
    """All that is measured."""
    graph, meter = MatchingGraph(runner), Meter(server)
    warming = Meter(server)
    keyed = "FOR ()-[e:PLAIN]-() REQUIRE e.key IS UNIQUE"
    loops: dict[str, Callable[[list[Result]], None]] = {
        "CREATE": lambda values: plain_loop(runner, CREATE, plain_rows(values)),
        "MERGE": lambda values: plain_loop(runner, MERGE, plain_rows(values)),
    }
    for turn in range(-1, turns):
        datasets, meter_of_turn = (DATASETS, meter) if turn >= 0 else (WARMING_DATASETS, warming)
        for name, loop in loops.items():
            clear_plain(runner)
            runner.schema("DROP CONSTRAINT plain_key IF EXISTS")
            if name == "MERGE":
                runner.schema(f"CREATE CONSTRAINT plain_key IF NOT EXISTS {keyed}")
            values = results(datasets, turn)
            with meter_of_turn(f"plain {name}, first"):
                loop(values)
            if name == "MERGE":
                with meter_of_turn("plain MERGE, again"):
                    loop(results(datasets, turn + 0.5))
        clear_plain(runner)
        fill_ends(graph, datasets)
        one_more(graph, meter_of_turn, "one more of none", datasets)
        fill_ends(graph, datasets)
        values = results(datasets, turn)
        with meter_of_turn("save_results, first"):
            graph.save_results(values)
        with meter_of_turn("save_results, again"):
            graph.save_results(results(datasets, turn + 0.5))
        one_more(graph, meter_of_turn, f"one more of {MODELS * datasets:,}", datasets)
    if large:
        fill_ends(graph, LARGE_DATASETS)
        with meter(f"save_results of {MODELS * LARGE_DATASETS:,}"):
            graph.save_results(results(LARGE_DATASETS))
        one_more(graph, meter, f"one more of {MODELS * LARGE_DATASETS:,}", LARGE_DATASETS)
    return {"stages": meter.medians(), "server_peak_mib": peak_mib(server)}


@click.command()
@click.option("--home", required=True, type=click.Path(path_type=Path), help="An empty folder for the data.")
@click.option(
    "--turns", default=3, show_default=True, type=click.IntRange(1), help="Medians are over so many."
)
@click.option("--large/--no-large", default=True, help="Also measure at a million results.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(home: Path, turns: int, large: bool, note: str) -> None:
    """Measure what a write costs and write bench/results/writes.json."""
    server = ManagedServer(home)
    try:
        with connect(Settings(home=home)) as runner:
            state = server.running()
            assert state is not None
            found = {
                "command": "python -m bench.writes --home HOME",
                "note": note,
                **measure(runner, state.pid, turns, large),
            }
    finally:
        server.stop()
    (RESULTS / "writes.json").write_text(json.dumps(found, indent=2) + "\n")
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
