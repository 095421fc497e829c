"""What the graph must not hold cannot be built."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matchgraph.graphdb.checks import check_id, check_metric_name
from matchgraph.graphdb.errors import GraphError, InvalidId, InvalidValue
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Dataset, Metric, Model, Result, Similar, Statistics

HOSTILE_IDS = [
    "back`tick",
    "quo'te\"s",
    "a//b",
    "a/b",
    "\\",
    "{x} $y",
    "日本語 🎨",
    "[red]",
    "é" * 200,
    "a\u0301",
]


@pytest.mark.parametrize("identifier", HOSTILE_IDS)
def test_any_visible_name_is_an_id(identifier: str) -> None:
    assert check_id(identifier, "model") == identifier


@pytest.mark.parametrize(
    "identifier", ["", " \u00a0", "a\nb", "a\x00", "a\u2028b", "\ud800", "x" * 201, 7, None]
)
def test_what_is_no_id_is_refused(identifier: Any) -> None:
    with pytest.raises(InvalidId, match="dataset id"):
        check_id(identifier, "dataset")


@pytest.mark.parametrize("name", ["a", "clip_fid", "kid2", "x" * 41])
def test_metric_names(name: str) -> None:
    assert check_metric_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "FID",
        "2fid",
        "_x",
        "a b",
        "a`b",
        "x" * 42,
        "a__b",
        "a_",
        "value",
        "key",
        "weight",
        "initial_fid",
        3,
    ],
)
def test_what_cannot_name_a_metric(name: Any) -> None:
    with pytest.raises(InvalidValue, match="cannot name a metric"):
        check_metric_name(name)


def test_properties_become_plain_values_of_one_type() -> None:
    model = Model(
        "m",
        {
            "a": np.float32(0.5),
            "b": np.int64(3),
            "c": np.bool_(True),
            "d": [1, 2.5],
            "e": (1, 2),
            "f": None,
            "g": [],
        },
    )
    assert model.properties == {"a": 0.5, "b": 3, "c": True, "d": [1.0, 2.5], "e": [1, 2], "g": []}
    assert [type(value) for value in model.properties.values()] == [float, int, bool, list, list, list]
    with pytest.raises(TypeError):
        model.properties["a"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"x": float("nan")}, "x is nan"),
        ({"x": [1.0, float("inf")]}, r"x\[1\] is inf"),
        ({"x": [1, "a"]}, "mixes int, str"),
        ({"x": [True, 1]}, "mixes bool, int"),
        ({"x": {"a": 1}}, "type dict"),
        ({"x": b"a"}, "type bytes"),
        ({"x": 2**63}, "64 bits"),
        ({"x": "\ud800"}, "surrogate"),
        ({"id": "other"}, "'id'"),
        ({"": 1}, "cannot name a property"),
        ({"a\nb": 1}, "cannot name a property"),
    ],
)
def test_properties_that_cannot_be_stored(properties: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=message) as caught:
        Model("m1", properties)
    assert "'m1'" in str(caught.value)
    assert isinstance(caught.value, GraphError)
    assert isinstance(caught.value, ValueError)


def test_an_embedding_is_one_finite_vector() -> None:
    assert Dataset("d", embedding=np.array([1, 2], dtype=np.float32)).embedding == (1.0, 2.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="number 1 of its embedding is not finite"):
        Dataset("d", embedding=(1.0, float("nan")))
    with pytest.raises(InvalidValue, match=r"shape \(0,\)"):
        Dataset("d", embedding=())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "3", None, True])
def test_a_result_is_a_finite_number(value: Any) -> None:
    with pytest.raises(InvalidValue, match=r"'m1' on dataset 'd1': fid is"):
        Result("m1", "d1", "fid", value)
    with pytest.raises(InvalidValue, match=r"'d1' and 'd2': fid is"):
        Similar("d1", "d2", "fid", value)


def test_a_result_is_of_a_known_stage() -> None:
    with pytest.raises(InvalidValue, match="initial or finetuned"):
        Result("m", "d", "fid", 1, "tuned")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["key", "metric", "N", "a__b", "a_", "a b"])
def test_provenance_names_stay_apart_from_what_an_edge_holds(name: str) -> None:
    with pytest.raises(InvalidValue):
        Result("m", "d", "fid", 1, provenance={name: 1})


def test_a_similarity_has_no_order_and_two_ends() -> None:
    assert Similar("b", "a", "fid", 1).pair == Similar("a", "b", "fid", 1).pair == ("a", "b")
    with pytest.raises(InvalidValue, match="not compared with itself"):
        Similar("a", "a", "fid", 0)


def test_statistics_are_symmetric_and_of_one_dimension() -> None:
    uneven = np.array([[1.0, 0.5 + 1e-12], [0.5, 2.0]])
    statistics = Statistics("d", "e", "r", 10, np.zeros(2), uneven)
    assert np.array_equal(statistics.covariance, statistics.covariance.T)
    assert statistics.dimension == 2
    with pytest.raises(ValueError, match="read-only"):
        statistics.mean[0] = 1
    for n, mean, covariance, message in [
        (1, np.zeros(2), np.eye(2), "at least 2 images"),
        (9, np.zeros(3), np.eye(2), "do not fit"),
        (9, np.zeros(2), np.array([[1.0, 0.2], [0.3, 1.0]]), "not symmetric"),
        (9, np.array([np.nan, 0]), np.eye(2), "NaN"),
    ]:
        with pytest.raises(InvalidValue, match=message):
            Statistics("d", "e", "r", n, mean, covariance)


def test_a_metric_checks_its_range() -> None:
    share = Metric("share", larger_is_better=True, minimum=0, maximum=1)
    assert share.check(0.5, "x") == 0.5
    for value, message in [
        (1.5, "cannot be more than 1"),
        (-0.1, "cannot be less than 0"),
        (np.nan, "finite"),
    ]:
        with pytest.raises(InvalidValue, match=message):
            share.check(value, "x")
    with pytest.raises(InvalidValue, match="not below"):
        Metric("m", minimum=1, maximum=1)


def test_known_metrics_say_their_direction() -> None:
    assert all(
        not KNOWN_METRICS[name].larger_is_better
        for name in ("clip_fid", "fid", "kid", "cmmd", "imagebind_fid")
    )
    assert all(KNOWN_METRICS[name].larger_is_better for name in ("accuracy", "clip_score"))
    # Unbiased estimates may be a little below zero.
    assert KNOWN_METRICS["kid"].check(-1e-4, "kid") == -1e-4
    with pytest.raises(InvalidValue):
        KNOWN_METRICS["clip_fid"].check(-1e-4, "clip_fid")
