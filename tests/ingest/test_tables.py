"""Every way in which a table can be wrong is found, all at once, and named by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.csv_file import check_ids, check_unique, parse_number, read_table, typed_columns


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(BadInput) as caught:
        read_table(path, required=("model", "value"), **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_reads_byte_order_mark_quotes_blank_lines_and_spaces(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffmodel,value\r\n\r\n"a, ""b""", 1 \r\n"two\nlines",2\r\nlast,3')
    table = read_table(path, required=("model", "value"))
    assert [(row.line, *row.cells.values()) for row in table.rows] == [
        (3, 'a, "b"', "1"),
        (4, "two\nlines", "2"),
        (6, "last", "3"),
    ]
    assert not table.problems


def test_alias_stands_for_the_required_column(tmp_path: Path) -> None:
    table = read_table(
        write(tmp_path, "id,value\nx,1\n"), required=("model", "value"), aliases={"id": "model"}
    )
    assert table.rows[0].cells["model"] == "x"


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("model,score\na,1\n", {}, ["table.csv:1: no column 'value'"]),
        ("model;value\na;1\n", {}, ["are separated by ';'; separate the columns by commas"]),
        ("model\tvalue\na\t1\n", {}, ["are separated by '\\t'; separate"]),
        ("model,a,b,c\nx,1,2,3\n", {"optional": []}, ["must name model, value, one value in each row"]),
        ("model,value,extra\na,1,2\n", {"optional": ["stage"]}, ["1: unknown column 'extra'", "stage"]),
        ("model,value,\na,1,2\n", {}, ["1: column 3 has no name"]),
        ("model,value,value\na,1,2\n", {}, ["1: column 'value' occurs twice"]),
        (
            "model,value,key\na,1,2\n",
            {"reserved": {"key": "rename it"}},
            ["a column cannot be called 'key'", "rename it"],
        ),
        ("id,model,value\na,a,1\n", {"aliases": {"id": "model"}}, ["column 'model' occurs twice"]),
        ("", {}, ["1: the file is empty"]),
        ("\n\n", {}, ["1: the file is empty"]),
        ("model,value\n", {}, ["a header and no rows"]),
        ('model,value\na,1\nb,"2\n', {}, ["table.csv:3: is not CSV"]),
        (b"model,value\na,1\n\xe4,2\n", {}, ["table.csv:3: byte 0xe4 is not UTF-8; save the file as UTF-8"]),
        ("model,value\n".encode("utf-16"), {}, ["UTF-16"]),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, text: str | bytes, options: dict[str, object], expected: list[str]
) -> None:
    message = refusal(write(tmp_path, text), **options)
    assert all(part in message for part in expected), message
    assert "--skip-bad" not in message


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "absent.csv")
    assert "cannot be read" in refusal(tmp_path)


def test_all_problems_are_gathered_before_refusing(tmp_path: Path) -> None:
    long = "x" * 201
    table = read_table(
        write(tmp_path, f"model,value\na,1\n,2\nb\n{long},3\nb,1,2\na,5\nc\x07,1\n"),
        required=("model", "value"),
    )
    check_ids(table, {"model": "model"})
    check_unique(table, "model")
    with pytest.raises(BadInput) as caught:
        table.finish(skip_bad=False)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 problems, nothing was written:"
    assert [problem.line for problem in caught.value.problems] == [3, 4, 5, 6, 7, 8]
    assert "blank" in lines[1]
    assert "1 values under 2 columns" in lines[2]
    assert "200 characters" in lines[3]
    assert "3 values under 2 columns" in lines[4]
    assert "'a' is in line 2 already" in lines[5]
    assert "'c\\x07'" in lines[6]
    assert "--skip-bad" in lines[-1]
    assert len(table.finish(skip_bad=True)) == 6
    assert [row.line for row in table.good_rows()] == [2]


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12.0), ("-1.5e3", -1500.0), (".5", 0.5), ("5.", 5.0), ("+2", 2.0)],
)
def test_numbers(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-Infinity", "1e999", "1_000", "0x10", "1,5", "٣", "1 2", "--1"]
)
def test_what_is_no_finite_number(text: str) -> None:
    assert parse_number(text) is None


def test_columns_are_typed_as_a_whole(tmp_path: Path) -> None:
    path = write(
        tmp_path, "model,whole,decimal,flag,word,mixed,code\na,1,1,true,x,1,07\nb,,2.5,FALSE,,y,08\n"
    )
    table = read_table(path, required=("model",))
    values = typed_columns(table, table.columns[1:], text=["code"])
    assert not table.problems
    assert values[2] == {"whole": 1, "decimal": 1.0, "flag": True, "word": "x", "mixed": "1", "code": "07"}
    assert isinstance(values[2]["whole"], int)
    assert isinstance(values[2]["decimal"], float)
    assert values[3] == {"decimal": 2.5, "flag": False, "mixed": "y", "code": "08"}


@pytest.mark.parametrize("slip", ["nan", "inf", "1e999", "1,5", "12..5", "99999999999999999999", "9" * 5000])
def test_a_slip_in_a_column_of_numbers_is_a_problem(tmp_path: Path, slip: str) -> None:
    rows = "".join(f"m{number},{number}\n" for number in range(9))
    table = read_table(write(tmp_path, f'model,params\n{rows}x,"{slip}"\n'), required=("model",))
    values = typed_columns(table, ["params"])
    assert [problem.line for problem in table.problems] == [11]
    assert "column 'params'" in str(table.problems[0])
    assert values[2] == {"params": 0}


def test_a_number_of_more_digits_than_python_reads_is_still_one(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, f"model,n\na,{'0' * 5000}1\n"), required=("model",))
    assert typed_columns(table, ["n"]) == {2: {"n": 1.0}}


def test_blank_rows_of_spreadsheets_and_a_pipe_are_read(tmp_path: Path) -> None:
    table = read_table(tmp_path / "gone.csv", required=("model",), data=b"model,n\na,1\n,\n , \nb,2\n,3\n")
    assert [(row.line, row.cells["model"]) for row in table.rows] == [(2, "a"), (5, "b"), (6, "")]


@pytest.mark.parametrize("word", ["-", "N/A", "none", "?"])
def test_a_word_for_a_missing_value_makes_no_text_of_numbers(tmp_path: Path, word: str) -> None:
    path = write(tmp_path, f"model,params,name\na,1,{word}\nb,2,x\nc,{word},y\nd,{word},z\n")
    table = read_table(path, required=("model",))
    values = typed_columns(table, ["params", "name"])
    assert [problem.line for problem in table.problems] == [4, 5]
    assert "leave the cell empty, or keep the column as text with --text params" in str(table.problems[0])
    assert values[2] == {"params": 1, "name": word}
    # Records hold what was meant.
    table = read_table(path, required=("model",))
    assert typed_columns(table, ["params"], exact=True)[4] == {"params": word}
    assert not table.problems


def test_codes_that_begin_with_0_stay_as_they_are(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "model,code,share\na,0012,0.5\nb,12,0\n"), required=("model",))
    values = typed_columns(table, ["code", "share"])
    assert values == {2: {"code": "0012", "share": 0.5}, 3: {"code": "12", "share": 0.0}}
