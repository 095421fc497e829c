"""Options and arguments of more than one command, and options made from the fields of configurations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.settings import LARGEST_SEED, Setting, settings_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner

PROBE_VARIABLE = "MATCHGRAPH_PROBE"
DEFAULT_SEED = 0

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
T = TypeVar("T", bound="DataclassInstance")


class GivenPath(click.Path):
    """A path that need not exist; its reader reports a missing file. An empty one, as an unset variable
    leaves it, would mean the working folder and is refused.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if not value:
            self.fail("The path is empty: name a file or a folder.", param, ctx)
        return super().convert(value, param, ctx)


class FiniteRange(click.FloatRange):
    """A range of numbers without nan, which passes every comparison with a bound, and infinity."""

    def _describe_range(self) -> str:
        # Without bounds click would print `x<=None`.
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class SeedRange(click.IntRange):
    """A seed; its upper bound, which has 19 digits, is left to the error of a larger one."""

    def __init__(self) -> None:
        super().__init__(0, LARGEST_SEED)

    def _describe_range(self) -> str:
        return "x>=0"


def replace_option(kind: str) -> Decorator:
    """The option `--replace` of a command that adds nodes of a kind."""
    return click.option(
        "--replace",
        "replace_content",
        is_flag=True,
        help=f"If the graph has a different {kind} with this id, replace it and remove its results.",
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (a GPU if there is one) or a torch device, such as cuda:1.",
)
gpu_memory_option = click.option(
    "--gpu-memory",
    type=FiniteRange(0, min_open=True),
    metavar="GIB",
    help="GPU memory to stay within, in GiB; by default all that is free. As needed, fewer images are drawn "
    "at a time, and parts of a model are offloaded to main memory.",
)
skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Skip bad rows, folders and images, list them, and write the rest."
)
text_option = click.option(
    "--text",
    "text",
    multiple=True,
    metavar="COLUMN",
    help="Keep a column as text even if it looks like numbers. Repeatable.",
)
metric_option = click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=("clip_fid",),
    show_default=True,
    metavar="NAME",
    help="Metric to measure: clip_fid, fid, kid, cmmd, or EXTRACTOR_DISTANCE such as dinov2_fid (distances: "
    "fid, kid, cmmd). Repeatable.",
)
extractor_option = click.option(
    "--extractor",
    "extractors",
    multiple=True,
    metavar="NAME=WEIGHTS",
    help="Weights of an extractor: NAME=WEIGHTS for inception, dinov2, siglip, imagebind or t5 "
    "(captions), NAME=KIND:WEIGHTS for another name. Repeatable.",
)
direction_option = click.option(
    "--larger-is-better/--smaller-is-better",
    "larger_is_better",
    default=None,
    help="Direction of a metric that is new to the graph, which stores it.",
)
caption_column_option = click.option(
    "--caption-column",
    metavar="NAME",
    help="Column or field of the captions; by default text, caption or prompt.",
)
neighbours_option = click.option(
    "--neighbours",
    type=click.IntRange(0),
    default=NEIGHBOURS,
    show_default=True,
    help="Number of nearest datasets whose distances are kept; 0 for all.",
)
encoder_option = click.option(
    "--probe",
    envvar=PROBE_VARIABLE,
    required=True,
    help="Encoder of prompts: a CLIP (a folder in open_clip's layout, or MODEL/TAG), a sentence model (a "
    "folder of sentence-transformers, or sentence-transformers/NAME), or a file of embeddings (.npy, "
    f".parquet, .csv, .jsonl). [env: {PROBE_VARIABLE}]",
)


def probe_option(*, required: bool = False, note: str = "") -> Decorator:
    """`--probe`, the CLIP model.

    Args:
        required: whether the command needs it.
        note: a sentence of the command's own, after the description.
    """
    words = f"CLIP model: a folder in open_clip's layout, or MODEL/TAG. {note}".strip()
    return click.option(
        "--probe", envvar=PROBE_VARIABLE, required=required, help=f"{words} [env: {PROBE_VARIABLE}]"
    )


def seed_option(of: str) -> Decorator:
    """`--seed`.

    Args:
        of: what is random, for "Seed of {of}."
    """
    return click.option(
        "--seed",
        type=SeedRange(),
        default=DEFAULT_SEED,
        show_default=True,
        help=f"Seed of {of}.",
    )


def out_option(
    help: str, *, metavar: str = "FOLDER", required: bool = False, default: Any = None
) -> Decorator:
    """`--out`, where a command writes its files.

    Args:
        help: what is written.
        metavar: FOLDER, or a file name with its suffix.
        required: whether it must be given.
        default: where it is written otherwise.
    """
    return click.option(
        "--out",
        type=GivenPath(),
        metavar=metavar,
        required=required,
        help=help,
        # An explicit None would count as given, and nothing would be required.
        **({} if default is None else {"default": default, "show_default": True}),
    )


