"""The page of a report: a summary in words, then each section with its figures, its tables and how they were
made, in one file that opens anywhere, without a network and without scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matchgraph.report.paper import NOTE
from matchgraph.report.sections import Section

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Head:
    """What stands above and below the sections.

    Attributes:
        title: of the page.
        summary: sentences, the answer first.
        command: that makes this report.
        facts: what it was computed from and with, by name.
        note: how to read the figures of a paper beside them.
        one_by_one: whether the command makes one section alone with `--only KEY`.
    """

    title: str
    summary: Sequence[str]
    command: str
    facts: Mapping[str, Any]
    note: str = NOTE
    one_by_one: bool = True


def render_page(head: Head, sections: Sequence[Section]) -> str:
    """Make the page.

    Args:
        head: what stands above and below the sections.
        sections: in their order; one without data takes a line.

    Returns:
        A self-contained HTML document; every value is escaped, and nothing in it can load or run anything.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def said(text: str) -> Markup:
        """A sentence, escaped, with what stands between backticks as code."""
        parts = (escape(part) for part in text.split("`"))
        return Markup("").join(
            Markup("<code>{}</code>").format(part) if number % 2 else part
            for number, part in enumerate(parts)
        )

    environment = Environment(
        loader=PackageLoader("matchgraph.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["said"] = said
    # Drawings escape the names within them themselves.
    return environment.get_template(TEMPLATE).render(head=head, sections=sections, drawn=Markup)
