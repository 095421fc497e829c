"""A graph written as tables and loaded again is the same graph."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from matchgraph.cli.main import matchgraph
from matchgraph.graphdb.models import Dataset, Metric, Model, Similar, Statistics
from matchgraph.ingest.errors import BadInput, IngestError
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.tables import records
from matchgraph.ingest.tables.export import write_records
from matchgraph.ingest.tables.image_folders import listed_hash
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.ingest.tables.records import read_records, save_records
from tests.ingest.conftest import answer, write_images
from tests.ingest.dump import dump
from tests.ingest.stub import CONFIG, ZOO, StubExecutor, do, fill, plan

# What stays behind: places and times of the machine that measured, and what the ledger needs of it.
OF_THE_MACHINE = (
    *("source", "throughput", "adapter", "machine", "queued_at", "started_at", "ended_at", "host"),
    *("fence", "max_attempts", "extractors", "note"),
)


@pytest.fixture
def measured(graph, runner, tmp_path):
    """A graph with everything that records hold: two models measured on two datasets, and one replicate."""
    for seed, name in enumerate(("cats", "dogs")):
        write_images(tmp_path / "images" / name, seed, ["a", "b", "c", "d"])
    fill(graph, tmp_path / "images")
    graph.save_models([Model("from-a-table", {"params": 1, "name": "from-a-table"})])
    ledger = Ledger(runner)
    home = tmp_path / "home"
    do(graph, ledger, home, StubExecutor())
    again = plan(graph, replace(CONFIG, seed=7), models=["kolors"], datasets=["cats"], replicate=True)
    do(graph, ledger, home, StubExecutor(), again)
    graph.save_metric(Metric("taste", True, minimum=-2.5))
    mean, spread = np.array([0.1, 1 / 3]), np.array([[2.0, 0.3], [0.3, 1.0]])
    known = {"extractor": "abc", "n_real": 4}
    own = [Dataset(d.id, {**d.properties, **known, "name": d.id}, (0.1, -1 / 3)) for d in graph.datasets()]
    provenance = {**known, "extractor_name": "probe", "resize": "clean", "version": "1"}
    graph.save_datasets(
        own,
        [Statistics(name, "abc", "clean", 4, mean, spread) for name in ("cats", "dogs")],
        [
            Similar("cats", "dogs", "kid", -0.001, {**provenance, "std": 0.25}),
            Similar("cats", "dogs", "clip_fid", 1e-17 + 0.1, provenance),
        ],
    )
    return graph


def fill_again(graph, tmp_path) -> None:
    """Tell the graph where the folders are, as `ingest models` and `ingest datasets` do."""
    for name in ("sd-1.5", "kolors"):
        ingest_models(graph, ZOO / name)
    own = {d.id: d for d in graph.datasets()}
    for name in ("cats", "dogs"):
        folder = tmp_path / "images" / name
        known = {"source": str(folder), "content_hash": listed_hash(folder), "name": name}
        own[name] = Dataset(name, {**(own[name].properties if name in own else {}), **known}, (0.1, -1 / 3))
    zero = Statistics("dogs", "abc", "clean", 4, np.zeros(2), np.eye(2))
    graph.save_datasets(list(own.values()), [zero])


def kept(runner) -> list[dict]:
    # The directions of sketches are those of the first datasets that are saved.
    rows = [json.loads(row) for row in dump(runner, without=(*OF_THE_MACHINE, "sketch", "directions"))]
    for row in rows:
        if "Run" in row.get("labels", ()):
            # What its figures were measured with, but for their errors, is in the edges alone.
            row["properties"] = {
                name: value
                for name, value in row["properties"].items()
                if name.partition("__")[2] in ("", "standard_error")
            }
    return rows


def test_a_graph_comes_back_as_it_was(measured, runner, tmp_path):
    before, folder = kept(runner), tmp_path / "records"
    counts = write_records(measured, runner, folder, shareable=True)
    assert counts == {
        "models.csv": 3,
        "datasets.csv": 2,
        "metrics.csv": 3,
        "similarities.csv": 2,
        "results.csv": 8,
        "runs.csv": 5,
        "statistics.safetensors": 2,
    }
    written = b"".join(file.read_bytes() for file in folder.iterdir())
    assert str(tmp_path).encode() not in written
    measured.clear()
    for _ in range(2):  # again is the same
        save_records(measured, runner, read_records(folder, measured.metric))
        assert kept(runner) == before
    again = tmp_path / "again"
    write_records(measured, runner, again, shareable=True)
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_runs_of_another_machine_are_not_done_again_but_those_left_out_are(measured, runner, tmp_path):
    write_records(measured, runner, tmp_path / "records", shareable=True)
    measured.clear()
    found = read_records(tmp_path / "records", measured.metric)
    save_records(measured, runner, found.without(["dogs"]))
    fill_again(measured, tmp_path)
    executor = StubExecutor()
    do(measured, Ledger(runner), tmp_path / "elsewhere", executor)
    done = sorted((job.model, job.dataset) for job in executor.jobs)
    assert done == [
        ("kolors", "dogs"),
        ("sd-1.5", "dogs"),
    ]


def test_a_dataset_left_out_leaves_nothing_behind(measured, runner, tmp_path, invoke, environment):
    folder = tmp_path / "records"
    exported = CliRunner().invoke(
        matchgraph, ["graph", "export", str(folder), "--json"], env=dict(environment)
    )
    assert answer(exported)["results.csv"] == 8
    measured.clear()
    counts = answer(invoke("records", str(folder), "--without", "cats", "--json"))
    of_prompts = {"prompts": 0, "variants": 0, "scores": 0}
    assert counts == {"models": 3, "datasets": 1, "similarities": 0, "results": 4, "runs": 2} | of_prompts
    assert not any("cats" in row for row in dump(runner))
    with pytest.raises(IngestError, match="no dataset 'catz'"):
        read_records(folder, measured.metric).without(["catz"])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (records.RUNS, '"{""', '"[{""', "config is not a JSON object"),
        (records.METRICS, "taste,true", "taste,up", "larger_is_better is 'up'"),
        (
            records.RESULTS,
            "kolors,cats",
            "colours,cats",
            r"'colours' is not in models\.csv; did you mean .* add it there",
        ),
        (
            records.SIMILARITIES,
            "cats,dogs",
            "cats,dags",
            r"'dags' is not in datasets\.csv; did you mean 'dogs'",
        ),
        (records.RUNS, "kolors,cats", "colours,cats", "its model or dataset is not among the records"),
        (records.SIMILARITIES, "0.25", "a lot", "std is 'a lot'"),
    ],
)
def test_damage_is_told_by_file_and_line_and_nothing_is_saved(
    measured, runner, tmp_path, file, old, new, message
):
    write_records(measured, runner, tmp_path / "records")
    text = (tmp_path / "records" / file).read_text()
    assert old in text
    (tmp_path / "records" / file).write_text(text.replace(old, new, 1))
    measured.clear()
    with pytest.raises(BadInput, match=message) as caught:
        read_records(tmp_path / "records", measured.metric)
    assert file in str(caught.value)


def test_statistics_that_cannot_be_used_are_told(measured, runner, tmp_path):
    folder: Path = tmp_path / "records"
    write_records(measured, runner, folder)
    file = folder / records.STATISTICS
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.raises(BadInput, match="holds no usable statistics"):
        read_records(folder, measured.metric)
    strange = {"statistics": json.dumps([["birds", "abc", "clean", 4]])}
    save_file({"0.mean": np.zeros(1), "0.covariance": np.ones(1)}, file, metadata=strange)
    with pytest.raises(BadInput, match="statistics of 'birds'"):
        read_records(folder, measured.metric)
    save_file({}, file)
    with pytest.raises(BadInput, match="no usable statistics: its header lists none"):
        read_records(folder, measured.metric)
    file.unlink()
    with pytest.raises(BadInput, match="there is no statistics"):
        read_records(folder, measured.metric)
