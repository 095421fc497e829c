"""What another training seed does to a result, from pairs of model and dataset measured under several."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from matchgraph.graphdb import queries
from matchgraph.predictor.gaussian import compared_by_ratio
from matchgraph.predictor.metrics import losses
from matchgraph.predictor.visibility import loss_matrix

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.runner import Runner

Pair = tuple[str, str]
RECORDED = "recorded"


class Replicate(NamedTuple):
    """A value that was measured under several seeds.

    Attributes:
        model: the model's id.
        dataset: the dataset's id.
        seed: the seed.
        value: the value.
        in_mean: whether the recorded value is a mean with this one.
    """

    model: str
    dataset: str
    seed: str
    value: float
    in_mean: bool = False


@dataclass(frozen=True, eq=False)
class SeedNoise:
    """How far results of one pair lie apart.

    Attributes:
        ratios: whether values are compared by their ratios, see `predictor.gaussian.compared_by_ratio`:
            `by_seed` and `deviation` are then of logarithms.
        by_seed: of each pair measured under two seeds or more, the losses by seed; smaller is better.
        deviation: standard deviation between seeds, pooled over pairs, which holds the noise of sampling as
            well; NaN where no pair was measured twice.
        in_mean: of how many seeds the recorded value of a pair is the mean; pairs of one are left out.
    """

    ratios: bool
    by_seed: dict[Pair, dict[str, float]]
    deviation: float
    in_mean: Counter[Pair]

    def error(self, model: str, dataset: str, value: float) -> float:
        """Standard error of a recorded value by the spread between seeds; NaN where that is not known."""
        own = self.deviation / math.sqrt(max(self.in_mean[model, dataset], 1))
        return own * value if self.ratios else own


def read_replicates(runner: Runner, snapshot: Snapshot) -> tuple[Replicate, ...]:
    """The values that were measured under several seeds.

    Args:
        runner: of the database.
        snapshot: the graph by one metric; of pairs without a result in it nothing is read.
    """
    rows = runner.read(queries.load("predict/replicates"), metric=snapshot.metric.name)
    measured = snapshot.performs[snapshot.performs["value"].notna()]
    pairs = set(zip(measured["model"], measured["dataset"], strict=True))
    return tuple(
        Replicate(row["model"], row["dataset"], _seed_of(row["config"]), float(row["value"]), row["in_mean"])
        for row in rows
        if (row["model"], row["dataset"]) in pairs
    )


def seed_noise(snapshot: Snapshot, replicates: Sequence[Replicate]) -> SeedNoise:
    """How far results of one pair lie apart under several seeds.

    Args:
        snapshot: the graph by one metric, with the recorded values.
        replicates: see `read_replicates`; a recorded value that is a mean over some of them is none itself.
    """
    matrix = loss_matrix(snapshot)
    measured = losses(np.array([one.value for one in replicates]), snapshot.metric.larger_is_better)
    every = np.array([*matrix.losses[~np.isnan(matrix.losses)], *measured])
    ratios = len(every) > 0 and compared_by_ratio(every, snapshot.metric)
    recorded = np.log(matrix.losses) if ratios else matrix.losses
    by_seed: dict[Pair, dict[str, float]] = {}
    in_mean: Counter[Pair] = Counter()
    for one, loss in zip(replicates, np.log(measured) if ratios else measured, strict=True):
        own = by_seed.setdefault((one.model, one.dataset), {})
        # A seed may have two runs, of which one scored the pretrained model too.
        in_mean[one.model, one.dataset] += one.in_mean and one.seed not in own
        own[one.seed] = float(loss)
    rows = {model: row for row, model in enumerate(matrix.models)}
    columns = {dataset: column for column, dataset in enumerate(matrix.datasets)}
    for (model, dataset), own in by_seed.items():
        if dataset in columns and not in_mean[model, dataset]:
            value = recorded[rows[model], columns[dataset]]
            own |= {} if np.isnan(value) else {RECORDED: float(value)}
    by_seed = {pair: own for pair, own in by_seed.items() if len(own) > 1}
    squares = sum(float(np.var(list(own.values())) * len(own)) for own in by_seed.values())
    freedom = sum(len(own) - 1 for own in by_seed.values())
    deviation = math.sqrt(squares / freedom) if freedom else math.nan
    return SeedNoise(ratios, by_seed, deviation, in_mean)


def _seed_of(config: str | None) -> str:
    try:
        return str(json.loads(config or "{}").get("seed", "another"))
    except (ValueError, AttributeError):
        return "another"
