"""Ranks, their classes, and the chance of being best."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.ranks import (
    RankClasses,
    no_preference,
    probability_best,
    ranks_within,
    summarise,
    summarise_normal,
    unit_quadrature,
)


def random_distributions(n_models: int, n_classes: int, seed: int, zeros: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.5, size=(n_models, n_classes)) + 1e-6
    values[rng.random(values.shape) < zeros] = 0
    values[:, -1] += 1e-3
    return values / values.sum(axis=1, keepdims=True)


class TestRanks:
    def test_ties_share_the_average_and_groups_are_apart(self):
        ranks = ranks_within(np.array([3.0, 1, 1, 7, 5]), np.array([0, 0, 0, 1, 1]))
        assert ranks.tolist() == [3, 1.5, 1.5, 2, 1]

    def test_refuses_what_cannot_be_ranked(self):
        with pytest.raises(InvalidRows, match="finite"):
            ranks_within(np.array([1.0, np.nan]), np.array([0, 0]))


class TestRankClasses:
    def test_a_small_full_zoo_has_exact_ranks(self):
        classes = RankClasses(7)
        targets = classes.targets(np.array([3.0, 1, 2, 7, 6, 5, 4]), np.zeros(7))
        assert np.array_equal(targets, np.eye(7)[[2, 0, 1, 6, 5, 4, 3]])
        assert classes.positions.tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert classes.variance_within == 0

    def test_ties_split_over_the_classes_they_span(self):
        targets = RankClasses(3).targets(np.array([1.0, 2.5, 2.5]), np.zeros(3))
        assert np.allclose(targets, [[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])

    def test_partly_measured_datasets_are_scaled(self):
        # Two of four measured: the better one is rank 1 or 2 of four, the other rank 3 or 4.
        targets = RankClasses(4).targets(np.array([2.0, 1]), np.array([5, 5]))
        assert np.allclose(targets, [[0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]])
        # Three of four: thirds cut by quarters.
        targets = RankClasses(4).targets(np.array([1.0, 2, 3]), np.zeros(3))
        assert np.allclose(targets, [[0.75, 0.25, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.25, 0.75]])

    def test_many_models_become_quantile_bins(self):
        classes = RankClasses(180, max_classes=10)
        targets = classes.targets(np.arange(1.0, 181), np.zeros(180))
        assert targets.shape == (180, 10)
        assert np.array_equal(targets.argmax(axis=1), np.arange(180) // 18)
        assert np.array_equal(np.unique(targets), [0, 1])
        assert classes.positions[0] == np.mean(np.arange(1, 19))
        assert classes.variance_within == pytest.approx(np.var(np.arange(1, 19)))

    def test_every_class_gets_its_share_of_a_dataset(self):
        rng = np.random.default_rng(0)
        losses = rng.integers(0, 6, 23).astype(float)
        targets = RankClasses(40, 9).targets(ranks_within(losses, np.zeros(23)), np.zeros(23))
        assert np.allclose(targets.sum(axis=0), 23 / 9)

    def test_refuses_an_empty_zoo(self):
        assert RankClasses(1, 1).n_classes == 1
        for empty in ((0,), (3, 0)):
            with pytest.raises(InvalidRows):
                RankClasses(*empty)


class TestProbabilityBest:
    @pytest.mark.parametrize(("n_models", "n_classes", "seed"), [(1, 3, 0), (2, 2, 1), (4, 3, 2), (5, 4, 3)])
    def test_brute_force(self, n_models, n_classes, seed):
        distributions = random_distributions(n_models, n_classes, seed, zeros=0.3)
        expected = np.zeros(n_models)
        for draw in itertools.product(range(n_classes), repeat=n_models):
            winners = np.array(draw) == min(draw)
            expected += np.prod(distributions[range(n_models), draw]) * winners / winners.sum()
        assert np.allclose(probability_best(distributions), expected, atol=1e-12)

    def test_rounding_of_sums_is_corrected_for_a_large_zoo(self):
        distributions = random_distributions(180, 10, 5)
        p_best = probability_best(distributions)
        assert p_best.sum() == pytest.approx(1, abs=1e-12)
        assert (p_best >= 0).all()
        # Equal models are equally likely.
        assert np.allclose(probability_best(np.tile(distributions[:1], (180, 1))), 1 / 180)

    @pytest.mark.parametrize("alike", [0.05, 5.0, 500.0], ids=["sure", "vague", "alike"])
    def test_a_thousand_models_need_few_nodes(self, monkeypatch, alike):
        distributions = np.random.default_rng(6).dirichlet(np.full(10, alike), 1000)
        p_best = probability_best(distributions)
        assert len(unit_quadrature(999)[0]) < 200
        monkeypatch.setattr("matchgraph.predictor.ranks.MOST_EXACT_FACTORS", 1000)
        assert len(unit_quadrature(999)[0]) == 500
        assert np.allclose(p_best, probability_best(distributions), rtol=1e-9, atol=1e-15)

    def test_a_certain_winner(self):
        assert probability_best(np.array([[0, 1.0], [1.0, 0], [0, 1.0]])).tolist() == [0, 1, 0]

    def test_refuses_what_is_no_distribution(self):
        with pytest.raises(InvalidRows, match="distribution"):
            probability_best(np.array([[0.5, 0.1]]))


class TestSummarise:
    def test_by_hand(self):
        prediction = summarise(np.array([[0.5, 0.5, 0], [0, 0, 1], [0.5, 0.5, 0]]), RankClasses(3))
        assert prediction.expected_rank.tolist() == [1.5, 3, 1.5]
        assert np.allclose(prediction.rank_std, [0.5, 0, 0.5])
        assert np.allclose(prediction.p_best, [0.5, 0, 0.5])

    def test_bins_add_the_spread_inside_a_bin(self):
        uniform = np.full((20, 4), 0.25)
        prediction = summarise(uniform, RankClasses(20, 4))
        assert np.allclose(prediction.expected_rank, 10.5)
        assert np.allclose(prediction.rank_std, np.std(np.arange(1, 21)))


def test_without_preference_every_rank_is_as_likely():
    prediction = no_preference(4)
    assert prediction.expected_rank == pytest.approx([2.5] * 4)
    assert prediction.rank_std == pytest.approx([np.std([1, 2, 3, 4])] * 4)
    assert prediction.p_best == pytest.approx([0.25] * 4)


class TestSummariseNormal:
    def test_two_models_in_closed_form(self):
        prediction = summarise_normal(np.array([0.0, 1.0]), np.array([0.6, 0.8]))
        # The difference is normal with mean 1 and deviation 1.
        first = norm.cdf(1.0)
        assert prediction.p_best == pytest.approx([first, 1 - first], abs=1e-6)
        assert prediction.expected_rank == pytest.approx([2 - first, 1 + first], abs=1e-6)
        assert prediction.rank_std == pytest.approx([np.sqrt(first * (1 - first))] * 2, abs=1e-5)

    def test_agrees_with_draws(self):
        rng = np.random.default_rng(0)
        mean, std = rng.normal(size=7), rng.uniform(0.2, 2, 7)
        prediction = summarise_normal(mean, std)
        ranks = (mean + std * rng.normal(size=(40_000, 7))).argsort(axis=1).argsort(axis=1) + 1
        assert prediction.p_best == pytest.approx((ranks == 1).mean(axis=0), abs=0.01)
        assert prediction.expected_rank == pytest.approx(ranks.mean(axis=0), abs=0.03)
        assert prediction.rank_std == pytest.approx(ranks.std(axis=0), abs=0.03)

    def test_equal_models_share_and_a_sure_one_wins(self):
        equal = summarise_normal(np.zeros(200), np.full(200, 1e-6))
        assert equal.p_best == pytest.approx([1 / 200] * 200)
        assert equal.expected_rank == pytest.approx([100.5] * 200)
        sure = summarise_normal(np.array([5.0, -50.0, 3.0]), np.array([1.0, 0.1, 4.0]))
        assert sure.p_best == pytest.approx([0, 1, 0])
        assert sure.expected_rank[1] == pytest.approx(1)
        assert summarise_normal(np.array([2.0]), np.array([1.0])).p_best == [1]

    def test_more_models_than_one_chunk(self, monkeypatch):
        mean, std = np.linspace(0, 3, 50), np.full(50, 0.7)
        whole = summarise_normal(mean, std)
        monkeypatch.setattr("matchgraph.predictor.ranks.CELLS_AT_ONCE", 1000)
        parts = summarise_normal(mean, std)
        assert parts.p_best == pytest.approx(whole.p_best)
        assert parts.expected_rank == pytest.approx(whole.expected_rank)

    @pytest.mark.parametrize(
        ("mean", "std"),
        [
            ([0.0, 1.0], [0.0, 1.0]),
            ([0.0, np.nan], [1.0, 1.0]),
            ([0.0, 1.0], [1.0]),
            ([], []),
            ([0.0], [np.inf]),
        ],
    )
    def test_refuses_what_is_no_distribution(self, mean, std):
        with pytest.raises(InvalidRows):
            summarise_normal(np.array(mean), np.array(std))
