"""The methods of ranking that are known by name, and the choice of one of them with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.errors import GdsMissing
from matchgraph.predictor.config import Ingredients
from matchgraph.predictor.errors import InvalidRows
from matchgraph.settings import setting, settings_of

if TYPE_CHECKING:
    from matchgraph.graphdb.embedding import Embedder
    from matchgraph.graphdb.runner import Runner
    from matchgraph.predictor.matching import Matcher

STACK, GAUSSIAN, PAPER = "stack", "gaussian", "paper"
# Measured: docs/evidence/selection.md.
DEFAULT_RECIPE = STACK
# Measured on synthetic zoos: on graphs of tens of nodes, more passes over the walks rank no better.
WALKS = {"dimension": 64, "walk_length": 40, "iterations": 1}
# The paper's recipe as part of the stack, where it is trained four times for one answer. Twice the trees,
# walks and window cost twice as much and rank no better (docs/evidence/selection.md).
STACK_TREES: Mapping[str, Any] = {"iterations": 30, "depth": 4, "threads": 1}
STACK_WALKS = {**WALKS, "walks_per_node": 5, "window_size": 5}


@dataclass(frozen=True)
class Recipe:
    """A recipe by name.

    Attributes:
        build: puts it together, given the database, if any, and what was chosen.
        takes: the fields of `Ingredients` that it has; it does without the others.
    """

    build: Callable[[Runner | None, Ingredients], Matcher]
    takes: frozenset[str]


def build_recipe(name: str, runner: Runner | None = None, **ingredients: Any) -> Matcher:
    """Put a recipe together.

    Args:
        name: of the recipe, see `RECIPES`.
        runner: of the database, for embedder="gds".
        ingredients: see `Ingredients`; those that the recipe does not take change nothing.

    Returns:
        The method, ready to rank.

    Raises:
        InvalidRows: an unknown recipe or ingredient, or one that needs a database and has none.
        GdsMissing: the paper's recipe is to embed by Graph Data Science, and the server has none.
    """
    if name not in RECIPES:
        raise InvalidRows(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name].build(runner, Ingredients(**ingredients))


def _embedder(runner: Runner | None, chosen: Ingredients, walks: Mapping[str, Any]) -> Embedder | None:
    from matchgraph.graphdb.embedding import GdsNode2Vec, Node2VecConfig
    from matchgraph.graphdb.node2vecplus import Node2VecPlus

    config = Node2VecConfig(**walks, seed=chosen.seed)
    if chosen.features == "node":
        return None
    if chosen.embedder == "node2vec+":
        return Node2VecPlus(config)
    if runner is None:
        raise InvalidRows("embedder 'gds' needs a database: connect to one, or take node2vec+")
    runner.gds_version()
    return GdsNode2Vec(runner, config)


def _paper(runner: Runner | None, chosen: Ingredients) -> Matcher:
    from matchgraph.predictor.paper import PaperMatcher
    from matchgraph.predictor.ranker import CatBoostConfig, CatBoostRanker, ForestConfig, ForestRanker

    ranker = (
        CatBoostRanker(CatBoostConfig(iterations=chosen.trees, seed=chosen.seed))
        if chosen.ranker == "catboost"
        else ForestRanker(ForestConfig(chosen.trees, chosen.seed))
    )
    return PaperMatcher(_embedder(runner, chosen, WALKS), ranker, chosen.features, chosen.operator)


def _stack(runner: Runner | None, chosen: Ingredients) -> Matcher:
    from matchgraph.predictor.paper import PaperMatcher
    from matchgraph.predictor.ranker import CatBoostConfig, CatBoostRanker
    from matchgraph.predictor.stack import StackMatcher

    notes: tuple[str, ...] = ()
    try:
        embedder = _embedder(runner, chosen, STACK_WALKS)
    except GdsMissing:
        embedder = _embedder(None, replace(chosen, embedder="node2vec+"), STACK_WALKS)
        notes = ("Neo4j has no Graph Data Science library: the graph is embedded by node2vec+ instead.",)
    ranker = CatBoostRanker(CatBoostConfig(**STACK_TREES, seed=chosen.seed))
    paper = PaperMatcher(embedder, ranker, chosen.features)
    return StackMatcher(paper, chosen.features, chosen.seed, notes)


def _gaussian(_: Runner | None, chosen: Ingredients) -> Matcher:
    from matchgraph.predictor.gaussian import GaussianMatcher

    return GaussianMatcher(chosen.features)


RECIPES: Mapping[str, Recipe] = {
    STACK: Recipe(_stack, frozenset({"features", "embedder"})),
    GAUSSIAN: Recipe(_gaussian, frozenset({"features"})),
    PAPER: Recipe(_paper, frozenset({"embedder", "ranker", "features", "operator", "trees", "seed"})),
}


@dataclass(frozen=True)
class Method(Ingredients):
    """How to predict: which values of the graph, and which recipe with which ingredients.

    Attributes:
        metric: of the results.
        similarity: metric of the datasets' similarities; None for the metric of the results, or else the
            only one there is.
        measured_with: extractors whose values to keep to, where there are several of one metric.
        recipe: the method of ranking, see `RECIPES`.
        models: ids of the models to choose from, whose results alone are used; all by default.

    Raises:
        InvalidRows: an unknown value, or an ingredient other than its default that the recipe does not have.
    """

    metric: str = setting("clip_fid", "Metric of the results.")
    similarity: str | None = setting(None, "Metric of the datasets' similarities, if there are several.")
    measured_with: tuple[str, ...] = setting(
        (),
        "Use only values of this extractor, if a metric has several. Repeatable: one for the "
        "results, one for the similarities.",
        metavar="HASH",
    )
    recipe: str = setting(
        DEFAULT_RECIPE,
        "Ranking method: a mixture that learns from the graph which method to trust, a Gaussian process over "
        "similar datasets, or the paper's classifier on a graph embedding.",
        choices=tuple(RECIPES),
    )
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        # All methods take a seed, whether they draw anything or not.
        for name, one in settings_of(Ingredients).items():
            unused = name != "seed" and name not in RECIPES[self.recipe].takes
            if unused and getattr(self, name) != one.default:
                raise InvalidRows(f"--{name} needs --recipe {PAPER}: the recipe {self.recipe} has no {name}.")

    def build(self, runner: Runner | None) -> Matcher:
        """The method, ready to rank.

        Args:
            runner: of the database, for the embedder "gds".
        """
        return RECIPES[self.recipe].build(runner, self)
