"""The style sheet for Neo4j Browser."""

from __future__ import annotations

import re
from importlib.resources import files

STYLE = files("matchgraph.cypher").joinpath("graph.grass").read_text(encoding="utf-8")


def test_there_is_no_comment():
    # Browser's parser takes a comment for a part of the next selector, whose rule is then lost.
    assert "/*" not in STYLE
    assert "//" not in STYLE


def test_models_datasets_and_both_kinds_of_edges_have_a_rule():
    selectors = set(re.findall(r"^([\w.]+) \{$", STYLE, flags=re.MULTILINE))
    assert {
        "node.Model",
        "node.Dataset",
        "node.MatchGraph",
        "relationship.PERFORMS",
        "relationship.SIMILAR",
    } <= selectors
    assert STYLE.count("{\n") == len(selectors)
