"""Another application keeps its nodes in the same database, with our labels, our ids and odd properties: no
command may change them, and they may not change what a command answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from matchgraph.cli.main import matchgraph
from matchgraph.drawing import Drawing
from matchgraph.graphdb import queries, schema
from matchgraph.graphdb.connection import PASSWORD_VARIABLE, URI_VARIABLE, Settings
from matchgraph.graphdb.distillation import DistillationGraph, Distilled
from matchgraph.graphdb.models import Statistics
from matchgraph.graphdb.prompt_models import Prompt, Score, Variant
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer
from tests.cli.test_main import walk

MODELS, DATASETS = [f"m{i}" for i in range(5)], [f"d{i}" for i in range(6)]
FOREIGN = """
UNWIND range(0, 1999) AS i
CREATE (n:Theirs {number: i})
SET n.id = [toString(i), 'm' + i % 5, 'd' + i % 6, i, date({year: 2000 + i % 20}), point({x: i, y: -i}),
            [1, i], true][i % 8],
    n.name = ['clip_fid', 'fid', i, duration({days: i})][i % 4],
    n.key = CASE WHEN i % 7 = 0 THEN i ELSE 'k' END,
    n.version = [i, 'v', null, 900][i % 4],
    n.embedding = [[1.0, 0.0], 'none', [0.1], [1, 2, 3]][i % 4],
    n.text = CASE WHEN i % 1000 = 0 THEN reduce(t = '', _ IN range(1, 4000) | t + 'long ') END,
    n.larger_is_better = [true, 'yes', null][i % 3],
    n.status = ['DONE', 'QUEUED', 1][i % 3],
    n.extractor = 'e1'
FOREACH (_ IN CASE WHEN i % 9 = 0 THEN [1] ELSE [] END | SET n:Model)
FOREACH (_ IN CASE WHEN i % 9 = 1 THEN [1] ELSE [] END | SET n:Dataset)
FOREACH (_ IN CASE WHEN i % 9 = 2 THEN [1] ELSE [] END | SET n:Run)
FOREACH (_ IN CASE WHEN i % 9 = 3 THEN [1] ELSE [] END | SET n:Metric)
FOREACH (_ IN CASE WHEN i % 9 = 4 THEN [1] ELSE [] END | SET n:Statistics)
FOREACH (_ IN CASE WHEN i % 9 = 5 THEN [1] ELSE [] END | SET n:Prompt:TrainPrompt)
FOREACH (_ IN CASE WHEN i % 9 = 6 THEN [1] ELSE [] END | SET n:Variant)
FOREACH (_ IN CASE WHEN i % 9 = 7 THEN [1] ELSE [] END | SET n:Schema)
FOREACH (_ IN CASE WHEN i % 50 > 0 THEN [] ELSE [1] END | REMOVE n:Theirs)
"""
FOREIGN_EDGES = """
MATCH (n) WHERE n.number IS NOT NULL
WITH n ORDER BY n.number
WITH collect(n) AS nodes
UNWIND range(0, size(nodes) - 2) AS i
WITH nodes[i] AS a, nodes[(i * 7 + 1) % size(nodes)] AS b, i
FOREACH (_ IN CASE WHEN i % 7 = 0 THEN [1] ELSE [] END |
  CREATE (a)-[:PERFORMS {key: 'k', clip_fid: 'bad', fid: i}]->(b))
FOREACH (_ IN CASE WHEN i % 7 = 1 THEN [1] ELSE [] END | CREATE (a)-[:SIMILAR {key: 'k', clip_fid: i}]->(b))
FOREACH (_ IN CASE WHEN i % 7 = 2 THEN [1] ELSE [] END | CREATE (a)-[:OF]->(b))
FOREACH (_ IN CASE WHEN i % 7 = 3 THEN [1] ELSE [] END | CREATE (a)-[:ON {since: date()}]->(b))
FOREACH (_ IN CASE WHEN i % 7 = 4 THEN [1] ELSE [] END | CREATE (a)-[:DESCRIBED_BY]->(b))
FOREACH (_ IN CASE WHEN i % 7 = 5 THEN [1] ELSE [] END | CREATE (a)-[:SCORED {key: i, clip_score: 'x'}]->(b))
FOREACH (_ IN CASE WHEN i % 7 = 6 THEN [1] ELSE [] END | CREATE (a)-[:DISTILLED_FROM {key: 'k'}]->(b))
"""
# Every node without our label, and every relationship that is not between two nodes with it.
OTHERS = """
MATCH (n) WHERE none(label IN labels(n) WHERE label STARTS WITH 'MatchGraph')
RETURN elementId(n) AS id, labels(n) AS what, properties(n) AS properties ORDER BY id
"""
OTHER_EDGES = """
MATCH (a)-[r]->(b)
WHERE none(label IN labels(a) WHERE label STARTS WITH 'MatchGraph')
   OR none(label IN labels(b) WHERE label STARTS WITH 'MatchGraph')
