"""Feature statistics as rows of the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from matchgraph.graphdb.models import Statistics


def unique_key(dataset: str, extractor: str, resize: str) -> str:
    """The unique key of a dataset's statistics: a JSON list, which no other three share."""
    return json.dumps([dataset, extractor, resize], ensure_ascii=False)


def key_of(statistics: Statistics) -> str:
    """The unique key of these statistics."""
    return unique_key(statistics.dataset, statistics.extractor, statistics.resize)


def row_of(statistics: Statistics, sketch: Mapping[str, Any]) -> dict[str, Any]:
    """What `write/statistics` takes.

    Args:
        statistics: mean and covariance are kept as little-endian float64, the latter as its triangle.
        sketch: further properties, see `graphdb.sketches`.
    """
    key = key_of(statistics)
    return {
        "dataset": statistics.dataset,
        "key": key,
        "properties": {
            "key": key,
            "extractor": statistics.extractor,
            "resize": statistics.resize,
            "n": statistics.n,
            "dim": statistics.dimension,
            "mean": statistics.mean.astype("<f8").tobytes(),
            "covariance": statistics.triangle.astype("<f8").tobytes(),
            **({"searched": list(statistics.searched)} if statistics.searched else {}),
            **sketch,
        },
    }


def from_row(row: Mapping[str, Any]) -> Statistics:
    """The statistics of a row that `read/statistics` gave."""
    mean, triangle = (np.frombuffer(row[name], dtype="<f8") for name in ("mean", "covariance"))
    own = (row["dataset"], row["extractor"], row["resize"], row["n"])
    return Statistics.from_triangle(*own, mean, triangle, row["searched"] or ())
