"""A headless Chromium for the tests that look at pages.

Needs Chromium and its driver on the PATH (Debian: packages `chromium` and `chromium-driver`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SCRIPT_TIMEOUT_S = 300
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

needs_chromium = [
    pytest.mark.browser,
    pytest.mark.slow,
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
    try:
        # What axe may take on a machine with much else to do.
        driver.set_script_timeout(SCRIPT_TIMEOUT_S)
        yield driver
    finally:
        driver.quit()


def objections(chrome: Chrome, where: str, *, colours_only: bool = False) -> list[str]:
    """What axe objects to on the page as it is now.

    Args:
        chrome: shows it.
        where: begins each objection.
        colours_only: whether to check the contrast alone, as of a second scheme of the same page.
    """
    from axe_core_python.selenium import Axe

    checked = {"runOnly": ["color-contrast"]} if colours_only else {"resultTypes": ["violations"]}
    return [
        f"{where}: {broken['id']}: {broken['help']}: {[node['html'][:90] for node in broken['nodes'][:3]]}"
        for broken in Axe().run(chrome, options=checked)["violations"]
    ]
