"""Tables in files as people have them: CSV, TSV, JSON Lines, JSON and Parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.csv_text import NotCsv, csv_records
from matchgraph.errors import Error
from matchgraph.training.contents import recognise
from matchgraph.words import count, some

if TYPE_CHECKING:
    import pandas as pd

READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
# Numbers of rows, as pandas writes them into each format.
ROW_NUMBERS = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__", re.ASCII)
# Columns that tell rows apart in any data; none of them holds a measurement.
LABELS = re.compile(r"(.*[ _.-])?(id|idx|index)", re.ASCII | re.IGNORECASE)
SHOWN = 20


@dataclass(frozen=True)
class TableFile:
    """A table.

    Attributes:
        cells: of each column by its name, without space around it, in file order: text in CSV, else what the
            file has; None where a row of JSON lacks it. An array where Parquet has numbers alone, which as
            objects would take several times the memory.
        nameless: columns that are left out because they are numbers of rows, or empty.
    """

    cells: Mapping[str, Sequence[Any] | np.ndarray]
    nameless: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(self.cells)

    def __len__(self) -> int:
        return len(next(iter(self.cells.values()), ()))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as a cell for each column."""
        columns = [own.tolist() if isinstance(own, np.ndarray) else own for own in self.cells.values()]
        return (dict(zip(self.cells, row, strict=True)) for row in zip(*columns, strict=True))

    def column(self, names: Sequence[str]) -> str | None:
        """The column that has one of some names, in any case; the first of these counts."""
        known = {name.lower(): name for name in reversed(self.columns)}
        return next((known[name] for name in names if name in known), None)

    def named(self) -> str:
        """The columns, for messages."""
        return some([repr(name) for name in self.columns], SHOWN) or "none"


def read_table_file(path: Path, what: str, refused: type[Error]) -> TableFile:
    """Read a table.

    Args:
        path: CSV, TSV, JSON Lines, JSON (a list of objects, or of each column a list) or Parquet.
        what: it should have, for messages.
        refused: raised where it is no such file, or cannot be read.
    """
    kind, content = READERS.get(path.suffix.lower()), recognise(path)
    if content is not None and content.kind not in ("json", "jsonl", "parquet"):
        raise refused(f"{path} is {content.name}, not {what}: give one of {', '.join(READERS)}.")
    if kind is None:
        raise refused(f"{path} is none of {', '.join(READERS)}: give one of these.")
    try:
        if kind == "parquet":
            return _parquet(path)
        text = _text(path)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        if kind == "csv":
            return _separated(text, delimiter)
        return _json(text, by_line=path.suffix.lower() != ".json")
    except ImportError as error:
        raise refused(f"{path}: {str(error).splitlines()[0]} (pip install pyarrow).") from None
    except OSError as error:
        raise refused(f"{path} cannot be read: {error.strerror or str(error).splitlines()[0]}.") from None
    except (ValueError, NotImplementedError, RecursionError) as error:
        raise refused(f"{path}: {str(error).splitlines()[0]}") from None


def is_label(column: str) -> bool:
    """Whether a column tells rows apart, by its name."""
    return LABELS.fullmatch(column) is not None


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("the file is UTF-16: save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8."
        ) from None


def _separated(text: str, delimiter: str) -> TableFile:
    sign = "tabs" if delimiter == "\t" else "commas"
    records = csv_records(text, delimiter=delimiter)
    try:
        _, first = next(records, (0, []))
        if not first:
            raise ValueError("the file is empty: start it with a header.")
        header = [cell.strip() for cell in first]
        # Before the rows, whose quotes look broken by another separator.
        _check_separator(header, sign)
        rows = [cells for _, cells in records]
    except NotCsv as error:
        raise ValueError(f"line {error.line}: {error}: check the quotes from there on.") from None
    for number, cells in enumerate(rows, 1):
        if len(cells) != len(header):
            found, wanted = count(len(cells), "cell"), count(len(header), "column")
            raise ValueError(
                f"row {number} has {found} under {wanted}: write one for each, and quote a text that has "
                f"{sign}."
            )
    return _table(header, [[row[place] for row in rows] for place in range(len(header))])


