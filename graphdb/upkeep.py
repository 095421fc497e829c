"""Looking after a graph: what is in it, what is wrong with it, and taking out or renaming one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from matchgraph.graphdb import queries, statistics
from matchgraph.graphdb.checks import check_id
from matchgraph.graphdb.edges import lock
from matchgraph.graphdb.errors import InvalidId, NodeNotFound
from matchgraph.graphdb.repository import MatchingGraph

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

Listed: TypeAlias = Literal["models", "datasets", "runs", "metrics"]
Named: TypeAlias = Literal["model", "dataset"]

LISTED: tuple[Listed, ...] = get_args(Listed)
NAMED: tuple[Named, ...] = get_args(Named)


@dataclass(frozen=True)
class Belongings:
    """What belongs to a model or dataset.

    Attributes:
        results: model-dataset edges.
        similarities: dataset-dataset edges.
        statistics: feature statistics.
        runs: runs of the ledger.
        variants: the model as it is served.
        scores: of these on prompts.
    """

    results: int
    similarities: int
    statistics: int
    runs: int
    variants: int
    scores: int

    def nonzero(self) -> dict[str, int]:
        """By name, those that there are."""
        return {name: number for name, number in asdict(self).items() if number}


@dataclass(frozen=True)
class Check:
    """What is wrong with a graph, or may be.

    Attributes:
        missing_pairs: datasets that one extractor measured and that were not compared by it, with its hash;
            `NOT_RECORDED` for datasets compared by a metric without an extractor, but not with each other.
        orphans: kind and id of models and datasets that nothing is recorded of, and statistics of no dataset.
        mixed_extractors: metric and edge type of values that several extractors measured, with their hashes.
        moved: kind, id and former place of files that are not there on this machine.
    """

    missing_pairs: tuple[tuple[str, str, str], ...]
    orphans: tuple[tuple[str, str], ...]
    mixed_extractors: tuple[tuple[str, str, tuple[str, ...]], ...]
    moved: tuple[tuple[str, str, str], ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not (self.missing_pairs or self.orphans or self.mixed_extractors or self.moved)


def listed(runner: Runner, kind: Listed) -> list[dict[str, Any]]:
    """All models, datasets, runs or metrics, with how much is recorded of each.

    Args:
        runner: the graph's server.
        kind: what to list.

    Returns:
        One dict per row, sorted by id.
    """
    return runner.read(queries.load(f"upkeep/{kind}"))


def check(runner: Runner) -> Check:
    """Look for what is missing, left over or mixed up; writes nothing.

    Args:
        runner: the graph's server.
    """
    pairs = runner.read(queries.load("upkeep/missing-pairs"))
    orphans = runner.read(queries.load("upkeep/orphans"))
    mixed = runner.read(queries.load("upkeep/extractors"))
    sources = runner.read(queries.load("upkeep/sources"))
    return Check(
        tuple((row["dataset"], row["other"], row["extractor"]) for row in pairs),
        tuple((row["kind"], row["id"]) for row in orphans),
        tuple((row["metric"], row["edges"], tuple(row["extractors"])) for row in mixed),
        tuple(
            (row["kind"], row["id"], row["source"])
            for row in sources
            if Path(str(row["source"])).is_absolute() and not Path(row["source"]).exists()
        ),
    )


def remove(runner: Runner, kind: Named, identifier: str, *, dry_run: bool = False) -> Belongings:
    """Remove a model or dataset with all that belongs to it.

    Args:
        runner: the graph's server.
        kind: what it is.
        identifier: its id.
        dry_run: only say what would go.

    Returns:
        What goes with it.

    Raises:
        NodeNotFound: it is not in the graph.
    """
    own = _belongings(runner, kind, identifier)
    if not dry_run:
        runner.write_many([lock(), (queries.load(f"upkeep/remove-{kind}"), {"id": identifier})])
    return own


def rename(runner: Runner, kind: Named, old: str, new: str, *, dry_run: bool = False) -> Belongings:
    """Give a model or dataset another id; all that belongs to it stays with it.

    Runs keep their ids, which are hashes of the question that they answer: under the new name the question is
    another one, so `ingest plan` plans them again.

    Args:
        runner: the graph's server.
        kind: what it is.
        old: its id.
        new: its id from now on.
        dry_run: only say what would be renamed with it.

    Returns:
        What goes along.

    Raises:
        NodeNotFound: it is not in the graph.
        InvalidId: the new id is taken, or cannot be one.
    """
    check_id(new, kind)
    own = _belongings(runner, kind, old)
    try:
        MatchingGraph(runner).require(kind, new)
    except NodeNotFound:
        pass
    else:
        raise InvalidId(f"The graph already has a {kind} {new!r}: choose another id, or remove that one.")
    if not dry_run:
        rows = runner.read(queries.load("upkeep/statistics-of"), id=old) if kind == "dataset" else []
        keys = {row["key"]: statistics.unique_key(new, row["extractor"], row["resize"]) for row in rows}
        values = {"old": old, "new": new, "keys": keys}
        runner.write_many([lock(), (queries.load(f"upkeep/rename-{kind}"), values)])
    return own


def _belongings(runner: Runner, kind: Named, identifier: str) -> Belongings:
    MatchingGraph(runner).require(kind, identifier)
    return Belongings(**runner.read(queries.load(f"upkeep/goes-with-{kind}"), id=identifier)[0])
