"""The page of a report: a summary in words, then each section with its figures, its tables and how they were
made, in one file that opens anywhere, without a network and without scripts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matchgraph.pages import page_environment
from matchgraph.report.tables import Table
from matchgraph.svg import standalone
from matchgraph.training.files import write_text

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Figure:
    """A figure of a section.

    Attributes:
        svg: the drawing.
        caption: what it shows.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: its name, unique on the page.
        title: readable title.
        source: what of the paper it is, such as "Table 3".
        lead: what it says, in a sentence or two; for a part without data, why there is none.
        also: what else it says.
        caption: how to read it.
        figures: its figures.
        tables: its tables.
        data: tables too long for the page, as CSV files only.
        folds: how many datasets were held out; 0 where none are.
        seeds: that it was computed with.
        missing: whether the graph has no data for it.
    """

    key: str
    title: str
    source: str
    lead: str
    caption: str = ""
    also: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    data: tuple[Table, ...] = ()
    folds: int = 0
    seeds: tuple[int, ...] = ()
    missing: bool = False


@dataclass(frozen=True)
class Head:
    """What stands above and below the sections.

    Attributes:
        title: of the page.
        summary: sentences, the answer first.
        command: that makes this page.
        facts: what it was computed from and with, by name.
        note: how to read the page as a whole.
        one_by_one: whether the command makes one section alone with `--only KEY`.
    """

    title: str
    summary: Sequence[str]
    command: str
    facts: Mapping[str, Any]
    note: str
    one_by_one: bool = False


@dataclass(frozen=True, eq=False)
class Page:
    """A page that was written.

    Attributes:
        path: where it is.
        summary: what it says first, in sentences.
        content: all of it as plain data, as in the JSON file beside it.
    """

    path: Path
    summary: tuple[str, ...]
    content: Mapping[str, Any]


def write_page(
    folder: Path,
    head: Head,
    sections: Sequence[Section],
    figures: Mapping[str, Any],
    *,
    page: str,
    data: str,
) -> Page:
    """Write a page, its tables as CSV files, its drawings as SVG files, and all of it as JSON.

    Args:
        folder: gets the files; made if it is not there.
        head: what stands above and below the sections.
        sections: in their order; one without data takes a line.
        figures: further entries of the JSON file, as `plain` takes them.
        page: file name of the page.
        data: file name of the JSON file.

    Returns:
        The page.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for table in (*section.tables, *section.data):
            write_text(folder / f"{table.name}.csv", table.as_csv())
        for number, drawn in enumerate(section.figures, start=1):
            name = section.key if number == 1 else f"{section.key}-{number}"
            write_text(folder / f"{name}.svg", standalone(drawn.svg))
    content = plain({"summary": head.summary, "command": head.command, "provenance": head.facts, **figures})
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    write_text(folder / data, f"{text}\n")
    path = write_text(folder / page, render_page(head, sections))
    return Page(path, tuple(head.summary), content)


def render_page(head: Head, sections: Sequence[Section]) -> str:
    """Make the page.

    Args:
        head: what stands above and below the sections.
        sections: in their order; one without data takes a line.

    Returns:
        A self-contained HTML document; every value is escaped, and nothing in it can load or run anything.
    """
    from markupsafe import Markup, escape

    def with_code(text: str) -> Markup:
        """A sentence, escaped, with what stands between backticks as code."""
        parts = (escape(part) for part in text.split("`"))
        return Markup("").join(
            Markup("<code>{}</code>").format(part) if number % 2 else part
            for number, part in enumerate(parts)
        )

    environment = page_environment("matchgraph.report")
    environment.filters["with_code"] = with_code
    # Drawings escape the names within them themselves.
    return environment.get_template(TEMPLATE).render(head=head, sections=sections, drawn=Markup)


def plain(value: Any) -> Any:
    """Anything of a report as JSON has it; what is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
