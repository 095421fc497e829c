"""A router of prompts: fitted, calibrated and asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from matchgraph.errors import Error
from matchgraph.graphdb.prompt_models import BUDGETS, Budget

if TYPE_CHECKING:
    from matchgraph.graphdb.connection import Settings
    from matchgraph.graphdb.runner import Runner
    from matchgraph.routing.generate import Drawn
    from matchgraph.routing.router import Decision
    from matchgraph.routing.workflow import Calibrated


class Router:
    """Which candidate is worth its cost for a prompt. Made by `Graph.router`.

    Attributes:
        metric: quality metric that it routes by.
        probe: what reads prompts: a CLIP, a sentence model or a file of embeddings.
    """

    def __init__(self, runner: Runner, settings: Settings, metric: str, probe: str) -> None:
        from matchgraph.routing.store import RouterStore

        self.metric, self.probe = metric, probe
        self._runner = runner
        self._store = RouterStore(settings.home)

    def fit(
        self,
        *,
        kind: Literal["gaussian", "knn", "network"] = "gaussian",
        neighbours: int | None = None,
        seed: int = 0,
    ) -> Path:
        """Fit the router to the graph's scores, and keep it in the data folder.

        Args:
            kind: a Gaussian process over prompt embeddings, nearest prompts, or the paper's network.
            neighbours: of `knn`; chosen on the validation prompts by default.
            seed: of everything random.

        Returns:
            Its file.

        Raises:
            Error: too few prompts are scored.

        Example:
            >>> graph.router("clip_score").fit().suffix
            '.json'
        """
        from matchgraph.routing import workflow

        return workflow.fit(
            self._runner, self._store, self.metric, self.probe, kind=kind, neighbours=neighbours, seed=seed
        )[0]

    def calibrate(
        self,
        budget_tflop: float | None = None,
        *,
        budget_seconds: float | None = None,
        budget_usd: float | None = None,
    ) -> Calibrated:
        """Find the lambda that keeps the average cost within a budget, and store it with the router.

        Args:
            budget_tflop: what an image may cost on average, where candidates cost TFLOP.
            budget_seconds: likewise in seconds.
            budget_usd: likewise in US dollars.

        Raises:
            Error: not one budget is given, the router is not fitted, or the cheapest candidates cost more.

        Example:
            >>> graph.router("clip_score").calibrate(0.001).validation_cost <= 0.001
            True
        """
        from matchgraph.routing import workflow

        budget = _budget(budget_tflop, budget_seconds, budget_usd)
        if budget is None:
            raise Error("Give a budget: budget_tflop, budget_seconds or budget_usd.")
        return workflow.calibrate(self._runner, self._store, self.metric, budget, self.probe)

    def decide(
        self,
        prompts: Sequence[str],
        *,
        budget_tflop: float | None = None,
        budget_seconds: float | None = None,
        budget_usd: float | None = None,
        lam: float | None = None,
        least: float | None = None,
    ) -> list[Decision]:
        """Decide which candidate is worth its cost for each prompt.

        Args:
            prompts: at least one.
            budget_tflop: what an image may cost on average, where candidates cost TFLOP.
            budget_seconds: likewise in seconds.
            budget_usd: likewise in US dollars.
            lam: quality that a unit of cost is worth, instead of a budget; what `calibrate` found by default.
            least: quality that counts as a success; options then have their chance of it.

        Returns:
            One decision per prompt.

        Raises:
            Error: the router is not fitted, or no candidate is within the budget.

        Example:
            >>> graph.router("clip_score").decide(["a red apple"], budget_tflop=0.001)[0].basis
            'prompt'
        """
        from matchgraph.routing import workflow

        return workflow.decide(
            self._runner,
            self._store,
            prompts,
            self.metric,
            self.probe,
            budget=_budget(budget_tflop, budget_seconds, budget_usd),
            lam=lam,
            least=least,
        )

    def generate(
        self,
        prompts: Sequence[str],
        out: str | os.PathLike[str],
        *,
        lam: float | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> list[Drawn]:
        """Draw each prompt with the candidate it is routed to.

        Args:
            prompts: at least one.
            out: folder for the images.
            lam: quality that a TFLOP is worth; what `calibrate` found by default.
            seed: of the noise.
            device: `auto` or a torch device name.

        Returns:
            The images, by prompt.

        Raises:
            Error: the router is not fitted, or a candidate has no pipeline folder.

        Example:
            >>> graph.router("clip_score").generate(["a red apple"], "images")[0].path.suffix
            '.png'
        """
        from matchgraph.routing import workflow

        drawn = workflow.generate(
            self._runner,
            self._store,
            prompts,
            self.metric,
            self.probe,
            Path(out),
            lam=lam,
            seed=seed,
            device=device,
        )
        return list(drawn)


def _budget(*costs: float | None) -> Budget | None:
    """The one that is given, of costs in the order of `BUDGETS`."""
    given = [Budget(cost, unit) for unit, cost in zip(BUDGETS, costs, strict=True) if cost is not None]
    if len(given) > 1:
        raise Error(f"Give one budget, not {len(given)}.")
    return given[0] if given else None
