"""Settings: fields of configuration dataclasses that carry their help and range with them.

A configuration states each default, range and description once. `check_settings` enforces the ranges when
an instance is built, and `matchgraph.cli.options.settings_options` makes command-line options of the fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from matchgraph.errors import Error

KEY = "matchgraph"
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class About:
    """What a field means and which values it takes.

    Args:
        help: one line, with the unit.
        at_least: the smallest value; None for no bound.
        above: bound that the value must exceed; None for no bound.
        at_most: the largest value; None for no bound.
        below: bound that the value must stay under; None for no bound.
        choices: the values of a text; empty for any, or where the field's type is a `Literal`.
        option: the command-line option where it differs from the field's name.
        metavar: what stands for the value in the help.
        identity: whether two values make two questions: "always"; "changed", only where a value is not the
            default, so that adding the setting left earlier questions what they were; or "never", for how
            the work is carried out, which leaves its result as it is.
    """

    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    option: str | None = None
    metavar: str | None = None
    identity: Literal["always", "changed", "never"] = "always"

    def holds(self, number: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    def bounds(self) -> str:
        """The bounds in words, with a space before them; empty where there are none."""
        words = [
            f"{word} {bound:g}" if bound != LARGEST_SEED else f"{word} 2^63 - 1"
            for word, bound in (
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            )
            if bound is not None
        ]
        if not words:
            return ""
        joined = " and ".join(words)
        return f" of {joined}" if joined.startswith("at ") else f" {joined}"


def setting(default: Any, help: str, **about: Any) -> Any:
    """A dataclass field with a default.

    Args:
        default: the value where none is given; MISSING for a field that must be given.
        help: one line on what it means, with the unit.
        about: see `About`.
    """
    return field(default=default, metadata={KEY: About(help, **about)})


def same_setting(settings: type, name: str, **changed: Any) -> Any:
    """The field of another configuration, with its default, help and range.

    Args:
        settings: the dataclass that has the field.
        name: of the field.
        changed: entries of `About` that differ here, or `default`.
    """
    [original] = [one for one in fields(settings) if one.name == name]
    about = {**vars(about_field(original)), **changed}
    return setting(about.pop("default", original.default), **about)


def about_field(one: Field[Any]) -> About:
    """What is known of a field.

    Raises:
        TypeError: the field was not made by `setting`.
    """
    if KEY not in one.metadata:
        raise TypeError(f"The field {one.name!r} is not a setting: make it with `setting`.")
    about: About = one.metadata[KEY]
    return about


@dataclass(frozen=True)
class Setting:
    """One field of a configuration, resolved.

    Args:
        name: of the field.
        kind: int, float, bool, str or another class; of a tuple, that of its items.
        default: MISSING where it must be given.
        optional: whether None is allowed.
        several: whether it is a tuple of any length.
        choices: the values of a text; empty for any.
        about: what it means, and its range.
    """

    name: str
    kind: type
    default: Any
    optional: bool
    several: bool
    choices: tuple[str, ...]
    about: About

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    def accepts(self, value: Any) -> bool:
        """Whether a value is one of this setting's."""
        if self.several:
            return isinstance(value, tuple) and all(self._accepts_one(item) for item in value)
        return (self.optional and value is None) or self._accepts_one(value)

    def _accepts_one(self, value: Any) -> bool:
        if self.kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and self.about.holds(value)
        if self.kind is int:
            return isinstance(value, int) and not isinstance(value, bool) and self.about.holds(value)
        return isinstance(value, self.kind) and (not self.choices or value in self.choices)

    def expected(self) -> str:
        """The values it takes, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
        return f"{words.get(self.kind, f'a {self.kind.__name__}')}{self.about.bounds()}"


@cache
def settings_of(settings: type) -> Mapping[str, Setting]:
    """The settings of a configuration by name, in the order of its fields; other fields are left out."""
    hints = get_type_hints(settings)
    return {one.name: _resolved(one, hints[one.name]) for one in fields(settings) if KEY in one.metadata}


def _resolved(one: Field[Any], hint: Any) -> Setting:
    about = about_field(one)
    optional = several = False
    if get_origin(hint) in (Union, UnionType):
        options = [option for option in get_args(hint) if option is not NoneType]
        optional, hint = len(options) < len(get_args(hint)), options[0]
    if get_origin(hint) is tuple:
        several, hint = True, get_args(hint)[0]
    choices = about.choices
    if get_origin(hint) is Literal:
        choices, hint = get_args(hint), str
    return Setting(one.name, hint, one.default, optional, several, choices, about)


def identity(configuration: Any) -> dict[str, Any]:
    """The settings that decide a result, by name; see `About.identity`.

    Args:
        configuration: an instance of a dataclass.
    """
    found = {}
    for name, one in settings_of(configuration.__class__).items():
        value = getattr(configuration, name)
        if one.about.identity == "always" or (one.about.identity == "changed" and value != one.default):
            found[name] = value
    return found


def check_settings(configuration: Any, error: type[Error]) -> None:
    """Refuse values of a wrong type or out of range; for `__post_init__`.

    Args:
        configuration: an instance of a dataclass.
        error: what to raise.

    Raises:
        Error: the first field with such a value, of the type `error`.
    """
    for name, one in settings_of(configuration.__class__).items():
        value = getattr(configuration, name)
        if not one.accepts(value):
            raise error(f"{name} must be {one.expected()}, got {value!r}.")
