"""Estimators of each candidate's quality for a prompt, before anything is drawn: the interface, and the mean
of the nearest known prompts, to which a new candidate is added by scoring it alone.

The other two kinds are `routing.process` and `routing.network`.

Source:
    CATImage, section 3.2 (plug-in estimators).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from matchgraph.routing.errors import NotEnoughScores, UnusableEstimator

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import ScoreTable
    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.training.measure.prompts import EncodedPrompts


NEIGHBOURS = 32


@dataclass(frozen=True, eq=False)
class Estimates:
    """Expected quality of each candidate for each prompt, on the metric's scale.

    Attributes:
        quality: float64, (n, m); NaN where nothing is known.
        std: standard error of `quality`, float64, (n, m); NaN where unknown.
        similarity: cosine to the most similar prompt learnt from, (n,).
    """

    quality: np.ndarray
    std: np.ndarray
    similarity: np.ndarray


class QualityEstimator(Protocol):
    """What estimates quality.

    Attributes:
        metric: of the quality.
        variants: ids of the candidates, in the order of the columns.
    """

    metric: str
    variants: tuple[str, ...]

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """Estimate every candidate's quality for prompts encoded by the CLIP that the graph's were."""
        ...


class NearestPrompts:
    """The mean quality on the most similar prompts, found exactly, in memory.

    Args:
        table: scores; its training prompts alone are learnt from.
        count: how many neighbours, K.

    Raises:
        NotEnoughScores: no training prompt is scored.
    """

    def __init__(self, table: ScoreTable, count: int = NEIGHBOURS) -> None:
        rows = scored_rows(table)
        self.metric = table.metric
        self.variants = tuple(variant.id for variant in table.variants)
        self._count = min(count, len(rows))
        self._embeddings = np.stack([table.prompts[row].embedding for row in rows])
        self._scores = table.mean[rows]

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`."""
        similarity = prompts.embeddings @ self._embeddings.T
        nearest = np.argpartition(-similarity, self._count - 1, axis=1)[:, : self._count]
        return averaged(self._scores[nearest], similarity.max(axis=1))

    def left_out(self) -> np.ndarray:
        """What each training prompt came to, less what is expected of it by the others.

        Returns:
            float64, (k, m); NaN where a candidate is not scored on it, or on none of its neighbours.
        """
        similarity = self._embeddings @ self._embeddings.T
        np.fill_diagonal(similarity, -np.inf)
        count = min(self._count, len(similarity) - 1)
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        return self._scores - known_mean(self._scores[nearest], 1)


class NearestInGraph:
    """The mean quality on the most similar prompts, found by Neo4j's vector index.

    A candidate scored after this was made is not among its columns; fit it again.

    Args:
        graph: the prompts, with their scores.
        metric: of the scores.
        count: how many neighbours, K.
    """

    def __init__(self, graph: PromptGraph, metric: str, count: int = NEIGHBOURS) -> None:
        self.metric = metric
        self.variants = tuple(variant.id for variant in graph.variants())
        self._column = {variant: number for number, variant in enumerate(self.variants)}
        self._graph, self._count = graph, count

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`.

        Raises:
            NotEnoughScores: the graph has no training prompts.
        """
        parts = []
        for embedding in prompts.embeddings:
            neighbours = self._graph.nearest(embedding, self._count, self.metric)
            if not neighbours:
                raise NotEnoughScores("The graph has no scored prompts: run `matchgraph route score` first.")
            scores = np.full((1, len(neighbours), len(self.variants)), np.nan)
            for place, neighbour in enumerate(neighbours):
                for variant, value in neighbour.scores.items():
                    if variant in self._column:
                        scores[0, place, self._column[variant]] = value
            parts.append(averaged(scores, np.array([neighbours[0].cosine])))
        return Estimates(
            np.concatenate([part.quality for part in parts]),
            np.concatenate([part.std for part in parts]),
            np.concatenate([part.similarity for part in parts]),
        )


def scored_rows(table: ScoreTable) -> np.ndarray:
    """The table's rows of training prompts that have a score of some candidate.

    Raises:
        NotEnoughScores: there are none.
    """
    rows = table.rows("train")
    rows = rows[~np.isnan(table.mean[rows]).all(axis=1)]
    if not len(rows):
        raise NotEnoughScores(
            f"No training prompt is scored by {table.metric}: run `matchgraph route score` first."
        )
    return rows


def known_mean(scores: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis over the values that are not NaN; NaN where there are none."""
    known = ~np.isnan(scores)
    count = known.sum(axis=axis)
    total = np.where(known, scores, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def averaged(scores: np.ndarray, similarity: np.ndarray) -> Estimates:
    """Average over neighbours, with the standard error of the mean.

    Args:
        scores: of the neighbours, (n, neighbours, m); NaN where one is not scored.
        similarity: of the nearest, (n,).
    """
    known = ~np.isnan(scores)
    count = known.sum(axis=1)
    mean = known_mean(scores, 1)
    squares = np.where(known, (scores - mean[:, None]) ** 2, 0.0).sum(axis=1)
    error = np.full(mean.shape, np.nan)
    several = count > 1
    error[several] = np.sqrt(squares[several] / (count[several] - 1) / count[several])
    return Estimates(mean, error, similarity)


def read_saved(path: Path, form: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts and tensors of a saved estimator of some form."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["estimator"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["format"] != form:
            raise ValueError(f"its format is {facts['format']}")
    except (OSError, SafetensorError, KeyError, ValueError) as problem:
        raise unusable(path, problem) from None
    return facts, tensors


def unusable(path: Path, problem: Exception) -> UnusableEstimator:
    """What to raise where a file cannot be read for a reason."""
    return UnusableEstimator(
        f"{path} is not a saved estimator: {problem}. Fit it again with `matchgraph route fit`."
    )


def columns(estimates: np.ndarray, has: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Columns of estimates in another order; NaN for candidates that the estimator does not know.

    Args:
        estimates: (n, candidates).
        has: the candidates' ids.
        wanted: ids of those to give.
    """
    place = {variant: number for number, variant in enumerate(has)}
    found = np.full((len(estimates), len(wanted)), np.nan)
    for number, variant in enumerate(wanted):
        if variant in place:
            found[:, number] = estimates[:, place[variant]]
    return found
