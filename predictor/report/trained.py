"""What is learned or timed once, on the whole graph: importances of columns, time of a prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from predictor.features import dataset_features, model_features
from predictor.matching import PaperMatcher, predict
from predictor.report.rankers import TREES
from predictor.report.studies import Importances, Timing, importances, recipe_title

if TYPE_CHECKING:
    from graphdb.models import Snapshot
    from predictor.matching import Matcher

TIMED_DATASETS = 5
FOREST, CATBOOST = "forest", "catboost"


class RowsKept:
    """A ranker that learns nothing and keeps the rows it was given."""

    name = "rows-kept"

    def fit(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """Keep rows (n_rows, n_columns) and their class shares (n_rows, n_classes)."""
        self.rows, self.targets = rows, targets

    def predict_distribution(self, rows: np.ndarray) -> np.ndarray:
        """No preference, float64, (n_rows, n_classes)."""
        return np.full((len(rows), self.targets.shape[1]), 1 / self.targets.shape[1])

    def contributions(self, rows: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """None: nothing was learned."""
        return None


def learned_importances(
    snapshot: Snapshot, build: Callable[[int], PaperMatcher], seeds: Sequence[int]
) -> Importances:
    """Train on all results and ask the trees what they look at.

    The forest is asked as in the paper, by how much its splits on a column purify the classes. CatBoost is
    asked by how far a column moves the prediction of a training row, as the mean of absolute SHAP values.

    Args:
        snapshot: the graph; nothing is held out.
        build: the paper's recipe under a seed.
        seeds: of embeddings and trees.

    Returns:
        Importances by both.

    Source:
        Match & Choose, section 4.2, Table 1: "the random forest's change in prediction value".
    """
    from sklearn.ensemble import RandomForestClassifier

    models, datasets = model_features(snapshot.models), dataset_features(snapshot.datasets)
    trained: dict[tuple[str, int], np.ndarray] = {}
    groups: list[str] = []
    for seed in seeds:
        matcher, kept = build(seed), RowsKept()
        PaperMatcher(matcher.embedder, kept, matcher.rows).rank(snapshot, [])
        rows, shares = np.nonzero(kept.targets)
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1)
        forest.fit(kept.rows[rows], shares, sample_weight=kept.targets[rows, shares])
        trained[FOREST, seed] = forest.feature_importances_
        matcher.ranker.fit(kept.rows, kept.targets)
        contributions = matcher.ranker.contributions(kept.rows)
        if contributions is not None:
            trained[CATBOOST, seed] = np.abs(contributions).mean(axis=0)
        groups = ["model"] * len(models.columns) + ["dataset"] * len(datasets.columns)
        groups += ["graph"] * (kept.rows.shape[1] - len(groups))
    columns = [*models.columns, *datasets.columns]
    columns += [f"g{number}" for number in range(len(groups) - len(columns))]
    return importances(trained, columns, groups)


def timed_predictions(snapshot: Snapshot, recipe: str, matcher: Matcher) -> Timing:
    """Predict for a few datasets as if each were new, and take the time.

    Args:
        snapshot: the graph.
        recipe: the matcher's name.
        matcher: the method.

    Returns:
        The seconds of each, from the graph in memory to the ranking and its reasons.
    """
    measured = sorted(set(snapshot.performs.loc[snapshot.performs["value"].notna(), "dataset"]))
    places = np.unique(np.linspace(0, len(measured) - 1, TIMED_DATASETS).round().astype(int))
    seconds = []
    for dataset in [measured[place] for place in places]:
        began = time.perf_counter()
        predict(snapshot, dataset, matcher)
        seconds.append(time.perf_counter() - began)
    return Timing(recipe, recipe_title(recipe), tuple(seconds), len(snapshot.models), len(snapshot.datasets))
