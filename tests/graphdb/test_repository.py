"""Writes and reads of the matching graph on the real database."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import (
    ConstraintViolated,
    GraphChanged,
    InvalidValue,
    MixedExtractors,
    NodeNotFound,
    UnknownMetric,
)
from matchgraph.graphdb.models import Dataset, Metric, Model, Result, Similar, Statistics
from matchgraph.graphdb.refresh import Refreshed, refresh
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.snapshot import NOT_RECORDED
from matchgraph.graphdb.upkeep import rename
from matchgraph.graphdb.weights import result_weight, similarity_weight

NAMES = ["back`tick", "quo'te\"s", "a//b", "日本語 🎨", "[red]", "a\u0301", "\\", "{$x}"]


def dump(runner: Runner) -> list[Any]:
    """All that the graph holds but the record of its schema, in an order of its own."""
    nodes = runner.read("MATCH (n) WHERE NOT n:MatchGraph RETURN labels(n) AS l, properties(n) AS p")
    edges = runner.read(
        "MATCH (a)-[e]->(b) RETURN type(e) AS t, properties(e) AS p, a.id AS a, coalesce(b.id, b.key) AS b"
    )
    return sorted(
        repr([sorted(r["p"].items()), *(v for k, v in r.items() if k != "p")]) for r in [*nodes, *edges]
    )


def edge(runner: Runner, kind: str = "PERFORMS") -> dict[str, Any]:
    """The properties of the only edge of a type."""
    (row,) = runner.read(f"MATCH ()-[e:{kind}]->() RETURN properties(e) AS p")
    return row["p"]


def statistics(dataset: str = "d1", seed: int = 0, size: int = 5) -> Statistics:
    features = np.random.default_rng(seed).normal(size=(30, size))
    return Statistics(dataset, "extractor", "clip", 30, features.mean(axis=0), np.cov(features.T))


def fill(graph: MatchingGraph) -> None:
    graph.save_models([Model("m1", {"family": "unet", "blocks": [1, 2], "tflop": 1.5}), Model("m2")])
    graph.save_datasets(
        [Dataset("d1", {"images": 5}, (0.1, 0.2)), Dataset("d2"), Dataset("d3")],
        [statistics()],
        [Similar("d1", "d2", "clip_fid", 3, {"n_real": 5}), Similar("d3", "d2", "clip_fid", 1)],
    )
    graph.save_results(
        [
            Result("m1", "d1", "clip_fid", 5, provenance={"run": "r1", "n_gen": 10}),
            Result("m1", "d1", "fid", 50, provenance={"n_real": 4}),
            Result("m1", "d1", "clip_fid", 9, "initial", {"n_gen": 7}),
            Result("m2", "d1", "clip_fid", 6),
            Result("m2", "d2", "clip_fid", 8, "initial"),
        ]
    )


def test_everything_written_twice_is_as_written_once(graph: MatchingGraph, runner: Runner) -> None:
    fill(graph)
    once = dump(runner)
    fill(graph)
    assert dump(runner) == once


def test_hostile_names_come_back_as_they_went_in(graph: MatchingGraph) -> None:
    graph.save_models([Model(name, {name: name}) for name in NAMES])
    graph.save_datasets([Dataset(name, {name: [name, name]}) for name in NAMES])
    graph.save_results([Result(m, d, "fid", 1) for m in NAMES for d in NAMES])
    graph.save_similarities([Similar(a, b, "fid", 1) for a in NAMES for b in NAMES if a < b])
    assert graph.models() == [Model(name, {name: name}) for name in sorted(NAMES)]
    assert graph.datasets() == [Dataset(name, {name: [name, name]}) for name in sorted(NAMES)]
    snapshot = graph.snapshot("fid")
    assert [*zip(snapshot.performs["model"], snapshot.performs["dataset"], strict=True)] == [
        (m, d) for m in sorted(NAMES) for d in sorted(NAMES)
    ]
    assert len(snapshot.similar) == len(NAMES) * (len(NAMES) - 1) // 2


def test_a_model_saved_again_loses_what_is_gone_and_keeps_its_edges(
    graph: MatchingGraph, runner: Runner
) -> None:
    fill(graph)
    runner.write("MATCH (m:Model {id: 'm1'}) MERGE (r:MatchGraphRun:Run {id: 'r1'}) MERGE (r)-[:OF]->(m)")
    graph.save_models([Model("m1", {"family": "dit"})])
    graph.save_datasets([Dataset("d1")])
    assert graph.models()[0] == Model("m1", {"family": "dit"})
    assert graph.datasets()[0] == Dataset("d1")
    counts = runner.read("MATCH (:Model {id: 'm1'})-[e]-() RETURN type(e) AS t, count(*) AS n ORDER BY t")
    assert counts == [{"t": "OF", "n": 1}, {"t": "PERFORMS", "n": 1}]
    assert len(graph.statistics("extractor")) == 1


def test_statistics_come_back_bit_for_bit(graph: MatchingGraph) -> None:
    wild = np.array([[np.pi, -0.0, 1e-308], [-0.0, 5e-324, -1e300], [1e-308, -1e300, np.nextafter(1, 2)]])
    saved = [Statistics("d1", "extractor", "b", 2, wild[0], wild), statistics("d1", size=64)]
    graph.save_datasets([Dataset("d1"), Dataset("d0")], [*saved, statistics("d0")])
    back = graph.statistics("extractor")
    assert [(s.dataset, s.resize, s.n) for s in back] == [
        ("d0", "clip", 30),
        ("d1", "b", 2),
        ("d1", "clip", 30),
    ]
    for given, got in zip(saved, back[1:], strict=True):
        assert given.mean.tobytes() == got.mean.tobytes()
        assert given.covariance.tobytes() == got.covariance.tobytes()
    assert graph.statistics("another") == []


def test_statistics_of_one_extractor_and_resize_are_replaced(graph: MatchingGraph, runner: Runner) -> None:
    graph.save_datasets([Dataset("d1")], [statistics(seed=0)])
    graph.save_datasets([], [statistics(seed=1)])
    (only,) = graph.statistics("extractor")
    assert np.array_equal(only.mean, statistics(seed=1).mean)
    assert runner.read("MATCH ()-[e:DESCRIBED_BY]->() RETURN count(e) AS n") == [{"n": 1}]


def test_an_edge_holds_each_metric_with_what_it_was_measured_with(
    graph: MatchingGraph, runner: Runner
) -> None:
    graph.save_models([Model("m")])
    graph.save_datasets([Dataset("d")])
    graph.save_results([Result("m", "d", "fid", 50, provenance={"n_real": 4, "run": "old"})])
    assert edge(runner) == {"fid": 50.0, "fid__n_real": 4, "fid__run": "old"}
    refresh(runner)
    assert (edge(runner)["metric"], edge(runner)["value"], edge(runner)["n_real"]) == ("fid", 50, 4)
    graph.save_results(
        [
            Result("m", "d", "clip_fid", 5, provenance={"run": "new"}),
            Result("m", "d", "clip_fid", 9, "initial", {"n_gen": 7}),
        ]
    )
    assert not {"metric", "value", "weight", "band"} & edge(runner).keys()
    assert refresh(runner) == Refreshed(results=1, similarities=0)
    assert edge(runner) == {
        "fid": 50.0,
        "fid__n_real": 4,
        "fid__run": "old",
        "clip_fid": 5.0,
        "clip_fid__run": "new",
        "initial_clip_fid": 9.0,
        "initial_clip_fid__n_gen": 7,
        # The default metric is clip_fid now; n_real was of fid and loses its plain name.
        "metric": "clip_fid",
        "value": 5.0,
        "run": "new",
        # The only model measured there: in the middle of its ranking.
        "weight": np.exp(-5 / 2),
        "band": "best",
    }


def test_a_value_replaced_loses_what_the_old_one_was_measured_with(
    graph: MatchingGraph, runner: Runner
) -> None:
    graph.save_models([Model("m")])
    graph.save_datasets([Dataset("d")])
    graph.save_results([Result("m", "d", "kid", 5, provenance={"std": 0.1, "run": "old"})])
    graph.save_results([Result("m", "d", "kid", 4, provenance={"run": "new"})])
    refresh(runner)
    held = edge(runner)
    assert (held["kid"], held["run"], held["kid__run"]) == (4, "new", "new")
    assert not {"std", "kid__std"} & held.keys()


METRICS = pytest.mark.parametrize(
    ("metric", "larger", "values"),
    [
        ("fid", False, [0.0, 1.0, 5.0, 90.0, 5.0, 7000.0]),
        ("kid", False, [-0.1, 0.0, 0.2, 0.9, 0.2, 0.3]),
        ("accuracy", True, [0.0, 1.0, 0.5, 0.9, 0.5, 0.8]),
        ("fid", False, [0.0, 0.0, 0.0, 0.0, 0.0, 3.0]),
        ("fid", False, [0.0] * 6),
    ],
    ids=["distances", "below zero", "scores", "median 0", "all 0"],
)
BANDS = ["best", "good", "fair", "poor"]


@METRICS
def test_stored_weights_of_similarities_are_those_of_the_function(
    graph: MatchingGraph, runner: Runner, metric: str, larger: bool, values: list[float]
) -> None:
    pairs = list(combinations("abcd", 2))
    similar = [Similar(a, b, metric, value) for (a, b), value in zip(pairs, values, strict=True)]
    graph.save_datasets([Dataset(name) for name in "abcd"], similar=similar)
    refresh(runner)
    rows = runner.read("MATCH (a)-[e:SIMILAR]->(b) RETURN e.weight AS w ORDER BY a.id, b.id")
    np.testing.assert_allclose([row["w"] for row in rows], similarity_weight(values, larger), rtol=1e-12)


@METRICS
def test_stored_weights_of_results_are_those_of_the_function(
    graph: MatchingGraph, runner: Runner, metric: str, larger: bool, values: list[float]
) -> None:
    names = [f"m{i}" for i in range(6)]
    graph.save_models([Model(name) for name in names])
    graph.save_datasets([Dataset("d1"), Dataset("d2")])
    # Another dataset, and a model measured by another metric only, move no rank.
    first = [Result(m, "d1", metric, v) for m, v in zip(names, values, strict=True)]
    graph.save_models([Model("other")])
    graph.save_results([first[0], Result("other", "d1", "cmmd", 3)])
    graph.save_results([*first[1:], *(Result(m, "d2", metric, 0.01 * i) for i, m in enumerate(names[:3]))])
    refresh(runner)
    weights = {
        dataset: [
            row["w"]
            for row in runner.read(
                "MATCH (m)-[e:PERFORMS {metric: $metric}]->(:Dataset {id: $dataset}) "
                "RETURN e.weight AS w ORDER BY m.id",
                metric=metric,
                dataset=dataset,
            )
        ]
        for dataset in ("d1", "d2")
    }
    np.testing.assert_allclose(weights["d1"], result_weight(values, larger), rtol=1e-12)
    np.testing.assert_allclose(weights["d2"], result_weight([0, 1, 2], larger), rtol=1e-12)


@pytest.mark.parametrize(("metric", "larger"), [("fid", False), ("accuracy", True)])
def test_bands_and_the_edges_that_browser_draws_go_by_rank_within_a_dataset(
    graph: MatchingGraph, runner: Runner, metric: str, larger: bool
) -> None:
    values = {"fid": [0.0, 1.0, 5.0, 90.0]}.get(metric, [0.0, 0.1, 0.2, 0.9])
    models = [f"m{i}" for i in range(len(values))]
    graph.save_models([Model(name) for name in models])
    graph.save_datasets(
        [Dataset(name) for name in ("easy", "hard")], similar=[Similar("easy", "hard", "fid", 3.0)]
    )
    # On the easy dataset the worst value is smaller than most of the hard one.
    graph.save_results(
        [
            Result(m, d, metric, v / scale)
            for d, scale in (("easy", 1000), ("hard", 1))
            for m, v in zip(models, values, strict=True)
        ]
    )
    expected = [[band, band, rank] for rank, band in enumerate(BANDS, start=1)]
    for _ in range(2):
        refresh(runner)
        rows = runner.read(
            "MATCH (m)-[e:PERFORMS]->(d)<-[s:BEST|GOOD|FAIR|POOR]-(m) WITH d, e, s ORDER BY s.rank "
            "RETURN d.id AS d, collect([e.band, toLower(type(s)), s.rank]) AS bands"
        )
        assert {row["d"]: row["bands"] for row in rows} == {"easy": expected, "hard": expected}
    best = runner.read("MATCH (m)-[:BEST]->({id: 'hard'}) RETURN m.id AS m")
    assert best == [{"m": models[-1 if larger else 0]}]
    near = runner.read("MATCH (a)-[e:NEAREST]->(b) RETURN a.id AS a, e.value AS value ORDER BY a")
    assert near == [{"a": "easy", "value": 3.0}, {"a": "hard", "value": 3.0}]
    # What only Browser shows is no part of the graph.
    assert [model.properties for model in graph.models()] == [{}] * len(models)
    named = runner.read("MATCH (m:Model) WITH m ORDER BY m.id RETURN collect(m.matchgraph_name) AS names")
    assert named == [{"names": models}]
    counted = {row["type"]: row["count"] for row in runner.read(queries.load("status/relationships"))}
    assert counted == {"PERFORMS": 8, "SIMILAR": 1}


def test_what_browser_draws_goes_with_what_it_was_drawn_from(graph: MatchingGraph, runner: Runner) -> None:
    graph.save_models([Model("a/m1"), Model("a/m2")])
    graph.save_datasets([Dataset("d1"), Dataset("d2")])
    graph.save_results([Result(m, d, "fid", 1.0) for m in ("a/m1", "a/m2") for d in ("d1", "d2")])
    graph.save_similarities([Similar("d1", "d2", "fid", 3.0, {"extractor": "e1"})])
    # Another application's edges of the same types, between nodes of ours.
    runner.write(
        "MATCH (m:MatchGraphModel {id: 'a/m1'}), (d:MatchGraphDataset) CREATE (m)-[:BEST {rank: 1}]->(d)"
    )
    runner.write("MATCH (a {id: 'd1'}), (b {id: 'd2'}) CREATE (a)-[:NEAREST {matchgraph: 'theirs'}]->(b)")

    def drawn() -> list[tuple[str, str, str, bool]]:
        rows = runner.read(
            "MATCH (a)-[e:BEST|GOOD|FAIR|POOR|NEAREST|NEAR]->(b) "
            "RETURN a.id AS a, type(e) AS t, b.id AS b, coalesce(e.matchgraph = true, false) AS ours"
        )
        return sorted((row["a"], row["t"], row["b"], row["ours"]) for row in rows)

    theirs = [("a/m1", "BEST", "d1", False), ("a/m1", "BEST", "d2", False), ("d1", "NEAREST", "d2", False)]
    assert drawn() == theirs
    refresh(runner)
    refresh(runner)
    nearest = [("d1", "NEAREST", "d2", True), ("d2", "NEAREST", "d1", True)]
    of_m2 = [("a/m2", "BEST", "d1", True), ("a/m2", "BEST", "d2", True)]
    of_m1 = [("a/m1", "BEST", "d1", True), ("a/m1", "BEST", "d2", True)]
    assert drawn() == sorted([*theirs, *of_m1, *of_m2, *nearest])
    graph.save_models([Model("a/m1")], replaced=["a/m1"])
    assert drawn() == sorted([*theirs, *of_m2, *nearest])
    graph.save_datasets([Dataset("d1")], replaced=["d1"])
    assert drawn() == sorted([*theirs, of_m2[1], *nearest])
    graph.save_datasets([Dataset("d1")], changed=["d1"])
    assert drawn() == sorted([*theirs, of_m2[1]])


def test_nodes_have_a_name_in_browser_before_and_after_a_refresh(
    graph: MatchingGraph, runner: Runner
) -> None:
    def names() -> dict[str, str]:
        rows = runner.read("MATCH (n:Model|Dataset) RETURN n.id AS id, n.matchgraph_name AS name")
        return {row["id"]: row["name"] for row in rows}

    graph.save_models([Model("a/m-1"), Model("b/m-2")])
    graph.save_datasets([Dataset("d-1")])
    assert names() == {name: name for name in ("a/m-1", "b/m-2", "d-1")}
    refresh(runner)
    graph.save_models([Model("a/m-1", {"family": "unet"}), Model("b/m-2")])
    assert names() == {"a/m-1": "1", "b/m-2": "2", "d-1": "d 1"}
    rename(runner, "model", "a/m-1", "c/m-3")
    rename(runner, "dataset", "d-1", "d-9")
    assert names() == {"c/m-3": "c/m-3", "b/m-2": "2", "d-9": "d-9"}
    assert [model.properties for model in graph.models()] == [{}, {"family": "unet"}]


def test_many_edges_take_several_transactions_and_end_up_as_in_one(
    graph: MatchingGraph, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    models, datasets = [f"m{i}" for i in range(5)], [f"d{i}" for i in range(5)]
    # Rounded, so that some tie.
    results = [Result(m, d, "fid", round(9 * rng.random())) for m in models for d in datasets]
    results += [Result("m0", d, "clip_fid", 5, "initial") for d in datasets]
    similar = [Similar(a, b, "fid", rng.random()) for a, b in combinations(datasets, 2)]

    def save() -> list[Any]:
        graph.clear()
        graph.save_models([Model(name) for name in models])
        graph.save_datasets([Dataset(name) for name in datasets], similar=similar)
        graph.save_results(results)
        refresh(runner)
        return dump(runner)

    at_once = save()
    sizes: list[int] = []
    write_many = runner.write_many

    def counted(statements: Any, **options: Any) -> Any:
        sizes.append(
            sum(len(params.get("rows", ())) for query, params in statements if "MERGE (m)-[" in query)
        )
        return write_many(statements, **options)

    monkeypatch.setattr("matchgraph.graphdb.repository.TRANSACTION_EDGES", 6)
    monkeypatch.setattr("matchgraph.graphdb.refresh.TRANSACTION_EDGES", 6)
    monkeypatch.setattr(runner, "write_many", counted)
    assert save() == at_once
    assert [size for size in sizes if size] == [6, 6, 6, 6, 6]


Write = Callable[[MatchingGraph], None]
GOOD = Result("m1", "d1", "clip_fid", 1)
BAD_WRITES: dict[str, tuple[type[Exception], str, Write]] = {
    "out of range": (
        InvalidValue,
        r"results\[1\] \(model 'm2' on dataset 'd2'\): clip_fid is -1: clip_fid cannot be less than 0",
        lambda g: g.save_results([GOOD, Result("m2", "d2", "clip_fid", -1)]),
    ),
    "unknown model": (
        NodeNotFound,
        r"results\[1\]: there is no model 'm3' in the graph \(did you mean 'm[12]'\?\)",
        lambda g: g.save_results([GOOD, Result("m3", "d1", "fid", 1)]),
    ),
    "unknown dataset": (
        NodeNotFound,
        r"results\[1\]: there is no dataset 'nowhere' in the graph\. List them with",
        lambda g: g.save_results([GOOD, Result("m1", "nowhere", "fid", 1)]),
    ),
    "unknown metric": (
        UnknownMetric,
        r"results\[1\]: 'clip_fd' is not a known metric \(did you mean 'clip_fid'\?\)",
        lambda g: g.save_results([GOOD, Result("m1", "d1", "clip_fd", 1)]),
    ),
    "contradiction": (
        InvalidValue,
        r"results\[0\] and results\[1\] .* differ",
        lambda g: g.save_results([GOOD, Result("m1", "d1", "clip_fid", 2)]),
    ),
    "provenance named like a metric": (
        InvalidValue,
        r"results\[1\]: the provenance field 'fid'",
        lambda g: g.save_results([GOOD, Result("m1", "d2", "clip_fid", 2, provenance={"fid": 1})]),
    ),
    "distance of an unknown dataset": (
        NodeNotFound,
        r"similar\[0\]: there is no dataset 'nowhere'",
        lambda g: g.save_datasets([Dataset("new")], similar=[Similar("new", "nowhere", "fid", 1)]),
    ),
    "distance out of range": (
        InvalidValue,
        r"similar\[0\] .*fid cannot be less than 0",
        lambda g: g.save_datasets([Dataset("new")], similar=[Similar("new", "d1", "fid", -3)]),
    ),
    "statistics of an unknown dataset": (
        NodeNotFound,
        r"statistics\[0\]: there is no dataset 'nowhere'",
        lambda g: g.save_datasets([Dataset("new")], [statistics("nowhere")]),
    ),
    "one dataset twice": (
        InvalidValue,
        r"datasets\[0\] and datasets\[1\]",
        lambda g: g.save_datasets([Dataset("new"), Dataset("new", {"images": 1})]),
    ),
}


@pytest.mark.parametrize("case", BAD_WRITES)
def test_a_call_with_one_bad_row_writes_nothing(graph: MatchingGraph, runner: Runner, case: str) -> None:
    graph.save_models([Model("m1"), Model("m2")])
    graph.save_datasets([Dataset("d1"), Dataset("d2")])
    before = dump(runner)
    error, message, write = BAD_WRITES[case]
    with pytest.raises(error, match=message):
        write(graph)
    assert dump(runner) == before


def test_a_call_that_fails_in_the_database_writes_nothing(graph: MatchingGraph, runner: Runner) -> None:
    # Another application wants what ours cannot give: it fails after the first edge was set.
    graph.save_models([Model("m1")])
    graph.save_datasets([Dataset("d1"), Dataset("d2")])
    before = dump(runner)
    runner.schema("CREATE CONSTRAINT theirs FOR ()-[e:PERFORMS]-() REQUIRE e.fid IS UNIQUE")
    try:
        with pytest.raises(ConstraintViolated):
            graph.save_results([Result("m1", "d1", "fid", 1), Result("m1", "d2", "fid", 1)])
    finally:
        runner.schema("DROP CONSTRAINT theirs")
    assert dump(runner) == before


@pytest.mark.usefixtures("graph")
def test_writers_at_once_leave_one_of_each(runner: Runner) -> None:
    models, datasets = [Model(f"m{i}") for i in range(3)], [Dataset(f"d{i}") for i in range(3)]

    def write(number: int) -> None:
        mine = MatchingGraph(runner)
        mine.save_models(models)
        mine.save_datasets(datasets, [statistics()], [Similar("d0", "d1", "fid", 2)])
        mine.save_results([Result(f"m{i}", f"d{(i + number) % 3}", "fid", 1 + i) for i in range(3)])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
    counts = runner.read(
        "MATCH (n) UNWIND [l IN labels(n) WHERE NOT l STARTS WITH 'MatchGraph'] AS l "
        "RETURN l, count(*) AS n ORDER BY l"
    )
    assert counts == [
        {"l": "Dataset", "n": 3},
        {"l": "Model", "n": 3},
        {"l": "Statistics", "n": 1},
    ]
    edges = runner.read("MATCH ()-[e]->() RETURN type(e) AS t, count(*) AS n ORDER BY t")
    assert edges == [{"t": "DESCRIBED_BY", "n": 1}, {"t": "PERFORMS", "n": 9}, {"t": "SIMILAR", "n": 1}]


def test_a_dataset_is_saved_only_if_it_was_compared_with_all(graph: MatchingGraph, runner: Runner) -> None:
    graph.save_datasets([Dataset("d1"), Dataset("other")], [statistics("d1")])
    before = dump(runner)
    with pytest.raises(GraphChanged):
        graph.save_datasets([Dataset("new")], [statistics("new")], compared={"extractor": []})
    assert dump(runner) == before
    similar = [Similar("d1", "new", "fid", 1.0)]
    # What no extractor measured, or another one did, need not be compared; nor a dataset with itself.
    graph.save_datasets(
        [Dataset("new")], [statistics("new")], similar, compared={"extractor": ["d1"], "e2": []}
    )
    graph.save_datasets([Dataset("new")], [statistics("new")], compared={"extractor": ["d1"]})
    assert len(graph.snapshot("fid").similar) == 1


def test_writing_one_result_costs_no_more_where_there_are_many(
    graph: MatchingGraph, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server touches, by its own count, so that a busy machine does not matter."""
    touched: list[int] = []

    def hits(plan: dict[str, Any]) -> int:
        return plan.get("dbHits", 0) + sum(hits(child) for child in plan.get("children", ()))

    def profiled(statements: Any, **_options: Any) -> None:
        with runner._session() as session:
            for query, params in statements:
                touched.append(hits(session.run("PROFILE " + query, params).consume().profile))

    def cost() -> int:
        touched.clear()
        with monkeypatch.context() as patched:
            patched.setattr(runner, "write_many", profiled)
            graph.save_results([Result("m1", "d1", "fid", 3.0)])
        return sum(touched)

    graph.save_models([Model(f"m{i}") for i in range(40)])
    graph.save_datasets([Dataset(f"d{i}") for i in range(20)])
    alone = cost()
    graph.save_results([Result(f"m{i}", f"d{j}", "fid", i + j) for i in range(40) for j in range(20)])
    assert cost() < 2 * alone + 20


