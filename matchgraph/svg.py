"""Figures by matplotlib, as SVG text that stands within a page and takes its colours from it.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; series differ in marker and line
as well, so that they survive a printer without colours. Text and axes are drawn in the page's own text
colour, so they are read on a dark page as on a light one.
"""

from __future__ import annotations

import html
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stands for the page's text colour until the drawing is done; no other line or text has it.
INK = "#010203"
FAINT = "#8a94a3"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
WIDTH = 9.0
LONGEST_NAME = 28


@contextmanager
def drawing(
    name: str, *, width: float = WIDTH, height: float, description: str = ""
) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """An empty figure in the common style, and a function that makes SVG of it.

    Args:
        name: keeps the references within one drawing apart from those of others on a page.
        width: in inches.
        height: in inches.
        description: what the drawing shows, for those who cannot see it; "" where a caption says it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A name in a script that the measuring font lacks is drawn by the browser all the same.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        # A name with two dollar signs is a name, and no formula.
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "hatch.linewidth": 0.6,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)

        def finish() -> str:
            content = io.StringIO()
            figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None}, dpi=150)
            return _within_page(content.getvalue(), name, description)

        yield figure, finish


def logarithmic(axes: Any) -> None:
    """Make the horizontal axis logarithmic, with plain numbers at its ticks instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def standalone(svg: str) -> str:
    """A drawing of a page as a file of its own, dark on white."""
    return svg.replace('style="', 'style="color: #1d2430; background: #ffffff; ', 1) + "\n"


def _within_page(svg: str, name: str, description: str) -> str:
    """The drawing alone, in the page's text colour, with references of its own."""
    body = svg[svg.index("<svg") :]
    # A rule for all elements would reach into the page.
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    tags = re.findall(r"<[^>]*>", body)
    referred = {found for tag in tags for found in re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', tag)}

    def fitted(tag: str) -> str:
        tag = tag.replace(INK, "currentColor")
        tag = re.sub(
            r' id="([^"]*)"', lambda own: f' id="{name}-{own[1]}"' if own[1] in referred else "", tag
        )
        return re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", tag)

    # Only within tags: what a name spells is the name's own business.
    body = re.sub(r"<[^>]*>", lambda tag: fitted(tag[0]), body)
    [(width, height)] = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)[:1]
    size = f'style="max-width: {float(width) * 1.25:.0f}px; aspect-ratio: {width} / {height}" '
    body = re.sub(
        r'<svg (.*?)width="[^"]*" height="[^"]*"', rf"<svg {size}\1", body, count=1, flags=re.DOTALL
    )
    if not description:
        return body
    opening, rest = body.split(">", 1)
    return f'{opening} role="img" aria-label="{html.escape(description)}">{rest}'
