"""Captions of an image folder: from metadata files as Hugging Face's, or from files beside the images."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from matchgraph.csv_text import NotCsv, csv_records
from matchgraph.training.errors import BadDataset

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
# Metadata that Hugging Face reads too, and this package does not.
UNREAD_METADATA_FILES = ("metadata.parquet",)
FILE_COLUMN, SPLIT_COLUMN = "file_name", "split"
# Columns that hold captions without being named by the user. `text` is Hugging Face's own.
CAPTION_COLUMNS = ("text", "caption", "prompt")
# Beside an image, in the order in which they count. `.caption` is kohya's default.
CAPTION_SUFFIXES = (".txt", ".caption", ".json")
# Hugging Face's names of splits, and whether their images are fine-tuned on.
SPLITS = {
    "train": True,
    "training": True,
    "validation": False,
    "valid": False,
    "val": False,
    "dev": False,
    "test": False,
    "testing": False,
    "eval": False,
    "evaluation": False,
}


# A folder of kohya's scripts: how often its images are repeated in an epoch, and what they show.
CONCEPT = re.compile(r"[1-9]\d{0,2}_(.*\S.*)")


def concept_of(folder: str) -> str | None:
    """What the images of a folder named as for kohya's scripts show (`10_sks dog`); None of another name."""
    found = CONCEPT.fullmatch(folder)
    return found and found[1]


@dataclass
class CaptionReader:
    """Reads captions, and remembers what it found and did not read.

    Args:
        column: the column or JSON field that holds captions; None to look for CAPTION_COLUMNS.
    """

    column: str | None = None
    unread_columns: dict[str, set[str]] = field(default_factory=dict)
    lists: int = 0
    overruled: dict[str, int] = field(default_factory=dict)
    found_column: bool = False

    def metadata(self, file: Path) -> Iterator[MetadataRow]:
        """Read a metadata file.

        Args:
            file: one of METADATA_FILES.

        Yields:
            Its rows. Names are checked to lie inside the folder, not to be there.

        Raises:
            BadDataset: the file cannot be read, or a line of it is faulty (the message has its number).
        """
        rows = list(_csv_rows(file) if file.suffix == ".csv" else _json_rows(file))
        columns = dict.fromkeys(name for _, row in rows for name in row)
        column = self._choose(columns, str(file))
        self._not_read(
            file.name, [name for name in columns if name not in (FILE_COLUMN, SPLIT_COLUMN, column)]
        )
        for number, row in rows:
            where = f"{file}, line {number}"
            name = row.get(FILE_COLUMN)
            if not isinstance(name, str) or not name:
                fields = ", ".join(map(repr, row))
                raise BadDataset(
                    f'{where}: "{FILE_COLUMN}" must be the path of an image, got {name!r}; the line has '
                    f"{fields or 'no fields'}."
                )
            relative = PurePosixPath(name)
            if relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
                raise BadDataset(f"{where}: {name!r} must be a path inside the folder, with no '..'.")
            caption = self._caption(row.get(column) if column else None, where, column, name)
            yield MetadataRow(number, name, caption, _held_out(row.get(SPLIT_COLUMN), where))

    def from_files(self, files: Mapping[str, Path]) -> tuple[str | None, tuple[Path, ...]]:
        """Read the caption of an image from its caption files.

        Args:
            files: by suffix, those of CAPTION_SUFFIXES that are there.

        Returns:
            The caption, None where there is none, and the files that were understood as captions.

        Raises:
            BadDataset: a file cannot be read.
        """
        chosen: str | None = None
        used: list[Path] = []
        for suffix in CAPTION_SUFFIXES:
            if suffix not in files:
                continue
            file = files[suffix]
            text = _read_text(file)
            caption = self._from_json(file, text) if suffix == ".json" else text.strip() or None
            if suffix != ".json" or caption is not None:
                used.append(file)
            if chosen is None:
                chosen = caption
            elif caption not in (None, chosen):
                self.overruled[suffix] = self.overruled.get(suffix, 0) + 1
        return chosen, tuple(used)

    def notes(self) -> list[str]:
        """What was found and not read, one sentence each."""
        found = []
        for name, columns in self.unread_columns.items():
            listed = ", ".join(map(repr, sorted(columns)))
            found.append(
                f"{name}: {'column' if len(columns) == 1 else 'columns'} {listed} not read"
                + ("" if self.found_column else "; if one holds the captions, name it with --caption-column")
            )
        if self.lists:
            found.append(f"{_images(self.lists)} with a list of captions: the first is read")
        found += [
            f"{_images(count)} with another caption in a {suffix} file: it is not read"
            for suffix, count in self.overruled.items()
        ]
        return found

    def _choose(self, columns: Collection[str], where: str) -> str | None:
        if self.column is not None:
            if self.column not in columns:
                raise BadDataset(
                    f"{where} has no {self.column!r}; it has {', '.join(map(repr, columns)) or 'nothing'}. "
                    "Name one of these with --caption-column."
                )
            self.found_column = True
            return self.column
        known = [name for name in CAPTION_COLUMNS if name in columns]
        if len(known) > 1 and CAPTION_COLUMNS[0] not in known:
            raise BadDataset(
                f"{where} may have captions in {' or '.join(map(repr, known))}; name one with "
                "--caption-column."
            )
        self.found_column = self.found_column or bool(known)
        return known[0] if known else None

    def _not_read(self, name: str, columns: Collection[str]) -> None:
        if columns:
            self.unread_columns.setdefault(name, set()).update(columns)

    def _caption(self, value: Any, where: str, column: str | None, name: str) -> str | None:
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            self.lists += len(value) > 1
            value = value[0]
        if value is None or value == []:
            return None
        if not isinstance(value, str):
            raise BadDataset(f'{where}: "{column}" must be the caption of {name}, got {value!r}.')
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise BadDataset(f"{where}: the caption of {name!r} holds half of a surrogate pair.")
        return value.strip() or None

    def _from_json(self, file: Path, text: str) -> str | None:
        value = _parsed(text, str(file))
        column = None
        if isinstance(value, dict):
            column = self._choose(value, str(file)) if self.column or value else None
            self._not_read(".json files", [name for name in value if name != column])
            value = value.get(column) if column else None
        return self._caption(value, str(file), column or "the caption", file.stem)