RETURN elementId(r) AS id, [type(r), elementId(a), elementId(b)] AS what, properties(r) AS properties
ORDER BY id
"""


def others(runner: Runner) -> tuple[int, str]:
    """How much there is of other applications, and a hash of all of it."""
    rows = [*runner.read(OTHERS), *runner.read(OTHER_EDGES)]
    text = json.dumps(rows, sort_keys=True, default=repr)
    return len(rows), hashlib.sha256(text.encode()).hexdigest()


def invoke(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    result = CliRunner().invoke(matchgraph, list(arguments), env=dict(environment))
    # `graph check` ends with 1 where it finds something.
    assert result.exit_code == 0 or arguments[1] == "check", (arguments, result.output, result.exception)
    return result.stdout


def without_times(text: str) -> str:
    """What a command printed, without how long it took."""
    return re.sub(r'"[a-z_]*seconds[a-z_]*": [0-9.e-]+', "", text)


def tables(folder: Path) -> None:
    """A small zoo as tables."""

    def write(name: str, header: str, rows: Sequence[str]) -> None:
        (folder / name).write_text("\n".join([header, *rows]) + "\n")

    write(
        "models.csv",
        "model,family,tflop,released",
        [f"{m},f{i % 2},{i + 1},2024-0{i + 1}" for i, m in enumerate(MODELS)],
    )
    write("datasets.csv", "dataset,e0,e1", [f"{d},{i / 6},{1 - i / 6}" for i, d in enumerate(DATASETS)])
    write(
        "results.csv",
        "model,dataset,metric,value",
        [
            f"{m},{d},{k},{5 + i * j % 7}"
            for i, m in enumerate(MODELS)
            for j, d in enumerate(DATASETS)
            for k in ("clip_fid", "kid")
        ],
    )
    write(
        "similarities.csv",
        "dataset,other,metric,value",
        [
            f"{a},{b},clip_fid,{abs(i - j) + 0.5}"
            for i, a in enumerate(DATASETS)
            for j, b in enumerate(DATASETS)
            if i < j
        ],
    )


def fill_by_hand(runner: Runner) -> None:
    """What commands write that need weights of models: statistics, prompts, scores, students."""
    MatchingGraph(runner).save_datasets([], [Statistics("d0", "e1", "clip", 9, np.zeros(2), np.eye(2))])
    level = PromptGraph(runner)
    level.save_variants(
        [Variant("m0@4", "m0", Drawing(steps=4), 1.0), Variant("m1@9", "m1", Drawing(steps=9), 2.0)]
    )
    prompts = [Prompt(f"a cat {i}", "train", "probe", np.array([1.0, 0.0])) for i in range(3)]
    level.save_prompts(prompts)
    level.save_scores(
        [Score(v, p.id, "clip_score", 0.5, 2, 0.1, "s") for v in ("m0@4", "m1@9") for p in prompts]
    )
    assert len(level.nearest(np.array([1.0, 0.0]), 3, "clip_score")) == 3
    DistillationGraph(runner).save(Distilled("m1", "m0"))


NAMED = {"dataset": "d0", "model": "m0", "other": "m2", "from": "d0", "to": "d5"}


def named_queries() -> list[list[str]]:
    return [
        [
            "query",
            info.name,
            *(part for p in info.parameters if p.required for part in (f"--{p.name}", NAMED[p.name])),
        ]
        for info in queries.catalogue()
    ]


READING = [
    *named_queries(),
    ["query", "--cypher", "MATCH (n:Model) RETURN count(n) AS n"],
    # By one embedding of the projected graph; the default makes four.
    ["predict", "d0", "--recipe", "paper", "--trees", "20", "--json"],
    ["ingest", "status"],
    ["graph", "status"],
    ["graph", "start"],
    ["graph", "list", "models"],
    ["graph", "list", "datasets"],
    ["graph", "list", "runs"],
    ["graph", "list", "metrics"],
    ["graph", "check"],
]
# These need pipelines and probes, or minutes; they write by statements alone, each of which is checked below.
NOT_HERE = {
    *("choose", "report", "ingest adapter", "ingest minizoo", "ingest plan", "ingest run", "ingest worker"),
    *(f"collaborate {name}" for name in ("calibrate", "control-image", "distill", "evaluate", "generate")),
    *("collaborate scores", "collaborate student", "collaborate tune"),
    *(f"route {name}" for name in ("ask", "calibrate", "curve", "fit", "generate", "prompts", "score")),
    *("route mix", "route serve", "route variants", "route scores", "doctor", "ui"),
    # It reads the graph as `predict` does.
    "evaluate",
    # Of the managed server alone: they take the whole database along, or stop the server under the tests.
    *("graph backup", "graph restore", "graph stop"),
}


@pytest.mark.slow
def test_other_applications_nodes_stay_as_they_are(
    graph: MatchingGraph, runner: Runner, environment: Mapping[str, str], settings: Settings, tmp_path: Path
):
    tables(tmp_path)
    writing = [
        ["ingest", kind, str(tmp_path / f"{kind}.csv")]
        for kind in ("models", "datasets", "results", "similarities")
    ]
    writing += [["graph", "refresh"], ["graph", "open", "--no-launch"]]
    upkeep = [
        ["ingest", "published"],
        ["graph", "export", str(tmp_path / "records")],
        ["ingest", "records", str(tmp_path / "records")],
        ["graph", "rename", "model", "m4", "m9"],
        ["graph", "rename", "dataset", "d4", "d9"],
        ["graph", "remove", "model", "m9", "--yes"],
        ["graph", "remove", "dataset", "d9", "--yes"],
        ["ingest", "cancel", "--all"],
        ["ingest", "retry", "--all"],
    ]
    run = {tuple(command[:words]) for command in (*writing, *READING, *upkeep) for words in (1, 2)}
    every = {path for path, command in walk(matchgraph) if not isinstance(command, click.Group)}
    assert {" ".join(path) for path in every - run} == {*NOT_HERE, "graph reset"}

    def story(runner: Runner) -> dict[str, str]:
        """What each reading command says after all that write have run."""
        for command in writing:
            invoke(command, environment)
        fill_by_hand(runner)
        said = {" ".join(command): without_times(invoke(command, environment)) for command in READING}
        for command in upkeep:
            invoke(command, environment)
        return said

    # The same story twice: with neighbours, and alone.
    try:
        runner.write(FOREIGN)
        runner.write(FOREIGN_EDGES)
        before = others(runner)
        assert before[0] > 3_800
        # Also a first start in a database that others have used before.
        runner.write("MATCH (graph:MatchGraph) DETACH DELETE graph")
        for row in runner.read("SHOW CONSTRAINTS YIELD name"):
            runner.schema(f"DROP CONSTRAINT {row['name']}")
        assert schema.apply(runner) == len(schema.migrations())
        together = story(runner)

        password = ManagedServer(settings.home).password_file.read_text().strip()
        shared = {**environment, URI_VARIABLE: runner.uri, PASSWORD_VARIABLE: password}
        left = json.loads(invoke(["graph", "reset", "--yes", "--json"], shared))
        assert left["foreign_nodes"] == 2_000
        assert graph.models() == []
        # The managed server is treated alike while others use it.
        invoke(writing[0], environment)
        assert "2,000 nodes" in invoke(["graph", "reset", "--yes"], environment)
        assert others(runner) == before
        assert runner.read(queries.load("status/nodes")) == []
    finally:
        runner.write("MATCH (n) WHERE none(l IN labels(n) WHERE l STARTS WITH 'MatchGraph') DETACH DELETE n")
    alone = story(runner)
    counted = "query --cypher MATCH (n:Model) RETURN count(n) AS n"
    assert together.pop(counted) != alone.pop(counted)
    assert together == alone


STATEMENTS = [
    f"{folder.name}/{file.name.removesuffix('.cypher')}"
    for folder in sorted(files("matchgraph.cypher").iterdir(), key=lambda f: f.name)
    if folder.is_dir() and folder.name != "adopt"
    for file in folder.iterdir()
    if file.name.endswith(".cypher")
]


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_names_nodes_by_our_labels(name: str):
    text = re.sub(r"//.*", "", queries.load(name))
    # In a MATCH, MERGE or pattern; after SET the plain label is added to a node of ours.
    plain = re.findall(r"\(\w*:(?!MatchGraph)[\w|:]+", text)
    assert not plain, plain
    # A pattern begins at a label of ours or at a node bound before.
    for start in re.findall(r"(?:MATCH|MERGE)\s+\(([^)]*)\)", text):
        variable, _, label = start.partition(":")
        bound = (
            re.search(rf"\b{re.escape(variable.strip())}\b", text.split(f"({start})")[0])
            if variable.strip()
            else None
        )
        assert label.startswith("MatchGraph") or bound or name == "status/foreign", start
