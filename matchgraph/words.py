"""Counts, times and values as a person would write them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS_PER_HOUR = 3600
SIGNIFICANT_DIGITS = 4
# A list of numbers longer than this is a vector, too long for a table.
SHORT_LIST = 8
# How tables write, in any case, that there is no value.
MISSING = frozenset({"-", "--", "\u2013", "\u2014", ".", "?", "n/a", "na", "nan", "none", "null"})


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def duration(seconds: float | None) -> str:
    """A time in its own unit; a question mark where it is not known."""
    if seconds is None:
        return "?"
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    if seconds >= SECONDS_PER_HOUR:
        return f"{seconds / SECONDS_PER_HOUR:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s"


def in_words(value: Any) -> str:
    """One value as a person would write it.

    Args:
        value: plain Python as `Runner.read_only` gives it.

    Returns:
        One line: a node as `(:Model alpha)`, a relationship as `[:PERFORMS 5]`, a path as both in turn.
    """
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            whole = abs(value) >= 10**SIGNIFICANT_DIGITS
            return f"{value:,.0f}" if whole and math.isfinite(value) else f"{value:.{SIGNIFICANT_DIGITS}g}"
        case bytes() | bytearray():
            return f"<{len(value)} bytes>"
        case {"labels": list(labels), "properties": dict(properties), **rest} if not rest:
            name = next(
                (properties[key] for key in ("id", "name", "version", "key") if key in properties), ""
            )
            # A node of the matching graph has a second label that only this program writes: MatchGraphModel.
            shown = [label for label in labels if label.removeprefix("MatchGraph") not in {*labels} - {label}]
            return f"({''.join(f':{label}' for label in shown)} {in_words(name)})".replace(" )", ")")
        case {"type": str(kind), "properties": dict(properties), **rest} if not rest:
            return f"[:{kind} {in_words(_main_value(properties))}]".replace(" ]", "]")
        case {"nodes": list(nodes), "relationships": list(relationships), **rest} if not rest:
            steps = [f"-{in_words(r)}-{in_words(n)}" for r, n in zip(relationships, nodes[1:], strict=True)]
            return "".join([in_words(nodes[0]), *steps])
        case dict():
            return ", ".join(f"{visible(str(key))}: {in_words(item)}" for key, item in value.items())
        case list() if len(value) > SHORT_LIST and all(is_number(item) for item in value):
            return f"[{in_words(value[0])}, {in_words(value[1])}, ... {len(value)} numbers]"
        case list():
            return "[" + ", ".join(in_words(item) for item in value) + "]"
        case _:
            return visible(str(value))


def _main_value(properties: Mapping[str, Any]) -> Any:
    """The value that an edge is known by: that of its main metric, else of the first metric by name."""
    measured = [name for name in sorted(properties) if "__" not in name and not name.startswith("initial_")]
    return next((properties[name] for name in ("value", *measured) if is_number(properties.get(name))), None)


def visible(text: str) -> str:
    """A text with its control characters spelt out, which could steer the terminal it is shown on."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Zl", "Zp")
        else character
        for character in text
    )


def is_number(value: Any) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
