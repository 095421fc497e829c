"""The method of the paper: ranks as classes, learned from features and a graph embedding.

It embeds the visible graph, puts together one row for each measured (model, dataset) pair, learns the rank
from the rows, and asks for the rows of the new dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.predictor.errors import NoSimilarity
from matchgraph.predictor.features import assemble, dataset_features, model_features
from matchgraph.predictor.matching import Ranked
from matchgraph.predictor.ranker import spread_rows
from matchgraph.predictor.ranks import MAX_CLASSES, RankClasses, ranks_within, summarise
from matchgraph.predictor.visibility import (
    check_enough,
    loss_matrix,
    node_names,
    similarities_of,
    weighted_edges,
    without_results,
)

if TYPE_CHECKING:
    from matchgraph.graphdb.embedding import Embedder
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.predictor.config import FeatureSet, Operator
    from matchgraph.predictor.ranker import Ranker

# A row is hundreds of numbers, held in several copies while trees are grown: this many take about a gigabyte.
MOST_ROWS = 50_000


class PaperMatcher:
    """Ranks by the paper's recipe, see the module.

    Args:
        embedder: of the graph's nodes; not called for features="node", and may be None then.
        ranker: is trained for each call.
        features: which of the three vectors make a row: all, only the edge embedding ("graph"), or only the
            nodes' features ("node").
        operator: how two node embeddings make an edge embedding.

    Source:
        Match & Choose, sections 4.4 and 4.5.
    """

    name = "paper"
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        embedder: Embedder | None,
        ranker: Ranker,
        features: FeatureSet = "all",
        operator: Operator = "concat",
    ) -> None:
        self.embedder, self.ranker, self.features, self.operator = embedder, ranker, features, operator
        self.needs_similarities = features != "node"

    def with_ranker(self, ranker: Ranker) -> PaperMatcher:
        """The same method with another ranker."""
        return PaperMatcher(self.embedder, ranker, self.features, self.operator)

    def rank(self, visible: Snapshot, datasets: Sequence[str], *, explain: bool = False) -> dict[str, Ranked]:
        """See `predictor.matching.Matcher.rank`; the ranker is trained once for all of the datasets.

        Of more than 50,000 results it learns from that many, see `spread_rows`, by their ranks among all.
        """
        visible = without_results(visible, datasets)
        check_enough(visible)
        if self.needs_similarities:
            check_similarities(visible, datasets)
        matrix = loss_matrix(visible)
        # A dataset with a single measured model ranks nothing.
        usable = (~np.isnan(matrix.losses)).sum(axis=0) >= 2
        measured, columns = np.nonzero(~np.isnan(matrix.losses) & usable)
        classes = RankClasses(len(matrix.models), MAX_CLASSES)
        ranks = ranks_within(matrix.losses[measured, columns], columns)
        kept = spread_rows(columns, ranks, MOST_ROWS)
        targets = classes.targets(ranks, columns)[kept]
        pairs = [(matrix.models[measured[row]], matrix.datasets[columns[row]]) for row in kept]
        asked = [(model, dataset) for dataset in datasets for model in matrix.models]
        embeddings = {}
        if self.needs_similarities:
            assert self.embedder is not None
            embeddings = self.embedder.embed(node_names(visible), weighted_edges(visible))
        table = assemble(
            pairs + asked,
            model_features(visible.models),
            dataset_features(visible.datasets),
            embeddings,
            features=self.features,
            operator=self.operator,
        )
        self.ranker.fit(table.values[: len(pairs)], targets)
        ranked = {}
        for number, dataset in enumerate(datasets):
            start = len(pairs) + number * len(matrix.models)
            own = table.values[start : start + len(matrix.models)]
            prediction = summarise(self.ranker.predict_distribution(own), classes)
            contributions = self.ranker.contributions(own) if explain else None
            ranked[dataset] = Ranked(matrix.models, prediction, table.parts, contributions)
        return ranked

    def quick(self) -> PaperMatcher:
        """See `predictor.matching.Matcher.quick`."""
        return self

    def describe(self) -> dict[str, Any]:
        """See `predictor.matching.Matcher.describe`."""
        return {
            "embedder": described(self.embedder) if self.needs_similarities else None,
            "ranker": described(self.ranker),
            "rows": {"features": self.features, "operator": self.operator, "max_classes": MAX_CLASSES},
        }


def check_similarities(visible: Snapshot, datasets: Sequence[str]) -> None:
    """Refuse to place a dataset in the graph that no edge joins to it.

    Raises:
        NoSimilarity: one of them has no SIMILAR edge.
    """
    for dataset in datasets:
        if not similarities_of(visible, dataset):
            raise NoSimilarity(
                f"Dataset {dataset!r} has no similarity to any other dataset, so the graph cannot predict "
                "for it. Add some with `matchgraph ingest similarities FILE.csv`, ingest the datasets' "
                "images with one probe, or use --features node."
            )


def described(part: Any) -> dict[str, Any]:
    """The name and the configuration of an embedder or a ranker, and a server's library, ready for JSON."""
    config, library = getattr(part, "config", None), getattr(part, "library", None)
    return {
        "name": part.name,
        **({} if library is None else {"library": library}),
        **(asdict(config) if config is not None else {}),
    }
