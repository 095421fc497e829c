"""The paper's figures in our data file are complete and in range."""

from __future__ import annotations

import pytest

from matchgraph.predictor.metrics import SELECTION_METRICS
from matchgraph.report.paper import figures_of, printed


def test_rows_are_whole_and_numbers_in_range():
    whole = {"table3": 4, "table4": 2, "table5": 4, "table6": 2, "table7": 2, "table1": 1}
    limits = {metric.key: (metric.low, metric.high) for metric in SELECTION_METRICS} | {"share": (0, 1)}
    keys = {table: {p.key for p in printed() if p.table == table} for table in whole}
    for table, count in whole.items():
        assert keys[table]
        for key in keys[table]:
            figures = figures_of(table, key)
            assert len(figures) == count, (table, key)
            assert all(limits[name][0] <= value <= limits[name][1] for name, value in figures.items())
    shares = [figures_of("table1", key)["share"] for key in keys["table1"]]
    assert sum(shares) == pytest.approx(0.999, abs=2e-3)
    assert figures_of("table3", "method") == {"osr": 0.613, "tau_w": 0.51, "o2b": -1.62, "o2o": 3.91}
