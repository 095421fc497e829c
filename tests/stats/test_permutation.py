"""The paired test: by hand, exact against drawn, and its edges."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.stats.permutation import paired_p_value


class TestPairedPValue:
    def test_by_hand(self):
        # Of the 8 assignments of signs to 1, 2 and 3, only +++ and --- reach a sum of 6; to 1, 2 and -3, all
        # reach 0.
        assert paired_p_value(np.array([1, 2, 3]), np.zeros(3)) == pytest.approx(2 / 8)
        assert paired_p_value(np.array([1, 2, -3]), np.zeros(3)) == 1
        # A sum of at least 4 is reached by 3 + 2 + 1, 3 + 2 - 1 and their opposites.
        assert paired_p_value(np.array([3.0, 2, -1]), np.zeros(3)) == pytest.approx(4 / 8)

    def test_what_does_not_differ_and_what_is_not_defined(self):
        assert paired_p_value(np.ones(4), np.ones(4)) == 1
        gaps = np.array([1.0, np.nan, 2, 3, 0])
        assert paired_p_value(gaps, np.zeros(5)) == paired_p_value(np.array([1.0, 2, 3]), np.zeros(3))
        assert np.isnan(paired_p_value(np.full(3, np.nan), np.zeros(3)))
        with pytest.raises(ValueError, match="3 figures"):
            paired_p_value(np.zeros(3), np.zeros(2))

    def test_draws_agree_with_the_exact_count(self):
        rng = np.random.default_rng(3)
        one, other = rng.normal(0.5, 1, 12), rng.normal(0, 1, 12)
        exact = paired_p_value(one, other)
        assert 0 < exact < 1
        assert paired_p_value(one, other, permutations=4000) == pytest.approx(exact, abs=0.02)
        assert paired_p_value(other, one) == exact

    def test_many_folds_all_better(self):
        p = paired_p_value(np.ones(40), np.zeros(40), permutations=1000)
        # The smaller tail holds the outcome itself alone; two tails count twice.
        assert p == pytest.approx(2 / 1001)

    def test_is_uniform_where_nothing_differs(self):
        rng = np.random.default_rng(0)
        drawn = [paired_p_value(rng.normal(size=8), np.zeros(8)) for _ in range(400)]
        assert np.mean(np.array(drawn) <= 0.1) == pytest.approx(0.1, abs=0.04)
