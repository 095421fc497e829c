"""Pairs of datasets that were not compared are named, in evaluations and in answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matchgraph.graphdb.models import Dataset, Snapshot
from matchgraph.predictor.pairs import missing_pairs_note
from matchgraph.predictor.samples import small_samples_note
from tests.predictor.zoos import measured_zoo


@pytest.fixture
def whole() -> Snapshot:
    return measured_zoo(0, n_models=3, n_datasets=5)


def without(snapshot: Snapshot, *pairs: tuple[int, int]) -> Snapshot:
    """The zoo without some pairs, which are named by the places of their datasets."""
    ids = [dataset.id for dataset in snapshot.datasets]
    gone = [{ids[one], ids[other]} for one, other in pairs]
    kept = [{one, other} not in gone for one, other in snapshot.similar[["dataset", "other"]].to_numpy()]
    return replace(snapshot, similar=snapshot.similar[kept])


def test_what_is_missing_is_counted_and_named(whole: Snapshot) -> None:
    a, b, c, d, _ = (dataset.id for dataset in whole.datasets)
    assert missing_pairs_note(whole) is None
    assert whole.similarity is not None
    assert str(missing_pairs_note(without(whole, (0, 1), (2, 3)))).startswith(
        f"2 of 10 pairs of datasets were not compared by {whole.similarity.name}: {a} and {b}, {c} and {d}. "
    )
    every = [(one, other) for one in range(3) for other in range(one + 1, 5)]
    assert " and 4 more. " in str(missing_pairs_note(without(whole, *every)))
    # A graph without any similarity is not a graph with gaps.
    assert missing_pairs_note(replace(whole, similarity=None, similar=whole.similar[:0])) is None
    # Nor is a dataset that has neither results nor similarities.
    assert missing_pairs_note(replace(whole, datasets=(*whole.datasets, Dataset("unused")))) is None


def test_a_new_dataset_is_named_first(whole: Snapshot) -> None:
    ids = [dataset.id for dataset in whole.datasets]
    assert missing_pairs_note(whole, "new", ids) is None
    assert f"1 of 15 pairs of datasets were not compared by clip_fid: new and {ids[0]}. " in str(
        missing_pairs_note(whole, "new", ids[1:])
    )
    gap = without(whole, (0, 1))
    assert f": new and {ids[4]}, {ids[0]} and {ids[1]}. " in str(missing_pairs_note(gap, "new", ids[:4]))


def test_small_samples_are_named() -> None:
    few, enough = Dataset("few", {"n_real": 2}, (0.0, 1.0)), Dataset("enough", {"n_real": 3}, (0.0, 1.0))
    assert small_samples_note([enough, Dataset("none")]) is None
    assert str(small_samples_note([few, enough])).endswith("say little: few (2).")
