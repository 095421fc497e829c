"""Values on their way to Neo4j and back, in plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import neo4j

# Types of values that are plain already.
SIMPLE = frozenset({type(None), bool, int, float, str, bytes})


def plain(value: Any) -> Any:
    """A parameter as the driver takes it: NumPy scalars and arrays become numbers and lists, paths become
    text.

    Args:
        value: a value, or mappings and sequences of them, nested at will.

    Returns:
        The same in plain Python; `bytes` and dates stay as they are.
    """
    match value:
        case np.ndarray():
            return plain(value.tolist())
        case np.generic():
            return value.item()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case PurePath():
            return str(value)
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return value


def rendered_row(record: neo4j.Record) -> dict[str, Any]:
    """A row in plain Python, see `rendered`."""
    # Tens of thousands of rows hold little else than these.
    items = record.items()  # type: ignore[no-untyped-call]
    return {name: own if type(own) in SIMPLE else rendered(own) for name, own in items}


def rendered(value: Any) -> Any:
    """A value of a result in plain Python, ready for JSON but for `bytes`.

    Args:
        value: what the driver gives.

    Returns:
        A node as `{"labels", "properties"}`, a relationship as `{"type", "properties"}`, a path as
        `{"nodes", "relationships"}`, dates, times and durations as ISO 8601 text, a point as its coordinates,
        the rest as it is.
    """
    if type(value) in SIMPLE:
        return value
    import neo4j

    match value:
        case neo4j.graph.Node():
            return {"labels": sorted(value.labels), "properties": rendered(dict(value))}
        case neo4j.graph.Relationship():
            return {"type": value.type, "properties": rendered(dict(value))}
        case neo4j.graph.Path():
            return {
                "nodes": [rendered(node) for node in value.nodes],
                "relationships": [rendered(relationship) for relationship in value.relationships],
            }
        case neo4j.time.DateTime() | neo4j.time.Date() | neo4j.time.Time() | neo4j.time.Duration():
            return value.iso_format()
        case neo4j.spatial.Point():
            return list(value)
        case dict():
            return {key: rendered(item) for key, item in value.items()}
        case list():
            # Lists are long: an embedding has hundreds of numbers, and a dataset hundreds of edges.
            return value if SIMPLE.issuperset(map(type, value)) else [rendered(item) for item in value]
        case _:
            return value
