"""node2vec+: its walks by hand, against a loop written from the definition, and against the reference
implementation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.embedding import Node2VecConfig, index_graph
from matchgraph.graphdb.errors import EmbeddingFailed, InvalidValue
from matchgraph.graphdb.node2vecplus import (
    Node2VecPlus,
    random_walks,
    transition_probabilities,
    weak_edge_thresholds,
    weight_matrix,
)

NODES = "abcde"
EDGES = pd.DataFrame(
    [("a", "b", 1.0), ("a", "c", 0.5), ("b", "c", 0.25), ("b", "d", 0.75), ("c", "d", 0.1), ("d", "e", 0.6)],
    columns=["source", "target", "weight"],
)

# What PecanPy 2.0.9 says of this graph, from its DenseRWGraph.get_extended_normalized_probs under NumPy
# 1.26.4 with the thresholds mean + gamma * std: (p, q, gamma) to previous and current node to the chance of
# each node.
PECANPY = {
    (0.5, 2.0, 0.0): {
        "ab": [0.7619047619, 0.0, 0.0952380952, 0.1428571429, 0.0],
        "ba": [0.0, 0.8888888889, 0.1111111111, 0.0, 0.0],
        "bd": [0.0, 0.8108108108, 0.027027027, 0.0, 0.1621621622],
        "dc": [0.3571428571, 0.3571428571, 0.0, 0.2857142857, 0.0],
        "ed": [0.0, 0.2307692308, 0.0307692308, 0.0, 0.7384615385],
    },
    (1.0, 0.25, 0.0): {
        "ab": [0.2352941176, 0.0, 0.0588235294, 0.7058823529, 0.0],
        "ba": [0.0, 0.6666666667, 0.3333333333, 0.0, 0.0],
        "bd": [0.0, 0.2307692308, 0.0307692308, 0.0, 0.7384615385],
        "dc": [0.8510638298, 0.1063829787, 0.0, 0.0425531915, 0.0],
        "ed": [0.0, 0.8108108108, 0.027027027, 0.0, 0.1621621622],
    },
    (2.0, 0.5, 0.5): {
        "ab": [0.3333333333, 0.0, 0.1666666667, 0.5, 0.0],
        "ba": [0.0, 0.5, 0.5, 0.0, 0.0],
        "bd": [0.0, 0.3488372093, 0.0930232558, 0.0, 0.5581395349],
        "dc": [0.7692307692, 0.1923076923, 0.0, 0.0384615385, 0.0],
        "ed": [0.0, 0.7894736842, 0.0526315789, 0.0, 0.1578947368],
    },
}


@pytest.fixture
def weights() -> np.ndarray:
    return weight_matrix(index_graph(list(NODES), EDGES))


def steps(weights: np.ndarray, pairs: list[str], p: float, q: float, gamma: float) -> np.ndarray:
    previous = np.array([NODES.index(pair[0]) for pair in pairs])
    current = np.array([NODES.index(pair[1]) for pair in pairs])
    return transition_probabilities(weights, weak_edge_thresholds(weights, gamma), previous, current, p, q)


def test_thresholds_by_hand(weights: np.ndarray) -> None:
    # d has weights 0.75, 0.1 and 0.6: mean 1.45/3, variance of the mean square deviation.
    deviation = np.std([0.75, 0.1, 0.6])
    np.testing.assert_allclose(weak_edge_thresholds(weights), [0.75, 2 / 3, 0.85 / 3, 1.45 / 3, 0.6])
    np.testing.assert_allclose(weak_edge_thresholds(weights, 0.5)[3], 1.45 / 3 + deviation / 2)
    assert weak_edge_thresholds(weights, -50.0).min() == 0
    assert weak_edge_thresholds(np.zeros((2, 2))).tolist() == [0, 0]


def test_a_step_by_hand(weights: np.ndarray) -> None:
    # From a to b, with p = 1/2 and q = 2. Back to a: 1 * 2. To c: a-c is 0.5, above tau(c) = 0.283, so no
    # bias: 0.25. To d: no edge a-d, so t = 0 and the bias is 1/2, b-d being no weak edge of b: 0.375. Their
    # sum is 2.625.
    np.testing.assert_allclose(
        steps(weights, ["ab"], 0.5, 2.0, 0.0), [[2 / 2.625, 0, 0.25 / 2.625, 0.375 / 2.625, 0]]
    )
    # From d to c, with q = 1/4: to b, d-b is strong: 0.25. To a, no edge d-a: 0.5 * 4. Back to d: 0.1.
    np.testing.assert_allclose(
        steps(weights, ["dc"], 1.0, 0.25, 0.0), [[2 / 2.35, 0.25 / 2.35, 0, 0.1 / 2.35, 0]]
    )


@pytest.mark.parametrize("setting", PECANPY)
def test_steps_equal_those_of_the_reference_implementation(
    weights: np.ndarray, setting: tuple[float, float, float]
) -> None:
    expected = PECANPY[setting]
    p, q, gamma = setting
    np.testing.assert_allclose(
        steps(weights, list(expected), p, q, gamma), list(expected.values()), atol=1e-9
    )


def by_definition(w: np.ndarray, gamma: float, prev: int, cur: int, p: float, q: float) -> np.ndarray:
    """One step's chances by the definition, in plain loops."""
    n = len(w)
    tau = [max(np.mean(r[r > 0]) + gamma * np.std(r[r > 0]), 0) if (r > 0).any() else 0 for r in w]
    likely = np.zeros(n)
    for x in range(n):
        if w[cur, x] == 0:
            continue
        if x == prev:
            alpha = 1 / p
        elif w[prev, x] >= tau[x]:
            alpha = 1.0
        elif w[cur, x] < tau[cur]:
            alpha = min(1.0, 1 / q)
        else:
            alpha = 1 / q + (1 - 1 / q) * w[prev, x] / tau[x]
        likely[x] = alpha * w[cur, x]
    return likely / likely.sum()


