"""Runs that MLflow and W&B exported, read as results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from matchgraph.graphdb.errors import UnknownMetric
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Metric
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.results import ResultsReading, read_results
from matchgraph.ingest.tables.trackers import TrackedColumns
from tests.ingest.conftest import Invoke, answer

MLFLOW = """\
,run_id,experiment_id,status,start_time,metrics.clip_fid,metrics.loss,params.model,params.dataset,params.lr,tags.mlflow.user
0,a1,1,FINISHED,2026-11-01 10:00:00,12.5,0.1,sdxl,cats,0.0001,me
1,b2,1,FINISHED,2026-11-01 11:00:00,,0.2,sdxl,dogs,0.0001,me
2,c3,1,FINISHED,2026-11-01 12:00:00,30.0,0.3,flux,cats,0.0001,me
"""
WANDB = """\
"Name","State","Notes","User","Tags","Created","Runtime","Sweep","dataset","lr","model","clip_fid","train/loss"
"calm-sky-1","finished","-","me","","2026-11-01","60","","cats","0.0001","sdxl","12.5","0.1"
"red-leaf-2","finished","-","me","","2026-11-01","60","","cats","0.0001","flux","30.0","0.3"
"""


def metric(name: str) -> Metric:
    if name not in KNOWN_METRICS:
        raise UnknownMetric(name)
    return KNOWN_METRICS[name]


def read(file: Path, content: str, *columns: object, **options: object) -> ResultsReading:
    file.write_text(content)
    known = {"models": ["sdxl", "flux"], "datasets": ["cats", "dogs"], "metric": metric}
    return read_results(file, **known, columns=TrackedColumns(*columns), **options)  # type: ignore[arg-type]


EXPECTED = [("sdxl", "cats", "clip_fid", 12.5), ("flux", "cats", "clip_fid", 30.0)]
API = [
    {
        "name": "calm-sky-1",
        "state": "finished",
        "config": {"model": "sdxl", "dataset": "cats"},
        "summary": {"clip_fid": 12.5},
    },
    {
        "name": "red-leaf-2",
        "state": "finished",
        "config": {"model": "flux", "dataset": "cats"},
        "summary": {"clip_fid": 30},
    },
]


@pytest.mark.parametrize(
    ("name", "content", "runs"),
    [
        ("runs.csv", MLFLOW, ["a1", "c3"]),
        ("runs.csv", WANDB, ["calm-sky-1", "red-leaf-2"]),
        ("runs.json", json.dumps(API), ["calm-sky-1", "red-leaf-2"]),
        ("runs.json", f"\ufeff{json.dumps(API)}", ["calm-sky-1", "red-leaf-2"]),
    ],
)
def test_an_export_gives_a_result_for_each_value_of_a_known_metric(
    tmp_path: Path, name: str, content: str, runs: list[str]
) -> None:
    found = read(tmp_path / name, content).results
    assert [(one.model, one.dataset, one.metric, one.value) for one in found] == EXPECTED
    assert [one.provenance for one in found] == [{"run": run} for run in runs]


def test_columns_can_be_named_and_metrics_renamed(tmp_path: Path) -> None:
    content = WANDB.replace('"model"', '"base"').replace('"dataset"', '"data.name"')
    found = read(
        tmp_path / "a.csv",
        content,
        "base",
        "data.name",
        ("clip_fid=fid", "train/loss=loss"),
        larger_is_better=False,
    )
    assert [(one.model, one.metric, one.value) for one in found.results] == [
        ("sdxl", "fid", 12.5),
        ("sdxl", "loss", 0.1),
        ("flux", "fid", 30.0),
        ("flux", "loss", 0.3),
    ]
    content = MLFLOW.replace("params.dataset", "tags.data")
    assert len(read(tmp_path / "b.csv", content, None, "data").results) == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("12.5", "many", 2, "'many' is not a number"),
        ("c3,1,FINISHED", "c3,1,FAILED", 4, "its run is FAILED"),
        ("flux,cats", "fluxx,cats", 4, "model 'fluxx' is not in the graph"),
        ("params.model", "params.base", 1, "no column of the models' ids; name it with --model-column"),
        ("metrics.clip_fid", "metrics.mine", 1, "no column of a metric that the graph knows"),
    ],
)
def test_problems_name_their_row(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    content = MLFLOW.replace(old, new)
    assert content != MLFLOW
    with pytest.raises(BadInput) as refused:
        read(tmp_path / "a.csv", content)
    (problem,) = refused.value.problems
    assert (problem.line, said in f"{problem.reason}; {problem.remedy}") == (line, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("clip_fid=fid", "loss=fid"), "fid is given twice as a metric"),
        (("clip_fid=fid", "metrics.clip_fid=clip_fid"), "metrics.clip_fid is given twice as a column"),
    ],
)
def test_no_value_is_lost_to_a_repeated_column_or_metric(
    tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        read(tmp_path / "a.csv", MLFLOW, None, None, given, skip_bad=True)


def test_a_file_without_values_says_which_columns_lack_them(tmp_path: Path) -> None:
    content = MLFLOW.replace(",12.5,", ",,").replace(",30.0,", ",,")
    with pytest.raises(BadInput, match=r"no finished run has a value in metrics\.clip_fid"):
        read(tmp_path / "a.csv", content)
    found = read(tmp_path / "a.csv", content.replace("1,FINISHED", "1,FAILED", 1), skip_bad=True)
    assert [problem.reason for problem in found.skipped] == [
        "no finished run has a value in metrics.clip_fid",
        "its run is FAILED",
    ]
    with pytest.raises(BadInput, match="start it with a header naming model, dataset, metric, value"):
        read(tmp_path / "a.csv", "")


def test_the_command_reads_an_export(graph: MatchingGraph, invoke: Invoke, tmp_path: Path) -> None:
    from matchgraph.graphdb.models import Dataset, Model

    graph.save_models([Model("sdxl", {}), Model("flux", {})])
    graph.save_datasets([Dataset("cats", {})])
    (tmp_path / "runs.json").write_text(json.dumps(API))
    options = ["--model-column", "config.model", "--metric-column", "clip_fid=fid"]
    assert answer(invoke("results", tmp_path / "runs.json", *options, "--json"))["results"] == 2
    assert sorted(graph.snapshot("fid").performs["value"]) == [12.5, 30.0]
