"""The picture of the graph: ranks within a dataset, who is around whom, and names that stay names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import pytest

from matchgraph.graphdb.models import Dataset, Metric, Model, Snapshot
from matchgraph.ui.network import (
    Node,
    View,
    around,
    colour_of,
    names_of,
    options,
    overview,
    results,
    width_of,
)

HOSTILE = "<img src=x onerror=alert(1)>"
VALUES = {
    ("a", "cats"): 3.0,
    ("b", "cats"): 1.0,
    (HOSTILE, "cats"): 3.0,
    ("a", "dogs"): 2.0,
    ("b", "dogs"): 5.0,
}


def snapshot(*, larger_is_better: bool = False) -> Snapshot:
    rows = [
        {"model": m, "dataset": d, "value": v, "initial": 9.0, "standard_error": 0.1}
        for (m, d), v in VALUES.items()
    ]
    distances = {("cats", "cows"): 1.0, ("cats", "dogs"): 4.0, ("cows", "dogs"): 2.0}
    return Snapshot(
        Metric("clip_fid", larger_is_better=larger_is_better),
        tuple(Model(name, {}) for name in sorted({m for m, _ in VALUES})),
        tuple(Dataset(name, {}, None) for name in ("cats", "cows", "dogs")),
        pd.DataFrame(rows),
        pd.DataFrame([{"dataset": a, "other": b, "value": v} for (a, b), v in distances.items()]),
        Metric("clip_fid", larger_is_better=False),
    )


def ranks(found: pd.DataFrame) -> dict[tuple[str, str], tuple[int, int]]:
    return {(row.model, row.dataset): (row.rank, row.of) for row in found.itertuples()}


def view_of(kind: Literal["model", "dataset"], name: str) -> View:
    return around(snapshot(), results(snapshot()), Node(kind, name))


def test_ranks_are_within_a_dataset_by_the_metrics_direction():
    assert ranks(results(snapshot())) == {
        ("b", "cats"): (1, 3),
        ("a", "cats"): (2, 3),
        (HOSTILE, "cats"): (2, 3),
        ("a", "dogs"): (1, 2),
        ("b", "dogs"): (2, 2),
    }
    found = results(snapshot(larger_is_better=True))
    assert ranks(found)["b", "cats"] == (3, 3)
    assert list(found["value"]) == [3.0, 3.0, 5.0, 2.0, 1.0]


def test_the_whole_shows_winners_and_a_node_all_that_is_around_it():
    whole = overview(results(snapshot()))
    assert [(link.source.name, link.target.name) for link in whole.links] == [("a", "dogs"), ("b", "cats")]
    view = view_of("dataset", "cats")
    assert view.nodes[0] == Node("dataset", "cats")
    assert [link.target.name for link in view.links if link.rank is None] == ["cows", "dogs"]
    assert {link.source.name for link in view.links if link.rank} == {"a", "b", HOSTILE}
    assert [link.rank for link in view_of("model", "b").links] == [1, 2]
    assert Node("dataset", "cows") in names_of(snapshot())


def test_a_graph_without_results_has_nothing_to_show():
    empty = replace(snapshot(), performs=snapshot().performs.head(0))
    assert overview(results(empty)) == View(None, ())


def keys(value: Any) -> Iterator[str]:
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys(child)
    yield from value if isinstance(value, dict) else ()


def test_the_chart_has_names_as_values_only_and_draws_better_ranks_thicker():
    chart = options(view_of("dataset", "cats"))
    json.dumps(chart, allow_nan=False)
    assert all(key.isalpha() for key in keys(chart))
    series = chart["baseOption"]["series"][0]
    assert len({node["id"] for node in series["data"]}) == len(series["data"]) == 6
    widths = [link["lineStyle"]["width"] for link in series["links"][:2]]
    assert widths[0] > widths[1]


@pytest.mark.parametrize("of", [1, 4])
def test_the_scale_of_ranks_has_its_ends(of: int):
    assert (colour_of(1, of), width_of(1, of)) == ("rgb(0, 158, 115)", 5.0)
    if of > 1:
        assert (colour_of(of, of), width_of(of, of)) == ("rgb(176, 184, 194)", 1.0)
