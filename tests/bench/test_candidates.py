"""The parts that recipes are made of for comparison do what they are called."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.candidates import (
    LEARNERS,
    BaselineMatcher,
    FastRp,
    NearestMatcher,
    Remembering,
    RowsConfig,
    RowsMatcher,
    by_order,
    fitted,
    pooled,
    reweighted,
    turned_onto,
)
from bench.zoos import measured_zoo
from predictor.baselines import BASELINES, average_rank
from predictor.errors import InvalidRows
from predictor.ranker import RankPrediction
from predictor.visibility import hide_results, loss_matrix, similarities_of


@pytest.fixture
def snapshot():
    return measured_zoo(0, n_datasets=6, n_models=4)


class Watched:
    """An embedder that keeps what it was asked."""

    name = "watched"

    def __init__(self) -> None:
        self.edges = []

    def embed(self, nodes, edges):
        self.edges.append(set(zip(edges["source"], edges["target"], strict=True)))
        return FastRp(8).embed(nodes, edges)


def test_hidden_in_turn_every_dataset_is_embedded_like_the_target(snapshot):
    target = snapshot.datasets[0].id
    embedder = Watched()
    RowsMatcher(embedder, RowsConfig(hidden_in_turn=True, trees=2)).rank(snapshot, [target])
    assert len(embedder.edges) == 1 + 5
    results = [{pair[1] for pair in edges if pair[0].startswith("model:")} for edges in embedder.edges]
    everything = {f"dataset:{dataset.id}" for dataset in snapshot.datasets}
    assert results[0] == everything - {f"dataset:{target}"}
    left = [everything - seen for seen in results[1:]]
    assert all(f"dataset:{target}" in pair and len(pair) == 2 for pair in left)
    assert set().union(*left) == everything


def test_a_memory_gives_again_what_it_knows_in_any_order():
    memory = Remembering(Watched())
    edges = pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"], "weight": [1.0, 2.0]})
    first = memory.embed(["a", "b", "c"], edges)
    assert memory.embed(["c", "b", "a"], edges.iloc[::-1]) is first
    memory.embed(["a", "b", "c"], edges.assign(weight=[1.0, 3.0]))
    assert (memory.asked, memory.computed) == (3, 2)


def test_turning_undoes_a_rotation():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 4))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    base = {str(i): point for i, point in enumerate(points)}
    turned = turned_onto({str(i): point for i, point in enumerate(points @ rotation)}, base)
    assert all(turned[name] == pytest.approx(base[name]) for name in base)


def test_fastrp_puts_neighbours_together():
    nodes = [f"n{i}" for i in range(8)]
    pairs = [(i, j) for i in range(8) for j in range(i)]
    edges = pd.DataFrame(
        {
            "source": [nodes[i] for i, _ in pairs],
            "target": [nodes[j] for _, j in pairs],
            "weight": [1.0 if i // 4 == j // 4 else 0.01 for i, j in pairs],
        }
    )
    vectors = np.array(list(FastRp(32).embed([*nodes, "alone"], edges).values()))
    assert not vectors[0].any()
    length = np.linalg.norm(vectors[1:], axis=1)
    cosines = vectors[1:] @ vectors[1:].T / np.outer(length, length)
    assert cosines[:4, :4].min() > cosines[:4, 4:].max()


@pytest.mark.parametrize("weights", ["value", "inverse"])
def test_other_weights_fall_with_losses_and_distances(snapshot, weights):
    edges = reweighted(snapshot, weights)
    assert (edges["weight"] > 0).all()
    own = edges[edges["target"] == f"dataset:{snapshot.datasets[0].id}"]
    weight = dict(zip(own["source"], own["weight"], strict=True))
    losses = loss_matrix(snapshot).losses[:, 0]
    assert sorted(range(4), key=lambda i: losses[i]) == sorted(
        range(4), key=lambda i: -weight[f"model:m00{i}"]
    )
    alike = edges[edges["source"].str.startswith("dataset:")]["weight"].to_numpy()
    assert np.array_equal(np.argsort(-alike), np.argsort(snapshot.similar["value"].to_numpy()))


@pytest.mark.parametrize("learner", LEARNERS)
def test_learners_learn_the_column_that_decides(learner):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 20))
    predicted, _ = fitted(
        RowsConfig(learner=learner), rows, 3 * rows[:, 4], np.repeat(np.arange(12), 10), rows[:40]
    )
    assert np.corrcoef(predicted, rows[:40, 4])[0, 1] > 0.7


def test_the_nearest_datasets_vote(snapshot):
    target = snapshot.datasets[2].id
    near = similarities_of(snapshot, target)
    nearest = min(near, key=near.get)
    column = loss_matrix(hide_results(snapshot, target))
    own = column.losses[:, column.datasets.index(nearest)]
    ranks = NearestMatcher(1).rank(snapshot, [target])[target].prediction.expected_rank
    assert np.array_equal(np.argsort(ranks), np.argsort(own))
    with pytest.raises(InvalidRows):
        NearestMatcher(0)


def test_a_baseline_as_a_method(snapshot):
    target = snapshot.datasets[2].id
    losses = average_rank(loss_matrix(hide_results(snapshot, target)))
    prediction = BaselineMatcher(BASELINES[0]).rank(snapshot, [target])[target].prediction
    assert np.array_equal(prediction.expected_rank.argmin(), losses.argmin())
    tied = by_order(np.array([2.0, 1, np.nan, 1]))
    assert tied.expected_rank.tolist() == [3, 1.5, 4, 1.5]
    assert tied.p_best.tolist() == [0, 0.5, 0, 0.5]


def test_a_pool_is_the_mixture():
    one = RankPrediction(np.array([1.0, 2.0]), np.zeros(2), np.array([1.0, 0.0]))
    other = RankPrediction(np.array([2.0, 1.0]), np.zeros(2), np.array([0.0, 1.0]))
    both = pooled([one, other])
    assert both.expected_rank.tolist() == [1.5, 1.5]
    assert both.rank_std.tolist() == [0.5, 0.5]
    assert both.p_best.tolist() == [0.5, 0.5]
