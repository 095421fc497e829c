"""Recorded results: how well a model did on a dataset, one result a row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.graphdb.checks import NEVER_NEGATIVE, check_metric_name
from matchgraph.graphdb.errors import GraphError, InvalidValue, UnknownMetric
from matchgraph.graphdb.models import Metric, Result, Stage
from matchgraph.graphdb.names import listed, nearest_ids
from matchgraph.graphdb.queries import load
from matchgraph.ingest.errors import Problem
from matchgraph.ingest.tables.csv_file import (
    INTEGER,
    Row,
    Table,
    check_ids,
    number_problem,
    parse_number,
    read_content,
    read_table,
)
from matchgraph.ingest.tables.trackers import COLUMNS, TrackedColumns, read_tracked
from matchgraph.words import count

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

OnDuplicate = Literal["error", "mean", "first", "last", "best"]

COUNTS = ("n_real", "n_gen")
# How sure a value is, what it cost, and the standard deviation over subsets where the metric has one.
NUMBERS = ("standard_error", "bias", "std", "training_seconds", "seconds_per_image")
# Whole numbers with spaces between them: the seeds whose samples a value is of.
LISTS = ("seeds",)
TEXTS = ("run", "extractor", "extractor_name", "resize", "version")
DEFAULT_STAGE: Stage = "finetuned"
STAGES: Mapping[str, Stage] = {"initial": "initial", "finetuned": "finetuned"}
# The maximum of metrics that may be shares or percentages.
PERCENT = 100
# Among ten thousand known names, looking for what an unknown one may have meant takes some hundredths of a
# second: too long for thousands of them.
NAMES_WITH_HINT = 20


@dataclass(frozen=True)
class ResultsReading:
    """What was read from a file of results.

    Args:
        results: one for each model, dataset, metric and stage.
        new_metrics: metrics that the graph does not know yet.
        skipped: problems of the rows left out.
        repeats: how many rows were merged into others.
        notes: what may not be meant.
    """

    results: tuple[Result, ...]
    new_metrics: tuple[Metric, ...]
    skipped: tuple[Problem, ...]
    repeats: int
    notes: tuple[str, ...] = ()


def read_results(
    path: Path,
    *,
    models: Collection[str],
    datasets: Collection[str],
    metric: Callable[[str], Metric],
    larger_is_better: bool | None = None,
    on_duplicate: OnDuplicate = "error",
    skip_bad: bool = False,
    exact: bool = False,
    columns: TrackedColumns | None = None,
) -> ResultsReading:
    """Read results from a CSV file with columns model, dataset, metric, value, or an export of MLflow or W&B.

    Optional columns: stage ("finetuned", the default, or "initial"), n_real, n_gen, standard_error (of the
    value over repeated draws), bias (from the number of images), seeds (of the samples), run, extractor,
    extractor_name, resize, version, std (over KID's subsets), training_seconds, seconds_per_image.

    Args:
        path: the file.
        models: ids of the models in the graph.
        datasets: ids of the datasets in the graph.
        metric: finds a metric by name and raises UnknownMetric, as `MatchingGraph.metric` does.
        larger_is_better: the direction of metrics that are not known; None where there should be none.
        on_duplicate: what to do where one model, dataset, metric and stage has several values.
        skip_bad: leave rows with a problem out instead of refusing the file.
        exact: keep ids as they stand, and read no exports.
        columns: of an export, which are what, see `trackers.read_tracked`.

    Returns:
        The results in file order.

    Raises:
        BadInput: the file has problems.
    """
    data = read_content(path)
    table = None if exact else read_tracked(path, columns or TrackedColumns(), metric, data)
    if table is None:
        table = read_table(
            path,
            required=COLUMNS,
            optional=("stage", *COUNTS, *NUMBERS, *LISTS, *TEXTS),
            verbatim=("model", "dataset") if exact else (),
            data=data,
        )
    check_ids(table, {"model": "model", "dataset": "dataset"})
    check_known(table, "model", "model", models, exact=exact)
    check_known(table, "dataset", "dataset", datasets, exact=exact)
    metrics, new_metrics = find_metrics(table, metric, larger_is_better)
    parsed: list[tuple[Row, Result]] = []
    for row in table.rows:
        result = _parse(table, row, metrics)
        if result is not None and row.line not in table.bad_lines:
            parsed.append((row, result))
    results, repeats = _merge(table, parsed, metrics, on_duplicate, exact=exact)
    skipped = table.finish(skip_bad=skip_bad)
    used = {result.metric for result in results}
    return ResultsReading(
        tuple(results), tuple(found for found in new_metrics if found.name in used), skipped, repeats
    )


def ingest_results(
    graph: MatchingGraph,
    path: Path,
    *,
    larger_is_better: bool | None = None,
    on_duplicate: OnDuplicate = "error",
    skip_bad: bool = False,
    columns: TrackedColumns | None = None,
) -> ResultsReading:
    """Read a file of results (see `read_results`) and save it in the graph.

    Args:
        graph: the graph, which must hold the models and datasets named.
        path: the file.
        larger_is_better: the direction of metrics that are not known.
        on_duplicate: what to do where one model, dataset, metric and stage has several values.
        skip_bad: leave rows with a problem out instead of refusing the file.
        columns: of an export of MLflow or W&B, which are what.

    Returns:
        What was read and saved.

    Raises:
        BadInput: the file has problems; nothing was written.
    """
    reading = read_results(
        path,
        models={model.id for model in graph.models()},
        datasets={dataset.id for dataset in graph.datasets()},
        metric=graph.metric,
        larger_is_better=larger_is_better,
        on_duplicate=on_duplicate,
        skip_bad=skip_bad,
        columns=columns,
    )
    for new in reading.new_metrics:
        graph.save_metric(new)
    if reading.results:
        graph.save_results(reading.results)
    used = [graph.metric(name) for name in sorted({result.metric for result in reading.results})]
    notes = (note for metric in used if metric.maximum == PERCENT for note in _scales(graph, metric.name))
    return replace(reading, notes=tuple(notes))


def _scales(graph: MatchingGraph, metric: str) -> list[str]:
    """That values of the graph may be shares or percentages, where some look like either."""
    [row] = graph.runner.read(load("read/scales"), metric=metric)
    if not (row["shares"] and row["others"]):
        return []
    return [
        f"{metric}: {count(row['shares'], 'value')} of 1 or less and {row['others']:,} above 1 in the graph. "
        "Where the former are shares and the latter percentages, write all as one of them."
    ]


def check_known(table: Table, column: str, kind: str, known: Collection[str], *, exact: bool = False) -> None:
    """Note the rows that name a node which the graph does not hold; each name is reported once, and the first
    ones with the known name that is nearest.

    Args:
        table: the table; problems are noted in it.
        column: the column with the ids.
        kind: "model" or "dataset".
        known: ids of that kind in the graph.
        exact: whether they are those of a table beside this one instead, as in records.
    """
    place = f"{kind}s.csv" if exact else "the graph"
    adding = "it there, or delete the row" if exact else f"it with `matchgraph ingest {kind}s`"
    lines: dict[str, list[int]] = {}
    for row in table.rows:
        name = row.cells[column]
        if name and name not in known:
            lines.setdefault(name, []).append(row.line)
    for number, (name, (line, *others)) in enumerate(lines.items()):
        near = nearest_ids(name, known) if number < NAMES_WITH_HINT else []
        hint = f"did you mean {listed(near, name)}? If not, add" if near else "add"
        reason = f"{kind} {name[:80]!r} is not in {place}{_further(others)}"
        table.problem(line, reason, f"{hint} {adding}", also=others)


def find_metrics(
    table: Table, metric: Callable[[str], Metric], larger_is_better: bool | None
) -> tuple[dict[str, Metric], list[Metric]]:
    """Find the metrics named in the column `metric`, and note those that cannot be used, each once.

    Args:
        table: the table; problems are noted in it.
        metric: finds a metric by name and raises UnknownMetric.
        larger_is_better: the direction to give to unknown metrics, or None.

    Returns:
        The usable metrics by name, and those of them that the graph does not know.
    """
    lines: dict[str, list[int]] = {}
    for row in table.rows:
        lines.setdefault(row.cells["metric"], []).append(row.line)
    found: dict[str, Metric] = {}
    new: list[Metric] = []
    for name, (line, *others) in lines.items():
        try:
            check_metric_name(name)
            found[name] = metric(name)
        except UnknownMetric:
            if larger_is_better is None:
                reason = f"metric {name[:80]!r} is not known{_further(others)}"
                remedy = "give its direction with --larger-is-better or --smaller-is-better"
                table.problem(line, reason, remedy, also=others)
            else:
                found[name] = Metric(name, larger_is_better)
                new.append(found[name])
            continue
        except InvalidValue as error:
            reason = str(error).rstrip(".") + _further(others)
            table.problem(line, reason, "rename the metric", also=others)
            continue
        if larger_is_better is not None and found[name].larger_is_better != larger_is_better:
            stored, given = ("larger", "smaller") if found[name].larger_is_better else ("smaller", "larger")
            reason = (
                f"--{given}-is-better contradicts metric {name!r}, where {stored} is better{_further(others)}"
            )
            table.problem(
                line,
                reason,
                "leave the option out, use another name, or give these rows in a file of their own",
                also=others,
            )
            del found[name]
    return found, new


def _further(lines: Sequence[int]) -> str:
    return f" (and in {len(lines)} more row{'s' if len(lines) > 1 else ''})" if lines else ""


def parse_value(table: Table, row: Row, metric: Metric | None) -> float | None:
    """Return the number in the column `value`, or note why it is none or outside the metric's range."""
    text = row.cells["value"]
    value = parse_number(text)
    if value is None:
        table.problem(row.line, *number_problem(text))
        return None
    if metric is not None:
        try:
            metric.check(value, "value")
        except InvalidValue as error:
            table.problem(row.line, str(error).rstrip("."), "correct the value or delete the row")
            return None
    return value


def parse_provenance(
    table: Table, row: Row, counts: Sequence[str], texts: Sequence[str], numbers: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the filled cells among the columns `counts` (whole numbers from 1), `texts` and `numbers`."""
    provenance: dict[str, Any] = {}
    for column in counts:
        text = row.cells.get(column, "")
        if not text:
            continue
        if INTEGER.fullmatch(text) and 0 < int(text) < 2**63:
            provenance[column] = int(text)
        else:
            reason = f"{column} is {text[:40]!r}"
            table.problem(row.line, reason, "write how many images, a whole number from 1, or leave it empty")
    for column in numbers:
        if text := row.cells.get(column, ""):
            provenance[column] = parse_number(text)
            if provenance[column] is None:
                table.problem(row.line, f"{column} is {text[:40]!r}", "write a number, or leave it empty")
            elif column in NEVER_NEGATIVE and provenance[column] < 0:
                table.problem(
                    row.line, f"{column} is {text[:40]}", "it cannot be negative: correct or empty it"
                )
    provenance.update({column: row.cells[column] for column in texts if row.cells.get(column)})
    return provenance


def _parse(table: Table, row: Row, metrics: Mapping[str, Metric]) -> Result | None:
    name = row.cells["metric"]
    value = parse_value(table, row, metrics.get(name))
    stage = STAGES.get(row.cells.get("stage") or DEFAULT_STAGE)
    if stage is None:
        table.problem(row.line, f"stage is {row.cells['stage'][:40]!r}", f"write {' or '.join(STAGES)}")
    provenance = parse_provenance(table, row, COUNTS, TEXTS, NUMBERS)
    for column in LISTS:
        if text := row.cells.get(column):
            if all(INTEGER.fullmatch(word) and abs(int(word)) < 2**63 for word in text.split()):
                provenance[column] = [int(word) for word in text.split()]
            else:
                reason = f"{column} is {text[:40]!r}"
                table.problem(row.line, reason, "write whole numbers with spaces between, or leave it empty")
    if value is None or stage is None or row.line in table.bad_lines:
        return None
    try:
        return Result(row.cells["model"], row.cells["dataset"], name, value, stage, provenance)
    except GraphError as error:
        table.problem(row.line, str(error).rstrip("."), "correct or delete the row")
        return None


def _merge(
    table: Table,
    parsed: Sequence[tuple[Row, Result]],
    metrics: Mapping[str, Metric],
    on_duplicate: OnDuplicate,
    *,
    exact: bool,
) -> tuple[list[Result], int]:
    groups: dict[tuple[str, str, str, str], list[tuple[Row, Result]]] = {}
    for row, result in parsed:
        groups.setdefault((result.model, result.dataset, result.metric, result.stage), []).append(
            (row, result)
        )
    results: list[Result] = []
    for (model, dataset, name, stage), group in groups.items():
        rows = [row for row, _ in group]
        same = [result for _, result in group]
        values = [result.value for result in same]
        other = next((row for row, result in group if result.value != values[0]), None)
        measured = {result.provenance.get("extractor") for result in same}
        if other is not None and len(measured) > 1 and on_duplicate in ("mean", "best"):
            reason = (
                f"{stage} {name} of model {model!r} on {dataset!r} was measured with different extractors, "
                f"{' and '.join(sorted(str(extractor or 'one not recorded') for extractor in measured))}"
            )
            remedy = "keep the rows of one; values of different extractors cannot be compared"
            table.problem(other.line, reason, remedy, also=[row.line for row in rows])
        elif other is None or on_duplicate == "first":
            results.append(same[0])
        elif on_duplicate == "last":
            results.append(same[-1])
        elif on_duplicate == "best":
            best = max if metrics[name].larger_is_better else min
            results.append(same[values.index(best(values))])
        elif on_duplicate == "mean":
            results.append(_mean(same))
        else:
            unnamed = [row.line for row in rows if row.line not in (other.line, rows[0].line)]
            reason = (
                f"{stage} {name} of model {model!r} on {dataset!r} is {other.cells['value']} here and "
                f"{rows[0].cells['value']} in line {rows[0].line}{_further(unnamed)}"
            )
            remedy = (
                "keep one row" if exact else "keep one row, or say --on-duplicate mean, first, last or best"
            )
            table.problem(other.line, reason, remedy, also=[row.line for row in rows])
    return results, len(parsed) - len(groups)


def _mean(same: Sequence[Result]) -> Result:
    """Return one result with the mean value, and of the provenance what all agree on."""
    first = same[0]
    agreed = {
        name: value
        for name, value in first.provenance.items()
        if all(result.provenance.get(name) == value for result in same)
    }
    # Exact, so that huge values do not overflow in between.
    value = statistics.mean(result.value for result in same)
    provenance = {**agreed, "repeats": len(same)}
    return Result(first.model, first.dataset, first.metric, value, first.stage, provenance)
