"""The schema of the graph: whose nodes are whose, and numbered migrations under `cypher/schema/`.

A database may hold other applications' nodes as well, also ones that are called Model or Dataset. Each node
of ours has two labels: a readable one (Model), and one that no other application writes (MatchGraphModel).
All statements match, count and merge by the second, and uniqueness constraints and vector indexes are on it.
An edge is ours if both its ends are. The node (:MatchGraph) holds what is about the graph as a whole: the
schema's version, the metrics, and the lock of writers.

Up to version 14 nodes had the first label only. Such a graph is adopted once, by the rules that the
statements under `cypher/adopt/` state; what they do not recognise stays another application's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import MigrationFailed

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

FOLDER = "schema"
FIRST = 15
ADOPTION = 23
_FILE = re.compile(r"(?P<version>\d{3})_[a-z0-9_]+")
# In this order: a run is known by its model and dataset.
_ADOPTED = ("models", "datasets", "runs", "statistics", "variants", "prompts", "metrics")
_EARLIER_CONSTRAINTS = {
    "model_id": "Model",
    "dataset_id": "Dataset",
    "run_id": "Run",
    "metric_name": "Metric",
    "statistics_key": "Statistics",
    "performs_key": "PERFORMS",
    "similar_key": "SIMILAR",
    "prompt_id": "Prompt",
    "variant_id": "Variant",
    "scored_key": "SCORED",
    "distilled_from_key": "DISTILLED_FROM",
    # Last, as it is the sign of an earlier graph: an adoption that was cut off begins again.
    "schema_version": "Schema",
}
_EARLIER_INDEXES = {"dataset_embedding": "Dataset", "prompt_embedding": "TrainPrompt"}
_DATASETS_AT_ONCE = 100


def migrations() -> dict[int, str]:
    """Version to `folder/name` of its statement, in order, from 15 without a gap.

    Raises:
        MigrationFailed: the files are not numbered so.
    """
    found: dict[int, str] = {}
    for number, name in enumerate(queries.names(FOLDER), start=FIRST):
        match = _FILE.fullmatch(name)
        if match is None or int(match["version"]) != number:
            raise MigrationFailed(f"cypher/{FOLDER}/{name}.cypher should be numbered {number:03d}.")
        found[number] = f"{FOLDER}/{name}"
    return found


def version(runner: Runner) -> int:
    """The version that the database's schema has, 0 where nothing of ours is; never writes."""
    return runner.read(queries.load("read/schema-version"))[0]["version"]


def apply(runner: Runner) -> int:
    """Bring the database's schema up to date; one read when it is.

    A migration is an idempotent statement (`IF NOT EXISTS`), so that two processes may apply it at once, and
    one that was cut off between a migration and its record just applies it again.

    Returns:
        How many migrations were applied.

    Raises:
        MigrationFailed: the database was set up by a newer version of this program.
    """
    known = migrations()
    current, latest = version(runner), max(known)
    if current > latest:
        raise MigrationFailed(
            f"The graph has schema version {current}, newer than {latest}: update matchgraph."
        )
    pending = [number for number in known if number > current]
    for number in pending:
        runner.schema(queries.load(known[number]))
        if number == ADOPTION:
            _adopt(runner)
        runner.write(queries.load("write/schema-version"), version=number)
    return len(pending)


def _adopt(runner: Runner) -> None:
    """Give our labels to what an earlier version of this program wrote, and drop its constraints."""
    if not runner.read(queries.load("adopt/is-earlier")):
        return
    runner.write_many(
        [
            (queries.load("write/lock"), {}),
            *((queries.load(f"adopt/{what}"), {}) for what in (*_ADOPTED, "leftovers", "prompt-edges")),
        ]
    )
    datasets = [row["id"] for row in runner.read(queries.load("read/dataset-ids"))]
    for start in range(0, len(datasets), _DATASETS_AT_ONCE):
        part = datasets[start : start + _DATASETS_AT_ONCE]
        runner.write_many(
            [(queries.load("write/lock"), {}), (queries.load("adopt/edges"), {"datasets": part})]
        )
    rules = {
        row["name"]: row["is_constraint"]
        for row in runner.read(
            queries.load("adopt/rules"), constraints=_EARLIER_CONSTRAINTS, indexes=_EARLIER_INDEXES
        )
    }
    for name in [*_EARLIER_INDEXES, *_EARLIER_CONSTRAINTS]:
        if name in rules:
            kind = "CONSTRAINT" if rules[name] else "INDEX"
            runner.schema(f"DROP {kind} {name} IF EXISTS")
