"""A file of settings for fine-tuning runs: what options say, and what differs for some families of models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from matchgraph.ingest.runs.config import RunConfig
from matchgraph.settings import settings_of
from matchgraph.training.pipelines.families import FAMILIES

FAMILIES_KEY = "families"
# What is measured is the same for all models, or they could not be compared.
COMMON = ("metrics", "samples", "tolerance", "seed", "initial")
# Types of options that a number with a fraction is a value of.
FRACTIONS = (click.types.FloatParamType, click.types.StringParamType, click.Path)


def _read(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> dict[str, dict[str, Any]]:
    """Make the file's settings the command's defaults, and return those of families."""
    if path is None:
        return {}
    content = _mapping(_content(path), f"{path}")
    families = _mapping(content.pop(FAMILIES_KEY, {}), f"{path}: {FAMILIES_KEY}")
    known = {_plain(name): one for one in ctx.command.params for name in (one.name or "", *one.opts)}
    del known[_plain(str(parameter.name))], known["run_file"]
    ctx.default_map = _settings(
        ctx, content, known, f"{path}", "is not an option of this command; see --help"
    )
    own = set(settings_of(RunConfig)) - set(COMMON)
    differing = {name: option for name, option in known.items() if option.name in own}
    found: dict[str, dict[str, Any]] = {}
    for family, given in families.items():
        if family not in FAMILIES:
            raise click.UsageError(
                f"{path}: there is no family {family!r}; known: {', '.join(sorted(FAMILIES))}."
            )
        where = f"{path}: {family}"
        settings = _settings(ctx, _mapping(given, where), differing, where, "cannot differ between families")
        found[family] = {name: known[name].type_cast_value(ctx, value) for name, value in settings.items()}
    return found


def _settings(
    ctx: click.Context,
    content: Mapping[str, Any],
    known: Mapping[str, click.Parameter],
    where: str,
    otherwise: str,
) -> dict[str, Any]:
    """Values by the parameters' names, checked.

    Args:
        ctx: of the command.
        content: values by the options' names: `seed`, say, or `learning-rate`, or the parameter's own name.
        known: the options that may be set, by all of their names.
        where: the beginning of each message.
        otherwise: what is said of another option.
    """
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in content.items():
        option = known.get(_plain(name))
        if option is None:
            raise click.UsageError(f"{where}: {name!r} {otherwise}.")
        key = str(option.name)
        if key in names:
            raise click.UsageError(f"{where}: {names[key]!r} and {name!r} are the same option.")
        names[key] = name
        found[key] = _value(option, value, f"{where}: {name}")
        try:
            option.type_cast_value(ctx, found[key])
        except click.BadParameter as error:
            raise click.UsageError(f"{where}: {name}: {error.message.rstrip('.')}.") from None
    return found


def _value(option: click.Parameter, value: Any, where: str) -> Any:
    """A value of a kind that click converts without a loss; of an option that is repeatable a list."""
    several = isinstance(option, click.Option) and option.multiple
    if several:
        value = value if isinstance(value, list) else [value]
    for one in value if several else [value]:
        if isinstance(option.type, click.types.BoolParamType):
            wrong = not isinstance(one, bool)
        elif isinstance(option.type, FRACTIONS):
            wrong = not isinstance(one, str | int | float) or isinstance(one, bool)
        else:
            wrong = not isinstance(one, str | int) or isinstance(one, bool)
        if wrong:
            raise click.UsageError(f"{where}: {one!r} is not a value of this option.")
    return value


run_file_option = click.option(
    "--run-file",
    "families",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.yaml",
    is_eager=True,
    callback=_read,
    help="Settings under the options' names, and under `families` those that differ by family, such as "
    "`sdxl: {learning-rate: 5e-5}`. Options on the command line take precedence.",
)


def family_settings(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What differs for families, but for options that were given, and take it out of `options`."""
    ctx = click.get_current_context()
    given = {
        name
        for name in ctx.params
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    families: Mapping[str, Mapping[str, Any]] = options.pop("families")
    return {
        family: {name: value for name, value in settings.items() if name not in given}
        for family, settings in families.items()
    }


def _content(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise click.UsageError(f"{place} cannot be read as YAML: {problem}.") from None


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise click.UsageError(f"{where}: expected settings as NAME: VALUE.")
    return dict(value)


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")
