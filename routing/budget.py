"""What an image may cost on average, in the unit of the candidates' costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Unit

# The option or argument that a budget is given by.
BUDGETS: Mapping[Unit, str] = {"TFLOP": "budget_tflop", "s": "budget_seconds", "USD": "budget_usd"}


@dataclass(frozen=True)
class Budget:
    """What an image may cost on average.

    Attributes:
        cost: above 0.
        unit: of the cost; that of the candidates.
    """

    cost: float
    unit: Unit = "TFLOP"
