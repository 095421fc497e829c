"""Which ids, names and values a graph may hold.

Neo4j Community has no existence or property-type constraints and stores NaN without a word, so each single
value is checked here, when an object of `graphdb.models` is built.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from matchgraph.graphdb.errors import InvalidId, InvalidValue

Scalar: TypeAlias = bool | int | float | str
Property: TypeAlias = Scalar | list[bool] | list[int] | list[float] | list[str]
MAX_ID_LENGTH = 200
INTEGER_RANGE = range(-(2**63), 2**63)
METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
PROVENANCE_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# Control characters, lone surrogates (no UTF-8 for them) and the two line-breaking separators.
FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Names that an edge already uses for something that is not a metric.
RESERVED_EDGE_NAMES = frozenset(
    {
        *("key", "metric", "value", "weight", "band", "run", "n_real", "n_gen", "extractor", "resize"),
        *("std", "standard_error", "bias", "seeds", "version", "extractor_name"),
        *("stage", "repeats", "training_seconds", "seconds_per_image"),
    }
)
INITIAL = "initial_"
# Of a value: errors and times.
NEVER_NEGATIVE = frozenset({"standard_error", "std", "training_seconds", "seconds_per_image"})


def check_id(identifier: str, kind: str) -> str:
    """Return `identifier` if it can name a node, whatever quotes, slashes or scripts it is made of.

    Args:
        identifier: the id to check.
        kind: what it names, for the message ("model", "dataset").

    Raises:
        InvalidId: it is not a string, blank, longer than 200 characters, or has a control character or line
            break in it.
    """
    if not isinstance(identifier, str):
        raise InvalidId(
            f"The {kind} id {identifier!r} is of type {type(identifier).__name__}: give a string."
        )
    if not identifier.strip():
        raise InvalidId(f"A {kind} id is blank: give it a name.")
    if len(identifier) > MAX_ID_LENGTH:
        raise InvalidId(f"The {kind} id {identifier[:40]!r}... is longer than {MAX_ID_LENGTH} characters.")
    if character := _forbidden_character(identifier):
        raise InvalidId(f"The {kind} id {identifier!r} holds {character!r}: control characters are refused.")
    return identifier


def check_metric_name(name: str) -> str:
    """Return `name` if it can name a metric, and so a property of an edge.

    Besides `[a-z][a-z0-9_]{0,40}`, a double or a last underscore is refused, because `<metric>__<name>` is
    how an edge keeps what a metric's value was measured with, and `initial_<metric>` is the value before
    fine-tuning.

    Raises:
        InvalidValue: it cannot.
    """
    if not isinstance(name, str) or not METRIC_NAME.fullmatch(name) or "__" in name or name.endswith("_"):
        raise InvalidValue(
            f"{name!r} cannot name a metric: use at most 41 lower-case letters, digits, single underscores, "
            "beginning with a letter, such as clip_fid."
        )
    if name in RESERVED_EDGE_NAMES or name.startswith(INITIAL):
        raise InvalidValue(
            f"{name!r} cannot name a metric: edges use that name for something else. Choose another."
        )
    return name


def check_number(value: object, what: str) -> float:
    """Return `value` as a float if it is a finite number.

    Raises:
        InvalidValue: it is not a number, NaN or infinite; the message begins with `what`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise InvalidValue(f"{what} is {value!r}: a number is needed.")
    if not math.isfinite(value):
        raise InvalidValue(f"{what} is {float(value)}: a finite number is needed.")
    return float(value)


def _forbidden_character(text: str) -> str | None:
    return next((c for c in text if unicodedata.category(c) in FORBIDDEN_CATEGORIES), None)


def check_string(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"{what} is {value!r}: a string is needed.")
    if any(unicodedata.category(c) == "Cs" for c in value):
        raise InvalidValue(f"{what} is {value!r}: half of a surrogate pair cannot be stored.")
    return value


def checked_provenance(provenance: Mapping[str, Any], what: str) -> Mapping[str, Property]:
    checked = checked_properties(provenance, what, {"key", "metric", "value", "weight", "band", "stage"})
    for name, value in checked.items():
        if not PROVENANCE_NAME.fullmatch(name):
            raise InvalidValue(
                f"{what}: {name!r} cannot name a provenance field: use lower-case words joined by _."
            )
        if name in NEVER_NEGATIVE and isinstance(value, int | float) and value < 0:
            raise InvalidValue(f"{what}: {name} is {value}: it cannot be negative.")
    return checked


def checked_properties(
    properties: Mapping[str, Any], what: str, reserved: set[str]
) -> Mapping[str, Property]:
    """Check properties of a node or edge, and bring them into types that Neo4j stores.

    Args:
        properties: by name; those that are None are left out.
        what: of what, for messages.
        reserved: names that are taken.

    Raises:
        InvalidValue: a name is taken or unusable, or a value is not one of `Property` or not finite.
    """
    checked: dict[str, Property] = {}
    for name, value in properties.items():
        if not isinstance(name, str) or not name.strip() or _forbidden_character(name):
            raise InvalidValue(f"{what}: {name!r} cannot name a property.")
        if name in reserved:
            raise InvalidValue(f"{what}: a property cannot be called {name!r}: that name is taken.")
        if value is not None:
            checked[name] = _checked_property(value, f"{what}: {name}")
    return MappingProxyType(checked)


def _checked_property(value: Any, what: str) -> Property:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return _checked_scalar(value, what)
    items: list[Any] = [_checked_scalar(item, f"{what}[{index}]") for index, item in enumerate(value)]
    types = {type(item) for item in items}
    # A stored list has one type; whole and decimal numbers are both numbers to the user.
    if types == {int, float}:
        return [float(item) for item in items]
    if len(types) > 1:
        raise InvalidValue(
            f"{what} mixes {', '.join(sorted(t.__name__ for t in types))}: a list needs items of one type."
        )
    return items


def _checked_scalar(value: Any, what: str) -> Scalar:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str):
        if any(unicodedata.category(c) == "Cs" for c in value):
            raise InvalidValue(f"{what} is {value!r}: half of a surrogate pair cannot be stored.")
        return str(value)
    if isinstance(value, Integral):
        if int(value) not in INTEGER_RANGE:
            raise InvalidValue(f"{what} is {value}: whole numbers must fit in 64 bits.")
        return int(value)
    if isinstance(value, Real):
        return check_number(value, what)
    raise InvalidValue(
        f"{what} is of type {type(value).__name__}: use booleans, numbers, strings or lists of them."
    )
