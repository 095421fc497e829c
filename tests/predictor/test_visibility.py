"""What is hidden, what is added, and the forms a snapshot is computed with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.models import Dataset, Metric
from matchgraph.graphdb.refresh import refresh
from matchgraph.predictor.errors import InvalidRows, NotEnoughResults, UnknownTarget
from matchgraph.predictor.visibility import (
    add_dataset,
    check_enough,
    graph_hash,
    hide_results,
    initial_losses,
    loss_matrix,
    node_names,
    remove_results,
    similarities_of,
    weighted_edges,
)

NAN = float("nan")


def with_performs(snapshot, rows):
    return replace(snapshot, performs=pd.DataFrame(rows, columns=["model", "dataset", "value", "initial"]))


def test_hidden_results_are_gone_and_similarities_stay(zoo):
    snapshot = zoo()
    visible = hide_results(snapshot, "d03")
    assert "d03" not in set(visible.performs["dataset"])
    assert len(visible.performs) == len(snapshot.performs) - 6
    assert similarities_of(visible, "d03") == similarities_of(snapshot, "d03")
    assert len(similarities_of(visible, "d03")) == 17
    with pytest.raises(UnknownTarget, match="nope"):
        hide_results(snapshot, "nope")


def test_a_new_dataset_brings_similarities_only(zoo):
    snapshot = zoo()
    grown = add_dataset(snapshot, Dataset("a new one"), {"d00": 2.0, "d05": 1.5})
    assert grown.datasets[0].id == "a new one"
    assert similarities_of(grown, "a new one") == {"d00": 2.0, "d05": 1.5}
    assert "a new one" not in set(grown.performs["dataset"])
    assert (grown.similar["dataset"] < grown.similar["other"]).all()


def test_a_new_dataset_of_a_known_name_replaces_it(zoo):
    grown = add_dataset(zoo(), Dataset("d05"), {"d00": 2.0})
    assert similarities_of(grown, "d05") == {"d00": 2.0}
    assert "d05" not in set(grown.performs["dataset"])
    assert len(grown.datasets) == 18


def test_losses_and_gaps(zoo):
    snapshot = replace(
        with_performs(zoo(), [("m0", "d01", 0.8, 0.1), ("m2", "d01", 0.9, NAN), ("m2", "d04", NAN, 0.3)]),
        metric=Metric("accuracy", larger_is_better=True),
    )
    matrix = loss_matrix(snapshot)
    assert matrix.datasets == ("d01",)
    assert np.array_equal(matrix.losses[:, 0], [-0.8, NAN, -0.9, NAN, NAN, NAN], equal_nan=True)
    assert np.array_equal(matrix.scaled_ranks()[:, 0], [0.75, NAN, 0.25, NAN, NAN, NAN], equal_nan=True)
    assert np.array_equal(initial_losses(snapshot, "d04"), [NAN, NAN, -0.3, NAN, NAN, NAN], equal_nan=True)
    assert np.isnan(initial_losses(snapshot, "d07")).all()


class TestWeightedEdges:
    def test_better_results_and_nearer_datasets_weigh_more(self, zoo):
        snapshot = zoo()
        edges = weighted_edges(snapshot)
        assert len(edges) == len(snapshot.performs) + len(snapshot.similar)
        assert set(edges["source"]) | set(edges["target"]) == set(node_names(snapshot))
        assert (edges["weight"] > 0).all()
        own = edges[edges["target"] == "dataset:d02"].head(6)["weight"].to_numpy()
        values = snapshot.performs[snapshot.performs["dataset"] == "d02"]["value"].to_numpy()
        assert np.array_equal(np.argsort(-own), np.argsort(values))
        similar = edges.tail(len(snapshot.similar))
        assert np.array_equal(
            np.argsort(-similar["weight"].to_numpy()), np.argsort(snapshot.similar["value"])
        )

    @pytest.mark.slow
    def test_weights_are_those_that_the_graph_stores(self, graph, runner, zoo, save):
        save(graph, zoo(n_datasets=5))
        refresh(runner)
        edges = weighted_edges(graph.snapshot())
        rows = runner.read(
            "MATCH (a)-[e:PERFORMS|SIMILAR]->(b) "
            "RETURN CASE WHEN a:Model THEN 'model:' ELSE 'dataset:' END + a.id AS a, "
            "'dataset:' + b.id AS b, e.weight AS w"
        )
        stored = {(row["a"], row["b"]): row["w"] for row in rows}
        assert len(stored) == 6 * 5 + 10
        pairs = zip(edges["source"], edges["target"], strict=True)
        np.testing.assert_allclose(edges["weight"], [stored[pair] for pair in pairs], rtol=1e-12)

    def test_results_before_fine_tuning_are_no_edges(self, zoo):
        snapshot = with_performs(zoo(), [("m0", "d01", NAN, 3.0), ("m1", "d01", 4.0, 5.0)])
        assert weighted_edges(snapshot)["source"].tolist()[0] == "model:m1"

    def test_larger_is_better(self, zoo):
        snapshot = replace(
            with_performs(zoo(), [("m0", "d01", 0.8, NAN), ("m1", "d01", 0.9, NAN), ("m2", "d01", 0.5, NAN)]),
            metric=Metric("accuracy", larger_is_better=True),
        )
        weights = weighted_edges(snapshot)["weight"].to_numpy()[:3]
        assert weights[1] > weights[0] > weights[2]


def test_one_measured_model_is_no_ranking(zoo):
    snapshot = with_performs(zoo(), [("m0", "d01", 1.0, NAN), ("m1", "d02", 1.0, NAN)])
    with pytest.raises(NotEnoughResults, match="at least 2"):
        check_enough(snapshot)
    check_enough(with_performs(zoo(), [("m0", "d01", 1.0, NAN), ("m1", "d01", 1.0, NAN)]))


def test_the_fingerprint_tells_of_any_change(zoo):
    snapshot = zoo()
    changed = snapshot.performs.copy()
    changed.loc[3, "value"] = np.nextafter(changed.loc[3, "value"], 100)
    hashes = {
        graph_hash(snapshot),
        graph_hash(replace(snapshot, performs=changed)),
        graph_hash(hide_results(snapshot, "d01")),
        graph_hash(replace(snapshot, models=snapshot.models[:-1])),
    }
    assert len(hashes) == 4
    assert graph_hash(snapshot) == graph_hash(zoo())


class TestRemoveResults:
    def test_a_share_of_the_results_goes_and_nothing_else(self, zoo):
        snapshot = zoo()
        sparse = remove_results(snapshot, 0.25, 0)
        assert len(sparse.performs) == 81 == 0.75 * len(snapshot.performs)
        pairs = set(zip(sparse.performs["model"], sparse.performs["dataset"], strict=True))
        assert len(pairs) == 81
        assert sparse.similar is snapshot.similar
        assert sparse.datasets == snapshot.datasets

    def test_more_are_taken_from_what_is_left(self, zoo):
        def pairs(share, seed):
            rows = remove_results(zoo(), share, seed).performs
            return set(zip(rows["model"], rows["dataset"], strict=True))

        assert pairs(0.6, 1) < pairs(0.3, 1)
        assert pairs(0.3, 1) != pairs(0.3, 2)
        assert pairs(0.0, 1) == pairs(0.0, 2)

    def test_refuses_other_shares(self, zoo):
        for share in (-0.1, 1.0):
            with pytest.raises(InvalidRows, match="share"):
                remove_results(zoo(), share, 0)
