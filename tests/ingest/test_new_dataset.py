"""What a user may ask about, and by which probe."""

from __future__ import annotations

import pytest

from matchgraph.graphdb.models import Dataset
from matchgraph.ingest.errors import ExtractorMismatch
from matchgraph.ingest.tables.new_dataset import NewFolder, check_same_extractor, target


def test_a_folder_that_is_there_is_a_folder_and_all_else_an_id(tmp_path):
    assert target(tmp_path, "probe") == NewFolder(tmp_path, "probe")
    assert target(str(tmp_path), "probe") == NewFolder(tmp_path, "probe")
    assert target("cats", "probe") == "cats"
    # An empty path would be the working folder.
    assert target("", "probe") == ""


def test_a_new_dataset_needs_the_graphs_extractor():
    known = [Dataset("a", {"extractor": "h1"}, (1.0,)), Dataset("b", {"extractor": "h0"})]
    check_same_extractor(known, "h1", "new")
    check_same_extractor([Dataset("c")], "h9", "new")
    with pytest.raises(ExtractorMismatch, match=r"h0x.*h1 \(1 datasets\).*--probe"):
        check_same_extractor(known, "h0x", "new")
