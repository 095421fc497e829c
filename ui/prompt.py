"""The tab that routes a prompt: which candidate is worth its cost, and why; it draws only if asked to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matchgraph.routing.sentences import decision_text
from matchgraph.ui.parts import answered, busy, image, notice, table, tagged

if TYPE_CHECKING:
    from matchgraph.routing.router import Decision
    from matchgraph.ui.desk import Desk

NO_ROUTER = "No router is fitted here yet: score prompts for several candidates, then fit one with"
FIT_COMMAND = "matchgraph route fit"
MAX_CHARACTERS = 2_000
# Of many candidates, the rest is not worth a page's length.
MOST_ROWS = 12


class PromptTab:
    """What one visitor asks about prompts.

    Args:
        desk: the services.
        metrics: those that prompts can be routed by.
    """

    def __init__(self, desk: Desk, metrics: Sequence[str]) -> None:
        from nicegui import ui

        self._desk = desk
        with ui.element("section").classes("mg-card"):
            ui.label("Which candidate is this prompt worth?").classes("mg-title")
            if not metrics:
                ui.label(NO_ROUTER).classes("mg-line")
                tagged("code", FIT_COMMAND)
                return
            self._prompt = (
                ui.input("Prompt").props(f"outlined dense maxlength={MAX_CHARACTERS}").classes("mg-wide")
            )
            self._prompt.on("keydown.enter", self._asked)
            with ui.element("div").classes("mg-actions"):
                self._metric = ui.select(list(metrics), label="By", value=metrics[0]).props("outlined dense")
                self._ask = ui.button("Decide", on_click=self._asked).props("no-caps unelevated")
        self._result = ui.element("div").classes("mg-result").props("aria-live=polite")

    async def _asked(self) -> None:
        # Enter comes here as well.
        if not self._ask.enabled:
            return
        prompt, metric = (self._prompt.value or "").strip()[:MAX_CHARACTERS], self._metric.value
        self._result.clear()
        if not prompt:
            return
        with busy(self._ask):
            decision = await answered(
                lambda: self._desk.decide(prompt, metric), self._failed, turn=self._desk.turn
            )
        if decision is not None and not self._result.is_deleted:
            with self._result:
                self._show(prompt, metric, decision)

    def _failed(self, reason: str) -> None:
        with self._result:
            notice(reason, "error")

    def _show(self, prompt: str, metric: str, decision: Decision) -> None:
        from nicegui import ui

        def named(variant: str) -> Any:
            return lambda: (
                ui.label(variant).classes("mg-strong") if variant == decision.variant else ui.label(variant)
            )

        with ui.element("section").classes("mg-card"):
            ui.label(decision_text(decision, metric)).classes("mg-verdict")
            # What is taken comes first.
            ranked = sorted(
                decision.options,
                key=lambda one: (
                    one.variant != decision.variant,
                    math.inf if one.quality is None else decision.lam * one.cost - one.quality,
                ),
            )
            rows = [
                [named(one.variant), _quality(one.quality, one.std), f"{one.cost:.4g}"]
                for one in ranked[:MOST_ROWS]
            ]
            table(["candidate", metric, decision.unit], rows, numbers=(metric, decision.unit))
            if len(ranked) > MOST_ROWS:
                ui.label(f"and {len(ranked) - MOST_ROWS} more").classes("mg-line")
            ui.label(
                f"The best is the one with the most {metric} after its cost, {decision.lam:.4g} {metric} for "
                f"each {decision.unit}."
                if decision.lam
                else f"Cost does not count here: the best is the one with the most {metric}."
            ).classes("mg-line")
            if self._desk.read_only:
                return
            place = ui.element("div")

            async def draw() -> None:
                place.clear()
                with busy(button):
                    uri = await answered(lambda: self._desk.draw(prompt, metric), turn=self._desk.turn)
                if uri is not None and not place.is_deleted:
                    with place, ui.element("figure").classes("mg-grid"):
                        image(uri, prompt)

            button = ui.button("Draw it", on_click=draw).props("no-caps outline")


def _quality(value: float | None, std: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.4f}" if std is None else f"{value:.4f} ± {std:.4f}"
