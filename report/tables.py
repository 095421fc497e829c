"""A table: for the page, with few digits, and as CSV, with all.

Each column says how to get its values from a row's item, so that a heading and what stands below it cannot
come apart.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from matchgraph.stats.intervals import Interval

Kind: TypeAlias = Literal["text", "share", "number", "score", "p", "count", "seconds"]
UNKNOWN = "–"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: in the CSV file.
        title: on the page; "" for a column of the CSV file only.
        value: its value of an item: a number, a text, an `Interval`, or None where there is nothing.
        kind: how values are written; "text" for values that are texts.
        of_paper: whether it has the paper's figures, from another matrix.
    """

    name: str
    title: str
    value: Callable[[Any], Any]
    kind: Kind = "text"
    of_paper: bool = False


@dataclass(frozen=True)
class Cell:
    """A value as the page shows it: the value itself and, smaller, what qualifies it."""

    main: str
    aside: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a section.

    Attributes:
        name: of its CSV file, without the ending.
        columns: what it has.
        rows: raw values, a row for each item.
        emphasised: numbers of the rows that stand out.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    emphasised: frozenset[int] = frozenset()

    def as_csv(self) -> str:
        """The table as CSV; an interval takes three columns, and what is not known is empty."""
        spread = [any(isinstance(row[i], Interval) for row in self.rows) for i in range(len(self.columns))]
        header: list[str] = []
        for column, is_interval in zip(self.columns, spread, strict=True):
            header.append(column.name)
            header += [f"{column.name}_low", f"{column.name}_high"] if is_interval else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        for row in self.rows:
            cells: list[Any] = []
            for value, is_interval in zip(row, spread, strict=True):
                if isinstance(value, Interval):
                    cells += [_known(value.value), _known(value.low), _known(value.high)]
                else:
                    cells += [_known(value), *([""] * 2 if is_interval else [])]
            writer.writerow(cells)
        return text.getvalue()

    def as_cells(self) -> list[list[Cell]]:
        """The table as the page shows it."""
        return [
            [cell(value, column.kind) for value, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]


def table(
    name: str, items: Iterable[Any], columns: Sequence[Column], emphasised: Iterable[int] = ()
) -> Table:
    """A table with a row for each item.

    Args:
        name: of its CSV file, without the ending.
        items: what the rows are about.
        columns: what is shown of each.
        emphasised: numbers of the rows that stand out.
    """
    rows = tuple(tuple(column.value(item) for column in columns) for item in items)
    return Table(name, tuple(columns), rows, frozenset(emphasised))


def cell(value: Any, kind: Kind) -> Cell:
    """One value as the page shows it."""
    if isinstance(value, Interval):
        if math.isnan(value.value):
            return Cell(UNKNOWN)
        ends = f"[{_written(value.low, kind, bare=True)}, {_written(value.high, kind, bare=True)}]"
        return Cell(_written(value.value, kind), ends)
    if kind == "text":
        return Cell(UNKNOWN if value is None else str(value))
    return Cell(_written(value, kind))


def _written(value: float | None, kind: Kind, *, bare: bool = False) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return UNKNOWN
    match kind:
        case "share":
            text = f"{100 * value:.0f}" if bare else f"{100 * value:.1f} %"
        case "p":
            text = "< 0.001" if value < 0.001 else f"{value:.3f}"
        case "score":
            text = f"{value:.4f}"
        case "count":
            text = f"{value:,.0f}"
        case "seconds":
            text = f"{value:.3g} s"
        case _:
            large, small = abs(value) >= 100, 0 < abs(value) < 0.01
            text = f"{value:.3g}" if large else f"{value:.2g}" if small else f"{value:.2f}"
    return text.replace("-", "−")


def _known(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return value
