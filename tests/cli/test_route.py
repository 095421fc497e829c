"""`matchgraph route` from prompts to an answer, with a real pipeline, its images and their scores."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from matchgraph.cli.main import matchgraph
from matchgraph.collaboration import calibration
from matchgraph.minizoo import ROOT
from matchgraph.routing import encoders
from tests.routing.test_service import texts

CLIP = str(ROOT / "probes" / "clip")
MODEL = "tiny-sana-small"
PATIENCE_S = 180


@pytest.fixture
def invoke(environment: Mapping[str, str], settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(settings.home)
    # Routers of earlier tests in this home: `route serve` would load them as well.
    shutil.rmtree(settings.home / "routing", ignore_errors=True)

    def invoke(*arguments: str, fails: bool = False) -> Result:
        own = {**environment, "MATCHGRAPH_PROBE": CLIP}
        result = CliRunner().invoke(matchgraph, arguments, env=own, catch_exceptions=fails)
        assert (result.exit_code != 0) == fails, result.output
        return result

    return invoke


@pytest.mark.slow
def test_from_prompts_to_an_image(
    invoke: Callable[..., Result],
    environment: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoders, "FEWEST_VALIDATION", 1)
    invoke("ingest", "models", str(ROOT / "models" / MODEL), "--no-throughput")
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*texts()[:12], "", texts()[0]]) + "\n", encoding="utf-8")

    shown = invoke("route", "prompts", str(file), "--largest-similarity", "1.01", "--json").stdout
    assert json.loads(shown) == {
        "read": 12,
        "kept": 12,
        "splits": {"train": 10, "validation": 1, "test": 1},
        "left_out": [],
    }
    variants = json.loads(invoke("route", "variants", "--steps", "1,3", "--json").stdout)
    assert [variant["id"] for variant in variants] == [f"{MODEL}@1", f"{MODEL}@3"]
    assert variants[1]["cost"] == pytest.approx(3 * variants[0]["cost"])

    scored = ("route", "score", "--metric", "clip_score", "--samples", "1")
    assert "24 images" in invoke(*scored).output
    # All is there: nothing is drawn again.
    assert "0 images" in invoke(*scored).output

    invoke("route", "fit")
    cheap, dear = (variant["cost"] for variant in variants)
    budget = (cheap + dear) / 2
    found = json.loads(invoke("route", "calibrate", "--budget-tflop", str(budget), "--json").stdout)
    assert found["validation_cost"] <= budget
    lavish = json.loads(invoke("route", "ask", "a red cat", "--lambda", "0", "--json").stdout)
    thrifty = json.loads(invoke("route", "ask", "a red cat", "--budget-tflop", str(cheap), "--json").stdout)
    assert (lavish["lam"], thrifty["steps"]) == (0, 1)
    by_quality = max(lavish["options"], key=lambda option: option["quality"])
    assert lavish["variant"] == by_quality["variant"]
    assert "a red cat" not in invoke("route", "ask", "a red cat").stdout

    out = tmp_path / "out"
    invoke("route", "generate", "a red cat", "a blue fish", "--lambda", "1e6", "--out", str(out))
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 2
    with Image.open(pictures[0]) as image:
        assert image.size == (32, 32)
    assert "Written to" in invoke("route", "curve", "--out", str(tmp_path / "page"), "--folds", "3").stdout
    assert f"--folds 3 --seed 0 --probe {CLIP}" in (tmp_path / "page" / "routing.html").read_text("utf-8")
    assert_it_serves(environment, {"prompts": ["a red cat"], "lambda": 0}, lavish["variant"])


def assert_it_serves(environment: Mapping[str, str], asked: dict[str, Any], variant: str) -> None:
    """`route serve` says where it listens, answers there as `route ask` does, and ends at an interrupt."""
    command = [
        sys.executable,
        "-c",
        "from matchgraph.cli.main import main; main()",
        "route",
        "serve",
        "--port",
        "0",
    ]
    own = {**os.environ, **environment, "MATCHGRAPH_PROBE": CLIP}
    with subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True, cwd=ROOT.parent) as process:
        assert process.stderr is not None
        try:
            url = next(line.split()[2] for line in process.stderr if line.startswith("Serving on "))
            answer = httpx.post(f"{url}/v1/route", json=asked, timeout=PATIENCE_S)
            assert answer.json()["decisions"][0]["variant"] == variant
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_what_is_missing_is_named(invoke: Callable[..., Result]) -> None:
    assert "route fit" in str(invoke("route", "ask", "a cat", fails=True).exception)
    assert "route score" in str(invoke("route", "curve", fails=True).exception)
    gone = invoke("route", "variants", "--model", "gone", "--steps", "1", fails=True)
    assert "no pipeline folder of 'gone'" in str(gone.exception)
    for metric, option in (("aesthetic", "--aesthetic-weights"), ("image_reward", "--reward-weights")):
        assert option in str(invoke("route", "score", "--metric", metric, fails=True).exception)
    assert "'1,x'" in invoke("route", "variants", "--steps", "1,x", fails=True).output
    assert (
        "not both"
        in invoke("route", "ask", "a cat", "--budget-tflop", "1", "--lambda", "1", fails=True).output
    )


def test_scores_of_ones_own_lead_to_a_decision_in_their_unit(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ratings by two people of two closed services, of which the dear one is better."""
    monkeypatch.setattr(encoders, "FEWEST_VALIDATION", 1)
    rows = [
        [f"a cat, {text}", model, quality + rater + (number / 100 if model == "cheap" else 0), usd]
        for number, text in enumerate(texts()[:40])
        for model, quality, usd in (("cheap", 3, 0.01), ("dear", 4, 0.04))
        for rater in (-0.1, 0.1)
    ]
    file = tmp_path / "ratings.csv"
    pd.DataFrame(rows, columns=["prompt", "model", "rating", "usd"]).to_csv(file, index=False)
    added = json.loads(invoke("route", "scores", str(file), "--json").stdout)
    assert (added["candidates"], added["values"], added["new_prompts"]) == (
        ["cheap", "dear"],
        {"rating": 160},
        40,
    )
    invoke("route", "fit", "--metric", "rating")
    found = json.loads(
        invoke("route", "calibrate", "--metric", "rating", "--budget-usd", "0.03", "--json").stdout
    )
    assert (found["unit"], found["validation_cost"] <= 0.03) == ("USD", True)
    for lam, variant, cost in (("0", "dear", 0.04), ("100", "cheap", 0.01)):
        asked = ("route", "ask", "a cat", "--metric", "rating", "--lambda", lam, "--json")
        decision = json.loads(invoke(*asked).stdout)
        assert (decision["variant"], decision["cost"], decision["steps"]) == (variant, cost, None)
    wrong = invoke("route", "calibrate", "--metric", "rating", "--budget-tflop", "1", fails=True)
    assert "the candidates for rating cost USD" in str(wrong.exception)
    # The same scores are those of a student and its teacher.
    monkeypatch.setattr(calibration, "FEWEST_PROMPTS", 1)
    pair = ("collaborate", "scores", "cheap", "dear", "--metric", "rating", "--confidence", "rating")
    judged = json.loads(invoke(*pair, "--budget-usd", "0.03", "--json").stdout)
    assert (judged["plan"]["kind"], judged["unit"], judged["prompts"]) == ("cascade", "USD", 4)
    assert 3 < judged["quality"]["value"] < 4
    assert "Draw with cheap alone." in invoke(*pair, "--budget-usd", "0.01").stdout
    first = json.loads(invoke(*pair, "--budget-usd", "0.03", "--route-first", "--json").stdout)
    assert sum(share["value"] for share in first["shares"].values()) == pytest.approx(1)
    assert first["unrouted"]["kind"] in ("student", "teacher", "cascade")
    timed = ("--student-seconds", "1", "--teacher-seconds", "4", "--longest-seconds", "4")
    shown = invoke(*pair, "--route-first", *timed).stdout
    assert "Against the best plan without routing (dear alone):" in shown
    # Where no image may take the time of both, none is drawn by both.
    assert "are drawn by" not in shown
    assert "over routing without" not in shown
    # Images instead of values are scored here.
    images = [{"prompt": "a cat, drawn", "model": "dear", "image": "dear.png"}]
    Image.new("RGB", (8, 8)).save(tmp_path / "dear.png")
    (tmp_path / "drawn.json").write_text(json.dumps(images), encoding="utf-8")
    shown = invoke("route", "scores", str(tmp_path / "drawn.json"), "--metric", "sharpness").stdout
    assert "1 values of sharpness for 1 candidates on 1 prompts" in shown
    undrawn = invoke("route", "generate", "a cat", "--metric", "rating", "--out", str(tmp_path), fails=True)
    assert "not drawn by a pipeline" in str(undrawn.exception)
    file.write_text(file.read_text().replace(",0.04", ",0.05"), encoding="utf-8")
    assert "dear costs 0.04 USD in the graph and 0.05 USD here" in str(
        invoke("route", "scores", str(file), fails=True).exception
    )
