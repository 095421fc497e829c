"""A decision in a sentence, for every place where it is read: a terminal, a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matchgraph.routing.router import Decision


def decision_text(decision: Decision, metric: str) -> str:
    """What to draw a prompt with, what to expect, and why."""
    why = (
        "cosine to the most similar known prompt:"
        if decision.basis == "prompt"
        else "unlike all known prompts, so averages decided; cosine to the most similar one:"
    )
    return (
        f"Draw it with {decision.variant}: expected {metric} {decision.quality:.4f} for {decision.cost:.4g} "
        f"{decision.unit} ({why} {decision.similarity:.2f})."
    )
