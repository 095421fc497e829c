"""Recorded similarities: a pair has no order, and a distance is not negative."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchgraph.graphdb.models import Dataset
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.similarities import ingest_similarities
from tests.ingest.dump import dump

HEADER = "dataset,other,metric,value"


@pytest.fixture
def zoo(graph: MatchingGraph) -> MatchingGraph:
    graph.save_datasets([Dataset(name, {}) for name in ("a", "b", "c")])
    return graph


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "similar.csv"


def fill(table: Path, *rows: str, header: str = HEADER) -> Path:
    table.write_text("\n".join([header, *rows]) + "\n")
    return table


def pairs(graph: MatchingGraph, metric: str = "clip_fid") -> list[tuple[str, str, float]]:
    return list(graph.snapshot(similarity=metric).similar.itertuples(index=False, name=None))


def test_a_full_matrix(zoo: MatchingGraph, runner: Runner, table: Path) -> None:
    matrix = {("a", "b"): 1.0, ("a", "c"): 2.0, ("b", "c"): 3.0}
    rows = []
    for one in "abc":
        for other in "abc":
            value = 0.0 if one == other else matrix[min(one, other), max(one, other)]
            # The lower triangle as another program may have rounded it.
            rows.append(f"{one},{other},clip_fid,{value * (1 + 4e-7) if one > other else value}")
    reading = ingest_similarities(zoo, fill(table, *rows))
    assert (len(reading.similar), reading.ignored, reading.repeats) == (3, 3, 3)
    assert pairs(zoo) == [(*pair, value) for pair, value in matrix.items()]
    before = dump(runner)
    ingest_similarities(zoo, table)
    assert dump(runner) == before


def test_provenance_and_new_metric(zoo: MatchingGraph, runner: Runner, table: Path) -> None:
    fill(table, "b,a,overlap,0.25,50,abc", header=f"{HEADER},n_real,extractor")
    ingest_similarities(zoo, table, larger_is_better=True)
    assert zoo.metric("overlap").larger_is_better
    assert pairs(zoo, "overlap") == [("a", "b", 0.25)]
    edge = runner.read(
        "MATCH ()-[e:SIMILAR]->() RETURN e.overlap__n_real AS n, e.overlap__extractor AS extractor"
    )[0]
    assert edge == {"n": 50, "extractor": "abc"}


def test_an_unbiased_distance_may_be_below_zero(zoo: MatchingGraph, table: Path) -> None:
    fill(table, "a,b,kid,-0.1,0.02", header=f"{HEADER},std")
    ingest_similarities(zoo, table)
    assert pairs(zoo, "kid") == [("a", "b", -0.1)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a,b,clip_fid,-0.1"], "similar.csv:3: value is -0.1: clip_fid cannot be less than 0"),
        (["a,b,clip_fid,nan"], "similar.csv:3: value 'nan' is not finite"),
        (["a,a,clip_fid,0.5"], "similar.csv:3: 'a' has clip_fid 0.5 to itself"),
        (
            ["c,b,clip_fid,1.1"],
            "similar.csv:3: clip_fid of 'c' and 'b' is 1.1 here and 1 in line 2; a pair has no order",
        ),
        (["b,c,clip_fid,1.00001"], "is 1.00001 here and 1 in line 2"),
        (["a,x,clip_fid,1"], "dataset 'x' is not in the graph; add it with `matchgraph ingest datasets`"),
        (["a,,clip_fid,1"], "similar.csv:3: A dataset id is blank"),
        (["a,b,overlap,1"], "metric 'overlap' is not known"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    zoo: MatchingGraph, runner: Runner, table: Path, rows: list[str], expected: str
) -> None:
    fill(table, "b,c,clip_fid,1", *rows)
    before = dump(runner)
    with pytest.raises(BadInput) as caught:
        ingest_similarities(zoo, table)
    assert expected in str(caught.value)
    assert dump(runner) == before


def test_skipping_leaves_out_both_sides_of_a_contradiction(zoo: MatchingGraph, table: Path) -> None:
    fill(table, "a,b,clip_fid,1", "b,a,clip_fid,2", "a,c,clip_fid,3", "b,c,clip_fid,x")
    reading = ingest_similarities(zoo, table, skip_bad=True)
    assert [problem.line for problem in reading.skipped] == [3, 5]
    assert pairs(zoo) == [("a", "c", 3.0)]
