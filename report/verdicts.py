"""Verdicts on differences, and the figures that stand beside them in sentences.

Every page asks `verdict` whether a difference is clear, so that a sentence agrees with the interval and the
p-value that are printed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from matchgraph.stats.intervals import Interval

Verdict: TypeAlias = Literal["above", "level", "below"]
# A p-value from here on makes no clear difference.
SURE = 0.05


def verdict(difference: float | Interval, p_value: float | None = None) -> Verdict | None:
    """Whether something is clearly above or below what it is compared with.

    Args:
        difference: its figure minus the other's; as an interval, it must lie on one side of 0.
        p_value: of there being no difference, which must be below `SURE`; None where none was computed.

    Returns:
        "above" or "below" where everything that is known says so, else "level"; None where the difference or
        its p-value is not known.

    Raises:
        ValueError: a plain number without a p-value, which says nothing of chance.
    """
    if isinstance(difference, Interval):
        value, low, high = difference.value, difference.low, difference.high
    elif p_value is None:
        raise ValueError("a difference needs an interval or a p-value")
    else:
        value = low = high = difference
    if any(math.isnan(number) for number in (value, low, high, 0.0 if p_value is None else p_value)):
        return None
    if p_value is not None and p_value >= SURE:
        return "level"
    if low > 0 and value > 0:
        return "above"
    return "below" if high < 0 and value < 0 else "level"


def percent(value: Interval) -> str:
    """A share with one digit."""
    return f"{100 * value.value:.1f} %"


def number(value: float) -> str:
    """A figure with two digits."""
    return f"{value:.2f}".replace("-", "−")


def p_text(value: float) -> str:
    """A p-value behind a "p"; "n/a" where there was nothing to compare."""
    if math.isnan(value):
        return "n/a"
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
