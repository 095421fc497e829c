"""`matchgraph query`, run in process through the root command."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from matchgraph.cli.main import run
from matchgraph.graphdb import queries
from matchgraph.graphdb.models import Dataset, Model, Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner

Command: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `matchgraph query ARGUMENTS`: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["query", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def zoo(
    environment: Mapping[str, str], graph: MatchingGraph, monkeypatch: pytest.MonkeyPatch
) -> MatchingGraph:
    """Two models, one with a name made to mislead, on one dataset."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    graph.save_models([Model("[red]m,1"), Model("m2")])
    graph.save_datasets([Dataset("d1", embedding=tuple(map(float, range(20))))])
    graph.save_results([Result("[red]m,1", "d1", "clip_fid", 5), Result("m2", "d1", "clip_fid", 7.123456789)])
    return graph


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any attempt to reach a server fail the test."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a server was asked for")

    monkeypatch.setattr("matchgraph.graphdb.connection.connect", refuse)


@pytest.mark.usefixtures("unconnected")
def test_the_list_of_queries_needs_no_server(command: Command) -> None:
    code, out, _ = command()
    assert code == 0
    assert all(info.name in out and info.title in out for info in queries.catalogue())
    listed = json.loads(command("--json")[1])
    assert [row["query"] for row in listed] == list(queries.names("explore"))


@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize("name", queries.names("explore"))
def test_help_names_each_option_and_needs_no_server(command: Command, name: str) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    for parameter in queries.describe(name).parameters:
        assert f"--{parameter.name}" in out


@pytest.mark.usefixtures("zoo")
def test_rows_as_table_json_and_csv(command: Command) -> None:
    code, table, _ = command("best-models", "--dataset", "d1")
    assert code == 0
    assert [line.split() for line in table.splitlines() if "m" in line][:3] == [
        ["rank", "model", "value", "initial"],
        ["1", "[red]m,1", "5"],
        ["2", "m2", "7.123"],
    ]
    expected = [
        {"rank": 1, "model": "[red]m,1", "value": 5.0, "initial": None},
        {"rank": 2, "model": "m2", "value": 7.123456789, "initial": None},
    ]
    assert json.loads(command("best-models", "--dataset", "d1", "--json")[1]) == expected
    assert json.loads(command("--json", "best-models", "--dataset", "d1")[1]) == expected
    rows = list(
        csv.reader(io.StringIO(command("best-models", "--dataset", "d1", "--csv", "--limit", "1")[1]))
    )
    assert rows == [["rank", "model", "value", "initial"], ["1", "[red]m,1", "5.0", ""]]


@pytest.mark.usefixtures("zoo")
def test_any_reading_statement_with_parameters(command: Command) -> None:
    statement = "RETURN $n + 1 AS n, $s AS s, $t AS t, $l AS l"
    arguments = ("--param", "n=3", "--param", "s=a=b", "--param", 't="3"', "--param", "l=[1,2]")
    assert json.loads(command("--cypher", statement, *arguments, "--json")[1]) == [
        {"n": 4, "s": "a=b", "t": "3", "l": [1, 2]}
    ]
    out = command("--cypher", "MATCH p = (:Model {id: 'm2'})-->(d) RETURN p, d.embedding AS e")[1]
    assert "(:Model m2)-[:PERFORMS 7.123]-(:Dataset d1)" in out
    assert "[0, 1, ... 20 numbers]" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["best-modles"], "no query 'best-modles' (did you mean 'best-models'?)"),
        (["best-models", "--dataset", "d2"], "no dataset 'd2' in the graph (did you mean 'd1'?)"),
        (["best-models", "--dataset", "d1", "--metric", "clip"], "'clip' is not a known metric"),
        (["--cypher", "MATCH (n) RETRUN n"], "Invalid input 'RETRUN'"),
        (["--cypher", "RETURN $missing"], "missing"),
        (["--cypher", "CREATE (:X)"], "writes, but only reading is allowed"),
        (["--cypher", "RETURN 1", "--param", "x"], "--param 'x' is not NAME=VALUE"),
        (["--cypher", "RETURN $x", "--param", f"x={2**63}"], "must fit 64 bits"),
        (["--cypher", "RETURN $x", "--param", f"x={'9' * 5000}"], "--param x cannot be read as JSON"),
        (["--cypher", "RETURN $x", "--param", f"x={'[' * 100_000}"], "--param x cannot be read as JSON"),
        (["--cypher", "RETURN $x", "--param", r'x="\ud800"'], "text must be Unicode"),
        (["--cypher", "RETURN '\udcff'"], "text must be Unicode"),
        (["--cypher", f"LOAD CSV FROM 'file://{__file__}' AS l RETURN l"], "Cannot load from URL"),
        (["--cypher", "LOAD CSV FROM 'http://127.0.0.1:9/' AS l RETURN l"], "is blocked"),
    ],
)
@pytest.mark.usefixtures("zoo")
def test_an_error_is_one_line(command: Command, runner: Runner, arguments: list[str], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert runner.read("MATCH (x:X) RETURN x") == []


@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize(
    "arguments",
    [
        ["best-models"],
        ["best-models", "--dataset", "d", "--limit", "many"],
        ["--json", "--csv"],
        ["--param", "a=1"],
        ["--cypher", "RETURN 1", "best-models", "--dataset", "d"],
    ],
)
def test_wrong_usage_asks_no_server(command: Command, arguments: list[str]) -> None:
    assert command(*arguments)[0] == 2


@pytest.mark.usefixtures("zoo")
def test_no_rows_are_said_to_be_none(command: Command) -> None:
    code, out, err = command("--cypher", "MATCH (n:Nothing) RETURN n")
    assert (code, out, err) == (0, "", "No rows.\n")
    assert command("--cypher", "MATCH (n:Nothing) RETURN n", "--json")[1] == "[]\n"
    assert command("--cypher", "MATCH (n:Nothing) RETURN n", "--csv")[1] == "n\n"


@pytest.mark.usefixtures("environment")
def test_an_empty_answer_says_why_and_what_to_do(
    command: Command, graph: MatchingGraph, zoo: MatchingGraph
) -> None:
    assert zoo
    assert command("average-rank", "--metric", "kid")[2] == (
        "No rows. The graph has no results by kid, but by clip_fid: give --metric.\n"
    )
    assert command("datasets-like-mine", "--dataset", "d1")[2] == (
        "No rows. The graph has no similarities by clip_fid, nor by another metric.\n"
    )
    graph.clear()
    assert "`matchgraph ingest minizoo`" in command("average-rank")[2]


def test_help_loads_neither_the_driver_nor_anything_heavy() -> None:
    code = (
        "import sys; from matchgraph.cli.main import run; run(['query', 'best-models', '--help']);"
        "heavy = {'neo4j', 'torch', 'pandas', 'catboost', 'graphdatascience', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines()[-1] == "[]"
