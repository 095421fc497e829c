"""CSV tables: read strictly, every problem of a file named by its line before anything is written to the
graph; and written whole or not at all.
"""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matchgraph.csv_text import NotCsv, csv_records
from matchgraph.graphdb.checks import FORBIDDEN_CATEGORIES, INTEGER_RANGE, MAX_ID_LENGTH, check_id
from matchgraph.graphdb.errors import InvalidId
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.training.contents import EXPECTED, recognise, remedy
from matchgraph.training.files import replacing
from matchgraph.words import MISSING

Scalar = str | int | float | bool

# Whole numbers that 64 bits do not hold count too, so as to be refused by name; Python reads no endless ones.
INTEGER = re.compile(r"[+-]?\d{1,1000}", re.ASCII)
DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# A whole number that a reader of numbers would shorten.
CODE = re.compile(r"0\d{1,40}", re.ASCII)
NON_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
BOOLEANS = {"true": True, "false": False}
# Recognised by their suffix alone.
TEXTS = ("json", "jsonl", "yaml")
# Above this share of numbers a column is taken to be numeric and a word in it to be a slip.
NUMERIC_SHARE = 0.8


@dataclass(frozen=True)
class Row:
    """One record of a table: its first line in the file and its cells by column, stripped, possibly empty."""

    line: int
    cells: Mapping[str, str]


@dataclass
class Table:
    """A table with the problems found in it so far; each check of this module adds those that it finds."""

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    bad_lines: set[int] = field(default_factory=set)

    def problem(self, line: int, reason: str, remedy: str, *, also: Iterable[int] = ()) -> None:
        """Note that `line` is bad, and so are the lines `also`, for which no further problem is listed."""
        self.problems.append(Problem(str(self.path), line, reason, remedy))
        self.bad_lines.update((line, *also))

    def good_rows(self) -> list[Row]:
        """Return the rows without a problem."""
        return [row for row in self.rows if row.line not in self.bad_lines]

    def finish(self, *, skip_bad: bool) -> tuple[Problem, ...]:
        """Raise for the problems found, or hand them back where their rows may be left out.

        Args:
            skip_bad: whether bad rows are left out and the rest kept.

        Returns:
            The problems, sorted by line.

        Raises:
            BadInput: there are problems and `skip_bad` is off.
        """
        problems = tuple(sorted(set(self.problems)))
        if problems and not skip_bad:
            raise BadInput(problems)
        return problems


def check_table(path: Path, data: bytes, wanted: str = "table") -> None:
    """Refuse a file that is not a table, and say what it is.

    Args:
        path: the file.
        data: its content.
        wanted: what it could be instead of a table, see `training.contents.remedy`.

    Raises:
        BadInput: it is something else, by its first bytes or its name.
    """
    content = recognise(path)
    # A table may have any name.
    if content is None or (content.kind in TEXTS and data.lstrip()[:1] not in (b"{", b"[")):
        return
    or_folder = f" or {EXPECTED[wanted]}" if wanted != "table" else ""
    reason = f"is {content.name}, not a CSV file{or_folder}"
    raise BadInput([Problem(str(path), 0, reason, remedy(content, wanted))], skippable=False)


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problem = Problem(str(path), 1, "the file is UTF-16", "save it as UTF-8")
        raise BadInput([problem], skippable=False)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"byte 0x{data[error.start]:02x} is not UTF-8"
        problem = Problem(str(path), line, reason, "save the file as UTF-8")
        raise BadInput([problem], skippable=False) from error


def _header_problems(
    path: Path,
    header: Sequence[str],
    required: Sequence[str],
    optional: Collection[str] | None,
    reserved: Mapping[str, str],
) -> list[Problem]:
    name = str(path)
    found: list[Problem] = []
    missing = [column for column in required if column not in header]
    reason = f"no column {', '.join(map(repr, missing))}"
    if len(header) == 1 and (missing or not required) and (sign := re.search(r"[;\t|]", header[0])):
        reason = f"its columns are separated by {sign[0]!r}"
        return [Problem(name, 1, reason, "separate the columns by commas")]
    if missing:
        each = ", one value in each row" if "value" in missing else ""
        found.append(Problem(name, 1, reason, f"the header must name {', '.join(required)}{each}"))
        # What is not known may be what is missing, under another name.
        optional = None
    for position, column in enumerate(header, start=1):
        if not column:
            found.append(Problem(name, 1, f"column {position} has no name", "name it or delete it"))
        elif any(unicodedata.category(character) in FORBIDDEN_CATEGORIES for character in column):
            found.append(Problem(name, 1, f"column {column!r} holds a control character", "rename it"))
        elif column in reserved:
            found.append(Problem(name, 1, f"a column cannot be called {column!r}", reserved[column]))
        elif header.index(column) < position - 1:
            found.append(Problem(name, 1, f"column {column!r} occurs twice", "delete or rename one"))
        elif optional is not None and column not in required and column not in optional:
            known = ", ".join([*required, *optional])
            found.append(Problem(name, 1, f"unknown column {column!r}", f"delete it; known are {known}"))
    return found


