"""The page, and the server that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.ui.choose import ChooseTab
from matchgraph.ui.graph import GraphTab
from matchgraph.ui.parts import answered, notice, tagged
from matchgraph.ui.prompt import PromptTab
from matchgraph.ui.runs import RunsTab

if TYPE_CHECKING:
    from nicegui.elements.tabs import Tabs

    from matchgraph.ui.desk import Desk, Known
    from matchgraph.ui.work import Work

STYLE = Path(__file__).parent / "style.css"
TITLE = "matchgraph"
CHOOSE, RUNS, GRAPH, PROMPT = "Choose", "Runs", "Graph", "Prompt"


async def show_page(desk: Desk, work: Work) -> None:
    """Show the page to one visitor, whose client is the current one.

    The graph is asked in a thread and once the browser is there, so that one that does not answer holds up
    neither this page nor those of others.
    """
    from nicegui import ui

    ui.add_css(STYLE.read_text(encoding="utf-8"))
    ui.colors(primary="#0072b2", positive="#00785a", negative="#b3401a", warning="#e0a000")
    tabs = build_header(desk)
    place = ui.element("div").classes("mg-place")
    with place:
        ui.label("Reading the graph …").classes("mg-doing").props("aria-live=polite")
    await ui.context.client.connected()

    def failed(reason: str) -> None:
        place.clear()
        with place:
            notice(f"{reason} Then reload this page.", "error")

    known = await answered(desk.known, failed)
    if known is not None and not place.is_deleted:
        place.clear()
        with place:
            build_panels(desk, work, known, tabs)


def build_header(desk: Desk) -> Tabs:
    """The top of the page, with the names of the tabs."""
    from nicegui import ui

    dark = ui.dark_mode(None)
    looks = {None: "Light or dark: as the system", True: "Dark", False: "Light"}

    def turn() -> None:
        # As the system, dark, light, and again.
        dark.value = {None: True, True: False, False: None}[dark.value]
        ui.notify(looks[dark.value], timeout=1_000)

    with ui.header().classes("mg-header"):
        tagged("h1", TITLE, "mg-brand")
        with ui.tabs().props("no-caps dense inline-label").classes("mg-tabs") as tabs:
            for name in (CHOOSE, RUNS, GRAPH, PROMPT):
                ui.tab(name)
        if desk.read_only:
            ui.badge("read-only").props("outline color=white")
        button = ui.button(icon="contrast", on_click=turn).props("flat round dense color=white")
        button.props["aria-label"] = "Light or dark"
        button.tooltip("Light or dark")
    return tabs


def build_panels(desk: Desk, work: Work, known: Known, tabs: Tabs) -> None:
    """What the tabs show."""
    from nicegui import ui

    with ui.tab_panels(tabs, value=CHOOSE, animated=False).classes("mg-panels"):
        with ui.tab_panel(CHOOSE):
            ChooseTab(desk, known.datasets, lambda: tabs.set_value(RUNS))
        with ui.tab_panel(RUNS):
            runs = RunsTab(desk, work, lambda: tabs.value == RUNS)
        with ui.tab_panel(GRAPH):
            graph = GraphTab(desk)
        with ui.tab_panel(PROMPT):
            PromptTab(desk, known.routers)

    async def shown() -> None:
        # What has changed meanwhile is seen at once.
        if tabs.value == RUNS:
            await runs.look()
        elif tabs.value == GRAPH:
            await graph.load()

    tabs.on_value_change(shown)


def create_app(desk: Desk, work: Work) -> Any:
    """The whole application, still without its guard.

    Args:
        desk: the services.
        work: the server's own workers.

    Returns:
        An ASGI application. The toolkit keeps its own in a global, so a process has one at a time.
    """
    from fastapi import FastAPI
    from nicegui import ui

    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    ui.run_with(
        app,
        root=lambda: show_page(desk, work),
        title=TITLE,
        dark=None,
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=30.0,
    )
    return app
