"""Rows of a query as text: a table to read, JSON or CSV to go on with."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row: TypeAlias = Mapping[str, Any]

SIGNIFICANT_DIGITS = 6
# A list of numbers longer than this is a vector, which nobody reads in a table.
SHORT_LIST = 8
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


def as_table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    """The rows as a table for a terminal; numbers to 6 digits, vectors by their length."""
    from rich.text import Text

    table = new_table()
    for column in columns:
        values = [row[column] for row in rows if row[column] is not None]
        numeric = bool(values) and all(_is_number(value) for value in values)
        table.add_column(Text(_visible(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text, and not str: a name such as [red] is a name, and no markup.
        table.add_row(*(Text(in_words(row[column])) for column in columns))
    return table


def new_table(title: str | None = None) -> Table:
    """An empty table in the one style of all commands, narrow enough for a terminal of 80 columns."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def in_words(value: Any) -> str:
    """One value as a person would write it.

    Args:
        value: plain Python as `Runner.read_only` gives it.

    Returns:
        One line: a node as `(:Model alpha)`, a relationship as `[:PERFORMS 5]`, a path as both in turn.
    """
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.{SIGNIFICANT_DIGITS}g}"
        case bytes() | bytearray():
            return f"<{len(value)} bytes>"
        case {"labels": list(labels), "properties": dict(properties), **rest} if not rest:
            name = next(
                (properties[key] for key in ("id", "name", "version", "key") if key in properties), ""
            )
            return f"({''.join(f':{label}' for label in labels)} {in_words(name)})".replace(" )", ")")
        case {"type": str(kind), "properties": dict(properties), **rest} if not rest:
            return f"[:{kind} {in_words(properties.get('value'))}]".replace(" ]", "]")
        case {"nodes": list(nodes), "relationships": list(relationships), **rest} if not rest:
            steps = [f"-{in_words(r)}-{in_words(n)}" for r, n in zip(relationships, nodes[1:], strict=True)]
            return "".join([in_words(nodes[0]), *steps])
        case dict():
            return ", ".join(f"{_visible(str(key))}: {in_words(item)}" for key, item in value.items())
        case list() if len(value) > SHORT_LIST and all(_is_number(item) for item in value):
            return f"[{in_words(value[0])}, {in_words(value[1])}, ... {len(value)} numbers]"
        case list():
            return "[" + ", ".join(in_words(item) for item in value) + "]"
        case _:
            return _visible(str(value))


def _visible(text: str) -> str:
    # A control character in a property could otherwise steer the terminal it is shown on.
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Zl", "Zp")
        else character
        for character in text
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