def read_content(path: Path) -> bytes:
    """The content of a file.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        problem = Problem(str(path), 0, f"cannot be read ({error.strerror})", "check the path")
        raise BadInput([problem], skippable=False) from error


def read_table(
    path: Path,
    *,
    required: Sequence[str],
    optional: Collection[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    reserved: Mapping[str, str] = MappingProxyType({}),
    verbatim: Collection[str] = (),
    wanted: str = "table",
    usual: Sequence[str] = (),
    data: bytes | None = None,
) -> Table:
    """Read a UTF-8 CSV file with a header.

    Args:
        path: the file; a byte order mark is tolerated, blank lines are ignored.
        required: columns that must be there.
        optional: columns that may be there; None lets any other column through.
        aliases: other names for required columns, alias to name.
        reserved: names that no column may have, each with what to do about it.
        verbatim: columns whose cells keep the space around them.
        wanted: what the file could be instead, for errors: "model" or "dataset" where a folder would do.
        usual: columns that the error of an empty file names where none is required.
        data: its content, where it has been read: a pipe can be read once.

    Returns:
        The table. Rows of a wrong length are in its problems and not among its rows.

    Raises:
        BadInput: the file cannot be read as a table at all (missing, not UTF-8, bad header, broken quoting);
            no row of it can be trusted then, so `--skip-bad` does not help.
    """
    data = read_content(path) if data is None else data
    check_table(path, data, wanted)
    try:
        records = list(csv_records(_decode(path, data)))
    except NotCsv as error:
        problem = Problem(str(path), error.line, str(error), "check the quotes from this line on")
        raise BadInput([problem], skippable=False) from error
    if not records:
        remedy = f"start it with a header naming {', '.join(required or usual)}"
        problem = Problem(str(path), 1, "the file is empty", remedy)
        raise BadInput([problem], skippable=False)

    names = dict(aliases or {})
    header = [names.get(column.strip(), column.strip()) for column in records[0][1]]
    problems = _header_problems(path, header, required, optional, reserved)
    if problems:
        raise BadInput(problems, skippable=False)
    table = Table(path, tuple(header), [])
    for line, record in records[1:]:
        if len(record) == len(header):
            cells = zip(header, record, strict=True)
            table.rows.append(
                Row(line, {column: cell if column in verbatim else cell.strip() for column, cell in cells})
            )
        else:
            table.problem(
                line, f"{len(record)} values under {len(header)} columns", "write one value for each column"
            )
    if not table.rows and not table.problems:
        problem = Problem(str(path), 1, "the file has a header and no rows", "add rows below it")
        raise BadInput([problem], skippable=False)
    return table


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file that `read_table` reads, whole or not at all.

    Args:
        path: the file, replaced where there is one.
        columns: its header.
        rows: cells by column; None and cells that are not there stay empty, columns not named are left out.
    """
    # The csv module does not quote a carriage return by itself, and readers take it for the end of the row.
    quoted = any("\r" in cell for row in rows for cell in row.values() if isinstance(cell, str))
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file,
            columns,
            lineterminator="\n",
            extrasaction="ignore",
            quoting=csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL,
        )
        writer.writeheader()
        writer.writerows({key: cell_of(value) for key, value in row.items()} for row in rows)


def cell_of(value: Any) -> Any:
    """What is written into a cell for a value; the csv module makes text of the rest."""
    return str(value).lower() if isinstance(value, bool) else "" if value is None else value


def id_fault(identifier: str, kind: str) -> tuple[str, str] | None:
    """Return reason and remedy where `identifier` cannot be the id of a node, else None.

    Args:
        identifier: the id.
        kind: what it names, such as "model".
    """
    try:
        check_id(identifier, kind)
    except InvalidId as error:
        return str(error).rstrip("."), f"use an id of 1 to {MAX_ID_LENGTH} printable characters"
    return None


