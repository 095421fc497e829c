"""The page in a headless Chromium, from `matchgraph ui` in its own process, on a wide and a narrow screen.

`MATCHGRAPH_SCREENSHOTS=FOLDER` keeps pictures of what it saw.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from matchgraph.graphdb.connection import HOME_VARIABLE, Settings
from matchgraph.graphdb.models import Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs.artefacts import RECORD_FILE, claim_folder
from matchgraph.ingest.runs.entries import Run, RunProgress, RunRequest
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.owner import Owner
from matchgraph.routing.given import add_scores
from matchgraph.routing.store import RouterStore
from matchgraph.routing.workflow import fit
from tests.chrome import chrome, needs_chromium, objections
from tests.ui.conftest import HOSTILE

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["chrome"]

TIMEOUT_S = 180
# As long as any visit: nobody takes the run from its worker.
LEASE_MS = 3_600_000
SCHEMES = ("light", "dark")
WIDTHS = {"wide": 1280, "narrow": 400}
ROOT = Path(__file__).parents[2]
# A colour that is still fading, or under the ripple of a pressed key, would be judged as it is in between.
UNMOVED = """document.addEventListener("DOMContentLoaded", () => {
  const style = document.createElement("style")
  style.textContent = "*, *::before, *::after { transition: none !important; animation: none !important }" +
    " .q-ripple { display: none !important }"
  document.head.append(style)
})"""

pytestmark = needs_chromium


@pytest.fixture
def held(zoo: MatchingGraph) -> Run:
    """One of two runs, which a worker has begun."""
    ledger = Ledger(zoo.runner, lease_ms=LEASE_MS)
    for name in ("good", "fair"):
        ledger.enqueue([RunRequest(name, "new", {"metrics": ["clip_fid"], "seed": 0}, "m", "d")])
    held = ledger.claim_next(None, Owner.here())
    assert held is not None
    ledger.heartbeat(held, RunProgress("training", 30, 150, 0.31))
    return held


@pytest.fixture
def address(zoo: MatchingGraph, settings: Settings, tmp_path: Path) -> Iterator[str]:
    """The address that a running `matchgraph ui` prints, where prompts can be routed."""
    environment = {**os.environ, HOME_VARIABLE: str(settings.home), "PYTHONPATH": str(ROOT)}
    environment["MATCHGRAPH_PROBE"] = str(routed(zoo, settings, tmp_path))
    command = "from matchgraph.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "ui", "--port", "0", "--no-launch"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    printed = ""
    uploads = settings.home / "uploads"
    try:
        while not (found := re.search(r"Open (\S+)", printed)):
            line = process.stderr.readline()
            assert line, printed
            printed += line
        before = set(uploads.glob("*"))
        yield found[1]
        assert set(uploads.glob("*")) > before
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
        assert set(uploads.glob("*")) == before
    finally:
        process.kill()
        process.wait()


def routed(zoo: MatchingGraph, settings: Settings, folder: Path) -> Path:
    """Fit a router to scores of two candidates, of which the costly one is better on what has a large `b`.

    Returns:
        The file with the prompts' embeddings, which stands for a CLIP.
    """
    embeddings, scores = folder / "embeddings.csv", folder / "scores.csv"
    prompts = [(f"prompt {number}", number / 120, 1 - number / 120) for number in range(120)]
    embeddings.write_text("\n".join(["prompt,a,b", *(f"{text},{a},{b}" for text, a, b in prompts)]))
    rows = (
        f"{text},{candidate},{value},{cost}"
        for text, a, b in prompts
        for candidate, value, cost in (("cheap", 0.2 + 0.1 * a, 1), ("costly", 0.2 + 0.3 * b, 4))
    )
    scores.write_text("\n".join(["prompt,candidate,value,tflop", *rows]))
    add_scores(zoo.runner, scores, str(embeddings), metric="taste")
    fit(zoo.runner, RouterStore(settings.home), "taste")
    return embeddings


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


def test_a_visit_on_a_wide_and_a_narrow_screen(
    held: Run, address: str, chrome: Chrome, zoo: MatchingGraph, settings: Settings, tmp_path: Path
):
    from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    for path, headers in (("/", {}), ("/_nicegui_ws/socket.io/?EIO=4&transport=websocket", UPGRADE)):
        assert status_of(address, path, **headers) == 403
        assert status_of(address, path, Host="evil.org", **headers) in (403, 421)

    dropped = images(tmp_path)
    kept = Path(os.environ.get("MATCHGRAPH_SCREENSHOTS", tmp_path))

    def wait_for(condition: Callable[[], Any]) -> Any:
        try:
            # What a tab draws again meanwhile is looked for again.
            waiting = WebDriverWait(chrome, TIMEOUT_S, ignored_exceptions=[StaleElementReferenceException])
            return waiting.until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(chrome.find_element(By.TAG_NAME, "body").text) from None

    def seen(text: str) -> bool:
        return text in chrome.find_element(By.TAG_NAME, "body").text

    def shown(selector: str) -> Any:
        """The first element that can be typed in; a tab may have it before it shows it."""
        found = chrome.find_elements(By.CSS_SELECTOR, selector)
        return next((one for one in found if one.is_displayed()), None)

    def button(text: str) -> Any:
        found = chrome.find_elements(By.XPATH, f"//*[self::button or @role='tab'][contains(., '{text}')]")
        return next((one for one in found if one.is_displayed()), None)

    def press(text: str) -> None:
        def pressed() -> bool:
            found = button(text)
            if found is not None:
                # By the keyboard, as everything can be.
                found.send_keys(Keys.ENTER)
            return found is not None

        wait_for(pressed)

    found: list[str] = []

    def looked_at(name: str, schemes: Sequence[str]) -> None:
        for scheme in schemes:
            features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
            wait_for(partial(chrome.find_elements, By.CSS_SELECTOR, f"body.body--{scheme}"))
            wide = chrome.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{name} is {wide} pixels too wide"
            assert chrome.save_screenshot(str(kept / f"{name}-{scheme}.png"))
            found.extend(objections(chrome, f"{name}, {scheme}", colours_only=scheme == "dark"))

    chrome.execute_cdp_cmd("Page.enable", {})
    chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": UNMOVED})
    for screen, width in WIDTHS.items():
        # The second scheme has the same colours at each width.
        schemes = SCHEMES if screen == "wide" else SCHEMES[:1]
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        chrome.get(address)
        wait_for(lambda: seen("Which model will be best"))
        assert "token" not in chrome.current_url
        looked_at(f"begin-{screen}", schemes)

        press("My images")
        drop = wait_for(lambda: chrome.find_element(By.CSS_SELECTOR, "input[type=file]"))
        drop.send_keys("\n".join(map(str, dropped)))
        wait_for(lambda: seen("2 images, 0 captions"))
        wait_for(lambda: seen("broken.png is not an image"))
        press("A known dataset")
        known = wait_for(lambda: shown("input[aria-label='Dataset']"))
        known.send_keys(Keys.CONTROL, "a")
        known.send_keys("new")
        wait_for(lambda: chrome.find_elements(By.CSS_SELECTOR, ".q-menu [role=option]"))
        known.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
        press("Rank the models")
        wait_for(lambda: seen("Fine-tune good"))
        wait_for(lambda: seen(HOSTILE))
        looked_at(f"answer-{screen}", schemes)

        press("Runs")
        wait_for(lambda: seen("training 30/150"))
        looked_at(f"runs-{screen}", schemes)

        press("Graph")
        wait_for(lambda: len(chrome.find_elements(By.CSS_SELECTOR, ".mg-network svg text")) >= 5)
        looked_at(f"graph-{screen}", schemes)
        press("d3")
        wait_for(lambda: seen(HOSTILE[:12]))
        press("Back")
        press("Prompt")
        asked = wait_for(lambda: shown("input[aria-label='Prompt']"))
        asked.send_keys("prompt 3", Keys.ENTER)
        wait_for(lambda: seen("Draw it with costly"))
        looked_at(f"prompt-{screen}", schemes)
    assert not found, "\n".join(found)

    # A run to its end, as its worker reports it.
    ledger = Ledger(zoo.runner, lease_ms=LEASE_MS)
    press("Runs")
    press(held.id[:8])
    wait_for(lambda: seen("training 30/150"))
    ledger.heartbeat(held, RunProgress("training", 60, 150, 0.2))
    wait_for(lambda: chrome.find_elements(By.CSS_SELECTOR, ".mg-chart"))
    ledger.heartbeat(held, RunProgress("sampling after", 3, 8))
    wait_for(lambda: seen("sampling after 3/8"))
    folder = claim_folder(settings.home, held.id, held.fence)
    folder.mkdir(parents=True)
    # As the training leaves it, before what it came to is measured.
    (folder / RECORD_FILE).write_text(json.dumps({"happened": {"losses": [0.4, 0.3, 0.2]}}))
    Image.new("RGB", (64, 64), (9, 90, 90)).save(folder / "samples.png")
    wait_for(lambda: chrome.find_elements(By.CSS_SELECTOR, ".mg-grid img[alt^='After']"))
    ledger.complete(held, zoo, [Result(held.model, "new", "clip_fid", 7.5)], {"clip_fid": 7.5})
    wait_for(lambda: seen("1 queued, 1 done"))
    wait_for(lambda: seen("7.5"))
    looked_at("run-done", SCHEMES)
    assert not found, "\n".join(found)
    assert chrome.title == "matchgraph"
    assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []


def images(folder: Path) -> list[Path]:
    """Files to drop on the page: two images, and a script that is called one."""
    for number in range(2):
        Image.new("RGB", (64, 64), (99 * number, 90, 90)).save(folder / f"{number}.png")
    (folder / "broken.png").write_text("<script>alert(1)</script>")
    return sorted(folder.glob("*.png"))
