"""Feature statistics in brief, so that a search for the nearest datasets reads few covariances.

Beside mean and covariance, a Statistics node has `trace`, the total variance, and `sketch`, the covariance
within a few directions (see `stats.sketches`). The directions are those of the first datasets that an
extractor measured; they are kept once, and `directions` of a node is the hash of those that it was sketched
in. A node without a sketch, or with one in other directions, counts as not sketched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb import queries
from matchgraph.stats.sketches import Sketches, leading_directions, projected_factor

if TYPE_CHECKING:
    from matchgraph.graphdb.edges import Statement
    from matchgraph.graphdb.models import Statistics
    from matchgraph.graphdb.runner import Runner

DIRECTIONS_PREFIX = "directions__"
# Datasets whose covariances together make the directions.
POOLED = 32
HASH_DIGITS = 16


@dataclass(frozen=True, eq=False)
class KnownSketches:
    """What one extractor measured, in brief.

    Attributes:
        datasets: ids, in the order of `sketches`.
        sketches: of these.
        directions: float32, (d, r), that they are sketched in; None without any.
        others: datasets that are not sketched.
        searched: of each dataset, see `Statistics.searched`.
    """

    datasets: tuple[str, ...]
    sketches: Sketches
    directions: np.ndarray | None
    others: frozenset[str]
    searched: Mapping[str, frozenset[str]]


def read_sketches(runner: Runner, extractor: str) -> KnownSketches:
    """Read the sketches of all datasets that an extractor measured.

    Args:
        runner: the graph's server.
        extractor: the extractor's hash.
    """
    directions = _stored_directions(runner, extractor)
    own = None if directions is None else _hash(directions)
    rows = runner.read(queries.load("read/sketches"), extractor=extractor)
    rows.sort(key=lambda row: row["dataset"])
    sketched = [row for row in rows if own is not None and row["directions"] == own]
    means = [np.frombuffer(row["mean"], dtype="<f8") for row in sketched]
    size = 0 if directions is None else directions.shape[1]
    factors = np.zeros((len(sketched), size, size), dtype=np.float32)
    lower = np.tril_indices(size)
    for factor, row in zip(factors, sketched, strict=True):
        factor[lower] = np.frombuffer(row["sketch"], dtype="<f4")
    traces = np.array([row["trace"] for row in sketched], dtype=np.float64)
    return KnownSketches(
        tuple(row["dataset"] for row in sketched),
        Sketches(np.array(means), traces, factors),
        directions,
        frozenset(row["dataset"] for row in rows if row["directions"] != own or own is None),
        {row["dataset"]: frozenset(row["searched"] or ()) for row in rows},
    )


def sketched(runner: Runner, described: Sequence[Statistics]) -> tuple[list[Statement], list[dict[str, Any]]]:
    """Sketch statistics that are about to be saved.

    Args:
        runner: the graph's server.
        described: the statistics.

    Returns:
        The statements that keep new directions, to be run in the same transaction; and, of each of the
        statistics, the properties that it gets.
    """
    statements: list[Statement] = []
    directions: dict[str, np.ndarray] = {}
    for extractor in sorted({own.extractor for own in described}):
        stored = _stored_directions(runner, extractor)
        if stored is None:
            first = sorted((s for s in described if s.extractor == extractor), key=lambda s: s.dataset)
            alike = [own.covariance for own in first if own.dimension == first[0].dimension]
            stored = leading_directions(alike[:POOLED])
            name = DIRECTIONS_PREFIX + extractor
            value = {name: _bytes(stored)}
            statements.append((queries.load("write/directions"), {"name": name, "value": value}))
        directions[extractor] = stored
    properties = []
    for own in described:
        described_by: dict[str, Any] = {"trace": float(np.trace(own.covariance))}
        basis = directions[own.extractor]
        if len(basis) == own.dimension:
            factor = projected_factor(own.covariance, basis)
            triangle = factor[np.tril_indices(len(factor))].astype("<f4").tobytes()
            described_by |= {"sketch": triangle, "directions": _hash(basis)}
        properties.append(described_by)
    return statements, properties


def _stored_directions(runner: Runner, extractor: str) -> np.ndarray | None:
    [row] = runner.read(queries.load("read/directions"), extractor=extractor) or [{"directions": None}]
    if row["directions"] is None:
        return None
    size = int.from_bytes(row["directions"][:4], "little")
    return np.frombuffer(row["directions"], dtype="<f4", offset=4).reshape(size, -1)


def _bytes(directions: np.ndarray) -> bytes:
    return len(directions).to_bytes(4, "little") + directions.astype("<f4").tobytes()


def _hash(directions: np.ndarray) -> str:
    return hashlib.sha256(_bytes(directions)).hexdigest()[:HASH_DIGITS]