def test_a_snapshot_is_in_order_whatever_was_written_first(graph: MatchingGraph) -> None:
    graph.save_datasets([Dataset("b"), Dataset("Z"), Dataset("a")], similar=[Similar("b", "a", "kid", 2)])
    graph.save_models([Model("y"), Model("X")])
    graph.save_results(
        [
            Result("y", "a", "fid", 3),
            Result("X", "b", "fid", 2, "initial"),
            Result("X", "Z", "fid", 1, provenance={"standard_error": 0.5}),
            Result("X", "Z", "fid", 4, "initial"),
            Result("X", "a", "kid", 9),
        ]
    )
    snapshot = graph.snapshot("fid")
    assert [m.id for m in snapshot.models] == ["X", "y"]
    assert [d.id for d in snapshot.datasets] == ["Z", "a", "b"]
    expected = pd.DataFrame(
        [
            ("X", "Z", 1.0, 4.0, 0.5, np.nan),
            ("X", "b", np.nan, 2.0, np.nan, np.nan),
            ("y", "a", 3.0, np.nan, np.nan, np.nan),
        ],
        columns=["model", "dataset", "value", "initial", "standard_error", "initial_standard_error"],
    )
    pd.testing.assert_frame_equal(snapshot.performs, expected, check_dtype=False)
    assert snapshot.performs["value"].dtype == snapshot.performs["initial"].dtype == np.float64
    assert snapshot.similar.to_numpy().tolist() == [["a", "b", 2.0]]
    assert snapshot.metric == Metric("fid", minimum=0)
    # Nothing was compared by fid, so the only other metric there is stands in.
    assert snapshot.similarity is not None
    assert snapshot.similarity.name == "kid"


