"""Ranks as classes, and expected ranks from distributions over ranks or losses.

The paper predicts the rank of a model on a dataset with a classifier whose classes are the ranks. Three
things it leaves open are decided in `RankClasses`: many models (more ranks than a classifier can learn),
ties, and datasets on which only some of the models were measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matchgraph.graphdb.weights import average_ranks
from matchgraph.predictor.errors import InvalidRows

MOST_EXACT_FACTORS = 480
MAX_CLASSES = 10
# The grid on which normal losses are integrated: how far it goes beyond the means, how fine it is, in
# standard deviations, and its bounds.
TAIL, STEPS_PER_DEVIATION = 7.0, 12
LEAST_STEPS, MOST_STEPS = 256, 8192
CELLS_AT_ONCE = 2**22


def ranks_within(losses: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The rank of each row among the rows of its group, 1 for the smallest loss; ties share their average
    rank.

    Args:
        losses: float64, (n_rows,), finite, smaller is better.
        groups: (n_rows,), which dataset each row belongs to.

    Returns:
        float64, (n_rows,).

    Raises:
        InvalidRows: for a loss that is not finite or unequal lengths.
    """
    values, members = np.asarray(losses, dtype=np.float64), np.asarray(groups)
    if values.shape != members.shape or values.ndim != 1:
        raise InvalidRows(f"losses of shape {values.shape} for groups of shape {members.shape}")
    if not np.isfinite(values).all():
        raise InvalidRows("losses must be finite to be ranked")
    ranks = np.empty(len(values))
    for group in np.unique(members):
        rows = members == group
        ranks[rows] = average_ranks(values[rows])
    return ranks


