"""Recorded results: what is refused, what is merged, and that nothing is written where something is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from matchgraph.graphdb.errors import InvalidValue
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Dataset, Metric, Model, Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.results import ingest_results, read_results
from tests.ingest.dump import dump

HEADER = "model,dataset,metric,value"


@pytest.fixture
def zoo(graph: MatchingGraph) -> MatchingGraph:
    graph.save_models([Model("sdxl", {}), Model("a/b`c", {})])
    graph.save_datasets([Dataset("cats", {}), Dataset("dogs", {})])
    return graph


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "results.csv"


def fill(table: Path, *rows: str, header: str = HEADER) -> Path:
    table.write_text("\n".join([header, *rows]) + "\n")
    return table


def values(graph: MatchingGraph, metric: str = "clip_fid") -> dict[tuple[str, str], tuple[float, float]]:
    frame = graph.snapshot(metric).performs
    return {(row.model, row.dataset): (row.value, row.initial) for row in frame.itertuples()}


def test_results_become_edges(zoo: MatchingGraph, runner: Runner, table: Path) -> None:
    fill(
        table,
        "sdxl,cats,clip_fid,12.5,finetuned,100,200,r1",
        "sdxl,cats,clip_fid,20,initial,,,",
        "a/b`c,dogs,clip_fid,3,,,,",
        header=f"{HEADER},stage,n_real,n_gen,run",
    )
    reading = ingest_results(zoo, table)
    assert (len(reading.results), reading.repeats, reading.skipped) == (3, 0, ())
    assert values(zoo)["sdxl", "cats"] == (12.5, 20.0)
    assert values(zoo)["a/b`c", "dogs"][0] == 3.0
    edge = runner.read("MATCH (:Model {id: 'sdxl'})-[e:PERFORMS]->() RETURN properties(e) AS e")[0]["e"]
    assert tuple(edge[f"clip_fid__{name}"] for name in ("n_real", "n_gen", "run")) == (100, 200, "r1")


def test_of_many_unknown_names_the_first_are_told_what_they_may_have_meant(table: Path) -> None:
    fill(table, *(f"sdxl{i},cats,clip_fid,1" for i in range(30)))
    with pytest.raises(BadInput) as error:
        read_results(table, models={"sdxl"}, datasets={"cats"}, metric=KNOWN_METRICS.__getitem__)
    hints = ["did you mean 'sdxl'" in str(problem) for problem in error.value.problems]
    assert hints == [True] * 20 + [False] * 10


def test_repeating_an_ingestion_changes_nothing(zoo: MatchingGraph, runner: Runner, table: Path) -> None:
    fill(table, "sdxl,cats,accuracy,12.5", "sdxl,dogs,my_score,0.5")
    ingest_results(zoo, table, larger_is_better=True)
    before = dump(runner)
    ingest_results(zoo, table, larger_is_better=True)
    ingest_results(zoo, table)
    assert dump(runner) == before


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["sdxl,cats,clip_fid,"], "results.csv:3: no value; write a number or delete the row"),
        (["sdxl,cats,clip_fid,good"], "results.csv:3: 'good' is not a number"),
        (["sdxl,cats,clip_fid,nan"], "results.csv:3: value 'nan' is not finite"),
        (["sdxl,cats,clip_fid,-inf"], "results.csv:3: value '-inf' is not finite"),
        (["sdxl,cats,clip_fid,1e999"], "results.csv:3: value '1e999' is not finite"),
        (["sdxl,cats,clip_fid,-1"], "results.csv:3: value is -1: clip_fid cannot be less than 0"),
        (["sdxl,cats,accuracy,101"], "results.csv:3: value is 101"),
        ([",cats,clip_fid,1"], "results.csv:3: A model id is blank"),
        (["sdxl,cats,clip_fid,1,2"], "results.csv:3: 5 values under 4 columns"),
        (["sdxk,cats,clip_fid,1"], "'sdxk' is not in the graph; did you mean 'sdxl'? If not, add it with"),
        (
            ["flux,cats,clip_fid,1", "flux,dogs,clip_fid,1"],
            "csv:3: model 'flux' is not in the graph (and in 1 more row); add it with `matchgraph ingest",
        ),
        (["sdxl,birds,clip_fid,1"], "add it with `matchgraph ingest datasets`"),
        (["sdxl,cats,sharpness,1"], "metric 'sharpness' is not known; give its direction with --larger"),
        (["sdxl,cats,Clip FID,1"], "'Clip FID' cannot name a metric"),
        (["sdxl,cats,,1"], "cannot name a metric"),
        (
            ["sdxl,dogs,clip_fid,2"],
            "results.csv:3: finetuned clip_fid of model 'sdxl' on 'dogs' is 2 here and 1 in line 2",
        ),
        (
            ["sdxl,dogs,clip_fid,2", "sdxl,dogs,clip_fid,3"],
            "is 2 here and 1 in line 2 (and in 1 more row); keep",
        ),
        (
            ["sdxl,cats,sharp,1", "sdxl,dogs,sharp,1"],
            "csv:3: metric 'sharp' is not known (and in 1 more row)",
        ),
        (["sdxl,cats,repeats,1"], "'repeats' cannot name a metric"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    zoo: MatchingGraph, runner: Runner, table: Path, rows: list[str], expected: str
) -> None:
    fill(table, "sdxl,dogs,clip_fid,1", *rows)
    before = dump(runner)
    with pytest.raises(BadInput) as caught:
        ingest_results(zoo, table)
    assert expected in str(caught.value)
    assert dump(runner) == before


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("sdxl,cats,clip_fid,1,best,5", "stage is 'best'; write initial or finetuned"),
        ("sdxl,cats,clip_fid,1,,0", "n_gen is '0'; write how many images"),
        ("sdxl,cats,clip_fid,1,,2.5", "n_gen is '2.5'"),
        (f"sdxl,cats,clip_fid,1,,{'9' * 5000}", "n_gen is '999"),
    ],
)
def test_bad_optional_columns(zoo: MatchingGraph, table: Path, row: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        ingest_results(zoo, fill(table, row, header=f"{HEADER},stage,n_gen"))
    assert expected in str(caught.value)


def test_all_problems_come_at_once_and_skipping_writes_the_rest(zoo: MatchingGraph, table: Path) -> None:
    fill(
        table,
        "sdxl,cats,clip_fid,1",
        "sdxl,dogs,clip_fid,x",
        "flux,dogs,clip_fid,2",
        "a/b`c,cats,clip_fid,3",
        "a/b`c,cats,clip_fid,4",
        "a/b`c,cats,sharpness,4",
        "flux,cats,clip_fid,2",
    )
    with pytest.raises(BadInput) as caught:
        ingest_results(zoo, table)
    assert [problem.line for problem in caught.value.problems] == [3, 4, 6, 7]
    reading = ingest_results(zoo, table, skip_bad=True)
    assert reading.skipped == caught.value.problems
    # Of two values that contradict each other neither can be trusted.
    assert {key: value for key, (value, _) in values(zoo).items()} == {("sdxl", "cats"): 1.0}


@pytest.mark.parametrize(
    ("metric", "policy", "expected"),
    [
        ("clip_fid", "mean", 2.0),
        ("clip_fid", "first", 3.0),
        ("clip_fid", "last", 2.0),
        ("clip_fid", "best", 1.0),
        ("accuracy", "best", 3.0),
    ],
)
def test_repeated_results(
    zoo: MatchingGraph, runner: Runner, table: Path, metric: str, policy: str, expected: float
) -> None:
    fill(
        table,
        *(f"sdxl,cats,{metric},{value},7,r{value}" for value in (3, 1, 2)),
        header=f"{HEADER},n_gen,run",
    )
    reading = ingest_results(zoo, table, on_duplicate=policy)  # type: ignore[arg-type]
    assert reading.repeats == 2
    assert values(zoo, metric)["sdxl", "cats"][0] == expected
    held = runner.read("MATCH ()-[e:PERFORMS]->() RETURN properties(e) AS e")[0]["e"]
    edge = {name: held.get(f"{metric}__{name}") for name in ("run", "n_gen", "repeats")}
    averaged = {"run": None, "n_gen": 7, "repeats": 3}
    assert edge == (
        averaged if policy == "mean" else {"run": f"r{expected:.0f}", "n_gen": 7, "repeats": None}
    )


def test_the_mean_of_huge_values_is_one_of_them(zoo: MatchingGraph, table: Path) -> None:
    fill(table, "sdxl,cats,clip_fid,1.5e308", "sdxl,cats,clip_fid,1.7e308")
    ingest_results(zoo, table, on_duplicate="mean")
    assert values(zoo)["sdxl", "cats"][0] == pytest.approx(1.6e308)


def test_equal_repeats_and_both_stages_are_no_contradiction(zoo: MatchingGraph, table: Path) -> None:
    fill(
        table,
        "sdxl,cats,clip_fid,3,",
        "sdxl,cats,clip_fid,3.0,",
        "sdxl,cats,clip_fid,9,initial",
        header=f"{HEADER},stage",
    )
    assert ingest_results(zoo, table).repeats == 1
    assert values(zoo)["sdxl", "cats"] == (3.0, 9.0)


def test_a_new_metric_keeps_its_direction(zoo: MatchingGraph, runner: Runner, table: Path) -> None:
    fill(table, "sdxl,cats,sharpness,0.5")
    ingest_results(zoo, table, larger_is_better=True)
    assert zoo.metric("sharpness") == Metric("sharpness", True)
    before = dump(runner)
    fill(table, "sdxl,cats,sharpness,0.7")
    with pytest.raises(
        BadInput, match="--smaller-is-better contradicts metric 'sharpness', where larger is better"
    ):
        ingest_results(zoo, table, larger_is_better=False)
    fill(table, "sdxl,cats,clip_fid,0.7")
    with pytest.raises(BadInput, match="--larger-is-better contradicts metric 'clip_fid'"):
        ingest_results(zoo, table, larger_is_better=True)
    assert dump(runner) == before


def test_a_refused_file_defines_no_metric(zoo: MatchingGraph, runner: Runner, table: Path) -> None:
    before = dump(runner)
    fill(table, "sdxl,cats,sharpness,0.5", "sdxl,dogs,sharpness,x")
    with pytest.raises(BadInput):
        ingest_results(zoo, table, larger_is_better=True)
    assert dump(runner) == before


@pytest.mark.parametrize("how", ["mean", "best"])
def test_values_of_different_extractors_are_not_made_one(tmp_path: Path, how: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        "model,dataset,metric,value,extractor\nm,a,clip_fid,1,aaaa\nm,a,clip_fid,30,bbbb\nm,b,clip_fid,2,\n"
    )
    arguments = {"models": ["m"], "datasets": ["a", "b"], "metric": KNOWN_METRICS.__getitem__}
    with pytest.raises(BadInput, match="different extractors, aaaa and bbbb"):
        read_results(path, on_duplicate=how, **arguments)
    assert read_results(path, on_duplicate="first", **arguments).results[0].provenance["extractor"] == "aaaa"


@pytest.mark.parametrize("column", ["standard_error", "std", "training_seconds", "seconds_per_image"])
def test_errors_and_times_are_never_negative(zoo: MatchingGraph, table: Path, column: str) -> None:
    fill(table, "sdxl,cats,clip_fid,1,-1", header=f"{HEADER},{column}")
    with pytest.raises(BadInput, match=f"csv:2: {column} is -1; it cannot be negative"):
        ingest_results(zoo, table)
    with pytest.raises(InvalidValue, match=f"{column} is -1.0: it cannot be negative"):
        Result("sdxl", "cats", "clip_fid", 1.0, "finetuned", {column: -1.0})
    # What the number of images adds may be either.
    ingest_results(zoo, fill(table, "sdxl,cats,clip_fid,1,-1", header=f"{HEADER},bias"))


def test_shares_beside_percentages_are_told(zoo: MatchingGraph, table: Path) -> None:
    assert ingest_results(zoo, fill(table, "sdxl,cats,accuracy,0.85", "sdxl,dogs,accuracy,0")).notes == ()
    [note] = ingest_results(zoo, fill(table, "a/b`c,cats,accuracy,85", "a/b`c,cats,clip_fid,0.5")).notes
    assert note.startswith("accuracy: 1 value of 1 or less and 1 above 1 in the graph. Where")
    assert ingest_results(zoo, fill(table, "sdxl,cats,accuracy,86")).notes == ()


def test_a_pipe_is_read_once(zoo: MatchingGraph) -> None:
    here, there = os.pipe()
    os.write(there, f"{HEADER}\nsdxl,cats,accuracy,85\n".encode())
    os.close(there)
    try:
        assert len(ingest_results(zoo, Path(f"/dev/fd/{here}")).results) == 1
    finally:
        os.close(here)


def test_records_take_no_options(table: Path) -> None:
    fill(table, "sdxl,cats,accuracy,1", "sdxl,cats,accuracy,2")
    with pytest.raises(BadInput, match=r"is 2 here and 1 in line 2; keep one row\n"):
        read_results(
            table,
            models={"sdxl"},
            datasets={"cats"},
            metric=KNOWN_METRICS.__getitem__,
            exact=True,
            skip_bad=False,
        )
