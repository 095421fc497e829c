"""Rank classes, the chance of being best, and the rankers behind one interface."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import norm

from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.ranker import (
    CatBoostConfig,
    CatBoostRanker,
    ForestRanker,
    spread_rows,
    top_weights,
)
from matchgraph.predictor.ranks import (
    RankClasses,
    probability_best,
    ranks_within,
    summarise,
    summarise_normal,
    unit_quadrature,
)

SMALL = CatBoostConfig(iterations=20, depth=3, columns_tried=1000, seed=1)


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
        with pytest.raises(InvalidRows):
            RankClasses(0)


class TestProbabilityBest:
    @pytest.mark.parametrize(("n_models", "n_classes", "seed"), [(1, 3, 0), (2, 2, 1), (4, 3, 2), (5, 4, 3)])
    def test_brute_force(self, n_models, n_classes, seed):
        distributions = random_distributions(n_models, n_classes, seed, zeros=0.3)
        expected = np.zeros(n_models)
        for draw in itertools.product(range(n_classes), repeat=n_models):
            winners = np.array(draw) == min(draw)
            expected += np.prod(distributions[range(n_models), draw]) * winners / winners.sum()
        assert np.allclose(probability_best(distributions), expected, atol=1e-12)

    def test_simulation(self):
        distributions = random_distributions(12, 10, 4)
        rng = np.random.default_rng(0)
        n = 200_000
        draws = (rng.random((n, 12, 1)) > distributions.cumsum(axis=1)[None, :, :-1]).sum(axis=2)
        winners = np.argmin(draws + rng.random((n, 12)), axis=1)
        simulated = np.bincount(winners, minlength=12) / n
        assert np.abs(probability_best(distributions) - simulated).max() < 5 * np.sqrt(0.25 / n)

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


class TestSpreadRows:
    def test_each_group_gives_its_share_at_even_steps_of_its_ranking(self):
        rng = np.random.default_rng(0)
        groups = rng.permutation(np.repeat([4, 7, 9], [40, 20, 3]))
        losses = rng.random(63)
        ranks = ranks_within(losses, groups)
        chosen = spread_rows(groups, ranks, 16)
        assert np.array_equal(chosen, np.unique(chosen))
        assert sorted(ranks[chosen][groups[chosen] == 4]) == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
        assert sorted(ranks[chosen][groups[chosen] == 7]) == [1, 5, 9, 13, 17]
        # Two at least: a single row says nothing about an order.
        assert sorted(ranks[chosen][groups[chosen] == 9]) == [2, 3]

    def test_all_rows_where_they_are_not_too_many(self):
        assert spread_rows(np.array([1, 0, 1]), np.array([2.0, 1.0, 1.0]), 3).tolist() == [0, 1, 2]


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


def zoo_rows(n_groups: int = 12, n_models: int = 5, seed: int = 0):
    """Rows whose first column decides the rank."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_groups * n_models, 4))
    groups = np.repeat(np.arange(n_groups), n_models)
    ranks = ranks_within(rows[:, 0], groups)
    return rows, RankClasses(n_models).targets(ranks, groups), groups


@pytest.fixture(params=["catboost", "forest"])
def ranker(request):
    return CatBoostRanker(SMALL) if request.param == "catboost" else ForestRanker(n_trees=30, seed=1)


class TestRankers:
    def test_learns_the_column_that_decides(self, ranker):
        rows, targets, _ = zoo_rows()
        ranker.fit(rows, targets)
        new, new_targets, _ = zoo_rows(seed=9)
        expected = ranker.predict_distribution(new) @ np.arange(5)
        assert np.corrcoef(expected, new_targets @ np.arange(5))[0, 1] > 0.7

    def test_repeats_bit_for_bit(self, ranker):
        rows, targets, _ = zoo_rows()
        ranker.fit(rows, targets)
        first = ranker.predict_distribution(rows)
        ranker.fit(rows, targets)
        assert np.array_equal(first, ranker.predict_distribution(rows))

    def test_a_class_nobody_holds_keeps_its_column(self, ranker):
        rows, targets, _ = zoo_rows()
        wide = np.hstack([np.zeros((len(rows), 1)), targets, np.zeros((len(rows), 1))])
        ranker.fit(rows, wide)
        distribution = ranker.predict_distribution(rows)
        assert distribution.shape == (len(rows), 7)
        assert np.allclose(distribution.sum(axis=1), 1)
        assert distribution[:, [0, 6]].max() < 0.2

    def test_one_class_only(self, ranker):
        ranker.fit(np.arange(6.0).reshape(3, 2), np.tile([0.0, 1.0], (3, 1)))
        assert ranker.predict_distribution(np.zeros((1, 2))).tolist() == [[0, 1]]

    def test_columns_that_never_vary(self, ranker):
        ranker.fit(np.ones((4, 3)), np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]]))
        assert np.allclose(ranker.predict_distribution(np.ones((1, 3))), [[0.75, 0.25]], atol=0.1)

    def test_refuses_bad_rows(self, ranker):
        for rows, targets in [
            (np.array([[np.nan, 1.0]]), np.ones((1, 1))),
            (np.ones((2, 1)), np.ones((1, 1))),
            (np.ones((0, 3)), np.ones((0, 1))),
            (np.ones((1, 3)), np.full((1, 2), 0.7)),
        ]:
            with pytest.raises(InvalidRows):
                ranker.fit(rows, targets)


def test_one_thread_at_a_time_trains(monkeypatch):
    from catboost import CatBoostClassifier

    inside = most = 0

    def fit(own, *_, **__):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return own

    monkeypatch.setattr(CatBoostClassifier, "fit", fit)
    rows, targets = np.arange(8.0).reshape(4, 2), np.eye(4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: CatBoostRanker(SMALL).fit(rows, targets), range(4)))
    assert most == 1


class TestContributions:
    def test_sum_to_the_score_and_credit_the_column_that_decides(self):
        rows, targets, _ = zoo_rows()
        ranker = CatBoostRanker(SMALL)
        ranker.fit(rows, targets)
        lifts = ranker.contributions(rows)
        log_odds = np.log(ranker.predict_distribution(rows))
        score = log_odds @ top_weights(5)
        offsets = score - lifts.sum(axis=1)
        assert np.allclose(offsets, offsets[0], atol=1e-6)
        assert np.abs(lifts).mean(axis=0).argmax() == 0
        # A small first column means a good rank, which is a lift.
        assert lifts[rows[:, 0].argmin(), 0] > 0 > lifts[rows[:, 0].argmax(), 0]

    def test_a_class_that_never_occurred_takes_no_part(self):
        rows = np.random.default_rng(0).normal(size=(30, 3))
        targets = np.zeros((30, 5))
        targets[np.arange(30), np.where(rows[:, 0] < 0, 0, 3)] = 1
        ranker = CatBoostRanker(SMALL)
        ranker.fit(rows, targets)
        lifts = ranker.contributions(rows)
        assert lifts.shape == rows.shape
        assert np.abs(lifts).mean(axis=0).argmax() == 0
        assert lifts[rows[:, 0].argmin(), 0] > 0 > lifts[rows[:, 0].argmax(), 0]

    def test_top_weights(self):
        assert top_weights(3).tolist() == [1, 0, -1]
        assert top_weights(1).tolist() == [0]


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
        ("mean", "std"), [([0.0], [0.0]), ([np.nan], [1.0]), ([0.0, 1.0], [1.0]), ([], []), ([0.0], [np.inf])]
    )
    def test_refuses_what_is_no_distribution(self, mean, std):
        with pytest.raises(InvalidRows):
            summarise_normal(np.array(mean), np.array(std))
