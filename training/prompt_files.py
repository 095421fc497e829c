"""Files of prompts: plain lines, JSON Lines, JSON or tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matchgraph.csv_text import NotCsv, csv_records
from matchgraph.errors import Error
from matchgraph.training.contents import recognise
from matchgraph.training.errors import BadPromptFile

# Names of the field or column, in any case, in the order in which they count.
PROMPT_FIELDS = ("prompt", "text", "caption")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
ADVICE = "Give a text file with one prompt per line, or JSON Lines or CSV with the field prompt."


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file.

    Attributes:
        lines: number of the line (from 1) and prompt, without space around it, none of them empty.
        notes: fields that are not read.
    """

    lines: tuple[tuple[int, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The prompts, each once."""
        return list(dict.fromkeys(text for _, text in self.lines))


def read_prompt_file(path: Path) -> PromptFile:
    """Read prompts from a file.

    Args:
        path: lines of text; or JSON Lines (`.jsonl`, or lines that are JSON objects), JSON (`.json`) or a
            table with a header (`.csv`, `.tsv`), with the prompt in the field `prompt`, `text` or `caption`.

    Returns:
        The prompts in file order; an empty line or field is not a prompt.

    Raises:
        BadPromptFile: the file is something else, has no such field, or a faulty line (the message has its
            number).
    """
    text = _read(path)
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return _from_rows(path, _table(path, text, DELIMITERS[suffix]))
    if suffix == ".json":
        values = _parsed(text, str(path))
        if not isinstance(values, list):
            raise BadPromptFile(f"{path} holds no list of prompts. {ADVICE}")
        return _from_rows(path, list(enumerate(values, start=1)))
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    filled = [(number, line) for number, line in numbered if line]
    if suffix in (".jsonl", ".ndjson") or (filled and _is_object(filled[0][1])):
        return _from_rows(path, [(n, _parsed(line, f"{path}, line {n}")) for n, line in filled])
    return PromptFile(tuple(filled))


def read_prompts(path: Path, check: Callable[[str], object] = lambda _: None) -> PromptFile:
    """Read at least one prompt from a file, and check each.

    Args:
        path: see `read_prompt_file`.
        check: called with each prompt; raises a `matchgraph.Error` for one that cannot be used.

    Raises:
        BadPromptFile: as `read_prompt_file`; the file holds no prompt; or the check refused one (the message
            has its line).
    """
    found = read_prompt_file(path)
    if not found.lines:
        raise BadPromptFile(f"{path} holds no prompt: write one on each line.")
    for number, text in found.lines:
        try:
            check(text)
        except Error as error:
            raise BadPromptFile(f"{path}, line {number}: {error}") from None
    return found


def _read(path: Path) -> str:
    content = recognise(path)
    if content is not None and content.kind not in ("json", "jsonl", "yaml"):
        raise BadPromptFile(f"{path} is {content.name}, not prompts. {ADVICE}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPromptFile(f"{path} is not text in UTF-8 ({error}).") from None
    except OSError as error:
        raise BadPromptFile(f"{path} cannot be read: {error.strerror}.") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPromptFile(f"{where}: is not JSON ({error}).") from None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _table(path: Path, text: str, delimiter: str) -> list[tuple[int, Mapping[str, str]]]:
    rows: list[tuple[int, Mapping[str, str]]] = []
    header: list[str] = []
    try:
        for line, cells in csv_records(text, delimiter=delimiter, quoted=delimiter != "\t"):
            if not header:
                header = [cell.strip() for cell in cells]
            elif len(cells) > len(header):
                raise BadPromptFile(
                    f"{path}, line {line}: {len(cells)} values under {len(header)} columns; quote "
                    "a prompt that has commas."
                )
            else:
                rows.append((line, dict(zip(header, cells, strict=False))))
    except NotCsv as error:
        raise BadPromptFile(f"{path}, line {error.line}: {error}.") from None
    if header and _field(header) is None:
        raise BadPromptFile(_without_field(path, header))
    return rows


def _from_rows(path: Path, rows: Sequence[tuple[int, Any]]) -> PromptFile:
    names = dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row)
    field = _field(list(names))
    lines = []
    for number, row in rows:
        where = f"{path}, line {number}"
        if isinstance(row, dict):
            if field is None:
                raise BadPromptFile(_without_field(path, list(names)))
            value = row.get(field)
        else:
            value = row
        if value is not None and not isinstance(value, str):
            raise BadPromptFile(f"{where}: the prompt must be text, got {value!r}.")
        if value and value.strip():
            lines.append((number, value.strip()))
    unread = ", ".join(repr(name) for name in names if name != field)
    return PromptFile(tuple(lines), (f"{path.name}: not read: {unread}",) if unread else ())


def _field(names: Sequence[str]) -> str | None:
    known = {name.lower(): name for name in reversed(names)}
    return next((known[field] for field in PROMPT_FIELDS if field in known), None)


def _without_field(path: Path, names: Sequence[str]) -> str:
    return (
        f"{path} has no {', '.join(PROMPT_FIELDS[:-1])} or {PROMPT_FIELDS[-1]}; it has "
        f"{', '.join(map(repr, names)) or 'no fields'}. Name the field of the prompts {PROMPT_FIELDS[0]!r}."
    )
