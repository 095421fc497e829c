"""node2vec in Graph Data Science: repeatable, led by the weights, and nothing left behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.embedding import GdsNode2Vec, Node2VecConfig, index_graph
from matchgraph.graphdb.errors import EmbeddingFailed, GraphError, InvalidValue
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.node2vecplus import Node2VecPlus
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner

COLUMNS = ["source", "target", "weight"]
SIZE = 8


def clusters(inside: float = 1.0, across: float = 0.02) -> tuple[list[str], pd.DataFrame]:
    """Two groups of nodes, x and y, all joined to all."""
    nodes = [f"{side}{i}" for side in "xy" for i in range(SIZE)]
    rows = [(a, b, inside if a[0] == b[0] else across) for i, a in enumerate(nodes) for b in nodes[i + 1 :]]
    return nodes, pd.DataFrame(rows, columns=COLUMNS)


def separation(vectors: dict[str, np.ndarray]) -> float:
    """Mean cosine within the groups less that between them."""
    nodes = [node for node in vectors if node[0] in "xy"]
    unit = np.array([vectors[n] / np.linalg.norm(vectors[n]) for n in nodes])
    sides = np.array([n[0] for n in nodes])
    other = ~np.eye(len(nodes), dtype=bool)
    same = sides[:, None] == sides[None, :]
    cosine = unit @ unit.T
    return float(cosine[same & other].mean() - cosine[~same].mean())


pytestmark = pytest.mark.usefixtures("graph")

CONFIG = Node2VecConfig(dimension=32, walk_length=40, iterations=5)


def test_vectors_follow_the_weights_and_not_only_which_edges_there_are(runner: Runner) -> None:
    nodes, edges = clusters()
    by_parity = edges.assign(
        weight=[
            1.0 if int(a[1]) % 2 == int(b[1]) % 2 else 0.02
            for a, b in zip(edges.source, edges.target, strict=True)
        ]
    )
    embedder = GdsNode2Vec(runner, CONFIG)
    for frame, near, far in ((edges, 0, 1), (by_parity, 1, 0)):
        vectors = embedder.embed(nodes, frame)
        relabelled = {f"{'xy'[int(n[1]) % 2]}{n}": vector for n, vector in vectors.items()}
        by_letter_and_parity = separation(vectors), separation(relabelled)
        assert by_letter_and_parity[near] > by_letter_and_parity[far] + 0.2


@pytest.mark.parametrize("kind", ["gds", "plus"])
def test_the_defaults_train_enough_to_tell_groups_of_a_dense_graph_apart(runner: Runner, kind: str) -> None:
    embedder = GdsNode2Vec(runner) if kind == "gds" else Node2VecPlus()
    assert separation(embedder.embed(*clusters(inside=0.6, across=0.2))) > 0.1


def test_the_same_input_gives_the_same_vectors_also_after_a_rebuild(
    graph: MatchingGraph, runner: Runner
) -> None:
    nodes, edges = clusters()
    embedder = GdsNode2Vec(runner, CONFIG)
    first = embedder.embed(nodes, edges)
    graph.save_models([Model(f"other {i}") for i in range(50)])
    graph.clear()
    graph.save_models([Model("another")])
    again = embedder.embed(nodes[::-1], edges.sample(frac=1, random_state=1)[["weight", "target", "source"]])
    assert list(first) == list(again) == sorted(nodes)
    assert all(np.array_equal(first[node], again[node]) for node in nodes)
    assert all(vector.dtype == np.float64 and vector.shape == (32,) for vector in first.values())


def test_turning_an_edge_round_changes_nothing(runner: Runner) -> None:
    nodes, edges = clusters()
    turned = edges.rename(columns={"source": "target", "target": "source"})
    embedder = GdsNode2Vec(runner, CONFIG)
    assert np.array_equal(embedder.embed(nodes, edges)["x0"], embedder.embed(nodes, turned)["x0"])


def test_nodes_without_edges_are_embedded_too(runner: Runner) -> None:
    nodes, edges = clusters()
    vectors = GdsNode2Vec(runner, CONFIG).embed(["alone", *nodes, "zz"], edges)
    assert len(vectors) == len(nodes) + 2
    assert all(np.isfinite(vector).all() for vector in vectors.values())


def test_nothing_is_stored(runner: Runner) -> None:
    GdsNode2Vec(runner, CONFIG).embed(*clusters())
    assert runner.read("MATCH (n) WHERE NOT n:MatchGraph RETURN count(n) AS n") == [{"n": 0}]
    assert runner.read("CALL gds.graph.list() YIELD graphName") == []


def test_a_projection_is_dropped_after_an_error(runner: Runner) -> None:
    embedder = GdsNode2Vec(runner, CONFIG)
    # GDS itself refuses a sampling rate of 0, after the projection was made.
    object.__setattr__(embedder.config, "negative_sampling_rate", 0)
    try:
        with pytest.raises(GraphError):
            embedder.embed(*clusters())
    finally:
        object.__setattr__(embedder.config, "negative_sampling_rate", 5)
    assert runner.read("CALL gds.graph.list() YIELD graphName") == []


def test_every_parameter_reaches_gds_and_gds_has_no_other(runner: Runner) -> None:
    config = Node2VecConfig(
        dimension=7,
        walk_length=11,
        walks_per_node=3,
        return_factor=0.5,
        in_out_factor=2.0,
        window_size=4,
        negative_sampling_rate=6,
        negative_sampling_exponent=0.5,
        positive_sampling_factor=0.01,
        iterations=2,
        initial_learning_rate=0.05,
        min_learning_rate=0.001,
        initializer="UNIFORM",
        walk_buffer_size=100,
        seed=9,
    )
    assert all(
        getattr(config, f.name) != getattr(Node2VecConfig(), f.name)
        for f in dataclasses.fields(Node2VecConfig)
    ), "each field must differ from its default to prove that it arrives"
    runner.read(
        "WITH gds.graph.project('probe', 0, 1, {relationshipProperties: {weight: 1.0}}) AS g RETURN 1"
    )
    seen = runner.read(
        "CALL gds.node2vec.mutate('probe', $config) YIELD configuration RETURN configuration",
        config={**config.gds_parameters(), "mutateProperty": "v"},
    )[0]["configuration"]
    runner.read("CALL gds.graph.drop('probe') YIELD graphName")
    assert {name: seen[name] for name in config.gds_parameters()} == config.gds_parameters()
    about_the_call = {"mutateProperty", "jobId", "sudo", "logProgress", "nodeLabels", "relationshipTypes"}
    assert set(seen) - set(config.gds_parameters()) <= about_the_call


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimension", 0),
        ("walk_length", 1),
        ("walks_per_node", 2.5),
        ("iterations", True),
        ("return_factor", 0.0),
        ("in_out_factor", -1.0),
        ("initial_learning_rate", float("nan")),
        ("min_learning_rate", 0.5),
        ("initializer", "normalized"),
        ("seed", -1),
    ],
)
def test_a_configuration_is_checked_when_built(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue, match=field):
        Node2VecConfig(**{field: value})


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ([], [], "no node"),
        (["a", "a"], [], "'a' is given twice"),
        (["a"], [("a", "b", 1.0)], "'b' is not among the nodes"),
        (["a"], [("a", "a", 1.0)], "to itself"),
        (["a", "b"], [("a", "b", 1.0), ("b", "a", 1.0)], "twice"),
        (["a", "b"], [("a", "b", 0.0)], "weight 0"),
        (["a", "b"], [("a", "b", float("nan"))], "weight nan"),
    ],
)
def test_edges_must_fit_the_nodes(
    nodes: list[str], edges: list[tuple[str, str, float]], message: str
) -> None:
    with pytest.raises(EmbeddingFailed, match=message):
        index_graph(nodes, pd.DataFrame(edges, columns=COLUMNS))


def test_no_edge_to_walk_along(runner: Runner) -> None:
    with pytest.raises(EmbeddingFailed, match="no edge"):
        GdsNode2Vec(runner).embed(["a"], pd.DataFrame([], columns=COLUMNS))
