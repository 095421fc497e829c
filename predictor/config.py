"""Settings of the predictor: what each means, its range and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from matchgraph.predictor.errors import InvalidRows
from matchgraph.settings import check_settings, setting

FeatureSet: TypeAlias = Literal["all", "graph", "node"]
Operator: TypeAlias = Literal["hadamard", "average", "l1", "l2", "concat"]
FEATURE_SETS: tuple[str, ...] = get_args(FeatureSet)
OPERATORS: tuple[str, ...] = get_args(Operator)
EMBEDDERS = ("gds", "node2vec+")
RANKERS = ("catboost", "forest")
GROUP_KINDS = ("style", "category", "cluster")
# What else can be held out.
MODEL = "model"
# CatBoost takes no larger one.
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Ingredients:
    """Choices within a recipe; a recipe ignores those it does not have.

    Attributes:
        embedder: node2vec in Graph Data Science ("gds"), or node2vec+ in this process.
        ranker: what learns the ranks.
        features: what the method sees: all, only the graph, or only the nodes' own features.
        operator: how two node embeddings make that of an edge.
        trees: of the ranker.
        seed: of everything random.

    Raises:
        InvalidRows: a value is out of range.
    """

    embedder: str = setting(
        "gds",
        "Embedding of the graph: node2vec in Graph Data Science, or node2vec+ in this process.",
        choices=EMBEDDERS,
    )
    ranker: str = setting("catboost", "With --recipe paper: the classifier of ranks.", choices=RANKERS)
    features: FeatureSet = setting(
        "all", "Inputs of the method: all, only the graph, or only the nodes' own features."
    )
    operator: Operator = setting("concat", "With --recipe paper: how two node embeddings are combined.")
    trees: int = setting(300, "With --recipe paper: number of trees.", at_least=1, at_most=10_000)
    seed: int = setting(
        0,
        "Random seed; equal seeds give equal answers.",
        at_least=0,
        at_most=LARGEST_SEED,
    )

    def __post_init__(self) -> None:
        check_settings(self, InvalidRows)


@dataclass(frozen=True)
class ReplayConfig:
    """How recorded results are replayed.

    Attributes:
        shares: budget points, as shares of the cost of all that could be measured.
        replays: how often everything is repeated with another seed.
        folds: groups of datasets that are treated as new in turn.
        seed: of the first replay.

    Raises:
        InvalidRows: a number is out of its range.
    """

    shares: tuple[float, ...] = setting(
        (0.1, 0.2, 0.4, 0.6), "With --budget-curve: budget points, as shares of the cost of all results."
    )
    replays: int = setting(3, "With --budget-curve: repetitions, each with its own seed.", at_least=1)
    folds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self, InvalidRows)
        if not self.shares or sorted(set(self.shares)) != list(self.shares):
            raise InvalidRows(f"budget shares must rise, got {self.shares}")
        if not (self.shares[0] > 0 and self.shares[-1] < 1):
            raise InvalidRows(f"budget shares must lie between 0 and 1, got {self.shares}")
        if self.folds < 2:
            raise InvalidRows(f"a replay needs at least 2 folds, got {self.folds}")