def listening_options(port: int) -> Decorator:
    """`--host` and `--port` of a command that serves.

    Args:
        port: the default.
    """
    return with_options(
        [
            click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
            click.option(
                "--port",
                type=click.IntRange(0, 65535),
                default=port,
                show_default=True,
                help="Port; 0 takes a free one.",
            ),
        ]
    )


def prompts_option(help: str, *, required: bool = False, name: str = "--prompts") -> Decorator:
    """A file of prompts, see `training.prompt_files`, as the parameter `prompts_file`.

    Args:
        help: what they are for, and what is used without them.
        required: whether it must be given.
        name: of the option, where a command takes two such files; the parameter is named after it.
    """
    return click.option(
        name,
        f"{name.removeprefix('--').replace('-', '_')}_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        required=required,
        help=help,
    )


def path_argument(metavar: str) -> Decorator:
    """The argument `path` of a command."""
    return click.argument("path", metavar=metavar, type=GivenPath())


def with_options(options: Sequence[Decorator]) -> Decorator:
    """Give a command several options, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def data_folder() -> Path:
    """The data folder of the environment."""
    from matchgraph.graphdb.connection import settings_from_environment

    return settings_from_environment().home


def scorer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of what scores images; the command gets them as `weights`, by metric, with the mixtures of
    the data folder.
    """

    @with_options(
        [
            click.option(
                "--aesthetic-weights",
                type=GivenPath(),
                help="For --metric aesthetic: a safetensors file, or OWNER/NAME on the hub.",
            ),
            click.option(
                "--reward-weights",
                type=GivenPath(),
                help="For --metric image_reward: a folder, or OWNER/NAME on the hub.",
            ),
            click.option(
                "--images",
                "near_images",
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help="For --metric nearness: folder of reference images.",
            ),
        ]
    )
    @functools.wraps(command)
    def called(
        *arguments: Any,
        aesthetic_weights: Path | None,
        reward_weights: Path | None,
        near_images: Path | None,
        **options: Any,
    ) -> Any:
        from matchgraph.training.measure.mixture import mixtures_in

        weights = {"aesthetic": aesthetic_weights, "image_reward": reward_weights, "nearness": near_images}
        weights |= mixtures_in(data_folder())
        return command(*arguments, weights=weights, **options)

    return called


def settings_options(
    settings: type,
    *,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
    **changed: Mapping[str, Any],
) -> Decorator:
    """Options for the settings of a configuration: name, type, range, default and help come from its fields.

    A setting without a default is a required option, one that may be None has no default, a tuple is
    repeatable, and a truth value is a flag, with its negation where the default is true.

    Args:
        settings: a dataclass with fields made by `matchgraph.settings.setting`.
        only: names of the fields to offer, in the order of the help; all by default.
        without: names of fields that are no options.
        changed: field name to further arguments of `click.option`, such as `envvar` or `help`.

    Returns:
        A decorator. The command gets each option under its field's name; see `configuration`.
    """
    found = settings_of(settings)
    names = [name for name in (found if only is None else only) if name not in without]
    return with_options([_option(found[name], changed.get(name, {})) for name in names])


def _option(one: Setting, changed: Mapping[str, Any]) -> Decorator:
    name = one.about.option or f"--{one.name.replace('_', '-')}"
    arguments: dict[str, Any] = {"help": one.about.help, "metavar": one.about.metavar}
    if one.required:
        arguments["required"] = True
    elif one.default is not None:
        arguments |= {"default": one.default, "show_default": True}
    if one.kind is bool and not one.optional:
        if one.default is True:
            name = f"{name}/--no-{name.removeprefix('--')}"
        else:
            arguments |= {"is_flag": True, "show_default": False}
    elif one.kind is bool:
        name, arguments["default"] = f"{name}/--no-{name.removeprefix('--')}", None
    else:
        arguments |= {"type": _type(one), "multiple": one.several}
    return click.option(name, one.name, **{**arguments, **changed})


def _type(one: Setting) -> click.ParamType:
    about = one.about
    if one.choices:
        return click.Choice(one.choices)
    if about.at_most == LARGEST_SEED:
        return SeedRange()
    if one.kind in (int, float):
        ranged: Any = click.IntRange if one.kind is int else FiniteRange
        return ranged(
            about.at_least if about.above is None else about.above,
            about.at_most if about.below is None else about.below,
            min_open=about.above is not None,
            max_open=about.below is not None,
        )
    return GivenPath() if one.kind is Path else click.STRING


def configuration(settings: type[T], options: dict[str, Any], **further: Any) -> T:
    """Build a configuration from a command's options, and take them out of `options`.

    Args:
        settings: the dataclass.
        options: what click passed; entries that are fields of it are removed.
        further: fields that are no options.
    """
    own = {one.name: options.pop(one.name) for one in fields(settings) if one.name in options}
    return settings(**own, **further)


@contextmanager
def opened_graph() -> Iterator[tuple[MatchingGraph, Runner]]:
    """The graph that the environment names, with its connection."""
    from matchgraph.graphdb.connection import connect
    from matchgraph.graphdb.repository import MatchingGraph

    with connect() as runner:
        yield MatchingGraph(runner), runner