def test_which_similarity_a_snapshot_takes(graph: MatchingGraph) -> None:
    graph.save_datasets([Dataset("a"), Dataset("b")])
    empty = graph.snapshot("accuracy")
    assert empty.similarity is None
    assert list(empty.similar.columns) == ["dataset", "other", "value"]
    assert len(empty.performs) == len(empty.similar) == 0
    graph.save_similarities([Similar("a", "b", "kid", 2), Similar("a", "b", "fid", 7)])
    assert graph.snapshot("fid").similar["value"].tolist() == [7.0]
    assert graph.snapshot("accuracy", "kid").similar["value"].tolist() == [2.0]
    with pytest.raises(InvalidValue, match="compared by fid, kid, not by accuracy"):
        graph.snapshot("accuracy")
    with pytest.raises(UnknownMetric):
        graph.snapshot("accuracy", "stars")


def test_a_metric_of_ones_own(graph: MatchingGraph) -> None:
    with pytest.raises(UnknownMetric, match="stars"):
        graph.metric("stars")
    graph.save_metric(Metric("stars", larger_is_better=True, maximum=5))
    assert graph.metric("stars") == Metric("stars", larger_is_better=True, maximum=5)
    graph.save_metric(Metric("stars", larger_is_better=True))
    assert graph.metric("stars").maximum == 5
    with pytest.raises(InvalidValue, match="larger is better"):
        graph.save_metric(Metric("stars"))
    with pytest.raises(InvalidValue, match="smaller is better"):
        graph.save_metric(Metric("fid", larger_is_better=True))


