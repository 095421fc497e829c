"""What the trees look at: importances of the columns, learned from all results, Table 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.predictor.features import dataset_features, model_features
from matchgraph.predictor.paper import PaperMatcher
from matchgraph.report.config import section_of, without_data
from matchgraph.report.page import Figure, Section
from matchgraph.report.paper import figures_of
from matchgraph.report.rankers import TITLES, TREES
from matchgraph.report.tables import Column, Table, table
from matchgraph.svg import COLOURS, FAINT, drawing, shortened

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot

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
        matcher.with_ranker(kept).rank(snapshot, [])
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

    def of_all(columns_of: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda values: float(values[columns_of].sum())

    whole = [summed(titles[group], of_all(own)) for group, own in member.items() if own.any()]
    model = np.flatnonzero(member["model"])

    def of_model(columns_of: np.ndarray) -> Callable[[np.ndarray], float]:
        def pick(values: np.ndarray) -> float:
            total = values[model].sum()
            return float(values[columns_of].sum() / total) if total else 0.0

        return pick

    first = np.mean([shares[names[0], s] for s in seeds], axis=0)
    order = sorted(map(int, model), key=lambda column: (-first[column], columns[column]))
    top, rest = order[:10], order[10:]
    features = [
        summed(columns[c], of_model(np.array([c])), figures_of("table1", columns[c]).get("share"))
        for c in top
    ]
    if rest:
        remaining = figures_of("table1", "remaining").get("share")
        features.append(summed(f"Remaining {len(rest)}", of_model(np.array(rest)), remaining))
    return Importances(tuple(whole), tuple(features), seeds)


def importances_figure(study: Importances) -> str:
    """Table 1 as bars."""
    rankers = list(study.features[0].share)
    with drawing("importances", height=0.9 + 0.36 * len(study.features)) as (figure, finish):
        axes = figure.subplots()
        thickness = 0.8 / len(rankers)
        for number, ranker in enumerate(rankers):
            places = np.arange(len(study.features)) + (number - (len(rankers) - 1) / 2) * thickness
            axes.barh(
                places,
                [100 * row.share[ranker] for row in study.features],
                height=thickness * 0.9,
                xerr=[100 * row.spread[ranker] for row in study.features] if len(study.seeds) > 1 else None,
                ecolor=FAINT,
                color=COLOURS[number],
                hatch="" if number == 0 else "////",
                edgecolor="#ffffff" if number else COLOURS[0],
                linewidth=0,
                label=TITLES[ranker],
            )
        axes.set_yticks(range(len(study.features)), [shortened(row.name, 44) for row in study.features])
        axes.invert_yaxis()
        axes.set_xlabel("share of all model attributes' importance, %")
        axes.legend(frameon=False, loc="lower right")
        return finish()


def importances_section(study: Importances) -> Section:
    """Table 1."""
    if not study.features:
        return without_data("importances", "The models' attributes do not differ.")
    ranker = next(iter(study.features[0].share))
    groups = ", ".join(f"{g.name.lower()} {100 * g.share[ranker]:.0f} %" for g in study.groups)
    named = study.features[0]
    drawing = importances_figure(study)
    return section_of(
        "importances",
        f"Importance for the {TITLES[ranker].lower()}: {groups}. The most important model attribute is "
        f"{named.name} ({100 * named.share[ranker]:.1f} % of the importance of attributes).",
        "Trained on all results by the paper's recipe. Random forest: mean decrease in impurity. "
        "CatBoost: mean absolute SHAP value. Attributes with the same meaning share their importance, so a "
        "small share does not prove that an attribute is useless.",
        figures=(Figure(drawing, "The ten most important model attributes, and all others together."),),
        tables=importance_tables(study),
        seeds=study.seeds,
    )


def importance_tables(study: Importances) -> tuple[Table, Table]:
    """Model attributes by name, and all inputs in groups."""
    return (
        _importance_table("table1-importances", "feature", study.features, study.seeds),
        _importance_table("table1-groups", "input", study.groups, study.seeds),
    )


def _importance_table(name: str, first: str, rows: Sequence[Importance], seeds: Sequence[int]) -> Table:
    columns = [Column(first, first.capitalize(), lambda row: row.name)]

    def of_ranker(ranker: str) -> list[Column]:
        share = Column(ranker, TITLES[ranker], lambda row: row.share[ranker], "share")
        spread = Column(f"{ranker}_seeds", "± seeds", lambda row: row.spread[ranker], "share")
        return [share, spread] if len(seeds) > 1 else [share]

    for ranker in rows[0].share:
        columns += of_ranker(ranker)
    if any(row.paper is not None for row in rows):
        columns.append(Column("paper", "Share", lambda row: row.paper, "share", of_paper=True))
    return table(name, rows, columns)
