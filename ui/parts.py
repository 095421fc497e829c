"""Pieces that the tabs of the page share.

Names out of the graph are others' text. Each goes into a label, which shows text as text, and never into
markup, a class, a style, or the name of an option.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from matchgraph.errors import Error
from matchgraph.predictor.sentences import PERCENT

if TYPE_CHECKING:
    from nicegui.element import Element

    from matchgraph.ui.pictures import Thumbnail

T = TypeVar("T")
LOG = logging.getLogger("matchgraph.ui")
Cell = str | Callable[[], object]


def tagged(tag: str, text: str = "", classes: str = "") -> Element:
    """An HTML element with text in it, which is shown as text."""
    from nicegui import ui

    with ui.element(tag).classes(classes) as made:
        if text:
            ui.label(text)
    return made


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, numbers: Sequence[str] = ()) -> Element:
    """A table. On a narrow screen its rows become blocks, with the columns' names beside the values.

    Args:
        columns: their names.
        rows: a text, or a function that makes an element, for each column.
        numbers: names of the columns that are aligned to the right.
    """
    from nicegui import ui

    with ui.element("table").classes("mg-table") as made:
        with ui.element("thead"), ui.element("tr"):
            for name in columns:
                tagged("th", name, "mg-number" if name in numbers else "").props("scope=col")
        with ui.element("tbody"):
            for row in rows:
                with ui.element("tr"):
                    for name, cell in zip(columns, row, strict=True):
                        with ui.element("td").classes("mg-number" if name in numbers else ""):
                            ui.label(name).classes("mg-name").props("aria-hidden=true")
                            if callable(cell):
                                cell()
                            else:
                                ui.label(cell)
    return made


def share_bar(share: float) -> None:
    """A share as a number and as a bar."""
    from nicegui import ui

    ui.label(f"{share * PERCENT:.0f} %")
    with ui.element("div").classes("mg-bar").props("aria-hidden=true"):
        ui.element("div").style(f"width: {share * PERCENT:.1f}%")


def thumbnails(pictures: Sequence[Thumbnail], of: str) -> None:
    """Small pictures in a row; what they show is read aloud."""
    from nicegui import ui

    with ui.element("div").classes("mg-pictures"):
        for picture in pictures:
            image(picture.uri, picture.caption or f"an image of {of}")


def image(uri: str, description: str, classes: str = "") -> None:
    """A picture that is a data URI."""
    from nicegui import ui

    shown = ui.element("img").classes(classes)
    shown.props["src"], shown.props["alt"], shown.props["title"] = uri, description, description


def notice(text: str, kind: str = "note") -> None:
    """A sentence that stands out.

    Args:
        text: the sentence.
        kind: "note", "warning" or "error".
    """
    from nicegui import ui

    with (
        ui.element("div")
        .classes(f"mg-notice mg-{kind}")
        .props("role=alert" if kind == "error" else "role=note")
    ):
        ui.label(text)


@contextmanager
def busy(*buttons: Any) -> Iterator[None]:
    """Nothing of this can be pressed meanwhile."""
    for button in buttons:
        button.disable()
    try:
        yield
    finally:
        for button in buttons:
            if not button.is_deleted:
                button.enable()


async def answered(
    work: Callable[[], T],
    failed: Callable[[str], object] | None = None,
    *,
    turn: asyncio.Lock | None = None,
) -> T | None:
    """What a service answers, out of a thread of its own; None where it refused.

    Args:
        work: the call.
        failed: gets the reason; by default it appears for a moment.
        turn: held meanwhile. Waiting for it takes no thread, of which there are few.
    """
    from nicegui import run, ui

    tell = failed or (lambda reason: ui.notify(reason, type="negative", multi_line=True, timeout=8_000))
    try:
        async with turn or nullcontext():
            return await run.io_bound(work)
    except Error as error:
        tell(str(error))
    except Exception:
        LOG.exception("A call of the page failed")
        tell("This failed unexpectedly; the terminal of `matchgraph ui` says why.")
    return None


def later(work: Callable[[], Awaitable[None]]) -> None:
    """Begin something once the page is there."""
    from nicegui import ui

    ui.timer(0.05, work, once=True)
