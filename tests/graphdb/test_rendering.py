"""Rows as tables, JSON and CSV."""

from __future__ import annotations

import json

import pytest

from matchgraph.cli.rendering import as_csv, as_json, as_table, for_reading, stdout_console
from matchgraph.words import in_words


def test_values_in_words() -> None:
    node = {"labels": ["MatchGraphModel", "Model"], "properties": {"id": "a"}}
    edge = {"type": "PERFORMS", "properties": {"fid": 0.5, "fid__n_real": 7, "initial_fid": 9.0}}
    assert (
        in_words({"nodes": [node, node], "relationships": [edge]}) == "(:Model a)-[:PERFORMS 0.5]-(:Model a)"
    )
    assert in_words({"labels": [], "properties": {}}) == "()"
    assert in_words({"a": [1, None, True], "b": 1 / 3}) == "a: [1, , true], b: 0.3333"
    assert [in_words(x) for x in (20.07339, 12345.6, 5e-7, float("inf"))] == [
        "20.07",
        "12,346",
        "5e-07",
        "inf",
    ]
    assert in_words("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert in_words(b"1234") == "<4 bytes>"


def test_values_that_json_and_csv_have_no_form_for() -> None:
    node = {"labels": ["A"], "properties": {}}
    rows = [{"x": float("nan"), "y": b"\x00\xff", "z": node, "t": True}]
    assert json.loads(as_json(rows)) == [
        {"x": None, "y": "AP8=", "z": {"labels": ["A"], "properties": {}}, "t": True}
    ]
    assert (
        as_csv(list("xyzt"), rows).splitlines()[1] == ',AP8=,"{""labels"": [""A""], ""properties"": {}}",true'
    )


def test_a_pipe_is_as_wide_as_its_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stdout_console().print(as_table(["name"], [{"name": "[red]" + "long " * 30}]))
    assert "[red]" + "long " * 29 in capsys.readouterr().out


def test_rows_with_maps_are_read_from_top_to_bottom() -> None:
    run = {"id": "r1", "steps": 3}
    rows = [{"metric": "fid", "n": None, "run": run}, {"metric": "kid", "n": 7, "run": run}]
    assert str(for_reading(["metric", "n", "run"], rows)).splitlines() == [
        *("1 of 2", "  metric  fid", "  run", "    id: r1", "    steps: 3", ""),
        *("2 of 2", "  metric  kid", "  n       7", "  run     as above"),
    ]
    node = {"labels": ["A"], "properties": {"id": "a"}}
    assert not isinstance(for_reading(["node"], [{"node": node}]), type(for_reading(["run"], rows)))
