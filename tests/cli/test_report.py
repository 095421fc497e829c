"""`matchgraph report` on a real graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from matchgraph.cli.main import matchgraph
from matchgraph.predictor.errors import NotEnoughResults, UnknownMetricName
from tests.predictor.conftest import save, zoo

__all__ = ["save", "zoo"]


def call(environment, *arguments: str):
    return CliRunner().invoke(matchgraph, ["report", *arguments], env=dict(environment))


@pytest.mark.slow
def test_report_writes_the_page_and_goes_on_where_it_stopped(
    environment, graph, zoo, save, tmp_path: Path, monkeypatch
):
    save(graph, zoo(4, 3))
    monkeypatch.setattr("matchgraph.predictor.baselines.FOREST_TREES", 5)
    monkeypatch.setattr("matchgraph.report.rankers.TREES", 5)
    out = tmp_path / "a folder"
    options = ["--out", str(out), "--seeds", "1", "--jobs", "1", "--only", "selection", "--only", "noise"]
    answer = call(environment, *options)
    assert answer.exit_code == 0, answer.output
    assert "chose the best of 3 models" in answer.stdout.splitlines()[0]
    assert f"Written to {out / 'index.html'}" in answer.stdout
    kept = {file: file.read_bytes() for file in out.glob("kept/**/output.pkl")}
    assert kept

    again = call(environment, *options, "--json")
    content = json.loads(again.stdout)
    assert list(content["studies"]) == ["selection", "noise"]
    assert content["command"] == f"matchgraph report --out '{out}' --metric clip_fid --embedder gds --seeds 1"
    assert {file: file.read_bytes() for file in out.glob("kept/**/output.pkl")} == kept
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "the paper, on another matrix" in page
    assert "scikit-learn" in page


def test_report_says_what_is_missing(environment, graph, zoo, save, tmp_path: Path):
    save(graph, zoo(2, 3))
    answer = call(environment, "--out", str(tmp_path / "out"))
    assert isinstance(answer.exception, NotEnoughResults)
    answer = call(environment, "--out", str(tmp_path / "out"), "--metric", "kid")
    assert isinstance(answer.exception, UnknownMetricName)
    assert not (tmp_path / "out").exists()
    assert "--out" in call(environment).output
