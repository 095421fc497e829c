"""The graph as pictures to walk through: each dataset with its best model, or all that is around one node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from matchgraph.predictor.visibility import similarities_of, similarity_direction
from matchgraph.svg import FAINT, shortened

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.models import Snapshot

Kind = Literal["model", "dataset"]

MOST_NODES = 80
NEAREST = 5
LONGEST_LABEL = 18
COLOURS: dict[Kind, str] = {"model": "#d55e00", "dataset": "#0072b2"}
# From the best rank within a dataset to the worst.
BEST_COLOUR, WORST_COLOUR = (0, 158, 115), (176, 184, 194)
NARROW_PX = 560
# Level and upright lines are moved to whole units, which must be small.
RADIUS = 500.0
THICKEST_PX, THINNEST_PX = 5.0, 1.0


@dataclass(frozen=True)
class Node:
    """A model or a dataset."""

    kind: Kind
    name: str


@dataclass(frozen=True)
class Link:
    """An edge of the graph.

    Attributes:
        source: its model, or the first of two datasets.
        target: its dataset.
        value: the result after fine-tuning, or the distance.
        rank: place of the model among those measured on the dataset, 1 for the best; None between datasets.
        of: how many were measured there.
    """

    source: Node
    target: Node
    value: float
    rank: int | None = None
    of: int = 0


@dataclass(frozen=True)
class View:
    """A part of the graph.

    Attributes:
        focus: the node that it is around; None for the whole.
        links: what is shown, the best first.
        left_out: how many nodes more there are.
    """

    focus: Node | None
    links: tuple[Link, ...]
    left_out: int = 0

    @property
    def nodes(self) -> list[Node]:
        """All nodes of the links, each once, and the focus."""
        ends = [node for link in self.links for node in (link.source, link.target)]
        return list(dict.fromkeys([*([self.focus] if self.focus else []), *ends]))


def results(snapshot: Snapshot) -> pd.DataFrame:
    """All results after fine-tuning, with their rank within the dataset; equal ones share the better rank.

    Returns:
        Columns model, dataset, value, rank (1 for the best) and of (how many were measured on the dataset),
        the best first.
    """
    known = snapshot.performs.loc[snapshot.performs["value"].notna(), ["model", "dataset", "value"]]
    values = known["value"].astype(float).groupby(known["dataset"])
    ranks = values.rank(method="min", ascending=not snapshot.metric.larger_is_better).astype(int)
    ranked = known.assign(rank=ranks, of=values.transform("size"))
    return ranked.sort_values(["rank", "model", "dataset"], ignore_index=True)


def overview(ranked: pd.DataFrame) -> View:
    """Each dataset with the models that were best on it.

    Args:
        ranked: as from `results`.
    """
    best = ranked[ranked["rank"] == 1]
    return View(None, _links(best), max(0, len(best) - MOST_NODES))


def around(snapshot: Snapshot, ranked: pd.DataFrame, focus: Node) -> View:
    """A node with all that it has an edge to: of a dataset's neighbours, the nearest.

    Args:
        snapshot: the graph.
        ranked: as from `results`.
        focus: a node of it.
    """
    own = ranked[ranked[focus.kind] == focus.name]
    shown = _links(own)
    if focus.kind == "dataset":
        larger = similarity_direction(snapshot)
        values = similarities_of(snapshot, focus.name)
        near = sorted(values, key=lambda name: (-values[name] if larger else values[name], name))[:NEAREST]
        shown += tuple(Link(focus, Node("dataset", name), values[name]) for name in near)
    return View(focus, shown, max(0, len(own) - MOST_NODES))


def _links(ranked: pd.DataFrame) -> tuple[Link, ...]:
    """The first of some results."""
    rows = ranked.head(MOST_NODES)[["model", "dataset", "value", "rank", "of"]].itertuples(index=False)
    return tuple(
        Link(Node("model", model), Node("dataset", dataset), float(value), int(rank), int(of))
        for model, dataset, value, rank, of in rows
    )


def names_of(snapshot: Snapshot) -> list[Node]:
    """All nodes, models first."""
    models = [Node("model", model.id) for model in snapshot.models]
    return models + [Node("dataset", dataset.id) for dataset in snapshot.datasets]


def options(view: View) -> dict[str, Any]:
    """A view as a chart of ECharts. A name is a value in it, not the name of an option, which could be code.

    Args:
        view: what to draw; node number n of it has the id `n` in the chart.
    """
    nodes = view.nodes
    places = _places(view, nodes)
    number = {node: str(index) for index, node in enumerate(nodes)}
    series = {
        "type": "graph",
        "layout": "none",
        # One of width and height alone keeps circles round. A share of it would be nothing in a hidden tab,
        # which a picture cannot be fitted into.
        "left": "center",
        "top": "middle",
        "label": {"show": True, "color": "currentColor"},
        "labelLayout": {"hideOverlap": True},
        "data": [_node(node, number[node], *places[node], view.focus) for node in nodes],
        "links": [_link(link, number) for link in view.links],
    }
    narrow = {"series": [{"height": 190, "label": {"fontSize": 9}}]}
    # With a rule of its own, as what another rule has set would stay when the window is widened.
    wide = {"series": [{"height": 400, "label": {"fontSize": 11}}]}
    return {
        "baseOption": {"animationDurationUpdate": 300, "series": [series]},
        "media": [{"query": {"maxWidth": NARROW_PX}, "option": narrow}, {"option": wide}],
    }


def _node(node: Node, number: str, x: float, y: float, focus: Node | None) -> dict[str, Any]:
    centre = node == focus
    angle = math.degrees(math.atan2(y, x))
    right = -90 <= angle <= 90
    # Text along the rays stays apart and upright; that of the inner ring is towards the middle.
    outwards = math.hypot(x, y) > 0.9 * RADIUS
    turned = {
        "rotate": -angle if right else 180 - angle,
        "position": "right" if right == outwards else "left",
    }
    return {
        "id": number,
        "name": shortened(node.name, LONGEST_LABEL),
        "x": x,
        "y": y,
        "symbol": "circle" if node.kind == "dataset" else "rect",
        "symbolSize": 30 if centre else 16,
        "itemStyle": {"color": COLOURS[node.kind]},
        "cursor": "pointer",
        "label": {
            "fontWeight": "bold" if centre or node.kind == "model" else "normal",
            **({"position": "bottom"} if centre or (x, y) == (0, 0) else turned),
        },
    }


def _link(link: Link, number: dict[Node, str]) -> dict[str, Any]:
    style: dict[str, Any] = {"color": FAINT, "type": "dashed", "width": 1.5}
    label: dict[str, Any] = {"show": False}
    if link.rank is not None:
        style = {
            "color": colour_of(link.rank, link.of),
            "type": "solid",
            "width": width_of(link.rank, link.of),
        }
    return {
        "source": number[link.source],
        "target": number[link.target],
        "lineStyle": {**style, "opacity": 0.9},
        "label": label,
    }


def colour_of(rank: int, of: int) -> str:
    """The colour of a place: the best is green, the worst grey."""
    share = (rank - 1) / max(of - 1, 1)
    mixed = [
        round(best + share * (worst - best)) for best, worst in zip(BEST_COLOUR, WORST_COLOUR, strict=True)
    ]
    return f"rgb({', '.join(map(str, mixed))})"


def width_of(rank: int, of: int) -> float:
    """The width of a place's line in pixels: the better, the thicker."""
    return THICKEST_PX - (THICKEST_PX - THINNEST_PX) * (rank - 1) / max(of - 1, 1)


