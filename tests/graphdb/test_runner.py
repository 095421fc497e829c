"""The seam to the database, on the real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from neo4j.exceptions import TransientError

from matchgraph.graphdb.errors import ConstraintViolated, DatabaseFailed, QueryRefused, SettingsInvalid
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner, as_graph_error
from matchgraph.graphdb.values import plain

pytestmark = pytest.mark.usefixtures("graph")
CREATE = "UNWIND $rows AS row MERGE (p:Probe {id: row.id})"
COUNT = "MATCH (p:Probe) RETURN count(p) AS count"


def count(runner: Runner) -> int:
    return runner.read(COUNT)[0]["count"]


def test_numpy_and_paths_go_in_as_plain_values(runner: Runner):
    values = {
        "integer": np.int64(3),
        "float": np.float32(0.5),
        "truth": np.bool_(True),
        "vector": np.arange(3),
        "matrix": [np.array([1.5, 2.5])],
        "path": Path("a") / "b",
        "nested": {"ids": ("x", "y")},
        "bytes": b"\x00\xff",
    }
    got = runner.read("RETURN $values AS values", values=values)[0]["values"]
    assert got == {
        "integer": 3,
        "float": 0.5,
        "truth": True,
        "vector": [0, 1, 2],
        "matrix": [[1.5, 2.5]],
        "path": "a/b",
        "nested": {"ids": ["x", "y"]},
        "bytes": b"\x00\xff",
    }


def test_plain_leaves_no_numpy_type():
    got = plain({"a": np.float64(1), "b": [np.int32(2)], "c": np.array([[1, 2]])})
    assert [type(got["a"]), type(got["b"][0]), type(got["c"][0][0])] == [float, int, int]


def test_results_are_ready_for_json(runner: Runner):
    runner.write("MERGE (:Probe {id: 'a', on: date('2026-01-02')})-[:NEAR {km: 2}]->(:Probe {id: 'b'})")
    row = runner.read(
        "MATCH path = (a:Probe {id: 'a'})-[r]->(b) RETURN a, r, path, datetime('2026-01-02T03:04:05Z') AS "
        "at, duration('P1DT2H') AS took, time('10:11:12Z') AS time, point({x: 1, y: 2}) AS point, "
        "[date('2026-01-02')] AS list"
    )[0]
    first = {"labels": ["Probe"], "properties": {"id": "a", "on": "2026-01-02"}}
    near = {"type": "NEAR", "properties": {"km": 2}}
    assert row["a"] == first
    assert row["r"] == near
    assert row["path"] == {
        "nodes": [first, {"labels": ["Probe"], "properties": {"id": "b"}}],
        "relationships": [near],
    }
    assert row["at"].startswith("2026-01-02T03:04:05")
    assert row["took"] == "P1DT2H"
    assert row["point"] == [1.0, 2.0]
    assert row["list"] == ["2026-01-02"]
    json.dumps(row)


def test_read_only_gives_columns_without_rows(runner: Runner):
    assert runner.read_only("MATCH (p:Probe) RETURN p.id AS id, p.a AS a", {}) == (["id", "a"], [])


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE (:Probe {id: 'x'})",
        "MERGE (p:Probe {id: 'x'}) RETURN p",
        "MATCH (p:Probe) SET p.a = 1",
        "MATCH (p:Probe) DETACH DELETE p",
        "CREATE INDEX probe IF NOT EXISTS FOR (p:Probe) ON (p.a)",
        "CALL db.createLabel('Sneaky')",
    ],
)
def test_reading_refuses_writes(runner: Runner, statement: str):
    runner.write(CREATE, rows=[{"id": "kept"}])
    with pytest.raises(QueryRefused, match="only reading"):
        runner.read_only(statement, {})
    assert runner.read("MATCH (p:Probe) RETURN p.id AS id, p.a AS a") == [{"id": "kept", "a": None}]


@pytest.mark.parametrize("statement", ["RETURN nothing", "RETUR 1", "RETURN $missing"])
def test_a_wrong_statement_is_one_line(runner: Runner, statement: str):
    with pytest.raises(QueryRefused) as caught:
        runner.read(statement)
    assert "\n" not in str(caught.value)


def test_write_many_is_all_or_nothing(runner: Runner):
    with pytest.raises(QueryRefused):
        runner.write_many([(CREATE, {"rows": [{"id": "a"}]}), ("RETURN 1 / $zero", {"zero": 0})])
    assert count(runner) == 0
    returned = runner.write_many([(CREATE + " RETURN p.id AS id", {"rows": [{"id": "a"}]}), (COUNT, {})])
    assert returned == [[{"id": "a"}], [{"count": 1}]]


def test_a_broken_constraint_has_a_name(runner: Runner):
    with pytest.raises(ConstraintViolated, match="already exists"):
        runner.write("UNWIND [1, 2] AS i CREATE (:MatchGraphModel {id: 'same'})")


def test_gds_client_works_on_the_same_server(runner: Runner, graph: MatchingGraph):  # noqa: ARG001
    assert str(runner.gds().server_version()) == runner.gds_version()


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:7687",
        "nonsense",
        "",
        "bolt://[::1",
        "bolt://db:port",
        "bolt://db:99999",
        "bolt://db?a=b",
    ],
)
def test_an_address_of_another_kind_is_refused(uri: str):
    with pytest.raises(SettingsInvalid, match="bolt://HOST:PORT"):
        Runner(uri, "neo4j", "password")


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(SettingsInvalid, match="MATCHGRAPH_NEO4J_PASSWORD") as caught:
        Runner("neo4j://ann:secret@db", "neo4j", "password")
    assert "secret" not in str(caught.value)


def test_too_small_a_heap_is_told_with_its_remedy():
    class OutOfMemory(TransientError):
        code = "Neo.TransientError.General.MemoryPoolOutOfMemoryError"
        message = "The allocation of an extra 4.0 MiB would use more than the limit 716.8 MiB."

    error = as_graph_error(OutOfMemory(), "bolt://h:1", "u")
    assert isinstance(error, DatabaseFailed)
    assert "limit 716.8 MiB" in str(error)
    assert "MATCHGRAPH_HEAP=4g" in str(error)
