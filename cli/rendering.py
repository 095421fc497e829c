"""Rows of a query as text: a table to read, JSON or CSV to go on with."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from matchgraph.words import in_words, is_number, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Row: TypeAlias = Mapping[str, Any]

PIPE_WIDTH = 10_000


def stdout_console() -> Console:
    """Where tables are printed: as wide as the screen, or without a limit into a file or a pipe, where the
    whole of each cell is wanted.
    """
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, highlight=False, width=PIPE_WIDTH)


def as_json(rows: Sequence[Row]) -> str:
    """The rows as a JSON array of objects; NaN and infinities become null, bytes base64."""
    return json.dumps([_json_ready(row) for row in rows], ensure_ascii=False, indent=2)


def as_csv(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The rows as CSV with a header; nodes, lists and maps are JSON within their cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def for_reading(columns: Sequence[str], rows: Sequence[Row]) -> Table | Text:
    """The rows as a table; where one holds a map, such as a run's settings, one below the other."""
    deep = any(_is_map(row[name]) for row in rows for name in columns)
    return as_records(columns, rows) if deep else as_table(columns, rows)


def as_records(columns: Sequence[str], rows: Sequence[Row]) -> Text:
    """The rows one below the other, a line for each value; a map that the row before has is not repeated."""
    from rich.text import Text

    width = max(map(len, columns))
    lines: list[str] = []
    before: dict[str, Any] = {}
    for number, row in enumerate(rows, start=1):
        lines.append(f"{number} of {len(rows)}")
        for name in columns:
            value = row[name]
            if _is_map(value) and before.get(name) == value:
                lines.append(f"  {visible(name):<{width}}  as above")
            elif _is_map(value):
                before[name] = value
                lines.append(f"  {visible(name)}")
                lines += [f"    {visible(str(key))}: {in_words(item)}" for key, item in sorted(value.items())]
            elif value is not None and value != []:
                lines.append(f"  {visible(name):<{width}}  {in_words(value)}")
        lines.append("")
    return Text("\n".join(lines))


def _is_map(value: Any) -> bool:
    """Whether a value is a map, and no node, relationship or path, which have short forms."""
    short = ({"labels", "properties"}, {"type", "properties"}, {"nodes", "relationships"})
    return isinstance(value, Mapping) and {*value} not in short


def as_table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    """The rows as a table for a terminal; numbers to 4 digits, vectors by their length."""
    from rich.text import Text

    table = new_table()
    for column in columns:
        values = [row[column] for row in rows if row[column] is not None]
        numeric = bool(values) and all(is_number(value) for value in values)
        table.add_column(Text(visible(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text, and not str: a name such as [red] is a name, and no markup.
        table.add_row(*(Text(in_words(row[column])) for column in columns))
    return table


def new_table(title: str | None = None) -> Table:
    """An empty table in the one style of all commands, narrow enough for a terminal of 80 columns."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _csv_cell(value: Any) -> Any:
    ready = _json_ready(value)
    if isinstance(ready, bool | dict | list):
        return json.dumps(ready, ensure_ascii=False)
    return ready


def _json_ready(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case Mapping():
            return {key: _json_ready(item) for key, item in value.items()}
        case list():
            return [_json_ready(item) for item in value]
        case _:
            return value
