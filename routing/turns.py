"""One turn of an evaluation: estimators are fitted, chosen on the validation prompts, and tested."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from matchgraph.graphdb.prompt_models import ScoreTable
from matchgraph.routing.chances import Errors, winners
from matchgraph.routing.curves import routed
from matchgraph.routing.errors import NotEnoughScores
from matchgraph.routing.estimators import NearestPrompts
from matchgraph.routing.network import TokenQuality
from matchgraph.routing.policy import one_unit
from matchgraph.routing.process import GaussianQuality
from matchgraph.routing.standing import best_single, decision_ms

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Split
    from matchgraph.routing.estimators import QualityEstimator
    from matchgraph.routing.paraphrases import Rewordings
    from matchgraph.training.measure.prompts import EncodedPrompts

T = TypeVar("T")

NEIGHBOURS = (4, 8, 16, 32, 64, 128)
# Concentration and noise.
PROCESSES = ((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0), (3.0, 2.0), (3.0, 0.5))


def complete(table: ScoreTable) -> ScoreTable:
    """The table without candidates that are not scored at all, and without prompts that one of the others is
    not scored on.

    Raises:
        NotEnoughScores: a split has no such prompt, or all candidates that are left cost the same.
        InvalidScores: their costs are of different units.
    """
    columns = np.flatnonzero(~np.isnan(table.mean).all(axis=0)) if len(table.prompts) else np.array([], int)
    rows = np.flatnonzero(~np.isnan(table.mean[:, columns]).any(axis=1)) if len(columns) else columns
    kept = replace(
        table,
        prompts=tuple(table.prompts[row] for row in rows),
        variants=tuple(table.variants[column] for column in columns),
        mean=table.mean[np.ix_(rows, columns)],
        std=table.std[np.ix_(rows, columns)],
        samples=table.samples[np.ix_(rows, columns)],
    )
    for name in ("train", "validation", "test"):
        if not len(kept.rows(name)):
            raise NotEnoughScores(_gap(table, name, columns))
    one_unit(kept.variants)
    if len(kept.variants) == 1:
        raise NotEnoughScores(f"Only {kept.variants[0].id} is scored by {table.metric}: score another one.")
    if not np.ptp(kept.cost):
        raise NotEnoughScores("All scored candidates cost the same: score one with another cost.")
    return kept


def _gap(table: ScoreTable, split: Split, columns: np.ndarray) -> str:
    """Why no prompt of a split has a score of each candidate among `columns`."""
    rows = table.rows(split)
    how = "with `matchgraph route scores`, or draw them with `matchgraph route score`"
    if not len(rows) or not len(columns):
        return f"No {split} prompt is scored by {table.metric}: add scores of more prompts {how}."
    scored = (~np.isnan(table.mean[np.ix_(rows, columns)])).sum(axis=0)
    least = int(scored.argmin())
    variant = table.variants[columns[least]]
    without = f"; or go without it: `matchgraph graph remove model {shlex.quote(variant.model)}`"
    return (
        f"No {split} prompt is scored by {table.metric} for every candidate: {variant.id} is on "
        f"{scored[least]} of {len(rows)}. Add scores {how}{without if variant.drawing is None else ''}."
    )


def best_neighbours(table: ScoreTable, encoded: EncodedPrompts) -> int:
    """The K whose router has the largest area under its deferral curve on the validation prompts.

    Args:
        table: complete scores.
        encoded: its prompts, in its order.
    """
    return _best({count: NearestPrompts(table, count) for count in NEIGHBOURS}, table, encoded)


def best_process(table: ScoreTable, encoded: EncodedPrompts) -> tuple[float, float]:
    """Concentration and noise of the Gaussian process that routes the validation prompts best.

    Args:
        table: complete scores.
        encoded: its prompts, in its order.
    """
    made = {
        (concentration, noise): GaussianQuality.fit(table, concentration=concentration, noise=noise)
        for concentration, noise in PROCESSES
    }
    return _best(made, table, encoded)


def _best(made: Mapping[T, QualityEstimator], table: ScoreTable, encoded: EncodedPrompts) -> T:
    rows = table.rows("validation")
    truth, cost, asked = table.mean[rows], table.cost, encoded.part(rows)
    low, high = float(cost.min()), float(cost.max())
    areas = {
        key: routed(own.estimate(asked).quality, truth, cost).area(low, high) for key, own in made.items()
    }
    return max(areas, key=lambda key: areas[key])


def rotated(table: ScoreTable, turn: int, folds: int, seed: int = 0) -> ScoreTable:
    """The table with other prompts as training, validation and test prompts.

    Args:
        table: scores.
        turn: from 0 to `folds` - 1; the test prompts of all turns are all prompts, each once.
        folds: at least 3; one part is tested on, the following one chosen by, and the others are learnt from.
        seed: of the parts.
    """
    part = np.random.default_rng(seed).permutation(len(table.prompts)) % folds
    names: dict[int, Split] = {turn: "test", (turn + 1) % folds: "validation"}
    prompts = tuple(
        replace(prompt, split=names.get(int(own), "train"))
        for prompt, own in zip(table.prompts, part, strict=True)
    )
    return replace(table, prompts=prompts)


@dataclass(frozen=True, eq=False)
class Turn:
    """What the routers fitted in a turn say of its test prompts.

    Attributes:
        rows: of the test prompts in the table, (t,).
        estimates: by estimator, (t, m).
        chosen: the estimator with the largest area under its deferral curve on the validation prompts.
        single: number of the candidate that is best on average on the training prompts.
        neighbours: K.
        process: concentration and noise.
        decision_ms: by estimator, see `routing.standing.decision_ms`.
        reworded: estimates of the chosen one for the other wordings of the test prompts, in their order, by
            the kind of wording, (w, m).
        best: chances to be the best by the chosen one, shares of the training prompts on which each candidate
            is the best, and whether it was, (3, t, m); see `routing.chances.reliability`.
        enough: likewise of a quality that is at least the mean of `single` on the training prompts.
    """

    rows: np.ndarray
    estimates: Mapping[str, np.ndarray]
    chosen: str
    single: int
    neighbours: int
    process: tuple[float, float]
    decision_ms: Mapping[str, float]
    reworded: Mapping[str, np.ndarray]
    best: np.ndarray
    enough: np.ndarray


def turn_of(
    table: ScoreTable,
    encoded: EncodedPrompts,
    seed: int = 0,
    rewordings: Mapping[str, Rewordings] | None = None,
    *,
    with_chances: bool = True,
) -> Turn:
    """Fit the estimators to the training prompts, and ask them about the test prompts.

    Args:
        table: complete scores.
        encoded: its prompts, in its order; without tokens the network is left out.
        seed: of the network.
        rewordings: other wordings of prompts, by kind.
        with_chances: whether `Turn.best` and `Turn.enough` have chances, which take a matrix inverse, or NaN.
    """
    neighbours, process = best_neighbours(table, encoded), best_process(table, encoded)
    concentration, noise = process
    made: dict[str, QualityEstimator] = {
        "knn": NearestPrompts(table, neighbours),
        "gaussian": GaussianQuality.fit(table, concentration=concentration, noise=noise),
    }
    if encoded.tokens is not None:
        made["network"] = TokenQuality.fit(table, encoded, seed=seed)
    rows, chosen = table.rows("test"), _best(made, table, encoded)
    known, truth = table.mean[table.rows("train")], table.mean[rows]
    asked = encoded.part(rows)
    estimates = {name: own.estimate(asked).quality for name, own in made.items()}
    errors = (
        Errors.of(made[chosen], table, encoded.part(table.rows("validation")))
        if with_chances
        else Errors(made[chosen].variants, np.empty((0, truth.shape[1])))
    )
    single = best_single(known, table.cost)
    least = float(known[:, single].mean())

    def judged(chances: np.ndarray, share: np.ndarray, happened: np.ndarray) -> np.ndarray:
        return np.stack([chances, np.broadcast_to(share, truth.shape), happened])

    return Turn(
        rows,
        estimates,
        chosen,
        single,
        neighbours,
        process,
        {name: decision_ms(own, asked, table.cost) for name, own in made.items()},
        {
            name: made[chosen].estimate(own.encoded.part(numbers)).quality
            for name, own in (rewordings or {}).items()
            if len(numbers := own.of(rows))
        },
        judged(errors.best(estimates[chosen]), winners(known).mean(axis=0), winners(truth)),
        judged(errors.enough(estimates[chosen], least), (known >= least).mean(axis=0), truth >= least),
    )
