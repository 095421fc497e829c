"""What is learned or timed once, on the whole graph: importances of columns, time of a prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.features import dataset_features, model_features
from matchgraph.predictor.matching import PaperMatcher, predict
from matchgraph.report.comparisons import recipe_title
from matchgraph.report.paper import figures_of
from matchgraph.report.rankers import TREES

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.matching import Matcher

TIMED_DATASETS = 5
FOREST, CATBOOST = "forest", "catboost"


@dataclass(frozen=True)
class Importance:
    """How much a column or group of columns counts in the trees.

    Attributes:
        name: of the column, or of the group.
        share: by ranker, mean over seeds.
        spread: by ranker, standard deviation over seeds.
        paper: what the paper prints for a column of that name; None for none.
    """

    name: str
    share: Mapping[str, float]
    spread: Mapping[str, float]
    paper: float | None = None


@dataclass(frozen=True)
class Importances:
    """Table 1: what the trees look at.

    Attributes:
        groups: model attributes, dataset features, graph embedding: shares of everything.
        features: the ten most important model attributes and the rest, as shares of all model attributes.
        seeds: of the trees.
    """

    groups: tuple[Importance, ...]
    features: tuple[Importance, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """How long a prediction took from the graph in memory to the ranking, in seconds."""

    recipe: str
    title: str
    seconds: tuple[float, ...]
    models: int
    datasets: int

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.seconds))

    @property
    def longest(self) -> float:
        """The longest one."""
        return max(self.seconds)


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


def importances(
    trained: Mapping[tuple[str, int], np.ndarray], columns: Sequence[str], groups: Sequence[str]
) -> Importances:
    """Table 1: shares of the trees' importances.

    Args:
        trained: by ranker and seed, float64, (n_columns,), importances, not negative.
        columns: names of the columns.
        groups: of each column: "model", "dataset" or "graph".

    Returns:
        Shares of everything by group, and of all model attributes by column: the ten largest of the first
        ranker and the remaining ones in one, as the paper groups them.

    Source:
        Match & Choose, section 4.2, Table 1.
    """
    names = list(dict.fromkeys(ranker for ranker, _ in trained))
    seeds = tuple(sorted({seed for _, seed in trained}))
    shares = {key: values / values.sum() if values.sum() else values for key, values in trained.items()}
    member = {group: np.array([own == group for own in groups]) for group in ("model", "dataset", "graph")}

    def summed(name: str, pick: Callable[[np.ndarray], float], paper: float | None = None) -> Importance:
        values = {r: [pick(shares[r, s]) for s in seeds] for r in names}
        return Importance(
            name,
            {r: float(np.mean(v)) for r, v in values.items()},
            {r: float(np.std(v)) for r, v in values.items()},
            paper,
        )

    titles = {"model": "Model attributes", "dataset": "Dataset features", "graph": "Graph embedding"}
    whole = [summed(titles[g], lambda v, m=m: float(v[m].sum())) for g, m in member.items() if m.any()]
    model = np.flatnonzero(member["model"])

    def of_model(columns_of: np.ndarray) -> Callable[[np.ndarray], float]:
        def pick(values: np.ndarray) -> float:
            total = values[model].sum()
            return float(values[columns_of].sum() / total) if total else 0.0

        return pick

    first = np.mean([shares[names[0], s] for s in seeds], axis=0)
    order = sorted(model, key=lambda column: (-first[column], columns[column]))
    top, rest = order[:10], order[10:]
    features = [
        summed(columns[c], of_model(np.array([c])), figures_of("table1", columns[c]).get("share"))
        for c in top
    ]
    if rest:
        remaining = figures_of("table1", "remaining").get("share")
        features.append(summed(f"Remaining {len(rest)}", of_model(np.array(rest)), remaining))
    return Importances(tuple(whole), tuple(features), seeds)
