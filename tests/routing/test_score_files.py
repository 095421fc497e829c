"""Scores of one's own: long and wide tables, and what cannot be used of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from matchgraph.routing import score_files
from matchgraph.routing.errors import BadScoreFile
from matchgraph.routing.score_files import ScoreFile, read_score_file
from matchgraph.routing.table_files import TableFile

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # What lies beside the header would move each cell into the next column.
        ("prompt,model,value\na cat, wet,A,3\na dog, wet,B,4\n", "row 1 has 4 cells under 3 columns"),
        ("value,prompt,model\n3,a cat,A\n4,a dog\n", "row 2 has 2 cells under 3 columns"),
        ("prompt,A,A,B\nx,1,2,3\n", "column 'A' occurs twice"),
        ("prompt;model;value\nx;A;0,5\n", "its columns are separated by semicolons"),
        ('prompt;model;value\n"x";A;0,5\n', "its columns are separated by semicolons"),
        ("prompt,model,value,\nx,A,1,2\n", "column 4 has no name"),
        (
            "prompt,model,value\nx,A,1_000\n",
            "row 1: value is '1_000': write a finite number, or delete the row",
        ),
        ("prompt,A,B\nx,1,2\ny,-,3\n", "row 2: A is '-': write a finite number, or leave it empty"),
        ("prompt,A,B\nx,1,2\ny,N/A,3\n", "row 2: A is 'N/A'"),
        ("prompt,A,B\nx,1,2\ny,4,3\nz,4,3\nu,4,3\nv,1;5,3\n", "row 5: A is '1;5'"),
        ('prompt,model,value\n"x,A,1\n', "line 2: is not CSV"),
        ("prompt,llm,score,cost\nx,A,1,2\n", "has a column score, but no column candidate"),
        (
            "prompt,A,B,quality\nx,1,2,3\n",
            "name a column candidate, or, where each candidate has a column, delete or rename quality",
        ),
        ("prompt,metric,A,B\nx,beauty,1,2\nx,,3,4\n", "row 2: metric is empty: fill it in"),
        ("prompt,model,Metric,value\nx,A, ,1\n", "row 1: Metric is empty: fill it in"),
        ("", "is empty"),
    ],
)
def test_a_cell_is_never_read_as_another(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadScoreFile) as caught:
        read_score_file(written(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("prompt,model,value\na caf\u00e9,A,1\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
        ("prompt,model,value\nx,A,1\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "scores.csv").write_bytes(data)
    with pytest.raises(BadScoreFile, match=message):
        read_score_file(tmp_path / "scores.csv")


@pytest.mark.parametrize("header", [",prompt,seed,A,B", "id,prompt,rater,A,B", "Unnamed: 0,prompt,usd,A,B"])
def test_columns_that_tell_rows_apart_are_no_candidates(tmp_path: Path, header: str) -> None:
    found = read_score_file(written(tmp_path, f"{header}\n0,x,1,3,4\n1,x,2,5,4\n"))
    assert found.candidates == ("A", "B")
    assert found.scores["score"]["A", "x"].values == (3.0, 5.0)
    assert "not read: " in found.notes[0]


def test_names_of_candidates_have_no_space_around_them(tmp_path: Path) -> None:
    found = read_score_file(written(tmp_path, "prompt, A , B\nx, 1, 2\n,,\n"))
    assert (found.candidates, list(found.scores["score"])) == (("A", "B"), [("A", "x"), ("B", "x")])


def test_a_wide_table_may_have_a_column_of_metrics(tmp_path: Path) -> None:
    found = read_score_file(written(tmp_path, "prompt,metric,A,B\nx,beauty,1,2\nx,fit,3,4\n"))
    assert {metric: own["A", "x"].values for metric, own in found.scores.items()} == {
        "beauty": (1.0,),
        "fit": (3.0,),
    }


def test_names_that_look_alike_are_told(tmp_path: Path) -> None:
    names = ["sdxl", "SDXL", "caf\u00e9", "cafe\u0301", "other"]
    rows = [f"x,{name},1" for name in names]
    found = read_score_file(written(tmp_path, "\n".join(["prompt,model,value", *rows])))
    assert found.candidates == tuple(names)
    assert [note.partition(" are")[0] for note in found.notes] == [
        "scores.csv: 'SDXL' and 'sdxl'",
        r"scores.csv: 'cafe\u0301' and 'caf\xe9'",
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('[{"prompt": "x", "model": 12, "value": 0.12345678901234566}]', "scores.json"),
        ('{"prompt": "x", "model": 12, "value": 0.12345678901234566}\n\n', "scores.json"),
        ('[\n{"prompt": "x", "model": "12", "value": "0.12345678901234566"}\n]', "scores.jsonl"),
        ('\ufeff{"prompt": "x", "model": 12, "value": 0.12345678901234566}\r\n', "scores.jsonl"),
        ('{"prompt": ["x"], "model": [12], "value": [0.12345678901234566]}', "scores.json"),
        ('{"prompt": {"0": "x"}, "model": {"0": 12}, "value": {"0": 0.12345678901234566}}', "scores.json"),
        ('{"prompt": {"7": "x"}, "model": {"7": 12}, "value": {"7": 0.12345678901234566}}', "scores.json"),
    ],
)
def test_json_is_read_to_the_last_digit_in_each_layout(tmp_path: Path, text: str, name: str) -> None:
    found = read_score_file(written(tmp_path, text, name))
    assert found.scores["score"]["12", "x"].values == (0.12345678901234566,)


def test_a_part_of_a_frame_is_read_by_the_numbers_of_its_rows(tmp_path: Path) -> None:
    columns = {"prompt": {"5": "x", "2": "y"}, "A": {"2": 1, "5": 2}, "B": {"5": 3, "2": 4}}
    found = read_score_file(written(tmp_path, json.dumps(columns), "scores.json"))
    values = {at: own.mean for at, own in found.scores["score"].items()}
    assert values == {("A", "x"): 2, ("B", "x"): 3, ("A", "y"): 1, ("B", "y"): 4}


def test_a_fault_in_json_over_several_lines_is_named_by_its_own_line(tmp_path: Path) -> None:
    path = written(tmp_path, '{\n"prompt": ["x"],\n"A": [1,]\n}', "scores.json")
    with pytest.raises(BadScoreFile, match=r"the file is not JSON \(.*line 3"):
        read_score_file(path)


def test_remarks_with_missing_ones_are_not_read(tmp_path: Path) -> None:
    rows = [f"{number},1,2,{note}" for number, note in enumerate(["nan", "NaN", "n/a", "blurry", 3])]
    found = read_score_file(written(tmp_path, "\n".join(["prompt,A,B,notes", *rows])))
    assert (found.candidates, found.notes) == (("A", "B"), ("scores.csv: not read: 'notes'",))


def test_vectors_of_a_wide_table_are_not_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Vector(list[float]):
        def __str__(self) -> str:
            raise AssertionError

    table = TableFile({"prompt": ["x"], "A": [1], "B": [2], "embedding": [Vector()]})
    monkeypatch.setattr(score_files, "read_table_file", lambda *_: table)
    assert read_score_file(tmp_path / "scores.parquet").candidates == ("A", "B")


@pytest.mark.parametrize("name", ["scores.csv", "scores.tsv"])
def test_a_cell_may_be_long(tmp_path: Path, name: str) -> None:
    rows = [["prompt", "model", "value", "response"], ["x", "A", "1", "a" * 200_000]]
    sign = "," if name == "scores.csv" else "\t"
    found = read_score_file(written(tmp_path, "\n".join(map(sign.join, rows)), name))
    assert found.candidates == ("A",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"prompt": "x", "model": "A", "value": 1}\n{"prompt": "x", "value": 1}',
            "row 2: A candidate id is blank",
        ),
        ('{"prompt": "x", "model": null, "value": 1}', "row 1: A candidate id is blank"),
        ('{"prompt": "x", "model": {"name": "A"}, "value": 1}', "row 1: the candidate is of type dict"),
        ('{"prompt": "x", "model": "A", "value": [1, 2]}', "row 1: value is '[1, 2]'"),
        ('{"prompt": "x", "model": "A", "value": true}', "row 1: value is 'True'"),
        ('{"prompt": "x", "A": 1, "A": 2, "B": 1}', "'A' occurs twice in an object"),
        ('{"prompt": "x", "model": "A", "value": 1}\n{"prompt": ', "line 2 is not JSON"),
        ('["x", "A", 1]', "row 1 is not an object"),
        ('{"prompt": "x", "metric": null, "A": 1, "B": 2}', "row 1: metric is empty: fill it in"),
        ('{"prompt": "x", "model": "A", "metric": NaN, "value": 2}', "row 1: metric is empty: fill it in"),
        ('{"prompt": "x", "model": \n{"prompt": "y", "A": 1}', "line 1 is not JSON"),
    ],
)
def test_json_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadScoreFile) as caught:
        read_score_file(written(tmp_path, text, "scores.jsonl"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"data": [{"prompt": "x", "model": "A", "value": 1}]}', "'data'"),
        ('{"a": {"prompt": "x"}, "b": {"prompt": "x"}, "c": {}, "d": {}}', "'a', 'b', 'c' and 1 more"),
    ],
)
def test_an_object_that_holds_rows_is_told_from_a_list(tmp_path: Path, text: str, names: str) -> None:
    with pytest.raises(BadScoreFile, match=f"is an object with {names}, not a list of rows"):
        read_score_file(written(tmp_path, text, "scores.json"))


def test_vectors_and_missing_cells_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    pd.DataFrame(
        {"prompt": ["x", "y"], "A": [1.0, None], "B": [1, 2], "embedding": [[1, 2], [3, 4]]}
    ).to_parquet(path)
    found = read_score_file(path)
    assert list(found.scores["score"]) == [("A", "x"), ("B", "x"), ("B", "y")]
    pd.DataFrame({"prompt": ["x", "y"], "model": ["A", None], "value": [1.0, 2.0]}).to_parquet(path)
    with pytest.raises(BadScoreFile, match="row 2: A candidate id is blank"):
        read_score_file(path)
    # Of whole numbers, one may be missing where it is not needed; the index of a frame is a column.
    numbers = pd.array([1, None], dtype="Int64")
    frame = pd.DataFrame(
        {"model": [7, 8], "value": [1, 2], "usd": numbers}, index=pd.Index(["x", "y"], name="prompt")
    )
    frame.to_parquet(path)
    found = read_score_file(path)
    assert (list(found.scores["score"]), found.costs) == ([("7", "x"), ("8", "y")], {"7": 1.0})
    pd.DataFrame({"prompt": ["x"], "model": ["A"], "value": [[1, 2]]}).to_parquet(path)
    with pytest.raises(BadScoreFile, match=r"row 1: value is '\[1 2\]'"):
        read_score_file(path)


def test_costs_that_differ_are_replaced_by_one_that_is_given(tmp_path: Path) -> None:
    path = written(tmp_path, "prompt,model,value,usd\nx,A,1,1\ny,A,1,2\nx,B,1,3\n")
    with pytest.raises(BadScoreFile, match=r"give one cost; on average it is 1\.5\."):
        read_score_file(path)
    assert read_score_file(path, priced={"A"}).costs == {"B": 3.0}
