"""What Neo4j Browser shows of an edge and depends on the whole graph, stored where Browser can read it.

Each edge gets `metric`, `value` and plain provenance names, which repeat those of its default metric
(clip_fid where it has that, else the first by name), `band` (best, good, fair, poor: the quartiles among all
edges of the type), and `weight`, which walks would follow if they saw the whole graph, see `graphdb.weights`.
None of it is read by a prediction. A write leaves it as it is on other edges, so it is as old as the last
refresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.graphdb.edges import TRANSACTION_EDGES, lock
from matchgraph.graphdb.metrics import DEFAULT_METRIC
from matchgraph.graphdb.weights import LEAST_WEIGHT, SHARPNESS
from matchgraph.progress import Progress, no_progress

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

KINDS = {"PERFORMS": "results", "SIMILAR": "similarities"}


@dataclass(frozen=True)
class Refreshed:
    """What a refresh went over.

    Attributes:
        results: model-dataset edges.
        similarities: dataset-dataset edges.
    """

    results: int
    similarities: int


def refresh(runner: Runner, *, on_progress: Progress = no_progress) -> Refreshed:
    """Store what Neo4j Browser shows of each edge, in several transactions.

    Args:
        runner: the graph's server.
        on_progress: called with the edges done.

    Returns:
        How many edges there are.
    """
    counts = {}
    for kind, name in KINDS.items():
        rows = runner.read(queries.load("read/dataset-edges"), type=kind)
        portions = list(_portions((row["dataset"], row["edges"]) for row in rows))
        counts[name] = sum(row["edges"] for row in rows)
        # Results have no use for `least`; Neo4j ignores a parameter that a statement does not name.
        values = {"default": DEFAULT_METRIC, "sharpness": SHARPNESS, "least": LEAST_WEIGHT}
        # Medians and quartiles are over all edges, so all need their value first.
        for number, parts in enumerate((("default",), ("weights", "bands"))):
            for place, datasets in enumerate(portions):
                on_progress(f"refreshing {name}", number * len(portions) + place, 2 * len(portions))
                statements = [
                    (queries.load(f"refresh/{name}-{part}"), {**values, "datasets": datasets})
                    for part in parts
                ]
                runner.write_many([lock(), *statements])
    return Refreshed(**counts)


def _portions(degrees: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Group datasets, so that not many more edges lead to a group than a transaction holds."""
    portion: list[str] = []
    edges = 0
    for dataset, degree in degrees:
        portion.append(dataset)
        edges += degree
        if edges >= TRANSACTION_EDGES:
            yield portion
            portion, edges = [], 0
    if portion:
        yield portion
