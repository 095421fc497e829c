"""The page in a headless Chromium, from `matchgraph ui` in its own process, on a wide and a narrow screen.

`MATCHGRAPH_SCREENSHOTS=FOLDER` keeps pictures of what it saw.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from matchgraph.graphdb.connection import HOME_VARIABLE, Settings
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs.ledger import Ledger, RunProgress, RunRequest
from matchgraph.ingest.runs.owner import Owner
from tests.chrome import chrome, needs_chromium
from tests.ui.conftest import HOSTILE

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["chrome"]

TIMEOUT_S = 60
WIDTHS = {"wide": 1280, "narrow": 400}
ROOT = Path(__file__).parents[2]

pytestmark = needs_chromium


@pytest.fixture
def address(zoo: MatchingGraph, settings: Settings) -> Iterator[str]:
    """The address that a running `matchgraph ui` prints."""
    ledger = Ledger(zoo.runner)
    for name in ("good", "fair"):
        ledger.enqueue([RunRequest(name, "new", {"metrics": ["clip_fid"], "seed": 0}, "m", "d")])
    held = ledger.claim_next(None, Owner.here())
    assert held is not None
    ledger.heartbeat(held, RunProgress("training", 30, 150, 0.31))
    environment = {**os.environ, HOME_VARIABLE: str(settings.home), "PYTHONPATH": str(ROOT)}
    environment.pop("MATCHGRAPH_PROBE", None)
    command = "from matchgraph.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "ui", "--port", "0", "--no-launch"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    printed = ""
    while not (found := re.search(r"Open (\S+)", printed)):
        line = process.stderr.readline()
        assert line, printed
        printed += line
    uploads = settings.home / "uploads"
    before = set(uploads.glob("*"))
    yield found[1]
    assert set(uploads.glob("*")) > before
    process.terminate()
    process.communicate(timeout=TIMEOUT_S)
    assert set(uploads.glob("*")) == before


def status_of(address: str, path: str, **headers: str) -> int:
    """The status of a bare request, without the token."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=TIMEOUT_S)
    connection.request("GET", path, headers=headers)
    return connection.getresponse().status


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def test_a_visit_on_a_wide_and_a_narrow_screen(address: str, chrome: Chrome, tmp_path: Path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    for path, headers in (("/", {}), ("/_nicegui_ws/socket.io/?EIO=4&transport=websocket", UPGRADE)):
        assert status_of(address, path, **headers) == 403
        assert status_of(address, path, Host="evil.org", **headers) in (403, 421)

    dropped = images(tmp_path)
    kept = Path(os.environ.get("MATCHGRAPH_SCREENSHOTS", tmp_path))

    def wait_for(condition: Callable[[], Any]) -> Any:
        return WebDriverWait(chrome, TIMEOUT_S).until(lambda _: condition())

    def seen(text: str) -> bool:
        return text in chrome.find_element(By.TAG_NAME, "body").text

    def button(text: str) -> Any:
        found = chrome.find_elements(By.XPATH, f"//*[self::button or @role='tab'][contains(., '{text}')]")
        return next((one for one in found if one.is_displayed()), None)

    def press(text: str) -> None:
        # By the keyboard, as everything can be.
        wait_for(lambda: button(text)).send_keys(Keys.ENTER)

    def looked_at(name: str) -> None:
        wide = chrome.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide"
        assert chrome.save_screenshot(str(kept / f"{name}.png"))

    for screen, width in WIDTHS.items():
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        chrome.get(address)
        wait_for(lambda: seen("Which model will be best"))
        assert "token" not in chrome.current_url
        looked_at(f"begin-{screen}")

        press("My images")
        drop = wait_for(lambda: chrome.find_element(By.CSS_SELECTOR, "input[type=file]"))
        drop.send_keys("\n".join(map(str, dropped)))
        wait_for(lambda: seen("2 images, 0 captions"))
        wait_for(lambda: seen("broken.png is not an image"))
        press("A known dataset")
        known = chrome.find_element(By.CSS_SELECTOR, "input[aria-label='Dataset']")
        known.send_keys(Keys.CONTROL, "a")
        known.send_keys("new")
        wait_for(lambda: chrome.find_elements(By.CSS_SELECTOR, ".q-menu [role=option]"))
        known.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
        press("Rank the models")
        wait_for(lambda: seen("Fine-tune good"))
        wait_for(lambda: seen(HOSTILE))
        looked_at(f"answer-{screen}")

        press("Runs")
        wait_for(lambda: seen("training 30/150"))
        looked_at(f"runs-{screen}")

        press("Graph")
        wait_for(lambda: len(chrome.find_elements(By.CSS_SELECTOR, ".mg-network svg text")) >= 5)
        looked_at(f"graph-{screen}")
        press("d3")
        wait_for(lambda: seen(HOSTILE[:12]))
        press("Back")
        press("Prompt")
        wait_for(lambda: seen("matchgraph route fit"))
        looked_at(f"prompt-{screen}")
    assert chrome.title == "matchgraph"
    assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []


def images(folder: Path) -> list[Path]:
    """Files to drop on the page: two images, and a script that is called one."""
    for number in range(2):
        Image.new("RGB", (64, 64), (99 * number, 90, 90)).save(folder / f"{number}.png")
    (folder / "broken.png").write_text("<script>alert(1)</script>")
    return sorted(folder.glob("*.png"))
