"""One function decides what a page calls clear, and agrees with intervals and p-values."""

from __future__ import annotations

import math

import pytest

from matchgraph.report.verdicts import SURE, verdict
from matchgraph.stats.intervals import Interval


@pytest.mark.parametrize(
    ("difference", "p_value", "expected"),
    [
        (1.0, 0.001, "above"),
        (-1.0, 0.049, "below"),
        # However large a difference is, its p-value decides.
        (100.0, 0.125, "level"),
        (1.0, SURE, "level"),
        (0.0, 0.01, "level"),
        (math.nan, 0.01, None),
        (1.0, math.nan, None),
        (Interval(1.0, 0.1, 2.0, 9), None, "above"),
        (Interval(-1.0, -2.0, -0.1, 9), None, "below"),
        (Interval(1.0, 0.0, 2.0, 9), None, "level"),
        (Interval(1.0, -0.1, 2.0, 9), None, "level"),
        (Interval(-1.0, -2.0, 0.1, 9), None, "level"),
        # Where both are known, both must say so.
        (Interval(1.0, 0.1, 2.0, 9), 0.125, "level"),
        (Interval(1.0, -0.1, 2.0, 9), 0.01, "level"),
        (Interval(math.nan, math.nan, math.nan, 0), None, None),
    ],
)
def test_a_verdict_needs_all_that_is_known_to_agree(difference, p_value, expected):
    assert verdict(difference, p_value) == expected


def test_a_number_alone_says_nothing():
    with pytest.raises(ValueError, match="an interval or a p-value"):
        verdict(1.0)
