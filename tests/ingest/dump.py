"""The whole graph as plain data, to be compared before and after."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from matchgraph.graphdb.runner import Runner

# What differs between two runs of one question: when, how long, and how often it was tried.
RUN_TIMES = (
    "attempt",
    "fence",
    "training_seconds",
    "seconds_per_image",
    "adapter",  # the folder's name has the fence in it
    "queued_at",
    "started_at",
    "ended_at",
    "host",
    "extractors",  # where they are
)
# Products of other sizes are rounded otherwise, on some processors.
ROUNDING = 1e-3
NODES = "MATCH (n) WHERE NOT n:MatchGraph RETURN labels(n) AS labels, properties(n) AS properties"
EDGES = """
MATCH (a)-[e]->(b)
RETURN type(e) AS type, properties(e) AS properties,
       coalesce(a.id, a.key, a.name) AS source, coalesce(b.id, b.key, b.name) AS target
"""


def dump(runner: Runner, *, without: Collection[str] = ()) -> list[str]:
    """All nodes and edges in a fixed order, less the properties named, with or without a metric's prefix."""

    def kept(properties: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in properties.items() if key.rpartition("__")[2] not in without}

    rows = [*runner.read(NODES), *runner.read(EDGES)]
    plain = [{**row, "properties": kept(row["properties"])} for row in rows]
    return sorted(json.dumps(row, sort_keys=True, default=bytes.hex) for row in plain)


def same_but_for_rounding(one: Any, other: Any) -> bool:
    """Whether two dumps, or values in them, are the same though images were drawn in other batches."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=ROUNDING)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_but_for_rounding(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_but_for_rounding, one, other))
    return one == other
