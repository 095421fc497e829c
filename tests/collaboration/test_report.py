"""The page on a collaboration: what it shows can be read, and what it advises can be done."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from matchgraph.collaboration.evaluation import Study
from matchgraph.report.collaboration import quality_over_cost, write_report


def test_the_page_says_what_was_measured(informed: Study, tmp_path: Path) -> None:
    study = informed
    path, summary = write_report(study, tmp_path, "matchgraph collaborate evaluate a", {"seed": 0})
    page = path.read_text(encoding="utf-8")
    assert summary[0].split(":")[0] in page
    for strategy in study.strategies:
        assert strategy.name in page
        # Ways differ in the third digit.
        assert f"{strategy.quality['clip_score']:.4f}".replace("-", "−") in page
    for case in (*study.wins.best, *study.wins.worst):
        assert case.prompt in page
    for aspect in study.wins.aspects:
        assert aspect.name.replace("'", "&#39;") in page
    # The command makes all sections at once, so none is said to be made again alone.
    assert "--only" not in page
    written = json.loads((tmp_path / "collaboration.json").read_text(encoding="utf-8"))
    assert written["study"]["wins"]["share"]["value"] == pytest.approx(study.wins.share.value)
    # Each interval stands under its own heading.
    with (tmp_path / "collaboration-equal.csv").open(newline="", encoding="utf-8") as file:
        for row, lead in zip(csv.DictReader(file), study.leads, strict=True):
            for name in ("over_student", "over_best_student", "over_teacher", "over_random"):
                interval = getattr(lead, name)
                shown = [float(row[name + end]) for end in ("", "_low", "_high")]
                assert shown == [interval.value, interval.low, interval.high]
    with (tmp_path / "collaboration-wins.csv").open(newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    thirds = tuple(float(first[f"wins_{third}"]) for third in ("low", "middle", "high"))
    assert thirds == tuple(study.wins.by_distance)
    # No prompt is longer than another, so nothing goes with their length.
    [words] = [each for each in written["study"]["wins"]["aspects"] if each["name"].startswith("words")]
    assert words["distance"]["value"] is None


def test_costs_on_the_axis_are_written_out(informed: Study) -> None:
    drawn = quality_over_cost(informed)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert {"1", "2", "5", "10", "20"} <= set(texts)
    assert not any("$" in text for text in texts)
