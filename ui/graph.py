"""The tab of the graph: a picture to walk through, and the same as a table for keyboard and screen reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from matchgraph.ui.network import Link, Node, View, around, names_of, options, overview, results
from matchgraph.ui.parts import answered, notice, table, thumbnails

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.models import Snapshot
    from matchgraph.ui.desk import Desk

WHOLE = "the whole graph"


class GraphTab:
    """What one visitor walks through.

    Args:
        desk: the services.
    """

    def __init__(self, desk: Desk) -> None:
        from nicegui import ui

        self._desk = desk
        self._graph: tuple[Snapshot, pd.DataFrame] | None = None
        self._path: list[Node | None] = [None]
        self._view = View(None, ())
        self._nodes: list[Node] = []
        with ui.element("section").classes("mg-card"):
            with ui.element("div").classes("mg-actions"):
                self._title = ui.label("The graph").classes("mg-title").props("aria-live=polite")
                self._back = ui.button("Back", icon="arrow_back", on_click=self._back_up).props(
                    "no-caps flat dense"
                )
                self._find = ui.select({}, label="Go to", with_input=True, on_change=self._found)
                self._find.props("outlined dense").classes("mg-find")
            self._legend = ui.label().classes("mg-line")
            self._chart = ui.echart({}, on_point_click=self._clicked, renderer="svg").classes("mg-network")
            self._chart.props("role=img aria-label='The graph; the table below has the same'")
            self._rest = ui.element("div")

    async def load(self) -> None:
        """Read the graph, as it is now, and show it."""

        def read() -> tuple[Snapshot, pd.DataFrame]:
            snapshot = self._desk.snapshot()
            return snapshot, results(snapshot)

        found = await answered(read, self._failed)
        if found is None or self._chart.is_deleted:
            return
        self._graph, self._nodes = found, names_of(found[0])
        self._find.set_options(
            {index: f"{node.name} ({node.kind})" for index, node in enumerate(self._nodes)}
        )
        self._path = [node for node in self._path if node is None or node in self._nodes]
        await self._show()

    def _failed(self, reason: str) -> None:
        self._rest.clear()
        self._chart.set_visibility(False)
        with self._rest:
            notice(reason)

    async def _go(self, node: Node | None) -> None:
        from nicegui import ui

        if node != self._path[-1]:
            self._path.append(node)
        await self._show()
        ui.navigate.to(self._title)

    async def _back_up(self) -> None:
        if len(self._path) > 1:
            self._path.pop()
        await self._show()

    async def _found(self, event: Any) -> None:
        if event.value is not None:
            self._find.set_value(None)
            await self._go(self._nodes[event.value])

    async def _clicked(self, event: Any) -> None:
        if event.data_type == "node":
            await self._go(self._view.nodes[int(event.data["id"])])

    async def _show(self) -> None:
        from nicegui import ui

        assert self._graph is not None
        (snapshot, ranked), focus = self._graph, self._path[-1]
        self._view = view = overview(ranked) if focus is None else around(snapshot, ranked, focus)
        self._title.set_text(
            "Each dataset, and the model that was best on it" if focus is None else focus.name
        )
        self._back.set_visibility(len(self._path) > 1)
        measured = (
            f"{snapshot.metric.name}, {'larger' if snapshot.metric.larger_is_better else 'smaller'} is better"
        )
        self._legend.set_text(
            f"Squares are models, circles datasets. Lines are results ({measured}): the better the rank "
            "within the dataset, the greener and thicker. Dashed lines lead to the nearest datasets. Click a "
            "node to go there."
        )
        self._chart.set_visibility(bool(view.links))
        self._chart.options.clear()
        self._chart.options.update(options(view))
        self._chart.update()
        self._rest.clear()
        with self._rest:
            own = ui.element("div")
            if not view.links:
                notice("Nothing is measured there." if focus else "The graph has no results yet.")
            if view.left_out:
                ui.label(f"{view.left_out} more are left out of the picture.").classes("mg-line")
            table(
                ["from", "to", "rank", "value"],
                [self._row(link) for link in view.links],
                numbers=("rank", "value"),
            )
        if focus is not None and focus.kind == "dataset":
            found = await answered(lambda: self._desk.pictures(focus.name))
            if found and not own.is_deleted:
                with own:
                    thumbnails(found, focus.name)

    def _row(self, link: Link) -> list[Any]:
        rank = "nearest" if link.rank is None else f"{link.rank} of {link.of}"
        return [self._button(link.source), self._button(link.target), rank, f"{link.value:.4g}"]

    def _button(self, node: Node) -> Callable[[], None]:
        from nicegui import ui

        def made() -> None:
            button = ui.button(node.name, on_click=lambda: self._go(node)).props(
                "flat dense no-caps align=left"
            )
            button.classes("mg-node")
            button.props["aria-label"] = f"Go to the {node.kind} {node.name}"

        return made
