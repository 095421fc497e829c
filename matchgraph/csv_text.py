"""Records of a CSV text, each with the line on which it begins."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Literal

# An embedding of 8,000 numbers in one cell is longer than the 131,072 characters that csv allows by default.
# The limit is the process's; this is the largest that it can be everywhere.
MOST_CHARACTERS = 2**31 - 1


class NotCsv(ValueError):
    """A text is not CSV.

    Attributes:
        line: on which the record that is broken begins.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"is not CSV ({reason})")
        self.line = line


def csv_records(text: str, *, delimiter: str = ",", quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Read a text; rows without any content, which spreadsheets write as separators alone, are passed over.

    Args:
        text: the whole text.
        delimiter: one character.
        quoted: whether quotes hold cells together.

    Yields:
        The line on which a record begins, from 1, and its cells as they stand.

    Raises:
        NotCsv: quotes are broken.
    """
    csv.field_size_limit(MOST_CHARACTERS)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    line = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise NotCsv(line, str(error)) from None
        if record is None:
            return
        if any(cell.strip() for cell in record):
            yield line, record
        line = reader.line_num + 1
