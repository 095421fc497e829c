"""Constraints and indexes: recorded, repeatable, and doing what they are for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from matchgraph.graphdb import queries, schema
from matchgraph.graphdb.errors import ConstraintViolated, MigrationFailed
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner


class CountingRunner:
    """A runner that counts what passes through to the real one."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.reads, self.writes = runner, 0, 0

    def read(self, *arguments: object, **params: object) -> object:
        self.reads += 1
        return self.runner.read(*arguments, **params)  # type: ignore[arg-type]

    def write(self, *arguments: object, **params: object) -> object:
        self.writes += 1
        return self.runner.write(*arguments, **params)  # type: ignore[arg-type]

    def schema(self, statement: str) -> None:
        self.writes += 1
        self.runner.schema(statement)


@pytest.mark.usefixtures("graph")
def test_a_current_schema_costs_one_read(runner: Runner) -> None:
    schema.apply(runner)
    counting = CountingRunner(runner)
    assert schema.apply(counting) == 0  # type: ignore[arg-type]
    assert (counting.reads, counting.writes) == (1, 0)


def test_an_emptied_database_gets_its_schema_again(graph: MatchingGraph, runner: Runner) -> None:
    graph.clear()
    runner.write("MATCH (s:Schema) DETACH DELETE s")
    assert schema.version(runner) == 0
    assert schema.apply(runner) == len(schema.migrations())
    assert schema.version(runner) == len(schema.migrations())


@pytest.mark.usefixtures("graph")
def test_a_lost_migration_is_made_good(runner: Runner) -> None:
    schema.apply(runner)
    runner.schema("DROP INDEX prompt_embedding")
    lost = next(number for number, name in schema.migrations().items() if "prompt_embedding" in name)
    runner.write("MATCH (s:Schema) WHERE s.version >= $lost DETACH DELETE s", lost=lost)
    assert schema.apply(runner) == len(schema.migrations()) - lost + 1
    rows = runner.read("SHOW INDEXES YIELD name, type WHERE name = 'prompt_embedding' RETURN type")
    assert rows == [{"type": "VECTOR"}]


@pytest.mark.usefixtures("graph")
def test_commands_at_once_set_up_the_schema_together(runner: Runner) -> None:
    for row in runner.read("SHOW CONSTRAINTS YIELD name"):
        runner.schema(f"DROP CONSTRAINT {row['name']}")
    for index in ("dataset_embedding", "prompt_embedding"):
        runner.schema(f"DROP INDEX {index} IF EXISTS")
    runner.write("MATCH (s:Schema) DETACH DELETE s")
    with ThreadPoolExecutor(4) as commands:
        for applied in [commands.submit(schema.apply, runner) for _ in range(4)]:
            applied.result()
    assert schema.version(runner) == len(schema.migrations())
    assert len(runner.read("SHOW CONSTRAINTS YIELD name")) == 12
    assert runner.read("MATCH (s:Schema) RETURN count(s) AS n") == [{"n": len(schema.migrations())}]


@pytest.mark.usefixtures("graph")
def test_a_newer_schema_is_refused(runner: Runner) -> None:
    schema.apply(runner)
    runner.write("MERGE (s:Schema {version: 900})")
    try:
        with pytest.raises(MigrationFailed, match="update matchgraph"):
            schema.apply(runner)
    finally:
        runner.write("MATCH (s:Schema {version: 900}) DELETE s")


@pytest.mark.parametrize(
    "node", ["Model.id", "Dataset.id", "Run.id", "Metric.name", "Statistics.key", "Schema.version"]
)
@pytest.mark.usefixtures("graph")
def test_a_node_key_is_unique(runner: Runner, node: str) -> None:
    label, key = node.split(".")
    with pytest.raises(ConstraintViolated):
        runner.write(f"UNWIND [1, 1] AS value CREATE (:{label} {{{key}: value}})")


@pytest.mark.parametrize("kind", ["PERFORMS", "SIMILAR"])
@pytest.mark.usefixtures("graph")
def test_an_edge_key_is_unique(runner: Runner, kind: str) -> None:
    with pytest.raises(ConstraintViolated):
        runner.write(f"UNWIND [1, 1] AS value CREATE ()-[:{kind} {{key: value}}]->()")


def test_a_gap_in_the_numbers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "names", lambda _folder: ("001_a", "003_b"))
    with pytest.raises(MigrationFailed, match="002"):
        schema.migrations()
