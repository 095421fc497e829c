"""The pages of runs and reports in a real browser: nothing is cut off, and axe finds nothing to object to.

`MATCHGRAPH_SCREENSHOTS=FOLDER` keeps a picture of each page at each width, light and dark.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from matchgraph.collaboration.evaluation import Study
from matchgraph.graphdb.models import Dataset, Metric, Model, Snapshot
from matchgraph.graphdb.prompt_models import ScoreTable
from matchgraph.ingest.runs.pages import write_run_page
from matchgraph.predictor.recipes import PAPER
from matchgraph.report import collaboration, routing
from matchgraph.report.comparison_sections import selection_section
from matchgraph.report.comparisons import selection
from matchgraph.report.landscape import landscape, landscape_section
from matchgraph.report.page import Head, write_page
from matchgraph.report.variants import Outcome
from matchgraph.routing.evaluation import evaluate
from matchgraph.training.measure.prompts import EncodedPrompts
from tests.chrome import chrome, needs_chromium, objections
from tests.collaboration.conftest import informed
from tests.ingest.records import record, score
from tests.report.conftest import outcome
from tests.routing.conftest import scored

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["chrome", "informed", "outcome", "scored"]

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")

pytestmark = needs_chromium


def run_page(folder: Path) -> Path:
    folder.mkdir()
    for name in ("samples_before", "samples", "real"):
        Image.effect_noise((128, 128), 80).convert("RGB").save(folder / f"{name}.png")
    told = record("a-model-with-a-long-name/of-an-owner", "a dataset", losses=[3.0, 2.5, 2.0] * 20)
    told["measured"]["finetuned"].append(score("dinov2_fid", 3.0, standard_error=0.1))
    told["measured"]["initial"] += [score("kid", 0.013, standard_error=0.002), score("dinov2_fid", 2.0)]
    return write_run_page(folder, told)


def report_page(folder: Path, outcome: Callable[..., Outcome]) -> Path:
    rng = np.random.default_rng(0)
    models, datasets = [f"tiny-model-{i}" for i in range(10)], [f"dataset-number-{i}" for i in range(32)]
    values = pd.DataFrame(
        [(m, d, rng.uniform(5, 50), rng.uniform(20, 60)) for m in models for d in datasets],
        columns=["model", "dataset", "value", "initial"],
    )
    study = landscape(
        Snapshot(
            Metric("clip_fid", False),
            tuple(map(Model, models)),
            tuple(map(Dataset, datasets)),
            values,
            pd.DataFrame(columns=["dataset", "other", "value"]),
        )
    )
    never, always = [0.0] * 10, [1.0] * 10
    outcomes = {
        (PAPER, seed): outcome(method=always, average_value=never, average_rank=never, random=[0.1] * 10)
        for seed in (0, 1)
    }
    sections = [selection_section(selection(outcomes), models=10), landscape_section(study)]
    head = Head("How well models are chosen", [sections[0].lead], "matchgraph report", {"seed": 0}, "Note.")
    return write_page(folder, head, sections, {}, page="index.html", data="report.json").path


def test_every_page_fits_its_screen_and_passes_axe(
    chrome: Chrome,
    informed: Study,
    scored: tuple[ScoreTable, EncodedPrompts],
    outcome: Callable[..., Outcome],
    tmp_path: Path,
):
    table, encoded = scored
    routed = evaluate(table, replace(encoded, tokens=None, mask=None), folds=1)
    pages = {
        "run": run_page(tmp_path / "run"),
        "report": report_page(tmp_path / "report", outcome),
        "routing": routing.write_report([routed], tmp_path / "routing", "matchgraph", {"seed": 0})[0],
        "collaboration": collaboration.write_report(informed, tmp_path / "c", "matchgraph", {"seed": 0})[0],
    }
    kept = os.environ.get("MATCHGRAPH_SCREENSHOTS")
    found: list[str] = []
    for scheme in SCHEMES:
        chrome.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        for name, page in pages.items():
            for width in WIDTHS:
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                chrome.get(page.as_uri())
                where = f"{name}, {width} px, {scheme}"
                wide = chrome.execute_script("return document.documentElement.scrollWidth")
                if wide > width:
                    found.append(f"{where}: {wide} px wide")
                # At a desk's width even tables are seen whole.
                if width == WIDTHS[0]:
                    cut = chrome.execute_script(
                        "return [...document.querySelectorAll('.scroll')]"
                        ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"
                    )
                    found += [f"{where}: cut off: {label}" for label in cut]
                if kept:
                    Path(kept).mkdir(exist_ok=True)
                    tall = chrome.execute_script("return document.documentElement.scrollHeight")
                    chrome.execute_cdp_cmd(
                        "Emulation.setDeviceMetricsOverride", {**size, "height": min(tall, 6000)}
                    )
                    chrome.save_screenshot(f"{kept}/{name}-{width}-{scheme}.png")
                # The second scheme has the same colours at each width.
                second = scheme != SCHEMES[0]
                if not second or width == WIDTHS[0]:
                    found += objections(chrome, where, colours_only=second)
    assert not found, "\n".join(found)
