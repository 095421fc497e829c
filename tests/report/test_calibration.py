"""Chances of being best: judged and drawn."""

from __future__ import annotations

import pytest

from matchgraph.predictor.recipes import PAPER
from matchgraph.report.calibration import CONFIDENCES, calibration_section, chances
from tests.report.conftest import rows_of


def test_chances_of_folds_made_by_hand(outcome):
    # "a" is always the best and always gets half a chance, "b" three tenths, "c" two.
    study = chances(PAPER, outcome(method=[1.0] * 20).folds)
    assert {round(own.predicted, 2): own.observed.value for own in study.curve} == {0.5: 1, 0.3: 0, 0.2: 0}
    assert study.error.value == pytest.approx((0.5 + 0.3 + 0.2) / 3)
    assert [own.confidence for own in study.coverage] == list(CONFIDENCES)
    assert all(own.coverage.value == 1 and own.size.value == 1 for own in study.coverage)
    section = calibration_section([study])
    assert "off by 33.3 % on average." in section.lead
    assert "contain it on 100.0 % of the datasets, with 1.0 models" in section.also
    assert section.figures[0].svg.count("<svg") == 1
    [row] = rows_of(section.tables[0])
    assert float(row["error"]) == study.error.value
    assert float(row["error_low"]) == study.error.low <= float(row["error_high"]) == study.error.high
    assert (row["coverage_80"], row["size_80"], row["coverage_90"], row["size_90"]) == ("1.0",) * 4
    bins = [
        (float(row["predicted"]), float(row["observed"]), row["pairs"]) for row in rows_of(section.data[0])
    ]
    assert [(round(p, 2), o, n) for p, o, n in bins] == [(0.2, 0, "20"), (0.3, 0, "20"), (0.5, 1, "20")]
