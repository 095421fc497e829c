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


def _read(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> dict[str, dict[str, Any]]:
    """Make the file's settings the command's defaults, and return those of families."""
    if path is None:
        return {}
    content = _mapping(_content(path), f"{path}")
    families = _mapping(content.pop(FAMILIES_KEY, {}), f"{path}: {FAMILIES_KEY}")
    known = {_plain(name): one for one in ctx.command.params for name in (one.name or "", *one.opts)}
    # `seed`, say, or `learning-rate`, or the parameter's own name.
    named = {name: known.get(_plain(name)) for name in content}
    for name, option in named.items():
        if option is None or option is parameter:
            raise click.UsageError(f"{path}: {name!r} is no option of this command; see --help.")
    ctx.default_map = {option.name: content[name] for name, option in named.items() if option}
    own = set(settings_of(RunConfig)) - set(COMMON)
    found: dict[str, dict[str, Any]] = {}
    for family, settings in families.items():
        if family not in FAMILIES:
            raise click.UsageError(
                f"{path}: there is no family {family!r}; known: {', '.join(sorted(FAMILIES))}."
            )
        found[family] = {}
        for name, value in _mapping(settings, f"{path}: {family}").items():
            option = known.get(_plain(name))
            if option is None or option.name not in own:
                raise click.UsageError(f"{path}: {name!r} cannot differ between families.")
            found[family][str(option.name)] = option.type_cast_value(ctx, value)
    return found


run_file_option = click.option(
    "--run-file",
    "families",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.yaml",
    is_eager=True,
    callback=_read,
    help="Settings by the options' names, and under `families` those that differ for some families, such as "
    "`sdxl: {learning-rate: 5e-5}`. Options that are given win.",
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
        problem = str(error).splitlines()[0]
        raise click.UsageError(f"{path} cannot be read as YAML: {problem}.") from None


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise click.UsageError(f"{where}: settings are expected, as NAME: VALUE.")
    return dict(value)


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")