def check_ids(table: Table, columns: Mapping[str, str]) -> None:
    """Note every row with an unusable id.

    Args:
        table: the table; problems are noted in it.
        columns: the id columns, each with the kind of node it names.
    """
    for row in table.rows:
        for column, kind in columns.items():
            fault = id_fault(row.cells[column], kind)
            if fault:
                table.problem(row.line, *fault)


def check_unique(table: Table, column: str) -> None:
    """Note every row that repeats the id of an earlier row."""
    first: dict[str, int] = {}
    for row in table.rows:
        value = row.cells[column]
        if value in first:
            reason = f"{column} {value!r} is in line {first[value]} already"
            table.problem(row.line, reason, "keep one of the two")
        elif value:
            first[value] = row.line


def parse_number(text: str) -> float | None:
    """Return the finite number that `text` spells, or None.

    Unlike `float`, refuses digit-group underscores, NaN and infinities, and numbers too large for a float.
    """
    if not DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def number_problem(text: str) -> tuple[str, str]:
    """Return reason and remedy for a cell that should be a number and is not a finite one."""
    if not text:
        return "no value", "write a number or delete the row"
    if NON_FINITE.fullmatch(text) or DECIMAL.fullmatch(text):
        return f"value {text!r} is not finite", "write a finite number or delete the row"
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return f"{text!r} is not a number", "write the decimal point as '.'"
    return f"{text[:40]!r} is not a number", "write a number such as 12.5"


def typed_columns(
    table: Table, columns: Sequence[str], *, text: Collection[str] = (), exact: bool = False
) -> dict[int, dict[str, Scalar]]:
    """Type attribute columns as a whole: all integers, all numbers, all booleans, else text.

    Empty cells are absent. A column of numbers of which one begins with a needless 0 is of codes, so text. A
    column that is numbers in at least four of five cells and something else in the rest, or numbers and words
    for a missing value, is taken for a numeric one with slips, and the slips are problems unless it is named
    in `text`.

    Args:
        table: the table; problems are noted in it.
        columns: the attribute columns.
        text: columns to be kept as text whatever they look like.
        exact: take words for a missing value as any other word.

    Returns:
        Attributes by row line.

    Raises:
        BadInput: `text` names a column that is not there.
    """
    unknown = sorted(set(text) - set(columns))
    if unknown:
        reason = f"no column {', '.join(unknown)} for --text"
        raise BadInput([Problem(str(table.path), 1, reason, "name one of the header")], skippable=False)
    values: dict[int, dict[str, Scalar]] = {row.line: {} for row in table.rows}
    for column in columns:
        filled = [(row.line, row.cells[column]) for row in table.rows if row.cells[column]]
        if column in text:
            values_of: dict[int, Scalar] = dict(filled)
        elif filled and all(cell.lower() in BOOLEANS for _, cell in filled):
            values_of = {line: BOOLEANS[cell.lower()] for line, cell in filled}
        else:
            values_of = _numbers_or_text(table, column, filled, frozenset() if exact else MISSING)
        for line, value in values_of.items():
            values[line][column] = value
    return values


def _numbers_or_text(
    table: Table, column: str, filled: Sequence[tuple[int, str]], missing: Collection[str]
) -> dict[int, Scalar]:
    numbers = sum(1 for _, cell in filled if DECIMAL.fullmatch(cell))
    spoken = sum(1 for _, cell in filled if NON_FINITE.fullmatch(cell))
    absent = sum(1 for _, cell in filled if cell.lower() in missing and not NON_FINITE.fullmatch(cell))
    if (
        not numbers
        or (numbers + spoken < NUMERIC_SHARE * len(filled) and numbers + spoken + absent < len(filled))
        or any(CODE.fullmatch(cell) for _, cell in filled)
    ):
        return dict(filled)
    whole = all(INTEGER.fullmatch(cell) for _, cell in filled if DECIMAL.fullmatch(cell))
    values: dict[int, Scalar] = {}
    for line, cell in filled:
        value = parse_number(cell)
        if value is None:
            reason, remedy = number_problem(cell)
            remedy = "leave the cell empty" if cell.lower() in missing else remedy
            remedy += f", or keep the column as text with --text {column}"
            table.problem(line, f"column {column!r}: {reason}", remedy)
        elif whole and int(cell) not in INTEGER_RANGE:
            table.problem(line, f"column {column!r}: {cell} does not fit 64 bits", "write it as 1.5e30")
        else:
            values[line] = int(cell) if whole else value
    return values
