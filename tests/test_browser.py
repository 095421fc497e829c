"""Neo4j Browser against the managed server: it logs in with our password and draws the graph.

Needs Chromium and its driver on the PATH (Debian: packages `chromium` and `chromium-driver`); skipped where
they are not.
`MATCHGRAPH_SCREENSHOT=FILE.png` keeps a picture of what it saw.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.models import Dataset, Metric, Model, Result, Similar
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.server.managed import ManagedServer

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
TIMEOUT_S = 60
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1400,900",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH"),
]


@pytest.fixture
def chrome(tmp_path: Path) -> Iterator[Chrome]:
    """A headless Chromium with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_browser_logs_in_and_draws_the_graph(graph: MatchingGraph, settings: Settings, chrome: Chrome):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    graph.save_metric(Metric("clip_fid", larger_is_better=False))
    graph.save_models([Model("tiny-unet", {}), Model("tiny-sd3", {})])
    graph.save_datasets([Dataset("cats", {}, None), Dataset("dogs", {}, None)])
    graph.save_results(
        [
            Result(m, d, "clip_fid", 1.0, "finetuned", {})
            for m in ("tiny-unet", "tiny-sd3")
            for d in ("cats", "dogs")
        ]
    )
    graph.save_similarities([Similar("cats", "dogs", "clip_fid", 2.0, {})])
    server = ManagedServer(settings.home)
    state = server.running()
    assert state is not None

    def element(test_id: str):
        found = chrome.find_elements(By.CSS_SELECTOR, f'[data-testid="{test_id}"]')
        return found[0] if found and found[0].is_displayed() else None

    def wait_for(condition):
        return WebDriverWait(chrome, TIMEOUT_S).until(lambda _: condition())

    query = quote("MATCH (m)-[r:PERFORMS|SIMILAR]->(d) RETURN m, r, d")
    chrome.get(f"{state.browser}?cmd=edit&arg={query}")
    wait_for(lambda: element("username")).send_keys("neo4j")
    element("password").send_keys(server.password_file.read_text().strip())
    element("connect").click()
    wait_for(lambda: not element("password"))
    wait_for(lambda: element("editor-Run")).click()
    wait_for(lambda: len(chrome.find_elements(By.CSS_SELECTOR, "g.node")) == 4)
    assert len(chrome.find_elements(By.CSS_SELECTOR, "g.relationship")) == 5
    drawn = {label.text for label in chrome.find_elements(By.CSS_SELECTOR, "g.node text")}
    assert {"cats", "dogs"} <= drawn, drawn

    kept = os.environ.get("MATCHGRAPH_SCREENSHOT")
    if kept:
        assert chrome.save_screenshot(kept)
