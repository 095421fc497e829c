"""What few images do to a prediction."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.graphdb.models import Dataset, Statistics
from matchgraph.predictor.ranks import RankPrediction, no_preference
from matchgraph.predictor.samples import few_images_note, reliability, widened

DIMENSION = 16


def sample(n: int, variance: float = 1.0, place: float = 0.0) -> Statistics:
    mean = np.full(DIMENSION, place)
    return Statistics("new", "x", "r", n, mean, variance * np.eye(DIMENSION))


def far(distance: float) -> Dataset:
    """A dataset whose mean is that far from 0."""
    return Dataset(f"d{distance}", {}, (distance, *[0.0] * (DIMENSION - 1)))


def test_reliability_is_what_sampling_error_leaves_of_the_distance() -> None:
    others = [far(1.0), far(2.0), far(40.0), Dataset("no embedding", {}), Dataset("other", {}, (1.0, 2.0))]
    # tr(S) / n = 16 * 0.5 / 4 = 2 of the median 4.
    assert reliability(sample(4, 0.5), others) == pytest.approx(0.5)
    assert reliability(sample(2, 0.5), others) == 0.0
    assert reliability(sample(16, 0.5), others) == pytest.approx(1 - 0.5 / 4)
    # The covariance has full rank from here on.
    assert reliability(sample(17, 0.5), others) == 1.0
    assert reliability(sample(4), []) == 1.0
    # A dataset is not compared with itself.
    assert reliability(sample(4), [Dataset("new", {}, tuple([0.0] * DIMENSION))]) == 1.0


def test_a_mixture_is_as_uncertain_as_draws_from_it() -> None:
    prediction = RankPrediction(
        np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.1]), np.array([0.9, 0.1, 0.0])
    )
    mixed = widened(prediction, 0.7)
    rng = np.random.default_rng(0)
    holds = rng.random(200_000) < 0.7
    for model in range(3):
        known = rng.normal(prediction.expected_rank[model], prediction.rank_std[model], holds.size)
        ranks = np.where(holds, known, rng.integers(1, 4, holds.size))
        assert mixed.expected_rank[model] == pytest.approx(ranks.mean(), abs=0.01)
        assert mixed.rank_std[model] == pytest.approx(ranks.std(), abs=0.01)
    assert mixed.p_best.sum() == pytest.approx(1.0)
    assert (mixed.rank_std > prediction.rank_std).all()
    assert np.argsort(mixed.expected_rank).tolist() == [0, 1, 2]
    for name in ("expected_rank", "rank_std", "p_best"):
        np.testing.assert_allclose(getattr(widened(prediction, 1.0), name), getattr(prediction, name))
        np.testing.assert_allclose(getattr(widened(prediction, 0.0), name), getattr(no_preference(3), name))


def test_the_note_names_count_and_need() -> None:
    assert few_images_note("d", 17, 16) is None
    assert "d has only 16 images" in str(few_images_note("d", 16, 16))
