"""The effect of a small sample of images on a prediction.

With no more images than the features have dimensions, the covariance has no full rank, and a distance
computed from it says as much of the sample as of the dataset. The mean embedding of a sample is off by
tr(S)/n from that of the dataset, as an expected squared distance, where S is the covariance of the features.
Compared with the squared distance to another dataset that is the share of pure sampling error; what remains
is the reliability of the comparison, as errors-in-variables models have it (Fuller, "Measurement Error
Models", 1987, section 1.1):

    reliability = 1 - (tr(S) / n) / median over the other datasets of |mean - other mean|^2, at least 0.

With that probability the prediction holds, and else nothing is known of the models' places: ranks and
chances are those of the mixture of both. The order of the models stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.ranks import RankPrediction, no_preference
from matchgraph.words import some

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, Statistics


def few_images_note(dataset: str, n: int, dimension: int) -> str | None:
    """A note that a dataset has fewer images than its distances need; None if it has enough.

    Args:
        dataset: its id.
        n: how many images were measured.
        dimension: of the features.
    """
    if n > dimension:
        return None
    return (
        f"{dataset} has only {n} images, and distances in {dimension} dimensions need more than {dimension}: "
        "they are unreliable, and the ranking is less certain."
    )


def small_samples_note(datasets: Sequence[Dataset]) -> str | None:
    """Name the datasets that have no more images than their features have dimensions; None without any.

    Args:
        datasets: those that a result is computed from.
    """
    few = [
        f"{dataset.id} ({n})"
        for dataset in datasets
        if dataset.embedding is not None
        and isinstance(n := dataset.properties.get("n_real"), int)
        and n <= len(dataset.embedding)
    ]
    if not few:
        return None
    return (
        f"{len(few)} of {len(datasets)} datasets have no more images than their features have dimensions, so "
        f"their distances say little: {some(few)}."
    )


def reliability(statistics: Statistics, others: Sequence[Dataset]) -> float:
    """How much of the distance between a sample and other datasets is not sampling error, from 0 to 1.

    Args:
        statistics: of the sample's features.
        others: the datasets that it is compared with; those without an embedding of its dimension do not
            count.

    Returns:
        1 for more images than dimensions, and where there is nothing to compare with.
    """
    dimension = statistics.mean.size
    if statistics.n > dimension:
        return 1.0
    means = [
        np.asarray(other.embedding)
        for other in others
        if other.id != statistics.dataset
        and other.embedding is not None
        and len(other.embedding) == dimension
    ]
    if not means:
        return 1.0
    apart = float(np.median([np.sum((mean - statistics.mean) ** 2) for mean in means]))
    error = float(np.trace(statistics.covariance)) / statistics.n
    return max(0.0, 1.0 - error / apart) if apart > 0 else 0.0


def widened(prediction: RankPrediction, share: float) -> RankPrediction:
    """Mix a prediction with the uninformed one.

    Args:
        prediction: of the models' ranks.
        share: the probability that it holds, from 0 to 1.

    Returns:
        Mean, standard deviation and chance of being best of the mixture.
    """
    nothing = no_preference(len(prediction.expected_rank))
    mean = share * prediction.expected_rank + (1 - share) * nothing.expected_rank
    square = share * (prediction.rank_std**2 + prediction.expected_rank**2) + (1 - share) * (
        nothing.rank_std**2 + nothing.expected_rank**2
    )
    return RankPrediction(
        mean,
        np.sqrt(np.maximum(square - mean**2, 0.0)),
        share * prediction.p_best + (1 - share) * nothing.p_best,
    )
