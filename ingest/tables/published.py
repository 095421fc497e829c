"""Models that others published, as nodes with what is known of them before anything is measured here.

The table beside this module says of each fact where it is from; facts without a source are left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.models import Model
from matchgraph.ingest.errors import IngestError
from matchgraph.ingest.tables.facts import is_measured
from matchgraph.training.pipelines.families import FAMILIES

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph

TABLE = Path(__file__).with_name("published.json")
# Memory of the cards that runs are planned for.
CARDS_GIB = (12, 24, 48, 80)
PREFIX = "published_"
RANKING = "ranking"


@dataclass(frozen=True)
class PublishedReport:
    """What was added.

    Args:
        models: id in the graph by name on the hub.
        notes: which nodes of the graph were taken for published models of other names.
    """

    models: Mapping[str, str]
    notes: tuple[str, ...]


def published_models() -> tuple[Model, ...]:
    """The published models with all that the table has of them, in its order."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(Model(entry["id"], _properties(table, entry)) for entry in table["models"])


def ingest_published(graph: MatchingGraph, names: Collection[str] = ()) -> PublishedReport:
    """Add published models to the graph.

    A model of the graph of the same name, or with the name of such a folder, gets the facts; what the graph
    has of it stays, since it was read from the very weights that are used.

    Args:
        graph: the graph.
        names: of which models, as on the hub; of all by default.

    Raises:
        IngestError: a name is not in the table.
    """
    known = {model.id: model for model in published_models()}
    if unknown := sorted(set(names) - set(known)):
        raise IngestError(f"There are no published facts of {', '.join(unknown)}; known: {', '.join(known)}.")
    stored = {model.id: model for model in graph.models()}
    also = {entry["id"]: entry.get("also", []) for entry in json.loads(TABLE.read_text("utf-8"))["models"]}
    models: dict[str, str] = {}
    notes: list[str] = []
    written: list[Model] = []
    for name in names or known:
        model = known[name]
        own = _node(stored, name, also[name], str(model.properties["pipeline"]))
        node = name if own is None else own.id
        if node != name:
            notes.append(f"{node} of the graph is taken for {name}.")
        had = {} if own is None else own.properties
        # Counted from another configuration, if perhaps an equal one.
        has_folder = "content_hash" in had
        properties = {
            key: value
            for key, value in model.properties.items()
            if key.startswith(PREFIX) or (key not in had and not (has_folder and is_measured(key)))
        }
        written.append(Model(node, properties))
        models[name] = node
    graph.save_models(written, merge=True, read=stored)
    return PublishedReport(models, tuple(notes))


def _node(stored: Mapping[str, Model], name: str, also: Collection[str], pipeline: str) -> Model | None:
    """The node of a published model: of its name, or of the name of a folder of its pipeline class."""
    if name in stored:
        return stored[name]
    others = {other.casefold() for other in (name.rpartition("/")[2], *also)}
    for node in sorted(stored):
        model = stored[node]
        if node.casefold() in others and model.properties.get("pipeline", pipeline) == pipeline:
            return model
    return None


def _properties(table: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    sources = table["sources"]
    family = entry["family"]
    properties: dict[str, Any] = {
        "name": entry["id"],
        "family": family,
        "pipeline": FAMILIES[family][0],
        f"{PREFIX}id": entry["id"],
        f"{PREFIX}read": table["read"],
    }
    for fact, (value, source) in entry["stated"].items():
        properties[PREFIX + fact] = value
        properties[f"{PREFIX}{fact}_source"] = sources[source]
    if "rank" in entry:
        properties[f"{PREFIX}rank"] = entry["rank"]
        properties[f"{PREFIX}rank_source"] = sources[RANKING]
    for fact, value in entry.get("computed", {}).items():
        # What the publisher states counts.
        properties.setdefault(fact if is_measured(fact) else PREFIX + fact, value)
    if "computed" in entry:
        properties[f"{PREFIX}computed_from"] = entry["computed_from"]
    return properties
