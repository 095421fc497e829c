"""Neo4j Browser against the managed server: it opens with a statement, in our style, and draws the graph.

`MATCHGRAPH_SCREENSHOT=FILE.png` keeps a picture of what it saw.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from matchgraph.graphdb.browser import address, statements
from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.models import Dataset, Model, Result, Similar
from matchgraph.graphdb.refresh import refresh
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer
from tests.chrome import chrome, needs_chromium

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["chrome"]

TIMEOUT_S = 180

pytestmark = needs_chromium


def test_browser_opens_with_all_but_the_password_filled_in_and_draws_who_wins_where(
    graph: MatchingGraph, runner: Runner, settings: Settings, chrome: Chrome
):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    models, datasets = ("tiny-unet", "tiny-sd3", "tiny-flux"), ("noto-cats", "noto-dogs")
    graph.save_models([Model(name) for name in models])
    graph.save_datasets([Dataset(name) for name in datasets])
    graph.save_results(
        [
            Result(m, d, "clip_fid", float(rank))
            for d, order in zip(datasets, (models, models[::-1]), strict=True)
            for rank, m in enumerate(order)
        ]
    )
    graph.save_similarities([Similar(*datasets, "clip_fid", 2.0)])
    refresh(runner)
    server = ManagedServer(settings.home)
    state = server.running()
    assert state is not None

    def element(test_id: str):
        found = chrome.find_elements(By.CSS_SELECTOR, f'[data-testid="{test_id}"]')
        return found[0] if found and found[0].is_displayed() else None

    def wait_for(condition):
        return WebDriverWait(chrome, TIMEOUT_S).until(lambda _: condition())

    chrome.get(address(state.browser, state.uri, "neo4j", None, statements(runner)))
    assert wait_for(lambda: element("username")).get_attribute("value") == "neo4j"
    element("password").send_keys(server.password_file.read_text().strip())
    element("connect").click()
    wait_for(lambda: not element("password"))
    # The style comes with the connection, and has a frame of its own.
    wait_for(lambda: "relationship.BEST" in chrome.page_source)
    wait_for(lambda: element("editor-Run")).click()
    wait_for(lambda: len(chrome.find_elements(By.CSS_SELECTOR, "g.node")) == 4)
    drawn = {label.text for label in chrome.find_elements(By.CSS_SELECTOR, "g.node text")}
    assert {"unet", "flux", "cats", "dogs"} <= drawn, drawn
    edges = chrome.find_elements(By.CSS_SELECTOR, "g.relationship path.b-outline")
    colours = sorted(edge.get_attribute("fill") for edge in edges)
    assert colours == ["#0072B2", "#0072B2", "#009E73", "#009E73"]

    kept = os.environ.get("MATCHGRAPH_SCREENSHOT")
    if kept:
        assert chrome.save_screenshot(kept)
