"""The statements that write edges of the matching graph, and the lock that all writers take first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matchgraph.graphdb import queries
from matchgraph.graphdb.checks import INITIAL, Property
from matchgraph.graphdb.models import Metric, Result, Similar

Statement = tuple[str, dict[str, Any]]

BATCH_ROWS = 2000
# A transaction is held in the heap of the server until it ends; the managed server has 1 GB by default.
TRANSACTION_EDGES = 50_000


def lock() -> Statement:
    """What every writing transaction begins with."""
    return queries.load("write/lock"), {}


def batched(name: str, rows: Sequence[dict[str, Any]], **params: Any) -> list[Statement]:
    """A statement once for each part of its rows that makes a message of sensible size."""
    query = queries.load(name)
    starts = range(0, len(rows), BATCH_ROWS)
    return [(query, {"rows": rows[start : start + BATCH_ROWS], **params}) for start in starts]


def metrics_statement(metrics: Sequence[Metric]) -> Statement:
    """What defines metrics; one that is defined is replaced."""
    ranges = {
        f"{bound}_{metric.name}": getattr(metric, bound)
        for metric in metrics
        for bound in ("minimum", "maximum")
    }
    return queries.load("write/metrics"), {
        "names": [metric.name for metric in metrics],
        "rising": [metric.name for metric in metrics if metric.larger_is_better],
        "ranges": ranges,
    }


@dataclass(frozen=True)
class Edges:
    """Checked edges of one kind, and the statements that write them.

    Attributes:
        kind: their type.
        values: results or similarities, each once.
        metrics: the metrics of these.
    """

    kind: Literal["PERFORMS", "SIMILAR"]
    values: Sequence[Result] | Sequence[Similar]
    metrics: Sequence[Metric]

    def __len__(self) -> int:
        return len(self.values)

    def statements(self, part: slice = slice(None)) -> list[Statement]:
        """What writes some of them, to be run in this order after `lock`."""
        if not self.values:
            return []
        name = "results" if self.kind == "PERFORMS" else "similarities"
        rows = [_edge_row(value) for value in self.values[part]]
        return [metrics_statement(self.metrics), *batched(f"write/{name}", rows)]


def _edge_row(value: Result | Similar) -> dict[str, Any]:
    if isinstance(value, Result):
        name = INITIAL + value.metric if value.stage == "initial" else value.metric
        ends = {"model": value.model, "dataset": value.dataset}
    else:
        name, ends = value.metric, dict(zip(("dataset", "other"), value.pair, strict=True))
    return {**ends, **_edge_properties(name, value.value, value.provenance)}


def _edge_properties(name: str, value: float, provenance: Mapping[str, Property]) -> dict[str, Any]:
    prefix = f"{name}__"
    return {
        "prefix": prefix,
        "properties": {name: value, **{prefix + key: item for key, item in provenance.items()}},
    }