def test_clear_leaves_the_record_of_the_schema(graph: MatchingGraph, runner: Runner) -> None:
    from matchgraph.graphdb import schema

    schema.apply(runner)
    fill(graph)
    graph.clear()
    assert dump(runner) == []
    assert schema.apply(runner) == 0


def results_by(*rows: tuple[str, str, float, str | None], stage: str = "finetuned") -> list[Result]:
    return [
        Result(model, dataset, "clip_fid", value, stage, {"extractor": extractor} if extractor else {})
        for model, dataset, value, extractor in rows
    ]


@pytest.fixture
def two_extractors(graph: MatchingGraph) -> MatchingGraph:
    """Results of two extractors, and one of which no extractor is recorded."""
    graph.save_models([Model("m"), Model("n")])
    graph.save_datasets([Dataset("a"), Dataset("b"), Dataset("c")])
    graph.save_results(results_by(("m", "a", 1.0, "aaaa"), ("n", "a", 2.0, "aaaa"), ("m", "b", 30.0, "bbbb")))
    graph.save_results(results_by(("n", "b", 4.0, None)))
    graph.save_results(results_by(("m", "a", 9.0, "aaaa"), ("m", "b", 90.0, "aaaa"), stage="initial"))
    return graph


def test_values_of_different_extractors_are_never_put_together(two_extractors: MatchingGraph) -> None:
    with pytest.raises(MixedExtractors) as refused:
        two_extractors.snapshot()
    assert "aaaa (4 values), bbbb (1 values), not-recorded (1 values)" in str(refused.value)
    assert "--measured-with" in str(refused.value)
    snapshot = two_extractors.snapshot(extractors=["aaaa"])
    assert snapshot.measured_with == "aaaa"
    rows = {(row.model, row.dataset): (row.value, row.initial) for row in snapshot.performs.itertuples()}
    assert rows.keys() == {("m", "a"), ("n", "a"), ("m", "b")}
    assert rows["m", "a"] == (1.0, 9.0)
    # The value after fine-tuning is of another extractor than the one before it.
    assert np.isnan(rows["m", "b"][0])
    assert rows["m", "b"][1] == 90.0
    other = two_extractors.snapshot(extractors=["bbbb"])
    assert [tuple(row) for row in other.performs[["model", "dataset", "value"]].to_numpy()] == [
        ("m", "b", 30.0)
    ]
    unknown = two_extractors.snapshot(extractors=[NOT_RECORDED])
    assert unknown.performs["value"].tolist() == [4.0]
    with pytest.raises(MixedExtractors, match="'cccc'"):
        two_extractors.snapshot(extractors=["cccc"])
    with pytest.raises(MixedExtractors, match="different extractors"):
        two_extractors.snapshot(extractors=["aaaa", "bbbb"])


