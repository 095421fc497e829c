"""Recipes by name: what each is made of, and what is refused."""

from __future__ import annotations

import pytest

from matchgraph.graphdb.errors import GdsMissing
from matchgraph.graphdb.node2vecplus import Node2VecPlus
from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.ranker import CatBoostRanker, ForestRanker
from matchgraph.predictor.recipes import DEFAULT_RECIPE, RECIPES, build_recipe


def test_the_papers_recipe_with_its_ingredients():
    matcher = build_recipe("paper", embedder="node2vec+", operator="l1", trees=7, seed=3)
    assert isinstance(matcher.embedder, Node2VecPlus)
    assert isinstance(matcher.ranker, CatBoostRanker)
    told = matcher.describe()
    assert told["embedder"]["seed"] == told["ranker"]["seed"] == 3
    assert (told["ranker"]["iterations"], told["rows"]["operator"]) == (7, "l1")
    forest = build_recipe("paper", features="node", ranker="forest")
    assert isinstance(forest.ranker, ForestRanker)
    assert forest.describe()["embedder"] is None
    assert not forest.needs_similarities


# Two values of each ingredient.
OTHERS = {
    "embedder": ("node2vec+", "gds"),
    "ranker": ("catboost", "forest"),
    "features": ("all", "graph"),
    "operator": ("l1", "l2"),
    "trees": (7, 8),
    "seed": (3, 4),
}


@pytest.mark.parametrize("ranker", ["catboost", "forest"])
@pytest.mark.parametrize("features", ["all", "node"])
def test_the_description_tells_every_ingredient(features, ranker):
    fixed = {"embedder": "node2vec+", "features": features, "ranker": ranker}
    for recipe, settings in RECIPES.items():
        # Without the graph nothing is embedded.
        for name in settings.takes - ({"embedder"} if features == "node" else set()):
            given = ({**fixed, name: value} for value in OTHERS[name])
            one, other = (build_recipe(recipe, WithGds(), **each).describe() for each in given)
            assert one != other, (recipe, name)


def test_the_default_is_known():
    assert DEFAULT_RECIPE in RECIPES


@pytest.mark.parametrize(
    "wrong", [{"name": "soup"}, {"embedder": "none"}, {"ranker": "none"}, {"features": "none"}, {}]
)
def test_refuses_what_it_does_not_know(wrong):
    with pytest.raises(InvalidRows, match=r"soup|none|needs a database"):
        build_recipe(**{"name": "paper", **wrong})


class WithGds:
    """A server that has the library."""

    def gds_version(self):
        return "2.13"


class WithoutGds:
    """A server that has no Graph Data Science library."""

    def gds_version(self):
        raise GdsMissing("none")


def test_a_server_without_gds_gets_node2vec_plus_and_says_so():
    matcher = build_recipe("stack", WithoutGds())
    assert isinstance(matcher.paper.embedder, Node2VecPlus)
    assert "node2vec+" in matcher.notes[0]
    assert build_recipe("stack", embedder="node2vec+").notes == ()
    with pytest.raises(GdsMissing):
        build_recipe("paper", WithoutGds())
