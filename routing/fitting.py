"""Fit a router to scored prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.chances import Errors
from matchgraph.routing.encoders import encoded as read
from matchgraph.routing.errors import NotEnoughScores
from matchgraph.routing.estimators import NearestPrompts
from matchgraph.routing.network import TokenQuality
from matchgraph.routing.process import GaussianQuality
from matchgraph.routing.router import Familiarity
from matchgraph.routing.store import Fitted, Kind
from matchgraph.routing.turns import best_neighbours, best_process, complete

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import ScoreTable
    from matchgraph.training.measure.prompts import PromptEncoder


def fit_router(
    table: ScoreTable,
    kind: Kind = "gaussian",
    *,
    encoder: PromptEncoder | None = None,
    neighbours: int | None = None,
    seed: int = 0,
) -> tuple[Fitted, TokenQuality | GaussianQuality | None, Errors]:
    """Fit the estimator of quality to scores, and the threshold of familiar prompts.

    Args:
        table: scores by one metric.
        kind: `gaussian`, `knn` or `network`.
        encoder: the CLIP that embedded the prompts, which `network` needs.
        neighbours: K of `knn`; chosen on the validation prompts by default.
        seed: of the network.

    Returns:
        What there is to keep, the estimator that has weights, which `knn` has not, and the errors on
        validation and left-out training prompts.

    Raises:
        NotEnoughScores: no training or no validation prompt is scored.
        UnusableEstimator: the encoder is missing, or is not the one that embedded the prompts.
    """
    if not len(table.rows("validation")):
        raise NotEnoughScores("There are no validation prompts: add prompts with `matchgraph route prompts`.")
    encoded = read(table.prompts, kind, encoder)
    estimator: TokenQuality | GaussianQuality | None = None
    if kind == "network":
        estimator = TokenQuality.fit(table, encoded, seed=seed)
    elif kind == "gaussian" or neighbours is None:
        whole = complete(table)
        place = {prompt.id: row for row, prompt in enumerate(table.prompts)}
        rows = encoded.part(np.array([place[prompt.id] for prompt in whole.prompts]))
        if kind == "gaussian":
            concentration, noise = best_process(whole, rows)
            estimator = GaussianQuality.fit(table, concentration=concentration, noise=noise, seed=seed)
        else:
            neighbours = best_neighbours(whole, rows)
    nearest = NearestPrompts(table, neighbours or 1)
    validation = encoded.part(table.rows("validation"))
    familiarity = Familiarity.of(table, nearest.estimate(validation).similarity)
    fitted = Fitted(
        table.metric,
        kind,
        table.prompts[0].probe,
        tuple(variant.id for variant in table.variants),
        tuple(None if np.isnan(value) else float(value) for value in familiarity.average),
        familiarity.least_similarity,
        neighbours or 1,
    )
    return fitted, estimator, Errors.of(estimator or nearest, table, validation, seed)
