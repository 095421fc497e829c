"""A mixture of metrics becomes a metric of the graph, to route by and to be served at all levels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.graphdb.checks import check_metric_name
from matchgraph.graphdb.prompt_models import Score
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.routing.errors import InvalidScores, NotEnoughScores
from matchgraph.training.measure.mixture import Mixture, Part, mixtures_in
from matchgraph.training.measure.scorers import SCORE_METRICS

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import ScoreTable
    from matchgraph.graphdb.runner import Runner


def mix(runner: Runner, folder: Path, name: str, weights: Mapping[str, float]) -> tuple[Mixture, int]:
    """State a mixture, and save its value wherever all of its metrics are scored.

    Args:
        runner: the connection.
        folder: the data folder, which keeps the mixture.
        name: of the new metric.
        weights: by metric, above 0; only their ratios count.

    Returns:
        The mixture, and how many scores it has now.

    Raises:
        InvalidScores: the name is that of another metric, fewer than two are mixed, or one is a mixture
            itself.
        NotEnoughScores: one of the metrics has no scores, or all alike, or none where the others have some.
    """
    graph = PromptGraph(runner)
    check_metric_name(name)
    if name in (*SCORE_METRICS, *weights):
        raise InvalidScores(f"{name} is a metric already: name the mixture otherwise.")
    if len(weights) < 2:
        raise InvalidScores("A mixture has at least two metrics, such as nearness=0.7 and clip_score=0.3.")
    mixtures = mixtures_in(folder)
    if nested := [metric for metric in weights if metric in mixtures]:
        raise InvalidScores(f"{nested[0]} is a mixture itself: give the metrics that it is made of.")
    tables = {metric: graph.table(metric) for metric in weights}
    total = sum(weights.values())
    mixture = Mixture(name, tuple(_part(table, weights[metric] / total) for metric, table in tables.items()))
    # Scores of the graph are replaced only by those of the mixture that made them, which may have come with
    # records, without its file.
    if name in graph.metrics() and name not in mixtures and graph.table(name).scorer != mixture.hash:
        raise InvalidScores(f"{name} is a metric already: name the mixture otherwise.")
    values = mixture.of({metric: table.mean for metric, table in tables.items()})
    first = next(iter(tables.values()))
    samples = np.min([table.samples for table in tables.values()], axis=0)
    scores = [
        Score(
            first.variants[column].id,
            first.prompts[row].id,
            name,
            float(values[row, column]),
            int(samples[row, column]),
            None,
            mixture.hash,
        )
        for row, column in np.argwhere(~np.isnan(values))
    ]
    if not scores:
        raise NotEnoughScores(f"No image is scored by all of {', '.join(weights)}: score some by each.")
    graph.save_scores(scores)
    mixture.save(folder)
    return mixture, len(scores)


def _part(table: ScoreTable, weight: float) -> Part:
    """A metric with the mean and spread of its scores on the training prompts."""
    known = table.mean[table.rows("train")]
    known = known[~np.isnan(known)]
    if len(known) < 2 or not known.std(ddof=1):
        raise NotEnoughScores(
            f"The scores of {table.metric} on the training prompts have no spread: add some."
        )
    return Part(table.metric, weight, float(known.mean()), float(known.std(ddof=1)), table.scorer)
