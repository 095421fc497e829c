"""Distances and kernels between models and between datasets, for Gaussian processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.features import (
    check_comparable,
    dataset_features,
    encode_attributes,
    model_features,
)
from matchgraph.predictor.visibility import similarity_direction

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot


def similarity_kernel(snapshot: Snapshot) -> np.ndarray:
    """Kernel of datasets from the SIMILAR edges: exp(-distance), in medians of the distances.

    Args:
        snapshot: the graph; a pair without an edge has similarity 0.

    Returns:
        float64, (n_datasets, n_datasets), in the order of `snapshot.datasets`, positive semidefinite, with
        ones on its diagonal; the identity without any edge.
    """
    if not len(snapshot.similar):
        return np.eye(len(snapshot.datasets))
    return positive_definite(np.exp(-dataset_distances(snapshot)))


def embedding_kernel(snapshot: Snapshot) -> np.ndarray | None:
    """Kernel of datasets from their probe embeddings, or from their attributes if none has one.

    The kernel is the inner product of the centred embeddings, that of a linear function of them. Dimensions
    keep their scale; attributes are normalised first. A dataset without an embedding is at the mean, similar
    to no other.

    Args:
        snapshot: the graph.

    Returns:
        float64, (n_datasets, n_datasets), in the order of `snapshot.datasets`, positive semidefinite, 1 on
        the mean of its diagonal; None if the datasets do not differ.

    Raises:
        ExtractorMismatch: embeddings of different lengths or from different extractors.
    """
    embedded = [dataset for dataset in snapshot.datasets if dataset.embedding is not None]
    if embedded:
        check_comparable(embedded)
        known = np.array([dataset.embedding for dataset in embedded])
        points = np.zeros((len(snapshot.datasets), known.shape[1]))
        points[[dataset.embedding is not None for dataset in snapshot.datasets]] = known - known.mean(axis=0)
    else:
        points = encode_attributes({d.id: d.properties for d in snapshot.datasets}).values
    # Scaled first, so that numbers near the float limits cannot overflow.
    size = np.abs(points).max(initial=0.0)
    if size == 0:
        return None
    products = (points / size) @ (points / size).T
    return products / np.diag(products).mean()


def feature_distances(snapshot: Snapshot) -> np.ndarray:
    """Distances of the models by their features, in medians; all infinite where no feature tells them apart.

    Returns:
        float64, (n_models, n_models).
    """
    return _in_medians(_euclidean(model_features(snapshot.models).values))


def dataset_distances(snapshot: Snapshot) -> np.ndarray:
    """Distances of the datasets by their recorded similarity, in medians.

    A pair without one counts as far apart. Without any, distances are those of the datasets' features.

    Returns:
        float64, (n_datasets, n_datasets).
    """
    count = len(snapshot.datasets)
    similar = snapshot.similar
    if not len(similar):
        return _in_medians(_euclidean(dataset_features(snapshot.datasets).values))
    values = similar["value"].to_numpy(dtype=np.float64)
    distances = values.max() - values if similarity_direction(snapshot) else values - min(values.min(), 0.0)
    place = {dataset.id: index for index, dataset in enumerate(snapshot.datasets)}
    matrix = np.full((count, count), np.inf)
    rows, columns = similar["dataset"].map(place), similar["other"].map(place)
    matrix[rows, columns] = matrix[columns, rows] = distances
    np.fill_diagonal(matrix, 0.0)
    return matrix / (np.median(distances) or distances.mean() or 1.0)


def positive_definite(kernel: np.ndarray) -> np.ndarray:
    """The nearest positive semidefinite matrix with ones on its diagonal; distances between distributions
    need not give one.
    """
    values, vectors = np.linalg.eigh(kernel)
    positive = (vectors * np.maximum(values, 0.0)) @ vectors.T
    scale = np.sqrt(np.diag(positive))
    return positive / np.outer(scale, scale)


def _euclidean(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(((values[:, None] - values[None]) ** 2).sum(axis=2), 0.0))


def _in_medians(distances: np.ndarray) -> np.ndarray:
    apart = distances[~np.eye(len(distances), dtype=bool)]
    if not apart.size or not apart.any():
        # All distances are 0: treat them as unrelated, or all would count as the same.
        return np.where(np.eye(len(distances), dtype=bool), 0.0, np.inf)
    return distances / (np.median(apart) or apart.mean())
