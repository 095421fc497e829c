"""What a user may ask about, and by which probe."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from matchgraph.errors import Error
from matchgraph.graphdb.models import Dataset
from matchgraph.ingest.errors import BadInput, ExtractorMismatch
from matchgraph.ingest.tables.new_dataset import NewFolder, check_same_extractor, target


def test_a_folder_that_is_there_is_a_folder_and_all_else_an_id(tmp_path):
    assert target(tmp_path, "probe") == NewFolder(tmp_path, "probe")
    assert target(str(tmp_path), "probe") == NewFolder(tmp_path, "probe")
    assert target(tmp_path, "probe", "title") == NewFolder(tmp_path, "probe", "title")
    assert target("cats", "probe") == "cats"
    # An empty path would be the working folder.
    assert target("", "probe") == ""


def test_a_new_dataset_needs_the_graphs_extractor():
    known = [Dataset("a", {"extractor": "h1"}, (1.0,)), Dataset("b", {"extractor": "h0"})]
    check_same_extractor(known, "h1", "new")
    check_same_extractor([Dataset("c")], "h9", "new")
    with pytest.raises(ExtractorMismatch, match=r"h0x.*h1 \(1 datasets\).*--probe"):
        check_same_extractor(known, "h0x", "new")


def test_the_column_of_captions_is_chosen_for_a_new_folder_too(tmp_path):
    rows = []
    for number in range(2):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "caption": "short", "prompt": "long"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    with pytest.raises(BadInput, match="'caption' or 'prompt'; name one with --caption-column"):
        NewFolder(tmp_path, str(tmp_path / "no-probe")).measured(None, [])
    # Then the probe is what is missing.
    with pytest.raises(Error, match="no-probe"):
        NewFolder(tmp_path, str(tmp_path / "no-probe"), "prompt").measured(None, [])
