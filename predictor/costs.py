"""What it takes to use each model, as far as the graph records it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.predictor.matching import Cost

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.repository import MatchingGraph


def load_costs(graph: MatchingGraph, snapshot: Snapshot, *, without: str = "") -> dict[str, Cost]:
    """Cost of using each model, as far as it is recorded.

    Args:
        graph: the graph.
        snapshot: its models and the metric whose runs count.
        without: id of a dataset whose runs do not count, such as the one predicted for.
    """
    rows = graph.runner.read(queries.load("predict/costs"), metric=snapshot.metric.name, dataset=without)
    times = {row["model"]: row for row in rows}
    costs = {}
    for model in snapshot.models:
        own = times.get(model.id, {})
        costs[model.id] = Cost(
            train_seconds=_number(own.get("train_seconds")),
            sample_seconds_per_image=_number(own.get("sample_seconds_per_image")),
            params=_number(model.properties.get("params")),
            tflop=_number(model.properties.get("tflop")),
            throughput=_number(model.properties.get("throughput")),
        )
    return costs


def _number(value: object) -> float | None:
    """A finite number, or None for whatever else an attribute may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
