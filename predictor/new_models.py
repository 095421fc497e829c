"""Models held out: how well a model that was never measured is placed among the others, by its properties.

Each model loses all its results, before and after fine-tuning, and a quarter of the datasets at a time is
ranked for from what the other models did on the rest. What is left of a model is its node: properties, and
no edge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.errors import NotEnoughResults
from matchgraph.predictor.folds import held_out_datasets
from matchgraph.predictor.matching import provenance
from matchgraph.predictor.metrics import interval_as_dict
from matchgraph.predictor.visibility import LossMatrix, loss_matrix, without_results
from matchgraph.stats.intervals import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher

FOLDS = 4
FEWEST_MODELS = 3


@dataclass(frozen=True)
class NewModel:
    """A model that was predicted for as if it had never been measured.

    Attributes:
        model: its id.
        datasets: on how many it was placed among others.
        ordered: share of the other models, over these datasets, that the method puts on the right side of
            it; a tie counts half.
        in_the_middle: the same where the method's rank of this model gives way to the middle one, so that
            its properties do not count.
        best_on: on how many it is the best of all, or as good.
        found: on how many of these the method has it first.
    """

    model: str
    datasets: int
    ordered: float
    in_the_middle: float
    best_on: int
    found: int


@dataclass(frozen=True)
class NewModels:
    """All models held out, one at a time.

    Attributes:
        models: those with results, by id.
        ordered: mean of their shares, with its interval over models.
        in_the_middle: likewise, of the reference.
        gain: the former minus the latter, model by model.
        skipped: why a dataset is left out, by its id.
        provenance: what it was computed from and with.
        seconds: how long it took.
    """

    models: tuple[NewModel, ...]
    ordered: Interval
    in_the_middle: Interval
    gain: Interval
    skipped: Mapping[str, str]
    provenance: Mapping[str, Any]
    seconds: float = 0.0

    def to_frame(self) -> pd.DataFrame:
        """One row per model, by id, with the other attributes of `NewModel` as columns."""
        import pandas as pd

        return pd.DataFrame([asdict(one) for one in self.models]).set_index("model")

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "models": [asdict(one) for one in self.models],
            **{name: interval_as_dict(getattr(self, name)) for name in ("ordered", "in_the_middle", "gain")},
            "skipped": dict(self.skipped),
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }


def evaluate_new_models(
    snapshot: Snapshot,
    matcher: Matcher,
    *,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> NewModels:
    """Hold each model out, predict, and compare with the truth.

    Args:
        snapshot: the graph.
        matcher: the method; sees in each fold what is visible there. It is trained four times a model.
        seed: of the quarters and the bootstrap.
        progress: called with the number of finished models, of all of them, and the current one.

    Raises:
        NotEnoughResults: fewer than two datasets have two measured models, or fewer than three models
            results.
        NoSimilarity: the method needs similarities, and no dataset has any.
    """
    started = time.perf_counter()
    targets, skipped = held_out_datasets(snapshot, matcher.needs_similarities)
    measured = snapshot.performs[
        snapshot.performs["value"].notna() & snapshot.performs["dataset"].isin(targets)
    ]
    names = sorted(set(measured["model"]))
    if len(names) < FEWEST_MODELS:
        raise NotEnoughResults(
            f"Holding models out needs at least {FEWEST_MODELS} of them with results on datasets with at "
            f"least 2 measured models; the graph has {len(names)}."
        )
    shuffled = np.random.default_rng(seed).permutation(targets).tolist()
    quarters = [sorted(own) for fold in range(FOLDS) if (own := shuffled[fold::FOLDS])]
    matrix = loss_matrix(snapshot)
    found = []
    for number, model in enumerate(names):
        if progress:
            progress(number, len(names), model)
        found.append(_held_out(snapshot, matrix, matcher, model, quarters))
    ordered, middle = (
        np.array([getattr(one, name) for one in found]) for name in ("ordered", "in_the_middle")
    )
    return NewModels(
        tuple(found),
        mean_interval(ordered, seed=seed),
        mean_interval(middle, seed=seed),
        mean_interval(ordered - middle, seed=seed),
        skipped,
        {**provenance(snapshot, matcher), "seed": seed, "hold_out": "model"},
        time.perf_counter() - started,
    )


def _held_out(
    snapshot: Snapshot, matrix: LossMatrix, matcher: Matcher, model: str, quarters: Sequence[Sequence[str]]
) -> NewModel:
    row = matrix.models.index(model)
    performs = snapshot.performs[snapshot.performs["model"] != model].reset_index(drop=True)
    others_alone = replace(snapshot, performs=performs)
    ordered, middle, best_on, first = [], [], 0, 0
    for quarter in quarters:
        columns = {dataset: matrix.losses[:, matrix.datasets.index(dataset)] for dataset in quarter}
        own = [dataset for dataset, losses in columns.items() if not np.isnan(losses[row])]
        if not own:
            continue
        visible = without_results(others_alone, quarter)
        ranked = matcher.rank(visible, own)
        for dataset in own:
            expected, losses = ranked[dataset].prediction.expected_rank, columns[dataset]
            ordered.append(_rightly(expected, losses, row))
            unknown = expected.copy()
            unknown[row] = (len(expected) + 1) / 2
            middle.append(_rightly(unknown, losses, row))
            known = ~np.isnan(losses)
            if losses[row] == losses[known].min():
                best_on += 1
                first += bool(expected[row] == expected[known].min())
    return NewModel(model, len(ordered), float(np.mean(ordered)), float(np.mean(middle)), best_on, first)


def _rightly(predicted: np.ndarray, losses: np.ndarray, row: int) -> float:
    """Share of the models measured beside one that are predicted on the right side of it; a tie, predicted
    or true, counts half.
    """
    others = ~np.isnan(losses)
    others[row] = False
    truth = np.sign(losses[others] - losses[row])
    said = np.sign(predicted[others] - predicted[row])
    return float((1 + truth * said).mean() / 2)
