"""What a table of records cannot hold, kept beside the tables as JSON, one object a line.

A cell is text, and a column is read as a whole: numbers, booleans or words. Lists, texts that look like
numbers, columns of several types, blank or padded texts, and what an edge has beyond the known columns would
come back as something else. They are in `rest.jsonl`, each line with the keys of its row, and are put over
what the tables say when records are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from matchgraph.graphdb.errors import GraphError
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.csv_file import Row, Table, cell_of, typed_columns
from matchgraph.training.files import replacing

Kind: TypeAlias = Literal["model", "dataset", "similarity", "result", "run", "student", "prompt"]
# What a row is known by.
KEYS: Mapping[str, tuple[str, ...]] = {
    "model": ("model",),
    "dataset": ("dataset",),
    "similarity": ("dataset", "other", "metric"),
    "result": ("model", "dataset", "metric", "stage"),
    "run": ("run",),
    "student": ("student", "teacher"),
    "prompt": ("prompt",),
}
FIELDS = frozenset({"properties", "provenance", "embedding"})
REST = "rest.jsonl"
EXPORT_AGAIN = "export the records again, or delete the line"
T = TypeVar("T")

RestRow: TypeAlias = dict[str, Any]


def kept_by_table(rows: Sequence[Mapping[str, Any]], taken: Callable[[str], bool]) -> set[str]:
    """The properties that come back from a table as they are, values and types.

    Args:
        rows: properties of each node.
        taken: whether a column of that name would be something else.
    """
    kept = set()
    for name in {name for row in rows for name in row}:
        values = {line: row[name] for line, row in enumerate(rows) if name in row}
        if taken(name) or name != name.strip() or not all(map(fits_cell, values.values())):
            continue
        table = Table(
            Path(), (name,), [Row(line, {name: str(cell_of(value))}) for line, value in values.items()]
        )
        read = typed_columns(table, [name], exact=True)
        if not table.problems and all(is_same(read[line].get(name), was) for line, was in values.items()):
            kept.add(name)
    return kept


def fits_cell(value: object) -> bool:
    """Whether a cell holds a value: no list, and no text that is blank, padded, or has a null character."""
    if isinstance(value, str):
        return bool(value) and value == value.strip() and "\0" not in value
    return isinstance(value, bool | int | float)


def is_same(one: object, other: object) -> bool:
    """Whether two values are equal and of one type."""
    return type(one) is type(other) and one == other


def write_rest(path: Path, rows: Iterable[RestRow]) -> int:
    """Write the file, or remove it where there is nothing to write.

    Args:
        path: the file, replaced whole.
        rows: each with `of`, the keys of its kind, and fields to be put over those of the tables.

    Returns:
        How many rows there are.
    """
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    if not lines:
        path.unlink(missing_ok=True)
        return 0
    with replacing(path) as scratch:
        scratch.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return len(lines)


class Rest:
    """The rows of a file, each to be used once.

    Args:
        path: the file; where there is none, there are no rows.

    Raises:
        BadInput: a line is no such row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[tuple[str, ...], tuple[int, RestRow]] = {}
        problems = []
        text = path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                key = (row["of"], *(row[name] for name in KEYS[row["of"]]))
                if not all(isinstance(part, str) for part in key) or row.keys() - {
                    "of",
                    *KEYS[row["of"]],
                    *FIELDS,
                }:
                    raise ValueError
            except (ValueError, TypeError, KeyError, RecursionError):
                problems.append(Problem(str(path), number, "is not a row of records", EXPORT_AGAIN))
            else:
                self._rows[key] = (number, row)
        if problems:
            raise BadInput(problems, skippable=False)

    def take(self, of: Kind, *key: str) -> RestRow:
        """What there is beside the tables of one row, by field; empty where there is nothing."""
        _, row = self._rows.pop((of, *key), (0, {}))
        return {name: value for name, value in row.items() if name in FIELDS}

    def over(self, of: Kind, rows: Sequence[T], key: Callable[[T], tuple[str, ...]]) -> tuple[T, ...]:
        """Put what there is over rows of the tables.

        Args:
            of: their kind.
            rows: dataclasses.
            key: gives what a row is known by.

        Raises:
            BadInput: a value cannot be stored.
        """
        return tuple(self._over(of, row, key(row)) for row in rows)

    def _over(self, of: Kind, row: T, key: tuple[str, ...]) -> T:
        number, _ = self._rows.get((of, *key), (0, {}))
        fields = self.take(of, *key)
        if not fields:
            return row
        try:
            changes = {
                name: {**getattr(row, name), **value} if isinstance(value, dict) else value
                for name, value in fields.items()
            }
            return replace(row, **changes)  # type: ignore[type-var]
        except (GraphError, TypeError, AttributeError) as error:
            reason = str(error).rstrip(".")
            raise BadInput(
                [Problem(str(self._path), number, reason, EXPORT_AGAIN)], skippable=False
            ) from None

    def all_of(self, of: Kind) -> list[RestRow]:
        """All rows of a kind that no table lists, with their keys."""
        keys = [key for key in self._rows if key[0] == of]
        return [self._rows.pop(key)[1] for key in keys]

    def finish(self) -> None:
        """Make sure that every row was used.

        Raises:
            BadInput: a row is of something that no table lists.
        """
        problems = [
            Problem(str(self._path), number, f"is of {' '.join(key)}, which no table lists", EXPORT_AGAIN)
            for key, (number, _) in self._rows.items()
        ]
        if problems:
            raise BadInput(problems, skippable=False)
