"""Prompt and image level by given scores: a router says of each prompt who should draw it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.collaboration.calibration import check_enough
from matchgraph.collaboration.given import known_rows, limit_of, pair_of
from matchgraph.collaboration.routed import Expected, RoutedResult, best_of_each, judge_routed
from matchgraph.collaboration.tuning import PERCENTILES, rejected
from matchgraph.graphdb.prompt_models import SPLITS
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.routing.process import MOST_PROCESS_PROMPTS, GaussianQuality
from matchgraph.routing.turns import PROCESSES
from matchgraph.training.measure.prompts import EncodedPrompts

if TYPE_CHECKING:
    from matchgraph.collaboration.given import GivenPair
    from matchgraph.graphdb.prompt_models import Budget, ScoreTable, Split, Unit
    from matchgraph.graphdb.runner import Runner


def route_first(
    runner: Runner,
    student: str,
    teacher: str,
    metric: str,
    confidence: str,
    *,
    budget: Budget | None = None,
    seconds: tuple[float | None, float | None] = (None, None),
    longest_seconds: float | None = None,
    seed: int = 0,
) -> tuple[RoutedResult, Unit]:
    """Let a router choose student, teacher or both for each prompt, and judge it on the test prompts.

    It learns on the training prompts what each way comes to; threshold and lambda are chosen on the
    validation prompts.

    Args:
        runner: the connection.
        student: id of a candidate with scores, as `matchgraph route scores` adds them.
        teacher: likewise.
        metric: of quality.
        confidence: metric of the oracle's scores of the student's images.
        budget: what an image may cost on average; None for no limit.
        seconds: that an image of either takes; by default its cost where that is in seconds.
        longest_seconds: what any image may take; None for no limit.
        seed: of the bootstrap.

    Returns:
        The result, and the unit of its cost.

    Raises:
        InvalidPlan: a candidate is not known, the budget is of another unit than the costs, or no plan is
            within the limits.
        NoTrials: too few prompts have all three scores.
    """
    graph = PromptGraph(runner)
    sure, good = graph.table(confidence), graph.table(metric)
    pairs = {split: pair_of(sure, good, student, teacher, split, seconds) for split in SPLITS}
    check_enough(pairs["train"].confidence, "learn from")
    check_enough(pairs["validation"].confidence)
    check_enough(pairs["test"].confidence, "judge a threshold by")
    held_out = pairs["validation"].confidence
    thresholds = {float(k): rejected(held_out, k)[1] for k in PERCENTILES[1:-1]}
    texts = {split: _texts(good, known_rows(sure, good, student, teacher, split)) for split in SPLITS}
    expected = expectations(pairs, texts, thresholds, seed)
    limits = limit_of(budget, pairs["validation"]), longest_seconds
    plans = best_of_each(pairs["validation"], expected["validation"], thresholds, *limits)
    return judge_routed(pairs["test"], expected["test"], *plans, seed=seed), pairs["test"].unit


def _texts(table: ScoreTable, rows: np.ndarray) -> np.ndarray:
    """Embeddings of some prompts, float64, (n, d)."""
    return np.asarray(table.embeddings[rows], dtype=np.float64)


def expectations(
    pairs: Mapping[Split, GivenPair],
    texts: Mapping[Split, np.ndarray],
    thresholds: Mapping[float, float],
    seed: int = 0,
) -> dict[Split, dict[float, Expected]]:
    """What each way is expected to come to on validation and test prompts, by percentile.

    Args:
        pairs: scores, by split.
        texts: embeddings of their prompts, (n, d).
        thresholds: of the confidence, by percentile.
        seed: of the choice among more training prompts than a process takes.
    """
    values, known = _columns(pairs["train"], thresholds), texts["train"]
    if len(known) > MOST_PROCESS_PROMPTS:
        rows = np.random.default_rng(seed).choice(len(known), MOST_PROCESS_PROMPTS, replace=False)
        values, known = values[rows], known[rows]
    average = values.mean(axis=0)
    names = tuple(map(str, range(values.shape[1])))

    def estimated(concentration: float, noise: float, asked: Split) -> np.ndarray:
        process = GaussianQuality(
            metric="",
            variants=names,
            concentration=concentration,
            noise=noise,
            known=known,
            apart=values - average,
            average=average,
        )
        return process.estimate(EncodedPrompts(texts[asked].astype(np.float32))).quality

    truth = _columns(pairs["validation"], thresholds)
    spread = np.maximum(values.std(axis=0), 1e-12)

    def error(kernel: tuple[float, float]) -> float:
        return float((((estimated(*kernel, "validation") - truth) / spread) ** 2).mean())

    kernel = min(PROCESSES, key=error)
    found: dict[Split, dict[float, Expected]] = {}
    for split in ("validation", "test"):
        columns = estimated(*kernel, split)
        found[split] = {
            k: Expected(columns[:, [0, 1, 2 + 2 * number]], columns[:, 3 + 2 * number])
            for number, k in enumerate(thresholds)
        }
    return found


def _columns(pair: GivenPair, thresholds: Mapping[float, float]) -> np.ndarray:
    """Quality of both, and for each threshold the cascade's and whether it rejects; (n, 2 + 2 thresholds)."""
    columns = [pair.quality_student, pair.quality_teacher]
    for threshold in thresholds.values():
        below = pair.confidence < threshold
        columns += [np.where(below, pair.quality_teacher, pair.quality_student), below.astype(float)]
    return np.column_stack(columns)
