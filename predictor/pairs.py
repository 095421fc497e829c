"""Which datasets were never compared with each other, although a prediction counts on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import combinations, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

SHOWN = 5


def missing_pairs_note(
    snapshot: Snapshot, target: str | None = None, distances: Collection[str] = ()
) -> str | None:
    """Say which datasets have no similarity by the metric in use; None where none is missing.

    Only datasets count that have results or a similarity: a graph may hold others as well. Of two datasets
    that were compared with their nearest ones, no pair is missing.

    Args:
        snapshot: the graph by the metrics in use.
        target: id of the dataset that is predicted for, whose pairs are named first.
        distances: ids of datasets that it was compared with besides those in the graph.
    """
    if snapshot.similarity is None:
        return None
    compared: dict[str, set[str]] = defaultdict(set)
    pairs = zip(snapshot.similar["dataset"], snapshot.similar["other"], strict=True)
    for one, other in [*pairs, *((target, other) for other in distances)]:
        compared[one].add(other)
        compared[other].add(one)
    measured = snapshot.performs.loc[snapshot.performs["value"].notna(), "dataset"]
    used = sorted({*compared, *measured} - {target})
    if target is not None:
        used.insert(0, target)
    searched = snapshot.searched & {*used}
    possible = len(used) * (len(used) - 1) // 2
    left_out = sum(len(searched) - len(searched & compared[one]) - 1 for one in searched) // 2
    count = possible - sum(map(len, compared.values())) // 2 - left_out
    if not count:
        return None
    missing = (
        f"{one} and {other}"
        for one, other in combinations(used, 2)
        if other not in compared[one] and not (one in searched and other in searched)
    )
    shown = ", ".join(islice(missing, SHOWN))
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return (
        f"{count} of {possible} pairs of datasets were not compared by {snapshot.similarity.name}: "
        f"{shown}{more}. `matchgraph ingest datasets` with their folders compares them."
    )
