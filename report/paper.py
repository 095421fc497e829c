"""What the paper printed, to stand beside our figures: another matrix of models and datasets than ours."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

DATA_FILE = Path(__file__).with_name("match_and_choose.csv")
NOTE = (
    "Figures of the paper are from its own ten models and 32 datasets, whose results are not published. They "
    "show how the shape of a result compares, not which is better."
)


@dataclass(frozen=True)
class Printed:
    """One figure as the paper prints it.

    Attributes:
        table: "table3"...
        key: the row of ours to compare with, see `report.comparisons`.
        label: the paper's name of the row.
        figure: key of the figure: osr, tau_w, o2b, o2o or share.
        printed: the very text, such as "61.3 %".
    """

    table: str
    key: str
    label: str
    figure: str
    printed: str

    @property
    def value(self) -> float:
        """The number; percentages as shares."""
        if self.printed.endswith("%"):
            return float(self.printed.removesuffix("%")) / 100
        return float(self.printed)


@cache
def printed() -> tuple[Printed, ...]:
    """All figures of the paper's tables that ours have a place for, in its order."""
    with DATA_FILE.open(encoding="utf-8", newline="") as file:
        return tuple(Printed(**row) for row in csv.DictReader(file))


def figures_of(table: str, key: str) -> Mapping[str, float]:
    """What the paper prints in one row of a table, by figure; empty where it has no such row."""
    return MappingProxyType({p.figure: p.value for p in printed() if (p.table, p.key) == (table, key)})
