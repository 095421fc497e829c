"""The paper's figures in our data file are those that the paper prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from matchgraph.predictor.metrics import SELECTION_METRICS
from matchgraph.report.paper import figures_of, labels_of, printed

TEXT = Path(__file__).resolve().parents[4] / "shared" / "papers" / "match-and-choose.txt"
HEADINGS = {
    "table1": "Table 1.",
    "table3": "Table 3.",
    "table4": "Table 4.",
    "table5": "Table 5.",
    "table6": "Table 6.",
    "table7": "Table 7.",
}


def normal(text: str) -> str:
    """Without mark-up, and with one space at most: the text was taken out of a PDF file."""
    return " ".join(re.sub(r"<[^>]+>|~", " ", text).replace("\u041e", "O").split())


@pytest.mark.skipif(not TEXT.exists(), reason="needs the paper's text in ../shared/papers")
def test_every_figure_stands_in_its_row_of_the_paper():
    text = TEXT.read_text(encoding="utf-8")
    for table, heading in HEADINGS.items():
        begin = text.index(heading)
        lines = [normal(line) for line in text[begin : begin + 2500].splitlines()]
        rows = {
            key: [label, *(p.printed for p in printed() if (p.table, p.key) == (table, key))]
            for key, label in labels_of(table).items()
        }
        if table == "table4":
            # The text has these two in one row, cell by cell.
            pairs = zip(rows.pop("node"), rows.pop("graph"), strict=True)
            rows["both"] = [" ".join(pair) for pair in pairs]
        for row in (" ".join(cells) for cells in rows.values()):
            assert any(line.startswith(row) for line in lines), f"{heading} has no row {row!r}"


def test_rows_are_whole_and_numbers_in_range():
    whole = {"table3": 4, "table4": 2, "table5": 4, "table6": 2, "table7": 2, "table1": 1}
    limits = {metric.key: (metric.low, metric.high) for metric in SELECTION_METRICS} | {"share": (0, 1)}
    for table, count in whole.items():
        assert labels_of(table)
        for key in labels_of(table):
            figures = figures_of(table, key)
            assert len(figures) == count, (table, key)
            assert all(limits[name][0] <= value <= limits[name][1] for name, value in figures.items())
    assert sum(figures_of("table1", key)["share"] for key in labels_of("table1")) == pytest.approx(
        0.999, abs=2e-3
    )
    assert figures_of("table3", "method") == {"osr": 0.613, "tau_w": 0.51, "o2b": -1.62, "o2o": 3.91}