def test_similarities_of_different_extractors_are_refused_too(graph: MatchingGraph) -> None:
    graph.save_datasets([Dataset("a"), Dataset("b"), Dataset("c")])
    graph.save_similarities(
        [
            Similar("a", "b", "clip_fid", 1.0, {"extractor": "aaaa"}),
            Similar("a", "c", "clip_fid", 2.0, {"extractor": "bbbb"}),
        ]
    )
    assert graph.compared("clip_fid", "bbbb") == {("a", "c"): 2.0}
    with pytest.raises(MixedExtractors, match=r"Similarities by clip_fid.*aaaa \(1 values\), bbbb"):
        graph.snapshot()
    kept = graph.snapshot(extractors=["bbbb"])
    assert (kept.similar["value"].tolist(), kept.compared_with) == ([2.0], "bbbb")


def test_results_and_similarities_by_one_metric_are_of_one_extractor(graph: MatchingGraph) -> None:
    graph.save_models([Model("m")])
    graph.save_datasets([Dataset("a"), Dataset("b")])
    graph.save_results(results_by(("m", "a", 1.0, "aaaa")))
    graph.save_similarities([Similar("a", "b", "clip_fid", 1.0, {"extractor": "bbbb"})])
    with pytest.raises(MixedExtractors, match="aaaa, similarities with bbbb"):
        graph.snapshot()
    # By another metric they may be: nothing compares the one with the other.
    graph.save_similarities([Similar("a", "b", "cmmd", 1.0, {"extractor": "bbbb"})])
    snapshot = graph.snapshot(similarity="cmmd")
    assert (snapshot.measured_with, snapshot.compared_with) == ("aaaa", "bbbb")
    # Of recorded values nothing else may be known.
    graph.save_similarities([Similar("a", "b", "clip_fid", 1.0)])
    assert graph.snapshot().compared_with == NOT_RECORDED
