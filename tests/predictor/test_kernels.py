"""How much alike datasets are, by hand and in odd graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matchgraph.graphdb.models import Dataset, Metric
from matchgraph.predictor.errors import ExtractorMismatch
from matchgraph.predictor.kernels import (
    dataset_distances,
    embedding_kernel,
    positive_definite,
    similarity_kernel,
)


def with_embeddings(snapshot, embeddings):
    datasets = tuple(
        Dataset(dataset.id, {}, embedding)
        for dataset, embedding in zip(snapshot.datasets, embeddings, strict=True)
    )
    return replace(snapshot, datasets=datasets)


def test_similarities_fall_off_with_the_distance_in_medians(zoo):
    snapshot = zoo(n_datasets=3)
    similar = snapshot.similar.assign(value=[1.0, 2.0, 4.0])
    kernel = similarity_kernel(replace(snapshot, similar=similar))
    d01, d02, d12 = np.exp([-0.5, -1.0, -2.0])
    assert kernel == pytest.approx(np.array([[1, d01, d02], [d01, 1, d12], [d02, d12, 1]]))


def test_larger_similarities_are_nearer_where_they_should_be(zoo):
    snapshot = zoo(n_datasets=3)
    scores = replace(
        snapshot,
        similar=snapshot.similar.assign(value=[0.9, 0.5, 0.1]),
        similarity=Metric("likeness", larger_is_better=True),
    )
    distances = dataset_distances(scores)
    assert distances[0, 1] == 0
    assert distances[0, 2] < distances[1, 2]


def test_datasets_without_an_edge_are_alike_to_nobody(zoo):
    snapshot = zoo(n_datasets=4)
    apart = snapshot.similar[(snapshot.similar[["dataset", "other"]] != "d00").all(axis=1)]
    kernel = similarity_kernel(replace(snapshot, similar=apart))
    assert kernel[0] == pytest.approx([1, 0, 0, 0])
    assert kernel[1, 2] > 0
    assert np.array_equal(similarity_kernel(replace(snapshot, similar=apart.iloc[:0])), np.eye(4))


def test_embeddings_by_their_inner_product_about_the_mean(zoo):
    snapshot = with_embeddings(zoo(n_datasets=3), [(1.0, 0.0), (-1.0, 0.0), (0.0, 3.0)])
    points = np.array([[1, -1], [-1, -1], [0, 2]])
    products = points @ points.T
    assert embedding_kernel(snapshot) == pytest.approx(products / (8 / 3))


def test_a_dataset_without_an_embedding_is_at_the_mean(zoo):
    snapshot = with_embeddings(zoo(n_datasets=4), [(1.0, 0.0), (-1.0, 0.0), (0.0, 3.0), None])
    kernel = embedding_kernel(snapshot)
    assert kernel[3] == pytest.approx(np.zeros(4))
    assert np.linalg.eigvalsh(kernel).min() > -1e-12


def test_attributes_stand_in_for_embeddings(zoo):
    snapshot = zoo(n_datasets=5)
    images = np.array([dataset.properties["images"] for dataset in snapshot.datasets])
    scaled = (images - images.mean()) / images.std()
    assert embedding_kernel(snapshot) == pytest.approx(np.outer(scaled, scaled))
    assert embedding_kernel(with_embeddings(snapshot, [None] * 5)) is None


def test_embeddings_of_different_spaces_are_refused(zoo):
    with pytest.raises(ExtractorMismatch):
        embedding_kernel(with_embeddings(zoo(n_datasets=2), [(1.0,), (1.0, 2.0)]))


def test_the_nearest_positive_matrix_keeps_its_diagonal():
    matrix = np.array([[1, 0.9, 0.1], [0.9, 1, 0.9], [0.1, 0.9, 1.0]])
    assert np.linalg.eigvalsh(matrix).min() < 0
    positive = positive_definite(matrix)
    assert np.linalg.eigvalsh(positive).min() > -1e-12
    assert np.diag(positive) == pytest.approx(np.ones(3))
    assert positive == pytest.approx(matrix, abs=0.2)
