"""A whole report on a graph that lacks much: every part is there or says why not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import matchgraph.predictor.baselines as baselines
import matchgraph.report.importances as importances
import matchgraph.report.rankers as rankers
import matchgraph.report.sparsity as sparsity
import matchgraph.report.variants as variants
from matchgraph.graphdb.models import Dataset, Model
from matchgraph.predictor.errors import InvalidRows, NotEnoughResults
from matchgraph.predictor.seeds import Replicate
from matchgraph.report.config import STUDIES, ReportConfig
from matchgraph.report.sources import Sources, View
from matchgraph.report.studies import MAKERS
from matchgraph.report.variants import MAIN_VIEW
from matchgraph.report.workflow import report_of

HOSTILE = '<img src=x onerror="alert(1)">'
# Elements that end where they begin.
VOID = {"meta", "br", "img", "link", "input"}


class Checker(HTMLParser):
    """Checks that elements nest, and gathers their names, references and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.targets: set[str] = set()
        self.links: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        known = dict(attributes)
        if tag == "section":
            self.targets.add(known["id"])
        if tag == "a":
            self.links.add(known["href"].removeprefix("#"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):  # noqa: ARG002
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def renamed(snapshot):
    """The zoo with ids that would run a script, were they not escaped."""
    ids = {snapshot.models[0].id: HOSTILE, snapshot.datasets[0].id: HOSTILE + "$d$"}

    def new(identifier: str) -> str:
        return ids.get(identifier, identifier)

    performs = snapshot.performs.assign(
        model=snapshot.performs["model"].map(new), dataset=snapshot.performs["dataset"].map(new)
    )
    similar = snapshot.similar.assign(dataset=snapshot.similar["dataset"].map(new))
    return replace(
        snapshot,
        models=tuple(sorted((Model(new(m.id), m.properties) for m in snapshot.models), key=lambda m: m.id)),
        datasets=tuple(
            sorted((Dataset(new(d.id), d.properties) for d in snapshot.datasets), key=lambda d: d.id)
        ),
        performs=performs,
        similar=similar,
    )


def sources(snapshot, replicates: tuple[Replicate, ...] = ()) -> Sources:
    view = View(MAIN_VIEW, "clip_fid", "clip_fid")
    return Sources({MAIN_VIEW: snapshot}, (view,), (view,), replicates)


@pytest.mark.slow
def test_a_report_without_similarities_initial_values_or_replicates(zoo, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sparsity, "REMOVED", (0.0, 0.5))
    for module, trees in ((baselines, "FOREST_TREES"), (rankers, "TREES"), (importances, "TREES")):
        monkeypatch.setattr(module, trees, 5)
    snapshot = renamed(zoo(3, 3))
    snapshot = replace(snapshot, similar=snapshot.similar.iloc[:0], similarity=None)
    config = ReportConfig(seeds=1, embedder="node2vec+", jobs=1)
    tmp_path = tmp_path / "<out>"
    report = report_of(sources(snapshot), tmp_path, config=config)

    page = report.path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert checker.targets == {*STUDIES, "made"} == checker.links
    assert not checker.names & {"script", "img", "link", "iframe"}
    assert any(HOSTILE in text for text in checker.texts)
    assert "<code>matchgraph ingest run --replicate</code>" in page
    said = {key: study["says"] for key, study in report.content["studies"].items()}
    assert "No two datasets were compared" in said["inputs"]
    assert "No measurement was repeated" in said["noise"]
    assert said["metrics"].startswith("The graph has results by one metric only")
    assert "of 3 held-out datasets" in said["selection"]

    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(content["studies"]) == set(STUDIES)
    rows = {row["key"]: row for row in content["studies"]["selection"]["data"]["rows"]}
    assert rows["initial"]["note"] == "no values from before fine-tuning are recorded"
    assert rows["neighbours"]["note"] == "no two datasets were compared"
    with (tmp_path / "table3-selection.csv").open(newline="", encoding="utf-8") as file:
        table = {row["key"]: row for row in csv.DictReader(file)}
    assert float(table["paper"]["osr"]) == rows["paper"]["figures"]["osr"]["value"]
    assert table["paper"]["paper_osr"] == "0.613"
    with (tmp_path / "fig3-results.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 9
    drawn = {path.stem: ElementTree.parse(path).getroot() for path in tmp_path.glob("*.svg")}
    assert {"landscape", "selection", "sparsity", "calibration"} <= set(drawn)
    assert {root.tag for root in drawn.values()} == {"{http://www.w3.org/2000/svg}svg"}

    # A second time everything is taken from what was kept, and comes out the same.
    monkeypatch.setattr(variants, "evaluate_fold", lambda *_, **__: pytest.fail("computed again"))
    report_of(sources(snapshot), tmp_path, config=config)
    assert report.path.read_text(encoding="utf-8") == page


def test_only_what_is_asked_for_is_computed(zoo, tmp_path: Path):
    snapshot = zoo(4, 3)
    again = tuple(Replicate(m.id, "d00", "7", 20.0 + i) for i, m in enumerate(snapshot.models))
    config = ReportConfig(only=("noise", "landscape"), embedder="node2vec+")
    report = report_of(sources(snapshot, again), tmp_path, config=config)
    assert set(report.content["studies"]) == {"landscape", "noise"}
    assert report.content["studies"]["noise"]["data"]["pairs"] == 3
    assert not list(tmp_path.glob("kept/**/output.pkl"))


def test_too_few_datasets_are_a_clear_error(zoo, tmp_path: Path):
    with pytest.raises(NotEnoughResults, match=r"at least 3 datasets .* the graph has 2"):
        report_of(sources(zoo(2, 3)), tmp_path / "out", config=ReportConfig())
    assert not (tmp_path / "out").exists()


def test_the_configuration_refuses_what_it_does_not_know_and_counts_seeds():
    with pytest.raises(InvalidRows, match=r"only must be one of selection, .* got \('tables',\)"):
        ReportConfig(only=("tables",))
    with pytest.raises(InvalidRows, match=r"seeds must be .* got 0"):
        ReportConfig(seeds=0)
    assert [len(ReportConfig(seeds=n).few) for n in (1, 3, 4, 9)] == [1, 1, 2, 3]
    assert list(MAKERS) == list(STUDIES)
