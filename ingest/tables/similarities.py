"""Recorded distances and similarities of datasets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.models import Metric, Similar
from matchgraph.ingest.errors import Problem
from matchgraph.ingest.tables.csv_file import Row, check_ids, read_table
from matchgraph.ingest.tables.results import check_known, find_metrics, parse_provenance, parse_value

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

COLUMNS = ("dataset", "other", "metric", "value")
COUNTS = ("n_real",)
NUMBERS = ("std",)
TEXTS = ("extractor", "extractor_name", "resize", "version")
# A pair may be given in both directions, as a full matrix does; rounding may tell them apart by this much.
RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SimilaritiesReading:
    """What was read from a file of similarities.

    Args:
        similar: one for each unordered pair and metric.
        new_metrics: metrics that the graph does not know yet.
        skipped: problems of the rows left out.
        ignored: how many rows compare a dataset with itself at distance 0.
        repeats: how many rows say again what an earlier row says.
    """

    similar: tuple[Similar, ...]
    new_metrics: tuple[Metric, ...]
    skipped: tuple[Problem, ...]
    ignored: int
    repeats: int


def read_similarities(
    path: Path,
    *,
    datasets: Collection[str],
    metric: Callable[[str], Metric],
    larger_is_better: bool | None = None,
    skip_bad: bool = False,
    exact: bool = False,
) -> SimilaritiesReading:
    """Read similarities from a CSV file with columns dataset, other, metric, value.

    Optional columns: n_real, extractor, extractor_name, resize, version, std. A pair has no order and may be
    given in both directions.

    Args:
        path: the file.
        datasets: ids of the datasets in the graph.
        metric: finds a metric by name and raises UnknownMetric, as `MatchingGraph.metric` does.
        larger_is_better: the direction of metrics that are not known; None where there should be none.
        skip_bad: leave rows with a problem out instead of refusing the file.
        exact: keep ids as they stand.

    Returns:
        The similarities in file order.

    Raises:
        BadInput: the file has problems.
    """
    table = read_table(
        path,
        required=COLUMNS,
        optional=(*COUNTS, *NUMBERS, *TEXTS),
        verbatim=("dataset", "other") if exact else (),
    )
    check_ids(table, {"dataset": "dataset", "other": "dataset"})
    check_known(table, "dataset", "dataset", datasets, exact=exact)
    check_known(table, "other", "dataset", datasets, exact=exact)
    metrics, new_metrics = find_metrics(table, metric, larger_is_better)
    pairs: dict[tuple[str, str, str], tuple[Row, Similar]] = {}
    ignored = repeats = 0
    for row in table.rows:
        value = parse_value(table, row, metrics.get(row.cells["metric"]))
        provenance = parse_provenance(table, row, COUNTS, TEXTS, NUMBERS)
        if value is None or row.line in table.bad_lines:
            continue
        dataset, other, name = row.cells["dataset"], row.cells["other"], row.cells["metric"]
        if dataset == other:
            if value == 0:
                ignored += 1
            else:
                reason = f"{dataset!r} has {name} {row.cells['value']} to itself"
                table.problem(row.line, reason, "delete the row; a dataset is not compared with itself")
            continue
        similar = Similar(dataset, other, name, value, provenance)
        earlier = pairs.setdefault((*similar.pair, name), (row, similar))
        if earlier[0] is row:
            continue
        repeats += 1
        if abs(earlier[1].value - value) > RELATIVE_TOLERANCE * max(abs(earlier[1].value), abs(value)):
            reason = (
                f"{name} of {dataset!r} and {other!r} is {row.cells['value']} here and "
                f"{earlier[0].cells['value']} in line {earlier[0].line}"
            )
            table.problem(row.line, reason, "a pair has no order: keep one value", also=[earlier[0].line])
    skipped = table.finish(skip_bad=skip_bad)
    good = tuple(similar for row, similar in pairs.values() if row.line not in table.bad_lines)
    used = {similar.metric for similar in good}
    return SimilaritiesReading(
        good, tuple(found for found in new_metrics if found.name in used), skipped, ignored, repeats
    )


def ingest_similarities(
    graph: MatchingGraph, path: Path, *, larger_is_better: bool | None = None, skip_bad: bool = False
) -> SimilaritiesReading:
    """Read a file of similarities (see `read_similarities`) and save it in the graph.

    Args:
        graph: the graph, which must hold the datasets named.
        path: the file.
        larger_is_better: the direction of metrics that are not known.
        skip_bad: leave rows with a problem out instead of refusing the file.

    Returns:
        What was read and saved.

    Raises:
        BadInput: the file has problems; nothing was written.
    """
    reading = read_similarities(
        path,
        datasets={dataset.id for dataset in graph.datasets()},
        metric=graph.metric,
        larger_is_better=larger_is_better,
        skip_bad=skip_bad,
    )
    for new in reading.new_metrics:
        graph.save_metric(new)
    if reading.similar:
        graph.save_similarities(reading.similar)
    return reading
