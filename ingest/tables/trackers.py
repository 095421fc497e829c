"""Runs that MLflow or W&B exported: a run a row, turned into the table of results that `results` reads.

Source:
    The columns of `mlflow.search_runs` (run_id, status, params.*, metrics.*, tags.*), those of W&B's export
    of a project's runs (Name, State, and each config entry and metric by its own name), and of its API (name,
    state, config, summary).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchgraph.graphdb.errors import InvalidValue, UnknownMetric
from matchgraph.graphdb.models import Metric
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.csv_file import Row, Table, read_table

# Where a parameter, a metric, a run's name and its state stand, the first that is there.
PARAMETERS = ("params.", "config.", "tags.", "")
METRICS = ("metrics.", "summary.", "")
RUNS = ("run_id", "ID", "id", "Name", "name")
STATES = ("status", "State", "state")
FINISHED = ("", "finished")
COLUMNS = ("model", "dataset", "metric", "value")
# Columns that only such an export has, all of a set.
MARKS = ({"run_id", "status"}, {"Name", "State"}, {"name", "state"}, {"name", "config", "summary"})


@dataclass(frozen=True)
class TrackedColumns:
    """Which columns of an export are what.

    Args:
        model: of the model's id; by default `model`, as a parameter, config entry, tag or column.
        dataset: of the dataset's id; by default `dataset`, in the same way.
        metrics: COLUMN or COLUMN=METRIC each; by default those of metrics that the graph knows.
    """

    model: str | None = None
    dataset: str | None = None
    metrics: tuple[str, ...] = ()


def read_tracked(
    path: Path, columns: TrackedColumns, metric: Callable[[str], Metric], data: bytes
) -> Table | None:
    """Read an export of MLflow or W&B, as CSV or JSON.

    Args:
        path: the file.
        columns: which columns are what.
        metric: finds a metric by name and raises UnknownMetric.
        data: the file's content.

    Returns:
        A table with the columns model, dataset, metric, value and run, a row for each value; rows of JSON
        have the record's number as their line. None where the file is no such export and no columns are
        given.

    Raises:
        BadInput: it cannot be read or lacks a column, or two metrics are of one column or the reverse.
    """
    if path.suffix.lower() == ".json":
        exported = _from_json(path, data)
    else:
        # pandas gives its numbers of rows no name.
        exported = read_table(path, required=(), aliases={"": "row"}, usual=COLUMNS, data=data)
    asked = columns != TrackedColumns()
    if not asked and not any(mark <= _stems(exported) for mark in MARKS):
        return None
    given = {"model": columns.model, "dataset": columns.dataset}
    ids = {kind: _column(exported, kind, column) for kind, column in given.items()}
    metrics = _metrics(exported, columns.metrics, metric)
    run, state = (_first(exported, names) for names in (RUNS, STATES))
    table = Table(path, (*COLUMNS, "run"), [], exported.problems)
    table.bad_lines |= exported.bad_lines
    finished = False
    for row in exported.rows:
        if (how := row.cells.get(state or "", "")).lower() not in FINISHED:
            table.problem(row.line, f"its run is {how[:40]}", "export finished runs, or delete the row")
            continue
        finished = True
        filled = {name: row.cells[column] for column, name in metrics.items() if row.cells[column]}
        found = {kind: row.cells[column] for kind, column in ids.items()}
        found["run"] = row.cells.get(run or "", "")
        table.rows += [
            Row(row.line, found | {"metric": name, "value": value}) for name, value in filled.items()
        ]
    if finished and not table.rows:
        reason = f"no finished run has a value in {', '.join(metrics)}"
        table.problem(1, reason, "name the column of a metric with --metric-column")
    return table


def _stems(exported: Table) -> set[str]:
    return {column.partition(".")[0] for column in exported.columns}


def _first(exported: Table, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in exported.columns), None)


def _column(exported: Table, kind: str, given: str | None) -> str:
    column = _first(exported, [f"{prefix}{given or kind}" for prefix in ("", *PARAMETERS)])
    if column is None:
        reason = f"no column {given!r}" if given else f"no column of the {kind}s' ids"
        remedy = f"name it with --{kind}-column; there are {', '.join(exported.columns)}"
        raise BadInput([Problem(str(exported.path), 1, reason, remedy[:300])], skippable=False)
    return column


def _metrics(exported: Table, given: Sequence[str], metric: Callable[[str], Metric]) -> dict[str, str]:
    """Columns of values, with the metric of each."""
    found: dict[str, str] = {}
    for one in given:
        name, _, renamed = one.partition("=")
        column = _first(exported, [f"{prefix}{name}" for prefix in ("", *METRICS)])
        if column is None:
            remedy = f"there are {', '.join(exported.columns)}"
            problem = Problem(str(exported.path), 1, f"no column {name!r}", remedy[:300])
            raise BadInput([problem], skippable=False)
        as_metric = renamed or column.removeprefix("metrics.").removeprefix("summary.")
        twice = column if column in found else as_metric if as_metric in found.values() else None
        if twice is not None:
            reason = f"{twice} is given twice as a {'column' if twice in found else 'metric'}"
            problem = Problem(str(exported.path), 1, reason, "give each once with --metric-column")
            raise BadInput([problem], skippable=False)
        found[column] = as_metric
    if not given:
        prefix = next(one for one in METRICS if any(column.startswith(one) for column in exported.columns))
        for column in exported.columns:
            name = column.removeprefix(prefix)
            if column.startswith(prefix) and _is_known(name, metric):
                found[column] = name
    if not found:
        reason, remedy = "no column of a metric that the graph knows", "name it with --metric-column"
        raise BadInput([Problem(str(exported.path), 1, reason, remedy)], skippable=False)
    return found


def _is_known(name: str, metric: Callable[[str], Metric]) -> bool:
    try:
        metric(name)
    except (UnknownMetric, InvalidValue):
        return False
    return True


def _from_json(path: Path, data: bytes) -> Table:
    try:
        records = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        problem = Problem(str(path), 0, f"cannot be read as JSON ({error})", "export it again")
        raise BadInput([problem], skippable=False) from error
    if not isinstance(records, list) or not records or not all(isinstance(one, dict) for one in records):
        hint = "export a list of runs, as `to_json(orient='records')` writes it"
        raise BadInput([Problem(str(path), 0, "is not a list of runs", hint)], skippable=False)
    flat = [_flat(record) for record in records]
    columns = tuple(dict.fromkeys(name for record in flat for name in record))
    rows = [
        Row(number, {name: record.get(name, "") for name in columns}) for number, record in enumerate(flat, 1)
    ]
    return Table(path, columns, rows)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = "" if value is None else str(value).strip()
    return found