def _check_separator(header: Sequence[str], wanted: str) -> None:
    signs = {";": "semicolons", "|": "bars", "\t": "tabs", ",": "commas"}
    found = [name for sign, name in signs.items() if sign in header[0] and name != wanted]
    if len(header) == 1 and found:
        raise ValueError(f"its columns are separated by {found[0]}: separate them by {wanted}.")


def _table(header: Sequence[str], cells: Sequence[Sequence[Any] | np.ndarray]) -> TableFile:
    """A table of columns in the order of a header, without those that are numbers of rows."""
    kept = [place for place, name in enumerate(header) if not ROW_NUMBERS.fullmatch(name)]
    for place, name in enumerate(header):
        if place and not name and any(cell not in ("", None) for cell in cells[place]):
            raise ValueError(f"column {place + 1} has no name: name it, or delete it.")
    names = [header[place] for place in kept]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ValueError(f"column {twice!r} occurs twice: rename or delete one.")
    nameless = tuple(
        name or f"column {place + 1}, which has no name"
        for place, name in enumerate(header)
        if place not in kept
    )
    return TableFile({header[place]: cells[place] for place in kept}, nameless)


def _json(text: str, *, by_line: bool) -> TableFile:
    """Lines, or one value: people give either the name of the other."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    value: Any
    if text.lstrip().startswith("[") or len(lines) == 1:
        value = _parsed(text, "the file")
    else:
        number, first = lines[0] if lines else (1, "[]")
        try:
            _parsed(first, f"line {number}")
        except ValueError as fault:
            # The first line of a value over several lines is none by itself.
            try:
                value = _parsed(text, "the file")
            except ValueError:
                if by_line or first.rstrip().endswith("}"):
                    raise fault from None
                raise
        else:
            value = [_parsed(line, f"line {number}") for number, line in lines]
    if isinstance(value, dict):
        value = [value] if by_line else _by_column(value) or [value]
    if not isinstance(value, list):
        raise ValueError("is not a list of rows: write a list of objects, one for each row.")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not an object with named values: write it as one.")
    names = {name: None for row in value for name in row}
    return _table([name.strip() for name in names], [[row.get(name) for row in value] for name in names])


def _by_column(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of an object that has of each column a list, or an object by the number of the row, as pandas
    writes them by default; None of a row.
    """
    columns = list(value.values())
    first = columns[0] if columns else None
    if (
        isinstance(first, dict)
        and all(number.isdecimal() for number in first)
        and all(isinstance(own, dict) and own.keys() == first.keys() for own in columns)
    ):
        # Of some rows of a frame, or of shuffled ones, the numbers have gaps or no order.
        columns = [[own[number] for number in first] for own in columns]
    if any(isinstance(own, dict) for own in columns) or any(
        isinstance(cell, dict) for own in columns if isinstance(own, list) for cell in own
    ):
        names = some([repr(name) for name in value])
        raise ValueError(
            f"is an object with {names}, not a list of rows: write a list of objects, one for each row."
        )
    if columns and all(isinstance(own, list) for own in columns) and len({*map(len, columns)}) == 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}).") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{twice!r} occurs twice in an object: rename or delete one.")
    return found


def _parquet(path: Path) -> TableFile:
    import pandas as pd

    with path.open("rb") as file:
        # With NumPy's own types, whole numbers beside a missing one would become decimal ones.
        frame = pd.read_parquet(file, dtype_backend="numpy_nullable")
    named = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(level=named) if named else frame
    columns = [_column(frame.iloc[:, place]) for place in range(frame.shape[1])]
    return _table([str(name).strip() for name in frame.columns], columns)


def _column(cells: pd.Series[Any]) -> Sequence[Any] | np.ndarray:
    import pandas as pd

    if isinstance(cells.dtype, pd.Int64Dtype | pd.Float64Dtype | pd.Float32Dtype) and not cells.isna().any():
        return cells.to_numpy(dtype=cells.dtype.numpy_dtype)
    return [None if cell is pd.NA else cell for cell in cells.tolist()]
