"""The rankers behind one interface."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.ranker import (
    CatBoostConfig,
    CatBoostRanker,
    ForestConfig,
    ForestRanker,
    spread_rows,
    top_weights,
)
from matchgraph.predictor.ranks import RankClasses, ranks_within

SMALL = CatBoostConfig(iterations=20, depth=3, columns_tried=1000, seed=1)


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


def zoo_rows(n_groups: int = 12, n_models: int = 5, seed: int = 0):
    """Rows whose first column decides the rank."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_groups * n_models, 4))
    groups = np.repeat(np.arange(n_groups), n_models)
    ranks = ranks_within(rows[:, 0], groups)
    return rows, RankClasses(n_models).targets(ranks, groups), groups


@pytest.fixture(params=["catboost", "forest"])
def ranker(request):
    return CatBoostRanker(SMALL) if request.param == "catboost" else ForestRanker(ForestConfig(30, seed=1))


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
