"""Options and arguments that several commands of `matchgraph ingest` share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner

NEEDS_PROBE = (
    "Image folders are looked at by a probe model: give a CLIP folder or MODEL/TAG with --probe or in "
    "MATCHGRAPH_PROBE; none was given."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Leave bad rows, folders and images out, list them, and write the rest."
)
text_option = click.option(
    "--text",
    "text",
    multiple=True,
    metavar="COLUMN",
    help="Keep a column as text although it looks like numbers. Repeatable.",
)
probe_option = click.option(
    "--probe",
    envvar="MATCHGRAPH_PROBE",
    help="CLIP model that looks at the images: a folder in open_clip's layout, or MODEL/TAG. "
    "[env: MATCHGRAPH_PROBE]",
)
metric_option = click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=("clip_fid",),
    show_default=True,
    metavar="NAME",
    help="What to measure: clip_fid, fid, kid, cmmd, or EXTRACTOR_DISTANCE such as dinov2_fid (distances: "
    "fid, kid, cmmd). Repeatable.",
)
extractor_option = click.option(
    "--extractor",
    "extractors",
    multiple=True,
    metavar="NAME=WEIGHTS",
    help="Where the weights of an extractor are: NAME=WEIGHTS for inception, dinov2, siglip, imagebind or t5 "
    "(captions), NAME=KIND:WEIGHTS for one with a name of its own. Repeatable.",
)
direction_option = click.option(
    "--larger-is-better/--smaller-is-better",
    "larger_is_better",
    default=None,
    help="Direction of a metric that is not known yet; it is kept in the graph.",
)


class GivenPath(click.Path):
    """A path; whether it is there is told by whoever reads it. An empty one, as an unset variable leaves it,
    would mean the working folder and is refused.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if not value:
            self.fail("The path is empty: name a file or a folder.", param, ctx)
        return super().convert(value, param, ctx)


class FiniteRange(click.FloatRange):
    """A range of numbers in which nan, which is beyond no bound, and infinity are not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def path_argument(metavar: str) -> Callable[..., Any]:
    """The argument `path` of a command."""
    return click.argument("path", metavar=metavar, type=GivenPath())


@contextmanager
def opened_graph() -> Iterator[tuple[MatchingGraph, Runner]]:
    """The graph that the environment names, with its connection."""
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.repository import MatchingGraph

    with connect() as runner:
        yield MatchingGraph(runner), runner