@dataclass(frozen=True)
class RankClasses:
    """How the ranks of a zoo are cut into classes.

    Each measured row owns an interval of its dataset's ranking, as a fraction of the models measured there:
    of k models, rank r owns [(r - 1) / k, r / k], and t models tied at an average rank share one interval of
    t / k. The classes cut [0, 1] into equal bins, and a row belongs to each class by the share of its
    interval that lies in that bin. So:

    - a small zoo, fully measured and without ties, has one class for each exact rank, as in the paper;
    - two models tied for ranks 2 and 3 each count half in class 2 and half in class 3;
    - a model that came first among 5 measured of 10 counts half as rank 1 and half as rank 2;
    - 180 models fall into `max_classes` quantile bins.

    Attributes:
        n_models: models in the zoo, at least 1.
        max_classes: the most classes to learn; more ranks than that become quantile bins.

    Raises:
        InvalidRows: for numbers below 1.

    Source:
        Match & Choose, section 4.4 ("each rank is considered a separate class").
    """

    n_models: int
    max_classes: int = MAX_CLASSES

    def __post_init__(self) -> None:
        if self.n_models < 1 or self.max_classes < 1:
            raise InvalidRows(f"needs a model and a class, got {self.n_models} and {self.max_classes}")

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return min(self.n_models, self.max_classes)

    @property
    def positions(self) -> np.ndarray:
        """The mean rank of each class, float64, (n_classes,), within 1..n_models."""
        return (np.arange(self.n_classes) + 0.5) * self.n_models / self.n_classes + 0.5

    @property
    def variance_within(self) -> float:
        """The rank's variance inside one class: that of n_models / n_classes equally likely neighbours."""
        return ((self.n_models / self.n_classes) ** 2 - 1) / 12

    def targets(self, ranks: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The share of each class in each row.

        Args:
            ranks: float64, (n_rows,), average ranks within the groups, see `ranks_within`.
            groups: (n_rows,), which dataset each row belongs to.

        Returns:
            float64, (n_rows, n_classes); rows sum to 1.
        """
        measured, members = np.asarray(ranks, dtype=np.float64), np.asarray(groups)
        edges = np.linspace(0.0, 1.0, self.n_classes + 1)
        shares = np.empty((len(measured), self.n_classes))
        for group in np.unique(members):
            rows = members == group
            own = measured[rows]
            tied = (own[:, None] == own[None, :]).sum(axis=1)
            low = (own - (tied + 1) / 2) / len(own)
            high = (own + (tied - 1) / 2) / len(own)
            overlap = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
            shares[rows] = np.clip(overlap, 0.0, None)
        # Bounds that are equal on paper differ in the last bit; without this each exact rank would leak into
        # its neighbour.
        shares[shares < 1e-9] = 0.0
        return shares / shares.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class RankPrediction:
    """Predicted rank of each model.

    Attributes:
        expected_rank: float64, (n_models,), within 1..n_models.
        rank_std: float64, (n_models,), standard deviation of the rank.
        p_best: float64, (n_models,), chance of being the best; sums to 1.
    """

    expected_rank: np.ndarray
    rank_std: np.ndarray
    p_best: np.ndarray


def no_preference(n_models: int) -> RankPrediction:
    """The prediction for models without any information."""
    return RankPrediction(
        np.full(n_models, (n_models + 1) / 2),
        np.full(n_models, np.sqrt((n_models**2 - 1) / 12)),
        np.full(n_models, 1 / n_models),
    )


def summarise_normal(mean: np.ndarray, std: np.ndarray) -> RankPrediction:
    """Expected rank, its standard deviation, and the chance of being best, of models with normal losses.

    With f_m, F_m density and distribution of model m's loss, and models independent of each other,

        p_best(m) = integral f_m(x) prod_{j != m} (1 - F_j(x)) dx,
        E rank(m) = 1 + integral f_m(x) sum_{j != m} F_j(x) dx,

    and the variance of the rank is that of the last sum over x, plus the mean over x of the variance
    sum_j F_j (1 - F_j) of a sum of independent events. All are integrated on one grid.

    Args:
        mean: float64, (n_models,), of the losses, smaller is better.
        std: float64, (n_models,), above 0.

    Returns:
        The three vectors; p_best sums to 1.

    Raises:
        InvalidRows: for unequal lengths, numbers that are not finite, or a deviation of 0.
    """
    from scipy.special import log_ndtr, ndtr

    mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    if mean.ndim != 1 or not len(mean) or mean.shape != std.shape:
        raise InvalidRows(f"means of shape {mean.shape} for deviations of shape {std.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise InvalidRows("means must be finite, and deviations finite and above 0")
    low, high = (mean - TAIL * std).min(), (mean + TAIL * std).max()
    steps = np.clip((high - low) / std.min() * STEPS_PER_DEVIATION, LEAST_STEPS, MOST_STEPS)
    points = np.linspace(low, high, int(steps))
    # Chunks keep (n_models, n_points) in memory for thousands of models.
    n_models, n_points = len(mean), len(points)
    rows = max(1, CELLS_AT_ONCE // n_points)
    chunks = [slice(start, start + rows) for start in range(0, n_models, rows)]
    below, spread, none_below = (np.zeros(n_points) for _ in range(3))
    for chunk in chunks:
        scaled = (points - mean[chunk, None]) / std[chunk, None]
        chances = ndtr(scaled)
        below += chances.sum(axis=0)
        spread += (chances * (1 - chances)).sum(axis=0)
        none_below += log_ndtr(-scaled).sum(axis=0)
    expected, variance, best = (np.empty(n_models) for _ in range(3))
    for chunk in chunks:
        scaled = (points - mean[chunk, None]) / std[chunk, None]
        weights = np.exp(-(scaled**2) / 2)
        weights /= weights.sum(axis=1, keepdims=True)
        own = ndtr(scaled)
        others = below - own
        expected[chunk] = 1 + (weights * others).sum(axis=1)
        variance[chunk] = (weights * (others**2 + spread - own * (1 - own))).sum(axis=1)
        best[chunk] = (weights * np.exp(none_below - log_ndtr(-scaled))).sum(axis=1)
    variance -= (expected - 1) ** 2
    return RankPrediction(expected, np.sqrt(np.maximum(variance, 0.0)), best / best.sum())


def summarise(distributions: np.ndarray, classes: RankClasses) -> RankPrediction:
    """Expected rank, its standard deviation, and the chance of being best.

    Args:
        distributions: float64, (n_models, n_classes), one row for each model of the zoo.
        classes: how ranks were cut into classes.

    Returns:
        The three vectors.

    Raises:
        InvalidRows: if the rows are not probability distributions over the classes.
    """
    probabilities = checked_distributions(distributions)
    if probabilities.shape[1] != classes.n_classes:
        raise InvalidRows(f"{probabilities.shape[1]} columns for {classes.n_classes} classes")
    expected = probabilities @ classes.positions
    variance = probabilities @ classes.positions**2 - expected**2 + classes.variance_within
    return RankPrediction(expected, np.sqrt(np.clip(variance, 0.0, None)), probability_best(probabilities))


def probability_best(distributions: np.ndarray) -> np.ndarray:
    """The chance of each model to have the smallest class, classes drawn independently, ties split at random.

    Exact. A random tie-break is a uniform number drawn by each model: m wins from class c with number u if
    each other model has a larger class, or the same one and a larger number. So

        p_best(m) = sum_c p_m(c) * integral_0^1 prod_{j != m} (P_j(class > c) + p_j(c) (1 - u)) du,

    whose integrand is a polynomial of degree n_models - 1, integrated exactly by Gauss-Legendre quadrature
    with half as many nodes; of more than some hundreds of models, see `unit_quadrature`. The models' ranks
    are treated as independent: the classifier says nothing about how they depend on each other.

    Args:
        distributions: float64, (n_models, n_classes), rows sum to 1, best class first.

    Returns:
        float64, (n_models,), sums to 1.

    Raises:
        InvalidRows: if the rows are not probability distributions.
    """
    probabilities = checked_distributions(distributions)
    n_models = len(probabilities)
    numbers, weights = unit_quadrature(n_models - 1)
    larger = np.clip(1.0 - probabilities.cumsum(axis=1), 0.0, 1.0)
    wins = np.zeros(n_models)
    for own, others in zip(probabilities.T, larger.T, strict=True):
        # (n_models, n_nodes): the chance that model j does not beat a rival of this class and of number u.
        loses = others[:, None] + own[:, None] * (1.0 - numbers)
        # The product over all others, from both sides: dividing the whole product by one factor fails where
        # that is 0.
        before, after = np.ones_like(loses), np.ones_like(loses)
        before[1:] = np.cumprod(loses[:-1], axis=0)
        after[:-1] = np.cumprod(loses[:0:-1], axis=0)[::-1]
        wins += own * ((before * after) @ weights)
    return wins / wins.sum()


def unit_quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights that integrate a product of `degree` falling linear functions from 0 to 1.

    Up to 480 factors the rule is exact for every polynomial of that degree. It would take thousands of nodes
    for thousands of factors, whose product falls like exp(-degree u) at the most. So beyond, [0, 1] is cut at
    1/degree, 2/degree, 4/degree and so on, and each part gets 16 nodes: on those near 0 that is exact to the
    last bits, and where a later part is too long for that, the product has fallen to nothing before.

    Args:
        degree: number of factors, at least 0.

    Returns:
        float64, (n_nodes,), each: rising nodes and their weights, which sum to 1.
    """
    if degree <= MOST_EXACT_FACTORS:
        cuts, count = np.array([0.0, 1.0]), degree // 2 + 1
    else:
        halvings = np.arange(int(np.ceil(np.log2(degree))), -1, -1)
        cuts, count = np.concatenate([[0.0], 0.5**halvings]), 16
    nodes, weights = np.polynomial.legendre.leggauss(count)
    lengths = np.diff(cuts)
    return (
        (cuts[:-1, None] + lengths[:, None] * (nodes + 1) / 2).ravel(),
        (lengths[:, None] * weights / 2).ravel(),
    )


def finite_matrix(rows: np.ndarray, what: str) -> np.ndarray:
    values = np.ascontiguousarray(rows, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise InvalidRows(f"{what} must be a non-empty matrix, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise InvalidRows(f"{what} must be finite")
    return values


def checked_distributions(distributions: np.ndarray) -> np.ndarray:
    values = finite_matrix(distributions, "distributions")
    if (values < 0).any() or not np.allclose(values.sum(axis=1), 1.0, atol=1e-6):
        raise InvalidRows("each row must be a probability distribution")
    return values
