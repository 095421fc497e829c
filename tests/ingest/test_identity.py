"""Which content an id stands for, without a graph."""

from __future__ import annotations

import re

import pytest

from matchgraph.graphdb.models import Model
from matchgraph.ingest.tables.identity import Identity

STORED = {
    "sdxl": Model("sdxl", {"family": "unet"}),  # of a table
    "flux": Model("flux", {"content_hash": "1", "source": "/models/flux"}),
}


@pytest.mark.parametrize(
    ("node", "content", "note"),
    [
        ("alice/sdxl", "2", "the graph also has a model sdxl [(]7 measurements[)].*--id sdxl, or rename it"),
        ("alice/flux", "2", None),  # another model of that name, of which the graph has the files
        ("alice/flux", "1", "alice/flux has the content of flux, which is in the graph as another model"),
        ("sdxl", "2", None),
        ("new", "2", None),
    ],
)
def test_a_node_that_may_be_there_under_another_id_is_named(node: str, content: str, note: str | None):
    found = Identity("model", STORED, {"sdxl": 7}).likely_same(node, content)
    if note is None:
        assert found is None
    else:
        assert re.search(note, found or "")