@pytest.mark.parametrize("seed", range(5))
def test_steps_equal_a_loop_written_from_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    upper = np.triu(generator.uniform(0.01, 1, (12, 12)) * (generator.random((12, 12)) < 0.6), 1)
    w = upper + upper.T
    p, q, gamma = generator.uniform(0.2, 4, 3)
    previous, current = np.nonzero(w)
    ours = transition_probabilities(w, weak_edge_thresholds(w, gamma), previous, current, p, q)
    for row, a, b in zip(ours, previous, current, strict=True):
        np.testing.assert_allclose(row, by_definition(w, gamma, a, b, p, q), atol=1e-12)


@pytest.mark.parametrize("equal", [1.0, 0.3])
def test_equal_weights_make_it_node2vec(weights: np.ndarray, equal: float) -> None:
    w = equal * (weights > 0)
    p, q = 0.25, 4.0
    previous, current = np.nonzero(w)
    ours = transition_probabilities(w, weak_edge_thresholds(w), previous, current, p, q)
    for row, a, b in zip(ours, previous, current, strict=True):
        bias = np.where(w[a] > 0, 1.0, 1 / q)
        bias[a] = 1 / p
        np.testing.assert_allclose(row, bias * w[b] / (bias * w[b]).sum())


def test_walks_follow_edges_from_every_node_that_has_one(weights: np.ndarray) -> None:
    alone = np.zeros((6, 6))
    alone[:5, :5] = weights
    walks = random_walks(alone, Node2VecConfig(walk_length=30, walks_per_node=4, in_out_factor=0.5))
    assert walks.shape == (20, 30)
    assert sorted(walks[:, 0].tolist()) == sorted(list(range(5)) * 4)
    assert (alone[walks[:, :-1], walks[:, 1:]] > 0).all()


