"""What a write is given, checked against itself and the graph before its first statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from matchgraph.graphdb import queries
from matchgraph.graphdb.checks import INITIAL
from matchgraph.graphdb.edges import Edges
from matchgraph.graphdb.errors import InvalidValue, NodeNotFound, UnknownMetric
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Metric, Result, Similar, Statistics
from matchgraph.graphdb.queries import did_you_mean

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

T = TypeVar("T")


def result_edges(runner: Runner, results: Sequence[Result]) -> Edges:
    """The edges of results.

    Raises:
        NodeNotFound: a model or dataset is not in the graph.
        UnknownMetric: a metric is neither known nor defined in the graph.
        InvalidValue: a value is out of its metric's range, or two rows contradict each other.
    """
    once = distinct(results, lambda r: (r.model, r.dataset, r.metric, r.stage), "results")
    metrics = _metrics_of(runner, results, "results")
    require_nodes(runner, "model", {r.model: f"results[{i}]" for i, r in enumerate(results)})
    require_nodes(runner, "dataset", {r.dataset: f"results[{i}]" for i, r in enumerate(results)})
    return Edges("PERFORMS", once, metrics)


def similarity_edges(runner: Runner, similar: Sequence[Similar], given: set[str]) -> Edges:
    """The edges of distances between datasets of the graph or among `given`, the ids that are written along.

    Raises:
        NodeNotFound, UnknownMetric, InvalidValue: see `result_edges`.
    """
    once = distinct(
        similar, lambda s: (s.pair, s.metric), "similar", content=lambda s: (s.value, s.provenance)
    )
    metrics = _metrics_of(runner, similar, "similar")
    ends = {end: f"similar[{i}]" for i, s in enumerate(similar) for end in s.pair if end not in given}
    require_nodes(runner, "dataset", ends)
    return Edges("SIMILAR", once, metrics)


def known_metrics(runner: Runner) -> dict[str, Metric]:
    """All metrics that a value may have: those of this program, and those defined in the graph."""
    rows = runner.read(queries.load("read/metrics"))
    defined = (Metric(r["name"], r["larger_is_better"], r["minimum"], r["maximum"]) for r in rows)
    return {**KNOWN_METRICS, **{metric.name: metric for metric in defined}}


def require_metric(name: str, known: Mapping[str, Metric], where: str = "") -> Metric:
    """The metric of this name; `where` begins the message of `UnknownMetric`."""
    if name not in known:
        near = did_you_mean(name, known)
        raise UnknownMetric(
            f"{where}{name!r} is not a known metric{near}. For a metric of your own, give its direction "
            "once: `matchgraph ingest results FILE.csv --larger-is-better`, or --smaller-is-better."
        )
    return known[name]


def require_nodes(runner: Runner, kind: Literal["model", "dataset"], wanted: Mapping[str, str]) -> None:
    """Make sure that models or datasets are in the graph.

    Args:
        runner: the graph's server.
        kind: of the ids.
        wanted: for each id, where it is named, such as `results[3]`; empty for nowhere.

    Raises:
        NodeNotFound: one is not; the message names the nearest id.
    """
    if not wanted:
        return
    rows = runner.read(queries.load(f"read/missing-{kind}s"), ids=sorted(wanted))
    if not rows:
        return
    missing = rows[0]["id"]
    where = f"{wanted[missing]}: there" if wanted[missing] else "There"
    more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    known = [row["id"] for row in runner.read(queries.load(f"read/{kind}-ids"))]
    advice = did_you_mean(missing, known) or f". List them with `matchgraph graph list {kind}s`"
    raise NodeNotFound(f"{where} is no {kind} {missing!r} in the graph{more}{advice}.")


def distinct(rows: Sequence[T], key: Any, what: str, content: Any = lambda row: row) -> list[T]:
    """The rows, each key once; raises `InvalidValue` where two of one key differ in content."""
    first: dict[Any, int] = {}
    for index, row in enumerate(rows):
        earlier = first.setdefault(key(row), index)
        if not _same(content(rows[earlier]), content(row)):
            raise InvalidValue(
                f"{what}[{earlier}] and {what}[{index}] are of the same {key(row)!r} but differ: keep one."
            )
    return [rows[index] for index in first.values()]


def _metrics_of(runner: Runner, rows: Sequence[Result | Similar], what: str) -> list[Metric]:
    """The metrics of these rows, sorted by name; each value is in its metric's range."""
    known = known_metrics(runner)
    taken = {*known, *(INITIAL + name for name in known)}
    used = {}
    for index, row in enumerate(rows):
        where = f"{what}[{index}]"
        metric = used[row.metric] = require_metric(row.metric, known, f"{where}: ")
        if clash := sorted(taken & row.provenance.keys()):
            raise InvalidValue(
                f"{where}: the provenance field {clash[0]!r} has the name of a metric: rename it."
            )
        pair = f"model {row.model!r} on" if isinstance(row, Result) else f"dataset {row.other!r} and"
        metric.check(row.value, f"{where} ({pair} dataset {row.dataset!r}): {row.metric}")
    return [used[name] for name in sorted(used)]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Statistics):
        return (
            one.n == other.n
            and np.array_equal(one.mean, other.mean)
            and np.array_equal(one.covariance, other.covariance)
        )
    return one == other
