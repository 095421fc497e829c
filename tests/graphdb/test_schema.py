"""Constraints and indexes: recorded, repeatable, and doing what they are for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from matchgraph.drawing import Drawing
from matchgraph.graphdb import queries, schema
from matchgraph.graphdb.errors import ConstraintViolated, MigrationFailed
from matchgraph.graphdb.models import Metric
from matchgraph.graphdb.prompt_models import Variant
from matchgraph.graphdb.prompts import PromptGraph
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
    counting = CountingRunner(runner)
    assert schema.apply(counting) == 0  # type: ignore[arg-type]
    assert (counting.reads, counting.writes) == (1, 0)


def test_an_emptied_database_gets_its_schema_again(graph: MatchingGraph, runner: Runner) -> None:
    graph.clear()
    runner.write("MATCH (graph:MatchGraph) DETACH DELETE graph")
    assert schema.version(runner) == 0
    assert schema.apply(runner) == len(schema.migrations())
    assert schema.version(runner) == max(schema.migrations())


@pytest.mark.usefixtures("graph")
def test_a_lost_migration_is_made_good(runner: Runner) -> None:
    runner.schema("DROP INDEX matchgraph_prompt_embedding")
    lost = next(number for number, name in schema.migrations().items() if "prompt_embedding" in name)
    runner.write("MATCH (graph:MatchGraph) SET graph.version = $version", version=lost - 1)
    assert schema.apply(runner) == max(schema.migrations()) - lost + 1
    rows = runner.read("SHOW INDEXES YIELD name, type WHERE name = 'matchgraph_prompt_embedding' RETURN type")
    assert rows == [{"type": "VECTOR"}]


@pytest.mark.usefixtures("graph")
def test_commands_at_once_set_up_the_schema_together(runner: Runner) -> None:
    drop_schema(runner)
    with ThreadPoolExecutor(4) as commands:
        for applied in [commands.submit(schema.apply, runner) for _ in range(4)]:
            applied.result()
    assert schema.version(runner) == max(schema.migrations())
    assert len(runner.read("SHOW CONSTRAINTS YIELD name")) == 7
    assert runner.read("MATCH (graph:MatchGraph) RETURN count(graph) AS n") == [{"n": 1}]


@pytest.mark.usefixtures("graph")
def test_a_newer_schema_is_refused(runner: Runner) -> None:
    current = schema.version(runner)
    runner.write("MATCH (graph:MatchGraph) SET graph.version = 900")
    try:
        with pytest.raises(MigrationFailed, match="update matchgraph"):
            schema.apply(runner)
    finally:
        runner.write("MATCH (graph:MatchGraph) SET graph.version = $version", version=current)


@pytest.mark.parametrize(
    "node", ["Model.id", "Dataset.id", "Run.id", "Statistics.key", "Prompt.id", "Variant.id", ".name"]
)
@pytest.mark.usefixtures("graph")
def test_a_node_key_is_unique_among_ours_alone(runner: Runner, node: str) -> None:
    label, key = node.split(".")
    create = f"UNWIND [1, 1] AS value CREATE (n:{{label}} {{{{{key}: value}}}}) RETURN n"
    with pytest.raises(ConstraintViolated):
        runner.write(create.format(label=f"MatchGraph{label}"))
    foreign = label or "Graph"
    assert len(runner.write(create.format(label=f"{foreign}:Theirs"))) == 2
    runner.write("MATCH (n:Theirs) DELETE n")


# An earlier graph, as versions 1 to 14 wrote it: two of each kind of what is ours.
EARLIER = """
CREATE (m:Model {id: 'm', name: 'm', params: 3})
CREATE (lone:Model {id: 'lone', name: 'lone'}), (bare:Model {id: 'bare'})
CREATE (d:Dataset {id: 'd', name: 'd', embedding: [1.0, 0.0]}), (o:Dataset {id: 'o'})
CREATE (m)-[:PERFORMS {key: '["m", "d"]', fid: 2.0, stars: 4.0, metric: 'fid', value: 2.0}]->(d)
CREATE (bare)-[:PERFORMS {key: '["bare", "d"]', fid: 3.0}]->(d)
CREATE (d)-[:SIMILAR {key: '["d", "o"]', fid: 2.0}]->(o)
CREATE (d)-[:DESCRIBED_BY]->(:Statistics {
  key: 'k', extractor: 'e', resize: 'r', n: 2, mean: $floats, covariance: $floats})