def test_walks_of_a_large_graph_are_drawn_in_parts_and_are_the_same(
    weights: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Node2VecConfig(walk_length=10, walks_per_node=3, in_out_factor=0.5)
    at_once = random_walks(weights, config)
    # Two walks at a time.
    monkeypatch.setattr("matchgraph.graphdb.node2vecplus.CELLS_AT_ONCE", 2 * len(weights))
    np.testing.assert_array_equal(random_walks(weights, config), at_once)


@pytest.mark.slow
def test_walks_step_as_often_as_the_chances_say(weights: np.ndarray) -> None:
    config = Node2VecConfig(walk_length=500, walks_per_node=100, return_factor=0.5, in_out_factor=2.0)
    walks = random_walks(weights, config)
    a, b = NODES.index("a"), NODES.index("b")
    at = (walks[:, :-2] == a) & (walks[:, 1:-1] == b)
    share = np.bincount(walks[:, 2:][at], minlength=5) / at.sum()
    assert at.sum() > 10_000
    np.testing.assert_allclose(share, PECANPY[(0.5, 2.0, 0.0)]["ab"], atol=0.015)


def clusters() -> tuple[list[str], pd.DataFrame]:
    nodes = [f"{side}{i}" for side in "xy" for i in range(8)]
    rows = [(a, b, 1.0 if a[0] == b[0] else 0.02) for i, a in enumerate(nodes) for b in nodes[i + 1 :]]
    return nodes, pd.DataFrame(rows, columns=["source", "target", "weight"])


CONFIG = Node2VecConfig(dimension=16, walk_length=40, walks_per_node=10, iterations=5)


def test_vectors_separate_two_clusters_and_repeat() -> None:
    nodes, edges = clusters()
    embedder = Node2VecPlus(CONFIG)
    vectors = embedder.embed([*nodes, "alone"], edges)
    again = embedder.embed(["alone", *nodes[::-1]], edges.sample(frac=1, random_state=1))
    assert list(vectors) == sorted([*nodes, "alone"])
    assert all(np.array_equal(vectors[node], again[node]) for node in vectors)
    assert all(v.shape == (16,) and v.dtype == np.float64 and np.isfinite(v).all() for v in vectors.values())
    unit = np.array([vectors[n] / np.linalg.norm(vectors[n]) for n in nodes])
    cosine = unit @ unit.T
    same = np.equal.outer([n[0] for n in nodes], [n[0] for n in nodes]) & ~np.eye(len(nodes), dtype=bool)
    assert cosine[same].mean() > cosine[~same & ~np.eye(len(nodes), dtype=bool)].mean() + 0.2


@pytest.mark.slow
def test_vectors_do_not_depend_on_the_hash_seed() -> None:
    code = """
import pandas as pd
from matchgraph.graphdb.embedding import Node2VecConfig
from matchgraph.graphdb.node2vecplus import Node2VecPlus
edges = pd.DataFrame([("a", "b", 1.0), ("b", "c", 0.5)], columns=["source", "target", "weight"])
print([v.tolist() for v in Node2VecPlus(Node2VecConfig(dimension=4)).embed(["a", "b", "c"], edges).values()])
"""
    edges = pd.DataFrame([("a", "b", 1.0), ("b", "c", 0.5)], columns=["source", "target", "weight"])
    here = Node2VecPlus(Node2VecConfig(dimension=4)).embed(["a", "b", "c"], edges)
    # Another one than this process has, which has one of its own.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    root = Path(__file__).parents[2]
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(there) == [vector.tolist() for vector in here.values()]


def test_seed_and_gamma_matter() -> None:
    nodes, edges = clusters()
    first = Node2VecPlus(CONFIG).embed(nodes, edges)["x0"]
    assert not np.array_equal(
        first, Node2VecPlus(Node2VecConfig(**{**CONFIG.__dict__, "seed": 7})).embed(nodes, edges)["x0"]
    )
    biased = Node2VecConfig(**{**CONFIG.__dict__, "in_out_factor": 0.1})
    uneven = edges.assign(weight=np.linspace(0.1, 1, len(edges)))
    assert not np.array_equal(
        Node2VecPlus(biased).embed(nodes, uneven)["x0"],
        Node2VecPlus(biased, gamma=1.0).embed(nodes, uneven)["x0"],
    )
    with pytest.raises(InvalidValue, match="gamma"):
        Node2VecPlus(gamma=float("nan"))


def test_nothing_to_walk_along() -> None:
    with pytest.raises(EmbeddingFailed, match="no edge"):
        Node2VecPlus().embed(["a", "b"], EDGES.iloc[:0])
