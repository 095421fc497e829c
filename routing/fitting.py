"""Fit a router to scored prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from routing.errors import NotEnoughScores
from routing.estimators import NearestPrompts, TokenQuality
from routing.evaluation import best_neighbours, complete
from routing.router import Familiarity
from routing.store import Fitted, Kind

if TYPE_CHECKING:
    from graphdb.prompts import ScoreTable
    from training.prompts import PromptEncoder


def fit_router(
    table: ScoreTable,
    encoder: PromptEncoder,
    kind: Kind = "knn",
    *,
    neighbours: int | None = None,
    caution: float = 0.0,
    seed: int = 0,
) -> tuple[Fitted, TokenQuality | None]:
    """Learn from scores what quality to expect of each candidate, and which prompts are familiar.

    Args:
        table: scores by one metric.
        encoder: the CLIP that embedded the prompts.
        kind: `knn` or `network`.
        neighbours: K of `knn`; chosen on the validation prompts by default.
        caution: see `routing.router.Router`.
        seed: of the network.

    Returns:
        What there is to keep, and the network of kind `network`.

    Raises:
        NotEnoughScores: no training or no validation prompt is scored.
    """
    if not len(table.rows("validation")):
        raise NotEnoughScores("There are no validation prompts: add prompts with `matchgraph route prompts`.")
    encoded = encoder.encode([prompt.text for prompt in table.prompts])
    if neighbours is None and kind == "knn":
        whole = complete(table)
        place = {prompt.id: row for row, prompt in enumerate(table.prompts)}
        rows = np.array([place[prompt.id] for prompt in whole.prompts])
        neighbours = best_neighbours(whole, encoded.part(rows))
    nearest = NearestPrompts(table, neighbours or 1)
    validation = encoded.part(table.rows("validation"))
    familiarity = Familiarity.of(table, nearest.estimate(validation).similarity)
    fitted = Fitted(
        table.metric,
        kind,
        encoder.hash,
        tuple(variant.id for variant in table.variants),
        tuple(None if np.isnan(value) else float(value) for value in familiarity.average),
        familiarity.least_similarity,
        neighbours or 1,
        caution=caution,
    )
    return fitted, TokenQuality.fit(table, encoded, seed=seed) if kind == "network" else None
