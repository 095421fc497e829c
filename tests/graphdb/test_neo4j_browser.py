"""What Neo4j Browser is given: short names, the style, and statements to begin with."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from matchgraph.graphdb import queries
from matchgraph.graphdb.browser import BROWSE, address, first_commands, short_names


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["tiny-sdxl", "tiny-sd3"], ["sdxl", "sd3"]),
        (["noto-food", "openmoji-food"], ["noto food", "openmoji food"]),
        (["a/sdxl-base", "b/turbo"], ["sdxl base", "turbo"]),
        # Without their owners these would be one name.
        (["a/sdxl", "b/sdxl"], ["a/sdxl", "b/sdxl"]),
        # Nothing would be left of the first.
        (["tiny", "tiny-sd3"], ["tiny", "tiny sd3"]),
        (["alone-here"], ["alone here"]),
        (["x" * 40, "y"], ["x" * 27 + "…", "y"]),
        (["---", "a/"], ["---", "a/"]),
    ],
)
def test_short_names_stay_apart(ids: list[str], names: list[str]):
    assert list(short_names(ids).values()) == names


@pytest.mark.parametrize("name", queries.names(BROWSE))
def test_statements_draw_no_other_applications_nodes(name: str):
    labels = set(re.findall(r"\(\w+:(\w+)", queries.load(f"{BROWSE}/{name}")))
    assert labels
    assert labels <= {"MatchGraphModel", "MatchGraphDataset"}


def test_the_style_is_one_line_that_browser_reads():
    commands = first_commands()
    configured, _, style = commands.partition("; style ")
    assert configured == "config autoComplete: false"
    rules = json.loads(style)
    assert rules["relationship.BEST"]["shaft-width"] == "8px"
    assert rules["node.Model"]["caption"] == "{matchgraph_name}"
    # neo4j.conf has a value on one line, and takes a backslash away.
    assert not {"\n", "\\"} & {*commands}


def test_the_address_fills_in_server_user_database_and_statement():
    page = address("http://h:7474/browser/", "bolt://h:7687", "a b", "zoo", "MATCH (n)\nRETURN n // 'x' & +")
    given = parse_qs(urlsplit(page).query)
    assert given == {
        "dbms": ["bolt://a%20b@h:7687"],
        "db": ["zoo"],
        "cmd": ["edit"],
        "arg": ["MATCH (n)\nRETURN n // 'x' & +"],
    }
