"""Scores of one's own: long and wide tables, and what cannot be used of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from matchgraph.routing.errors import BadScoreFile
from matchgraph.routing.score_files import ScoreFile, read_score_file

LONG = [
    {"prompt": "a cat", "model": "A", "rating": 4, "rater": "x", "usd": 0.04},
    {"prompt": "a cat", "model": "A", "rating": 2, "rater": "y", "usd": 0.04},
    {"prompt": "a cat", "model": "B", "rating": 1, "rater": "x", "usd": 0.01},
    {"prompt": "a dog, wet", "model": "A", "rating": 5, "rater": "x", "usd": 0.04},
]


def written(folder: Path, text: str, name: str = "scores.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_format_reads_alike(tmp_path: Path, kind: str) -> None:
    path, frame = tmp_path / f"scores.{kind}", pd.DataFrame(LONG)
    if kind in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        lines = [json.dumps(row) for row in LONG]
        path.write_text("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    found = read_score_file(path)
    assert (found.prompts, found.candidates) == (("a cat", "a dog, wet"), ("A", "B"))
    assert (found.costs, found.unit, found.notes) == ({"A": 0.04, "B": 0.01}, "USD", ())
    twice = found.scores["rating"]["A", "a cat"]
    assert (twice.mean, twice.std, len(twice.values)) == (3.0, pytest.approx(2**0.5), 2)
    assert found.scores["rating"]["B", "a cat"].std is None


def test_a_wide_table_has_a_column_per_candidate(tmp_path: Path) -> None:
    found = read_score_file(
        written(tmp_path, "prompt,kind,A,B\na cat,easy,1,2\na dog,hard,,3\n"), "alignment"
    )
    assert found.candidates == ("A", "B")
    assert {at: own.mean for at, own in found.scores["alignment"].items()} == {
        ("A", "a cat"): 1.0,
        ("B", "a cat"): 2.0,
        ("B", "a dog"): 3.0,
    }
    assert found.notes == ("scores.csv: not read: 'kind'",)


def test_a_column_of_metrics_gives_several(tmp_path: Path) -> None:
    text = "text,candidate,metric,value,cost\na cat,A,alignment,1,3\na cat,A,beauty,2,3\n"
    found: ScoreFile = read_score_file(written(tmp_path, text))
    assert {metric: own["A", "a cat"].mean for metric, own in found.scores.items()} == {
        "alignment": 1.0,
        "beauty": 2.0,
    }
    assert (found.costs, found.unit) == ({"A": 3.0}, None)


@pytest.mark.parametrize(
    ("unit", "costs", "own", "unread"),
    [
        (None, {"A": 3.0}, "s", "'usd'"),
        ("USD", {"A": 0.04}, "USD", "'seconds'"),
        # What is in another unit is no cost in this one.
        ("TFLOP", {}, None, "'usd', 'seconds'"),
    ],
)
def test_the_unit_says_which_costs_are_read(
    tmp_path: Path, unit: Any, costs: dict[str, float], own: str | None, unread: str
) -> None:
    path = written(tmp_path, "prompt,candidate,value,usd,seconds\na cat,A,1,0.04,3\n")
    found = read_score_file(path, unit=unit)
    assert (found.costs, found.unit, found.notes) == (costs, own, (f"scores.csv: not read: {unread}",))


@pytest.mark.parametrize(("unit", "cost", "own"), [("s", 3.0, "s"), (None, 0.04, None), ("USD", 0.04, None)])
def test_a_column_of_the_unit_comes_before_one_of_none(
    tmp_path: Path, unit: Any, cost: float, own: str | None
) -> None:
    path = written(tmp_path, "prompt,candidate,value,cost,seconds\na cat,A,1,0.04,3\n")
    found = read_score_file(path, unit=unit)
    unread = "cost" if unit == "s" else "seconds"
    assert (found.costs, found.unit) == ({"A": cost}, own)
    assert found.notes == (f"scores.csv: not read: {unread!r}",)


def test_images_stand_in_for_values(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    rows = "prompt,model,image,usd,metric\na cat,A,1.png,0.04,x\na cat,A,2.png,0.04,x\na cat,B,1.png,0.01,x\n"
    found = read_score_file(written(tmp_path, rows))
    assert found.images == {
        ("A", "a cat"): (tmp_path / "1.png", tmp_path / "2.png"),
        ("B", "a cat"): (tmp_path / "1.png",),
    }
    assert (found.scores, found.candidates, found.costs, found.unit) == (
        {},
        ("A", "B"),
        {"A": 0.04, "B": 0.01},
        "USD",
    )
    assert found.notes == ("scores.csv: not read: 'metric'",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words,model,value\nx,A,1\n", "has no column prompt; it has 'words', 'model', 'value'"),
        ("prompt,model,points\nx,A,1\n", "has no column value"),
        ("prompt,model,image\nx,A,gone.png\n", "row 1: there is no image 'gone.png'"),
        ("prompt,A\nx,1\n", "fewer than two columns of numbers"),
        ("prompt,model,value\nx,A,1\nx,A,good\n", "row 2: value is 'good': write a finite number"),
        ("prompt,model,value\nx,A,nan\n", "row 1: value is 'nan'"),
        ("prompt,model,value\nx,A,\n", "row 1: value is empty"),
        ("prompt,model,value\n ,A,1\n", "row 1: A prompt is blank"),
        ("prompt,model,value,usd\nx,A,1,1\ny,A,1,2\n", "row 2: A costs 2 here and 1 above"),
        ("prompt,model,metric,value\nx,A,no metric,1\n", "row 1: "),
        ("prompt,model,value\n", "has no rows"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadScoreFile) as caught:
        read_score_file(written(tmp_path, text))
    assert message in str(caught.value)
    assert "scores.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scores.xlsx", r"is a spreadsheet, not scores: give one of \.csv"),
        ("scores.txt", r"is none of \.csv"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(BadScoreFile, match=message):
        read_score_file(written(tmp_path, "x", name))
