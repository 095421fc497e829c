"""The recipes that `matchgraph predict` and `evaluate` know by name, and what each is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matchgraph.predictor.errors import InvalidRows

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner
    from matchgraph.predictor.matching import Matcher

GAUSSIAN, PAPER = "gaussian", "paper"
# Measured: bench/README.md, "recipes".
DEFAULT_RECIPE = GAUSSIAN
EMBEDDERS = ("gds", "node2vec+")
RANKERS = ("catboost", "forest")
# Measured on synthetic zoos: on graphs of tens of nodes, more passes over the walks rank no better.
WALKS = {"dimension": 64, "walk_length": 40, "iterations": 1}


@dataclass(frozen=True)
class Ingredients:
    """What may be chosen of a recipe.

    Attributes:
        embedder: "gds", node2vec in Graph Data Science, or "node2vec+" here.
        ranker: "catboost" or "forest".
        features: see `predictor.matching.RowConfig`.
        operator: see `predictor.matching.RowConfig`.
        trees: of the ranker.
        seed: of everything random.

    Raises:
        InvalidRows: an unknown embedder or ranker.
    """

    embedder: str = "gds"
    ranker: str = "catboost"
    features: str = "all"
    operator: str = "concat"
    trees: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        for what, name, known in (
            ("embedder", self.embedder, EMBEDDERS),
            ("ranker", self.ranker, RANKERS),
        ):
            if name not in known:
                raise InvalidRows(f"unknown {what} {name!r}: choose one of {', '.join(known)}")


@dataclass(frozen=True)
class Recipe:
    """A recipe by name.

    Attributes:
        build: puts it together, given the database, if any, and what was chosen.
        takes: the fields of `Ingredients` that it has; it does without the others.
    """

    build: Callable[[Runner | None, Ingredients], Matcher]
    takes: frozenset[str]


def build_recipe(name: str, runner: Runner | None = None, **ingredients: str | int) -> Matcher:
    """Put a recipe together.

    Args:
        name: of the recipe, see `RECIPES`.
        runner: of the database, for embedder="gds".
        ingredients: see `Ingredients`; those that the recipe does not take change nothing.

    Returns:
        The method, ready to rank.

    Raises:
        InvalidRows: an unknown recipe or ingredient, or one that needs a database and has none.
    """
    if name not in RECIPES:
        raise InvalidRows(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name].build(runner, Ingredients(**ingredients))


def _paper(runner: Runner | None, chosen: Ingredients) -> Matcher:
    from matchgraph.graphdb.embedding import GdsNode2Vec, Node2VecConfig
    from matchgraph.graphdb.node2vecplus import Node2VecPlus
    from matchgraph.predictor.matching import PaperMatcher, RowConfig
    from matchgraph.predictor.ranker import CatBoostConfig, CatBoostRanker, ForestRanker

    walks = Node2VecConfig(**WALKS, seed=chosen.seed)
    if chosen.features == "node":
        embedder = None
    elif chosen.embedder == "node2vec+":
        embedder = Node2VecPlus(walks)
    elif runner is None:
        raise InvalidRows("embedder 'gds' needs a database: connect to one, or take node2vec+")
    else:
        embedder = GdsNode2Vec(runner, walks)
    ranker = (
        CatBoostRanker(CatBoostConfig(iterations=chosen.trees, seed=chosen.seed))
        if chosen.ranker == "catboost"
        else ForestRanker(chosen.trees, chosen.seed)
    )
    return PaperMatcher(embedder, ranker, RowConfig(chosen.features, chosen.operator))


def _gaussian(_: Runner | None, chosen: Ingredients) -> Matcher:
    from matchgraph.predictor.gaussian import GaussianMatcher

    return GaussianMatcher(chosen.features)


RECIPES: Mapping[str, Recipe] = {
    GAUSSIAN: Recipe(_gaussian, frozenset({"features"})),
    PAPER: Recipe(_paper, frozenset({"embedder", "ranker", "features", "operator", "trees", "seed"})),
}
