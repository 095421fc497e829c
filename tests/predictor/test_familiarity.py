"""How far a dataset is from those that were measured."""

from __future__ import annotations

from matchgraph.predictor.familiarity import Nearness
from matchgraph.predictor.visibility import without_results


def test_nearness_is_that_of_the_graph_without_the_dataset(zoo) -> None:
    """Also where the dataset asked about is the nearest of another."""
    snapshot = zoo(n_datasets=8)
    near = Nearness(snapshot)
    for dataset in snapshot.datasets:
        assert near.of(dataset.id) == Nearness(without_results(snapshot, [dataset.id])).of(dataset.id)
    assert len({near.of(dataset.id).farthest for dataset in snapshot.datasets}) > 1
