"""One id, one content: measurements of a model or dataset are never attributed to other content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.ingest.errors import Problem

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, Model
    from matchgraph.graphdb.repository import MatchingGraph


@dataclass(frozen=True)
class Identity:
    """Decides which nodes of the graph a folder may become.

    Args:
        kind: "model" or "dataset".
        stored: the nodes of the graph by id.
        measured: how many results, scores and finished runs each has; ids without any may be left out.
        replace: whether a node may be replaced, and what was measured with it removed.
    """

    kind: Literal["model", "dataset"]
    stored: Mapping[str, Model] | Mapping[str, Dataset]
    measured: Mapping[str, int]
    replace: bool = False

    def is_other(self, node: str, content: str) -> bool:
        """Whether the graph has different content under this id."""
        return self._content(node) not in (None, content)

    def is_replaced(self, node: str, content: str) -> bool:
        """Whether the measurements under this id have to be removed."""
        return self.replace and self.is_other(node, content)

    def likely_same(self, node: str, content: str) -> str | None:
        """Say that a new node may be one that the graph has under another id; None where it is not new, or
        nothing is like it.

        Args:
            node: the id.
            content: hash of its content.
        """
        if node in self.stored:
            return None
        copies = [other for other in sorted(self.stored) if self._content(other) == content]
        if copies:
            return f"{node} has the content of {copies[0]}, which is in the graph as another {self.kind}."
        # Published facts have the name on the hub, and folders often only its last part.
        for other in sorted(self.stored):
            facts = self._properties(other)
            if facts.get("published_id") == other and other.rpartition("/")[2].casefold() == node.casefold():
                return (
                    f"if {node} is {other}, of which the graph has published facts, add it with --id {other}."
                )
        # Tables often name a model of the hub without its owner.
        bare = node.rpartition("/")[2]
        if bare != node and bare in self.stored and self._content(bare) is None:
            return (
                f"the graph also has a {self.kind} {bare} ({self.measured.get(bare, 0)} measurements). If "
                f"that is {node}, add the folder to it with --id {bare}, or rename it."
            )
        return None

    def problem(self, node: str, source: str, content: str, place: str) -> Problem | None:
        """Say why a folder cannot become a node.

        Content that has changed in its place may be ingested again as long as nothing was measured with it.
        A folder that moved is the same node. A node without a content hash came from a table and is joined.

        Args:
            node: the id.
            source: the folder, resolved.
            content: hash of its content.
            place: the folder as the user named it.

        Returns:
            The problem; None where it can.
        """
        if self.replace or not self.is_other(node, content):
            return None
        count = self.measured.get(node, 0)
        before = self._properties(node).get("source")
        if before == source and not count:
            return None
        if before == source:
            reason = f"{self.kind} {node!r} has changed since it was ingested"
        else:
            origin = f"from {before}" if before else "from a folder that is not recorded"
            reason = (
                f"{self.kind} {node!r} is in the graph already, {origin}, and {source} has different content"
            )
        results = f", with what was measured with it ({count})" if count else ""
        remedy = f"add this one under another id with --id, or replace that one{results} with --replace"
        return Problem(place, 0, reason, remedy)

    def _content(self, node: str) -> Any:
        return self._properties(node).get("content_hash")

    def _properties(self, node: str) -> Mapping[str, Any]:
        return self.stored[node].properties if node in self.stored else {}


def identity_of(
    graph: MatchingGraph,
    kind: Literal["model", "dataset"],
    stored: Mapping[str, Model] | Mapping[str, Dataset],
    *,
    replace: bool,
) -> Identity:
    """Read from the graph what was measured with its models or datasets."""
    return Identity(kind, stored, graph.measured(kind), replace)


def taken_meanwhile(
    graph: MatchingGraph,
    kind: Literal["model", "dataset"],
    node: str,
    *,
    source: str,
    content: str,
    place: str,
) -> Problem:
    """Say why a folder cannot become a node, after another writer has given the id other content.

    Args:
        graph: the graph, which is read again.
        kind: what the node is.
        node: the id.
        source: the folder, resolved.
        content: hash of its content.
        place: the folder as the user named it.
    """
    nodes = graph.models() if kind == "model" else graph.datasets()
    stored = {own.id: own for own in nodes}
    problem = Identity(kind, stored, {node: 1}).problem(node, source, content, place)  # type: ignore[arg-type]
    return problem or Problem(
        place, 0, f"{kind} {node!r} was written by another process meanwhile", "run the command again"
    )