def _places(view: View, nodes: Sequence[Node]) -> dict[Node, tuple[float, float]]:
    """Where nodes are: the focus in the middle and its neighbours around it by rank, from the top; or all
    datasets on a ring and each model within it, at those that it was best on.
    """
    if view.focus is not None:
        others = [node for node in nodes if node != view.focus]
        return {view.focus: (0.0, 0.0)} | _ring(others)
    datasets = [node for node in nodes if node.kind == "dataset"]
    places = _ring(datasets)
    for model in (node for node in nodes if node.kind == "model"):
        own = np.array([places[link.target] for link in view.links if link.source == model])
        # Opposite ones cancel out, but for rounding.
        middle = own.mean(axis=0).round(6)
        scale = 0.6 * RADIUS / (float(np.hypot(*middle)) or RADIUS)
        places[model] = (float(scale * middle[0]), float(scale * middle[1]))
    return places


def _ring(nodes: Sequence[Node]) -> dict[Node, tuple[float, float]]:
    """Places on a circle, clockwise from the top; downwards is positive, as on a screen."""
    turn = 2 * math.pi / max(len(nodes), 1)
    return {
        node: (RADIUS * math.sin(place * turn), -RADIUS * math.cos(place * turn))
        for place, node in enumerate(nodes)
    }