CREATE (m)<-[:OF]-(:Run {id: 'r', status: 'DONE', fence: 1, config: '{}', metrics: ['fid']})-[:ON]->(d)
CREATE (m)<-[:OF]-(v:Variant {id: 'v', steps: 4, tflop: 1.0})
CREATE (v)-[:SCORED {key: '["v", "p"]', clip_score: 0.5}]->(:Prompt:TrainPrompt {
  id: 'p', text: 'a cat', split: 'train', probe: 'x', embedding: [1.0, 0.0]})
CREATE (:Metric {name: 'fid', larger_is_better: false, minimum: 0.0})
CREATE (:Metric {name: 'stars', larger_is_better: true, maximum: 5.0})
CREATE (:Schema {version: 1, applied: datetime(), locked: true}), (:Schema {version: 2, applied: datetime()})
"""
NEIGHBOURS = """
CREATE (:Model:Theirs {sku: 'X5'}), (:Dataset:Theirs {id: 'a', name: 'b'})
CREATE (:Model {id: 7, name: 'Seven', of: 'them'})
CREATE (:Model {id: 'car', name: 'Car', of: 'them'})-[:SOLD_BY]->(:Shop {of: 'them'})
CREATE (:Metric {name: 'Revenue', of: 'them'}), (:Schema {version: 'public', of: 'them'})
CREATE (:Run {id: 'marathon', of: 'them'}), (:Prompt {text: 'hello', of: 'them'})
CREATE (:Variant {id: 'red', of: 'them'})
"""


def drop_schema(runner: Runner) -> None:
    for row in runner.read("SHOW CONSTRAINTS YIELD name"):
        runner.schema(f"DROP CONSTRAINT {row['name']}")
    for row in runner.read("SHOW INDEXES YIELD name, type WHERE type = 'VECTOR'"):
        runner.schema(f"DROP INDEX {row['name']}")
    runner.write("MATCH (n) DETACH DELETE n")


@pytest.mark.slow
def test_an_earlier_graph_is_adopted_and_nothing_else(graph: MatchingGraph, runner: Runner) -> None:
    drop_schema(runner)
    for label, key, name in (("Schema", "version", "schema_version"), ("Model", "id", "model_id")):
        runner.schema(f"CREATE CONSTRAINT {name} FOR (n:{label}) REQUIRE n.{key} IS UNIQUE")
    runner.schema("CREATE CONSTRAINT performs_key FOR ()-[e:PERFORMS]-() REQUIRE e.key IS UNIQUE")
    runner.schema("CREATE CONSTRAINT theirs FOR (s:Shop) REQUIRE s.id IS UNIQUE")
    runner.write(EARLIER, floats=np.ones(1).tobytes())
    runner.write(NEIGHBOURS)
    foreign = "MATCH (n) WHERE n.of = 'them' OR n:Theirs RETURN n ORDER BY elementId(n)"
    before = runner.read(foreign)
    try:
        assert schema.apply(runner) == len(schema.migrations())
        assert [model.id for model in graph.models()] == ["bare", "lone", "m"]
        assert [dataset.id for dataset in graph.datasets()] == ["d", "o"]
        assert graph.metric("stars") == Metric("stars", larger_is_better=True, maximum=5)
        assert graph.snapshot("fid").performs["value"].tolist() == [3.0, 2.0]
        assert graph.snapshot("fid").similar["value"].tolist() == [2.0]
        assert len(graph.statistics("e")) == 1
        level = PromptGraph(runner)
        assert level.variants() == [Variant("v", "m", Drawing(4), 1.0, "TFLOP")]
        assert [p.text for p in level.prompts()] == ["a cat"]
        assert [n.text for n in level.nearest(np.array([1.0, 0.0]), 1, "clip_score")] == ["a cat"]
        assert len(runner.read(queries.load("upkeep/runs"))) == 1
        assert runner.read("MATCH ()-[e]->() WHERE e.key IS NOT NULL RETURN e") == []
        assert runner.read("MATCH (n:Schema|Metric) WHERE n.of IS NULL RETURN n") == []
        assert runner.read(foreign) == before
        names = {row["name"] for row in runner.read("SHOW CONSTRAINTS YIELD name")}
        assert "theirs" in names
        assert not {"schema_version", "model_id", "performs_key"} & names
    finally:
        drop_schema(runner)
        schema.apply(runner)


def test_a_gap_in_the_numbers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "names", lambda _folder: ("015_a", "017_b"))
    with pytest.raises(MigrationFailed, match="016"):
        schema.migrations()
