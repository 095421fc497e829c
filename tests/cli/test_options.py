"""Options made from the fields of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from matchgraph.cli.main import matchgraph
from matchgraph.cli.options import DEFAULT_SEED, configuration, settings_options
from matchgraph.errors import Error
from matchgraph.settings import about_field, check_settings, same_setting, setting
from tests.cli.test_main import walk


class Wrong(Error):
    """A value out of range."""


@dataclass(frozen=True)
class Shape:
    side_px: int = setting(64, "Side of the images, in pixels.", at_least=8, option="--side")
    kind: Literal["round", "square"] = setting("round", "Outline.")

    def __post_init__(self) -> None:
        check_settings(self, Wrong)


@dataclass(frozen=True)
class Painting:
    share: float = setting(0.5, "Of the area.", above=0, at_most=1)
    mode: str = setting("fast", "Way of work.", choices=("fast", "slow"))
    layers: int | None = setting(None, "Layers; as many as needed by default.", at_least=1)
    names: tuple[str, ...] = setting(("a",), "What to paint.", option="--name", metavar="NAME")
    varnish: bool = setting(True, "Finish with varnish.")
    dry: bool = setting(False, "Only pretend.")
    folder: Path | None = setting(None, "Where to.")
    side_px: int = same_setting(Shape, "side_px", default=32)
    device: str = "auto"
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_settings(self, Wrong)


def run(arguments: list[str], settings: type = Painting, **options: Any) -> tuple[click.testing.Result, list]:
    built = []

    @click.command()
    @settings_options(settings, **options)
    def command(**given: Any) -> None:
        built.append(configuration(settings, given))
        assert not given

    return CliRunner().invoke(command, arguments), built


def test_without_options_the_configuration_has_its_own_defaults():
    result, built = run([])
    assert result.exit_code == 0, result.output
    assert built == [Painting()]


def test_every_kind_of_setting_is_read_from_the_command_line():
    line = "--share 1 --mode slow --layers 3 --name b --name c --no-varnish --dry --folder x --side 8"
    _, [built] = run(line.split())
    assert built == Painting(1.0, "slow", 3, ("b", "c"), False, True, Path("x"), 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--share", "0"], "0<x<=1"),
        (["--share", "nan"], "not a finite number"),
        (["--layers", "0"], "x>=1"),
        (["--mode", "tardy"], "'fast', 'slow'"),
        (["--side", "7"], "x>=8"),
        (["--folder", ""], "path is empty"),
    ],
)
def test_values_out_of_range_are_usage_errors(arguments, words):
    result, built = run(arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert not built


def test_help_states_range_default_and_unit():
    text = " ".join(run(["--help"])[0].output.split())
    assert "--side INTEGER RANGE Side of the images, in pixels. [default: 32; x>=8]" in text
    assert "--mode [fast|slow] Way of work. [default: fast]" in text
    assert "--varnish / --no-varnish Finish with varnish. [default: varnish]" in text
    assert "--device" not in text
    assert "--notes" not in text


def test_a_selection_keeps_its_order_and_literals_are_choices():
    text = run(["--help"], only=("mode", "share"), share={"help": "Of it."})[0].output
    assert text.index("--mode") < text.index("--share")
    assert "Of it." in text
    assert "--layers" not in text
    assert run(["--kind", "square"], Shape)[1] == [Shape(kind="square")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0}, "share must be a finite number above 0 and at most 1, got 0."),
        ({"share": float("inf")}, "share must be"),
        ({"layers": True}, "layers must be a whole number of at least 1, got True."),
        ({"layers": 1.0}, "layers must be"),
        ({"mode": "tardy"}, "mode must be one of fast, slow, got 'tardy'."),
        ({"varnish": 1}, "varnish must be true or false, got 1."),
        ({"names": ["a"]}, "names must be"),
        ({"side_px": 7}, "side_px must be a whole number of at least 8, got 7."),
    ],
)
def test_a_configuration_refuses_what_its_option_refuses(values, message):
    with pytest.raises(Wrong) as caught:
        Painting(**values)
    assert str(caught.value).startswith(message)


def test_a_field_that_is_no_setting_has_no_about():
    with pytest.raises(TypeError, match="device"):
        about_field(Painting.__dataclass_fields__["device"])


def test_all_commands_have_one_default_seed():
    seeds = {
        " ".join(path): option.default
        for path, command in walk(matchgraph)
        for option in command.params
        if "--seed" in option.opts
    }
    assert len(seeds) > 5
    assert set(seeds.values()) == {DEFAULT_SEED}
