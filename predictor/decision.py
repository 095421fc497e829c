"""What to take once some of the likeliest models were measured on a dataset, tuned or as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.metrics import losses
from matchgraph.predictor.ranks import summarise_normal

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.seeds import SeedNoise

# Of the values' range, in place of a standard error of 0.
LEAST_ERROR = 1e-6


@dataclass(frozen=True)
class Outcome:
    """What fine-tuning a model on the dataset came to, in the unit of the metric.

    Attributes:
        model: its id.
        value: after fine-tuning.
        standard_error: of that value, with what another training seed does where that is known; None where
            nothing is.
        initial: of the pretrained model; None where it was not measured.
        initial_standard_error: of that value.
    """

    model: str
    value: float
    standard_error: float | None = None
    initial: float | None = None
    initial_standard_error: float | None = None


@dataclass(frozen=True)
class Decision:
    """The model to take, by what was measured and, of the others, what is predicted.

    Attributes:
        model: its id.
        tuned: whether it is to be fine-tuned; a pretrained model may be better than every tuned one.
        value: what it scored.
        chance: that no other model is better once fine-tuned. That the best one is among those measured has
            the sum of their predicted chances; which of them it is follows from their values and standard
            errors. None where those are not recorded: then nobody knows how far the values are noise.
        tuning_pays: chance that the best tuned model is better than the best pretrained one; None where none
            of those was measured, or a standard error is not recorded.
        chances: of each model, to be the best one, by id; of those measured None as above.
        measured: all outcomes, best first.
    """

    model: str
    tuned: bool
    value: float
    chance: float | None
    tuning_pays: float | None
    chances: Mapping[str, float | None]
    measured: tuple[Outcome, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {**asdict(self), "measured": [asdict(outcome) for outcome in self.measured]}


def outcomes(snapshot: Snapshot, dataset: str, noise: SeedNoise | None = None) -> list[Outcome]:
    """What the graph has of a dataset, by model.

    Args:
        snapshot: the graph by one metric.
        dataset: its id.
        noise: what another training seed does. A standard error that is recorded is of sampling, or of a few
            seeds that may agree by chance, so a larger one by this counts in its place.
    """
    own = snapshot.performs[snapshot.performs["dataset"] == dataset]
    columns = ("value", "standard_error", "initial", "initial_standard_error")
    rows = zip(own["model"], *(map(_known, own[column]) for column in columns), strict=True)
    found = []
    for model, value, error, initial, initial_error in rows:
        if value is not None:
            between = math.nan if noise is None else noise.error(model, dataset, value)
            known = [one for one in (error, _known(between)) if one is not None]
            found.append(Outcome(model, value, max(known, default=None), initial, initial_error))
    return found


def decide(
    predicted: Mapping[str, float], measured: Sequence[Outcome], *, larger_is_better: bool = False
) -> Decision:
    """Decide between the models of a zoo.

    Args:
        predicted: by model, the chance to be the best one before anything was measured.
        measured: at least one outcome, each of one of these models.
        larger_is_better: direction of the metric.
    """
    values = _losses([outcome.value for outcome in measured], larger_is_better)
    shared = sum(predicted[outcome.model] for outcome in measured)
    among = _chances(values, [outcome.standard_error for outcome in measured])
    chances: dict[str, float | None] = dict(predicted)
    for place, outcome in enumerate(measured):
        chances[outcome.model] = None if among is None else float(shared * among[place])
    order = sorted(range(len(measured)), key=lambda place: (values[place], measured[place].model))
    best = measured[order[0]]
    chosen, tuned, value, pays = best, True, best.value, None
    known = [(outcome, outcome.initial) for outcome in measured if outcome.initial is not None]
    if known:
        before = _losses([initial for _, initial in known], larger_is_better)
        first, initial = known[int(before.argmin())]
        both = np.array([values[order[0]], before.min()])
        two = _chances(both, [best.standard_error, first.initial_standard_error])
        pays = None if two is None else float(two[0])
        if both[1] <= both[0]:
            chosen, tuned, value = first, False, initial
    ranked = tuple(measured[place] for place in order)
    return Decision(chosen.model, tuned, value, chances[best.model], pays, chances, ranked)


def _chances(values: np.ndarray, errors: Sequence[float | None]) -> np.ndarray | None:
    """Of each to be the smallest; None where an error is not known. A single one is."""
    if len(values) == 1:
        return np.ones(1)
    known = [error for error in errors if error is not None]
    if len(known) < len(values):
        return None
    least = max(float(np.ptp(values)), float(np.abs(values).max()), 1e-300) * LEAST_ERROR
    return summarise_normal(values, np.maximum(known, least)).p_best


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _losses(values: Sequence[float], larger_is_better: bool) -> np.ndarray:
    return losses(np.array(values, dtype=np.float64), larger_is_better)
