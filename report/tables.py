"""A study as rows and columns: the same table for the page, with few digits, and as CSV, with all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from matchgraph.predictor.metrics import OSR, SELECTION_METRICS, TAU, SelectionMetric
from matchgraph.report.chances import Chances
from matchgraph.report.comparisons import Comparison, Sparsity
from matchgraph.report.measurements import Landscape, Noise
from matchgraph.report.trained import Importances, Timing
from matchgraph.stats.intervals import Interval

Kind: TypeAlias = Literal["text", "share", "number", "score", "p", "count", "seconds"]
UNKNOWN = "–"
# In shares of a range, as the paper's Table 5 has them.
SCALED = ("o2b", "o2o")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: in the CSV file.
        title: on the page.
        kind: how its values are written.
        of_paper: whether it holds the paper's figures, of another matrix.
    """

    name: str
    title: str
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
        rows: raw values; a float, a string, an `Interval`, or None where there is nothing.
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
                    cells += [_plain(value.value), _plain(value.low), _plain(value.high)]
                else:
                    cells += [_plain(value), *([""] * 2 if is_interval else [])]
            writer.writerow(cells)
        return text.getvalue()

    def as_cells(self) -> list[list[Cell]]:
        """The table as the page shows it."""
        return [
            [cell(value, column.kind) for value, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]


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


def comparison_table(
    name: str,
    comparison: Comparison,
    metrics: Sequence[SelectionMetric] = SELECTION_METRICS,
    *,
    first: str = "method",
    scaled: bool = False,
) -> Table:
    """Rows of selection figures, each with its p-value, the spread over seeds, and the paper's figure."""
    columns = [Column("key", ""), Column(first, first.capitalize())]
    tested = {m.key for m in metrics if any(m.key in row.p_value for row in comparison.rows)}
    spread = [m for m in metrics if any(m.key in row.between_seeds for row in comparison.rows)]
    printed = [m for m in metrics if any(m.key in row.paper for row in comparison.rows)]
    # Two p-values are enough to read; the file has them all, and the spread over seeds.
    read = (OSR.key, TAU.key)
    for metric in metrics:
        columns.append(Column(metric.key, _title(metric), _kind(metric, scaled)))
        if metric.key in tested:
            columns.append(Column(f"{metric.key}_p", "p" if metric.key in read else "", "p"))
    columns += [
        Column(f"{m.key}_seeds", "±\u00a0seeds" if m.key == OSR.key else "", _kind(m, scaled)) for m in spread
    ]
    columns += [Column(f"paper_{m.key}", _name(m), _kind(m, scaled), of_paper=True) for m in printed]
    noted = any(row.note for row in comparison.rows)
    if noted:
        columns.append(Column("note", "Note"))
    rows = []
    for row in comparison.rows:
        cells: list[Any] = [row.key, row.title]
        for metric in metrics:
            cells.append(row.figures.get(metric.key))
            cells += [row.p_value.get(metric.key)] if metric.key in tested else []
        cells += [row.between_seeds.get(m.key) for m in spread]
        cells += [row.paper.get(m.key) for m in printed]
        rows.append((*cells, *((row.note,) if noted else ())))
    return Table(name, tuple(columns), tuple(rows), frozenset({comparison.highlighted}))


def landscape_table(study: Landscape) -> Table:
    """One row for each measured pair."""
    columns = (
        Column("model", "Model"),
        Column("dataset", "Dataset"),
        Column("initial", "Before", "number"),
        Column("value", "After", "number"),
        Column("best", "Best", "count"),
    )
    rows = [
        (model, dataset, _known(study.initial[i, j]), _known(study.values[i, j]), int(study.best[i, j]))
        for i, model in enumerate(study.models)
        for j, dataset in enumerate(study.datasets)
        if not math.isnan(study.values[i, j])
    ]
    return Table("fig3-results", columns, tuple(rows))


def sparsity_table(study: Sparsity) -> Table:
    """One row for each share of removed results."""
    columns = [Column("removed", "Removed", "share")]
    for series in study.series:
        columns.append(Column(f"{series.key}_osr", f"{series.title}: OSR", "share"))
        columns.append(Column(f"{series.key}_tau_w", f"{series.title}: τ_w", "number"))
    rows = [
        (share, *(figure[i] for series in study.series for figure in series.figures.values()))
        for i, share in enumerate(study.removed)
    ]
    return Table("fig6-sparsity", tuple(columns), tuple(rows))


def importance_tables(study: Importances, titles: dict[str, str]) -> tuple[Table, Table]:
    """Model attributes by name, and all inputs in groups."""
    rankers = list(study.groups[0].share) if study.groups else []
    several = len(study.seeds) > 1
    tables = []
    for name, first, rows in (
        ("table1-importances", "feature", study.features),
        ("table1-groups", "input", study.groups),
    ):
        columns = [Column(first, first.capitalize())]
        for ranker in rankers:
            columns.append(Column(ranker, titles[ranker], "share"))
            if several:
                columns.append(Column(f"{ranker}_seeds", "± seeds", "share"))
        paper = any(row.paper is not None for row in rows)
        if paper:
            columns.append(Column("paper", "Share", "share", of_paper=True))
        cells = [
            (
                row.name,
                *(
                    value
                    for ranker in rankers
                    for value in (
                        (row.share[ranker], row.spread[ranker]) if several else (row.share[ranker],)
                    )
                ),
                *((row.paper,) if paper else ()),
            )
            for row in rows
        ]
        tables.append(Table(name, tuple(columns), tuple(cells)))
    return tables[0], tables[1]


def timing_table(timings: Sequence[Timing]) -> Table:
    """One row for each recipe."""
    columns = (
        Column("recipe", "Recipe"),
        Column("median_seconds", "Median", "seconds"),
        Column("longest_seconds", "Longest", "seconds"),
        Column("predictions", "Predictions", "count"),
        Column("paper_seconds", "At most", "seconds", of_paper=True),
    )
    rows = [(t.title, t.median, t.longest, len(t.seconds), 60.0) for t in timings]
    return Table("time-per-prediction", columns, tuple(rows))


def chances_table(studies: Sequence[Chances]) -> Table:
    """One row for each recipe."""
    columns = [
        Column("recipe", "Recipe"),
        Column("error", "Calibration error", "share"),
    ]
    for own in studies[0].coverage:
        name = f"{own.confidence:.0%}".replace("%", "")
        columns.append(Column(f"coverage_{name}", f"Sets at {name} %: hold the best", "share"))
        columns.append(Column(f"size_{name}", "models", "number"))
    rows = [
        (
            study.title,
            study.error,
            *(value for own in study.coverage for value in (own.coverage, own.size)),
        )
        for study in studies
    ]
    return Table("calibration", tuple(columns), tuple(rows))


def reliability_table(studies: Sequence[Chances]) -> Table:
    """One row for each bin of each curve."""
    columns = (
        Column("recipe", "Recipe"),
        Column("predicted", "Predicted", "share"),
        Column("observed", "Observed", "share"),
        Column("pairs", "Pairs", "count"),
    )
    rows = []
    for study in studies:
        for own in study.curve:
            rows.append((study.title, own.predicted, own.observed, own.pairs))
    return Table("reliability", columns, tuple(rows))


def noise_table(study: Noise) -> Table:
    """The noise of the measurements, one fact in each row."""
    shares = [
        ("pairs measured under several seeds", study.pairs, "count"),
        ("measurements of them", study.measurements, "count"),
        ("standard deviation between seeds", study.deviation, "number"),
        ("standard deviation between the models of a dataset", study.between_models, "number"),
        ("comparisons of the best model between two seeds", study.compared, "count"),
        ("of which the best model was another", study.changed, "count"),
        ("weighted tau of the mean of the other seeds", study.repeated_tau, "number"),
        ("OSR of the mean of the other seeds", study.repeated_osr, "share"),
        ("best models that would stay the best (simulated)", study.ceiling, "share"),
    ]
    columns = (Column("fact", "What"), Column("value", "Value"))
    rows = [(name, cell(_known(value), kind).main) for name, value, kind in shares]
    return Table("noise-between-seeds", columns, tuple(rows))


def _name(metric: SelectionMetric) -> str:
    return metric.title.removeprefix("Kendall ")


def _title(metric: SelectionMetric) -> str:
    return f"{_name(metric)} {'↑' if metric.larger_is_better else '↓'}"


def _kind(metric: SelectionMetric, scaled: bool) -> Kind:
    return "share" if metric.key == "osr" or (scaled and metric.key in SCALED) else "number"


def _known(value: float) -> float | None:
    return None if isinstance(value, float) and math.isnan(value) else value


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


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return value