@dataclass(frozen=True)
class MetadataRow:
    """One image as a metadata file lists it.

    Attributes:
        line: in the file, from 1.
        name: path of the image, relative to the file's folder.
        caption: its text, None where it has none.
        held_out: whether its split is held out; None where no split is given.
    """

    line: int
    name: str
    caption: str | None
    held_out: bool | None


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _held_out(split: Any, where: str) -> bool | None:
    if split is None or split == "":
        return None
    if not isinstance(split, str) or split.lower() not in SPLITS:
        raise BadDataset(f'{where}: "split" must be one of {", ".join(SPLITS)}, got {split!r}.')
    return not SPLITS[split.lower()]


def _read_text(file: Path) -> str:
    try:
        # Reading a named pipe would wait for ever.
        if not stat.S_ISREG(file.stat().st_mode):
            raise BadDataset(f"{file} is not a regular file; remove it.")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadDataset(f"{file} cannot be read as UTF-8 text: {error}.") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadDataset(f"{where}: is not JSON ({error}).") from None


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise BadDataset(f"{file} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise BadDataset(f"{where}: is not UTF-8.") from None
        if not text:
            continue
        row = _parsed(text, where)
        if not isinstance(row, dict):
            raise BadDataset(f"{where}: is not a JSON object.")
        yield number, row


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] = []
    try:
        for line, cells in csv_records(_read_text(file)):
            if not header:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                raise BadDataset(
                    f"{file}, line {line}: {len(cells)} values under {len(header)} columns; write one value "
                    "for each column."
                )
            else:
                yield line, dict(zip(header, cells, strict=True))
    except NotCsv as error:
        raise BadDataset(f"{file}, line {error.line}: {error}.") from None
