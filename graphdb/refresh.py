"""What Neo4j Browser shows of the graph and depends on the whole of it, stored where Browser can read it.

Each edge gets `metric`, `value` and plain provenance names, which repeat those of its default metric
(clip_fid where it has that, else the first by name), `band` (best, good, fair or poor: for a result by its
rank within the dataset, for a similarity by its quartile among all), and `weight`, which walks would follow
if they saw the whole graph, see `graphdb.weights`. Results are repeated as edges of their band, the nearest
datasets as `NEAREST` and `NEAR`, and nodes get a short name; see `graphdb.browser`. Predictions read none of
it. A write does not update it elsewhere, so it is as old as the last refresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.graphdb.browser import short_names
from matchgraph.graphdb.edges import TRANSACTION_EDGES, lock
from matchgraph.graphdb.metrics import DEFAULT_METRIC
from matchgraph.graphdb.weights import LEAST_WEIGHT, SHARPNESS
from matchgraph.progress import Progress, no_progress

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

KINDS = {"PERFORMS": "results", "SIMILAR": "similarities"}
# Statements that go by the values of all edges, which `default` has set before.
SECOND = {"results": ("ranks",), "similarities": ("weights", "bands", "nearest")}


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
        for number, parts in enumerate((("default",), SECOND[name])):
            for place, datasets in enumerate(portions):
                on_progress(f"refreshing {name}", number * len(portions) + place, 2 * len(portions))
                statements = [
                    (queries.load(f"refresh/{name}-{part}"), {**values, "datasets": datasets})
                    for part in parts
                ]
                runner.write_many([lock(), *statements])
    names = {
        kind: short_names(row["id"] for row in runner.read(queries.load(f"read/{kind[:-1]}-ids")))
        for kind in ("models", "datasets")
    }
    runner.write_many([lock(), (queries.load("refresh/names"), names)])
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
