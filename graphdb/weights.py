"""From what was measured on an edge to the positive weight that random walks follow.

Walks go where weights are larger, while of distances the smaller is the better; a raw distance as weight
would lead them to the worst neighbours. These two functions are the only definition: prediction calls them on
the edges it may see, and `cypher/refresh/*-weights.cypher` computes the same for the `weight` stored with
each edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matchgraph.graphdb.errors import InvalidValue

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# How strongly walks prefer the near and the good, measured on synthetic zoos. With 1, a dataset at the
# median distance would weigh two fifths of one at a tenth of it, and the many far ones outweigh the few near.
SHARPNESS = 5.0
# exp(-x) underflows to 0 near x = 745, and a weight of 0 would be no edge at all.
LEAST_WEIGHT = 1e-12


def similarity_weight(values: ArrayLike, larger_is_better: bool = False) -> np.ndarray:
    """Turn the values of all edges between datasets into positive weights that decrease with the distance.

    The weight is `exp(-5 d / s)`. For a distance d is the value itself, shifted so that the least is 0 where
    an unbiased estimate fell below it; for a score, where larger is better, d is how far the value stays
    behind the largest. The scale s is the median of d, so that weights depend on no unit; where the median is
    0, their mean; where all d are 0, all weights are 1.

    Args:
        values: (n,), finite, of edges by one metric; n may be 0.
        larger_is_better: the direction of the metric.

    Returns:
        float64, (n,), in [1e-12, 1].

    Raises:
        InvalidValue: a value is not finite, or the array has not one dimension.

    Source:
        The matching graph of Match & Choose, section 4.3, weights its edges with the Frechet distance; that
        node2vec needs the reverse order, and this form of it, are ours.
    """
    array = _finite(values)
    if array.size == 0:
        return array.copy()
    distance = array.max() - array if larger_is_better else array - min(array.min(), 0.0)
    scale = np.median(distance) or distance.mean()
    if scale == 0:
        return np.ones_like(distance)
    # Divided by a scale next to 0, a distance may overflow: to the least weight, as it should.
    with np.errstate(over="ignore"):
        return np.maximum(np.exp(-SHARPNESS * distance / scale), LEAST_WEIGHT)


def result_weight(values: ArrayLike, larger_is_better: bool = False) -> np.ndarray:
    """Turn the values of all models measured on one dataset into positive weights, larger for the better
    models.

    The weight is `exp(-5 r)`, r the model's rank there as a fraction (`rank_fraction`). Values of different
    datasets lie on different scales: weights made of them would tell which datasets are easy rather than
    which models are good there.

    Args:
        values: (k,), finite, of one dataset by one metric; k may be 0.
        larger_is_better: the direction of the metric.

    Returns:
        float64, (k,), in (exp(-5), 1).

    Raises:
        InvalidValue: a value is not finite, or the array has not one dimension.

    Source:
        Ranks are what Match & Choose learns, section 4.4; see `similarity_weight` for what it says of
        weights.
    """
    return np.exp(-SHARPNESS * rank_fraction(values, larger_is_better))


def rank_fraction(values: ArrayLike, larger_is_better: bool = False) -> np.ndarray:
    """The rank of each of k values as a fraction: rank r, 1 for the best, becomes (r - 1/2) / k.

    Groups of different size compare, the mean is 1/2 in each, and ties share their average.

    Args:
        values: (k,), finite; k may be 0.
        larger_is_better: whether the best is the largest.

    Returns:
        float64, (k,), in (0, 1).

    Raises:
        InvalidValue: a value is not finite, or the array has not one dimension.
    """
    array = _finite(values)
    return (average_ranks(-array if larger_is_better else array) - 0.5) / max(array.size, 1)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 for the smallest, ties sharing their average, as `scipy.stats.rankdata` gives them.

    Importing `scipy.stats` takes longer than a prediction.

    Args:
        values: float64, (k,), without NaN.

    Returns:
        float64, (k,).
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InvalidValue(f"Edge values have shape {array.shape}: (n,) is needed.")
    if not np.isfinite(array).all():
        raise InvalidValue(f"Edge value number {int(np.argmin(np.isfinite(array)))} is not finite.")
    return array
