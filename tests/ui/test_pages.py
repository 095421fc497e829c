"""The page's tabs as a visitor uses them, without a browser, against the real graph."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from matchgraph.graphdb.errors import ServerUnreachable
from matchgraph.ingest.runs.entries import RunRequest
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ui.app import CHOOSE, GRAPH, PROMPT, RUNS, show_page
from matchgraph.ui.choose import FOLDER
from matchgraph.ui.desk import Desk
from matchgraph.ui.work import Work
from tests.ui.conftest import HOSTILE

# Looks, a tenth of a second apart.
PATIENCE = 600

Visit = Callable[[Callable[..., Awaitable[None]]], None]


@pytest.fixture
def visit(desk: Desk) -> Visit:
    """Opens the page for a visitor and lets a story go on there."""
    from nicegui import ui
    from nicegui.testing import user_simulation

    def begin(story: Callable[..., Awaitable[None]]) -> None:
        async def visited() -> None:
            async with user_simulation(lambda: show_page(desk, Work(desk))) as user:
                await user.open("/")
                await user.should_not_see("Reading the graph", retries=PATIENCE)
                await story(user, ui)

        asyncio.run(visited())

    return begin


@pytest.mark.slow
def test_a_dataset_is_ranked_with_its_reasons_and_others_names_stay_text(visit: Visit):
    async def story(user, ui):
        [known] = [each for each in user.find(kind=ui.select).elements if "new" in each.options]
        known.set_value("new")
        user.find("Rank the models").click()
        await user.should_see("Fine-tune good", retries=PATIENCE)
        await user.should_see(HOSTILE)
        await user.should_see("Most similar datasets")
        await user.should_see("no folder on this machine is known")
        await user.should_see("Queue these runs")

    visit(story)


def test_a_graph_that_does_not_answer_is_named_in_place_of_the_page(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
):
    def away(_: Desk) -> None:
        raise ServerUnreachable("No Neo4j answers.")

    async def story(user, _):
        await user.should_see("No Neo4j answers. Then reload this page.", retries=PATIENCE)
        await user.should_not_see("Rank the models")

    monkeypatch.setattr(Desk, "known", away)
    visit(story)


def test_enter_asks_nothing_while_a_question_is_answered(visit: Visit, monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []
    monkeypatch.setattr(Desk, "named", lambda _, folder: folder)
    monkeypatch.setattr(Desk, "ask", lambda *given, **_: asked.append(given))

    async def story(user, ui):
        [button] = user.find(kind=ui.button, content="Rank the models").elements
        button.disable()
        [kind] = user.find(kind=ui.toggle).elements
        kind.set_value(FOLDER)
        user.find("Folder on this machine").trigger("keydown.enter")
        await asyncio.sleep(0.1)
        assert asked == []

    visit(story)


@pytest.mark.slow
def test_runs_are_cancelled_from_the_page_unless_it_is_read_only(visit: Visit, desk: Desk):
    [run] = Ledger(desk.runner).enqueue([RunRequest("good", "new", {"metrics": ["clip_fid"]}, "m", "d")])

    async def story(user, _):
        user.find(RUNS).click()
        await user.should_see("1 queued", retries=PATIENCE)
        user.find(run[:8]).click()
        await user.should_see(f"run {run}", retries=PATIENCE)
        if desk.read_only:
            await user.should_not_see("Cancel")
            await user.should_not_see("Work on 1 queued run here")
            return
        user.find("Cancel").click()
        await user.should_see("1 cancelled", retries=PATIENCE)
        await user.should_see("Queue again", retries=PATIENCE)

    visit(story)
    desk.read_only = True
    Ledger(desk.runner).requeue([run], statuses=["CANCELLED"])
    visit(story)


def test_the_graph_is_walked_by_its_table(visit: Visit):
    async def story(user, ui):
        user.find(GRAPH).click()
        await user.should_see("Each dataset, and the model that was best on it", retries=PATIENCE)
        user.find(kind=ui.button, content="d3").click()
        await user.should_see("2 of 3", retries=PATIENCE)
        [chart] = [chart for chart in user.find(kind=ui.echart).elements if chart.options]
        assert len(chart.options["baseOption"]["series"][0]["data"]) == 8
        user.find("Back").click()
        await user.should_see("1 of 3", retries=PATIENCE)

    visit(story)


def test_without_a_router_the_page_says_how_to_get_one(visit: Visit):
    async def story(user, _):
        user.find(PROMPT).click()
        await user.should_see("matchgraph route fit", retries=PATIENCE)
        user.find(CHOOSE).click()
        await user.should_see("Rank the models")

    visit(story)
