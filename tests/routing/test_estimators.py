"""Estimators learn what there is to learn, leave held-out prompts alone, and survive being saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from matchgraph.graphdb.prompt_models import Neighbour, Prompt, ScoreTable, Split
from matchgraph.routing.errors import NotEnoughScores, UnusableEstimator
from matchgraph.routing.estimators import NearestInGraph, NearestPrompts, averaged, columns
from matchgraph.routing.network import Scale, TokenQuality
from matchgraph.routing.process import GaussianQuality
from matchgraph.training.measure.prompts import EncodedPrompts
from tests.routing import circle


def test_nearest_prompts_are_those_of_the_training_split() -> None:
    splits: list[Split] = ["train", "validation", "train", "test", "train"]
    own = np.eye(5, dtype=np.float32)
    prompts = tuple(Prompt(f"prompt {i}", split, "probe", own[i]) for i, split in enumerate(splits))
    mean = np.arange(15.0).reshape(5, 3)
    table = ScoreTable(
        "clip_score", "scorer", prompts, circle.VARIANTS, mean, np.full((5, 3), 0.1), np.ones((5, 3), int)
    )
    # Each is asked for with a little of the last one, so that held-out ones are nearest to that.
    asked = own + np.float32(0.1) * own[4]
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    encoded = EncodedPrompts(asked)
    found = NearestPrompts(table, 1).estimate(encoded)
    assert (found.quality == mean[[0, 4, 2, 4, 4]]).all()
    assert found.similarity == pytest.approx([asked[0, 0], asked[1, 4], asked[2, 2], asked[3, 4], 1.0])


def test_more_neighbours_average_the_noise_away(scored) -> None:
    table, _ = scored
    angles, fresh = circle.points(300, seed=9)
    errors = [
        np.abs(NearestPrompts(table, count).estimate(fresh).quality - circle.truth(angles)).mean()
        for count in (1, 8, 320)
    ]
    assert errors[1] < 0.6 * errors[0] < errors[2]
    rows = table.rows("train")
    known = np.stack([table.prompts[row].embedding for row in rows])
    nearest = np.argsort(-fresh.embeddings @ known.T, axis=1)[:, :2]
    assert NearestPrompts(table, 2).estimate(fresh).quality == pytest.approx(
        table.mean[rows][nearest].mean(axis=1)
    )
    assert NearestPrompts(table, 10_000).estimate(fresh).quality[0] == pytest.approx(
        table.mean[table.rows("train")].mean(axis=0)
    )


def test_neighbours_of_the_graph_are_averaged_by_candidate() -> None:
    found = [
        Neighbour("a", 0.9, {"m-1": 1.0, "m-4": 2.0}),
        Neighbour("b", 0.5, {"m-1": 3.0, "added since": 7.0}),
    ]
    graph: Any = SimpleNamespace(variants=lambda: circle.VARIANTS, nearest=lambda *_: found)
    estimates = NearestInGraph(graph, "clip_score", 2).estimate(circle.Encoder().encode(["1.0"]))
    assert estimates.quality[0] == pytest.approx([2.0, 2.0, np.nan], nan_ok=True)
    assert estimates.std[0] == pytest.approx([1.0, np.nan, np.nan], nan_ok=True)
    assert estimates.similarity.tolist() == [0.9]
    found.clear()
    with pytest.raises(NotEnoughScores, match="route score"):
        NearestInGraph(graph, "clip_score", 2).estimate(circle.Encoder().encode(["1.0"]))


def test_the_standard_error_is_that_of_the_mean() -> None:
    scores = np.array([[[1.0, np.nan, 5.0], [3.0, np.nan, np.nan], [8.0, np.nan, np.nan]]])
    found = averaged(scores, np.array([0.9]))
    assert found.quality[0] == pytest.approx([4.0, np.nan, 5.0], nan_ok=True)
    assert found.std[0] == pytest.approx([np.sqrt(13 / 3), np.nan, np.nan], nan_ok=True)


def test_a_new_candidate_changes_nothing_of_the_others(scored) -> None:
    table, _ = scored
    _, fresh = circle.points(50, seed=9)
    without = replace(table, mean=table.mean[:, :2], variants=table.variants[:2])
    before, after = NearestPrompts(without).estimate(fresh), NearestPrompts(table).estimate(fresh)
    assert np.array_equal(before.quality, after.quality[:, :2])


def test_the_process_solves_its_equations(scored) -> None:
    """Mean and error worked out by Rasmussen and Williams' formulas, with the kernel as cosines have it."""
    table, encoded = scored
    angles, fresh = circle.points(50, seed=9)
    rows = table.rows("train")
    own = GaussianQuality.fit(table, concentration=4.0, noise=0.3)
    known, asked = encoded.embeddings[rows].astype(float), fresh.embeddings.astype(float)
    within = np.exp(4 * (known @ known.T - 1)) + 0.3 * np.eye(len(known))
    beside = np.exp(4 * (asked @ known.T - 1))
    mean = table.mean[rows].mean(axis=0)
    weights = np.linalg.solve(within, table.mean[rows] - mean)
    scale = np.sqrt(((table.mean[rows] - mean) * weights).sum(axis=0) / len(rows))
    left = 1 - (beside * np.linalg.solve(within, beside.T).T).sum(axis=1)
    found = own.estimate(fresh)
    assert found.quality == pytest.approx(mean + beside @ weights, abs=1e-6)
    assert found.std == pytest.approx(np.sqrt(left)[:, None] * scale, abs=1e-6)
    assert np.abs(found.quality - circle.truth(angles)).mean() < 0.05
    assert found.similarity == pytest.approx((fresh.embeddings @ encoded.embeddings[rows].T).max(axis=1))


def test_a_process_of_one_candidate(scored) -> None:
    table, _ = scored
    _, fresh = circle.points(50, seed=9)
    alone = replace(table, mean=table.mean[:, :1], variants=table.variants[:1])
    whole, found = (GaussianQuality.fit(each).estimate(fresh) for each in (table, alone))
    assert found.quality == pytest.approx(whole.quality[:, :1])
    assert found.std == pytest.approx(whole.std[:, :1])


def test_a_candidate_alone_changes_nothing_of_the_others_in_a_process(scored) -> None:
    table, _ = scored
    _, fresh = circle.points(50, seed=9)
    whole = GaussianQuality.fit(table).estimate(fresh)
    without = replace(table, mean=table.mean[:, :2], variants=table.variants[:2])
    assert GaussianQuality.fit(without).estimate(fresh).quality == pytest.approx(whole.quality[:, :2])
    # One that is not scored is not known; one scored in part is average elsewhere.
    partial = table.mean.copy()
    partial[:, 1] = np.nan
    partial[table.rows("train")[:100], 2] = np.nan
    found = GaussianQuality.fit(replace(table, mean=partial)).estimate(fresh)
    assert np.isnan(found.quality[:, 1]).all()
    assert np.isnan(found.std[:, 1]).all()
    assert found.quality[:, 0] == pytest.approx(whole.quality[:, 0])
    assert not np.isnan(found.quality[:, 2]).any()


def test_a_saved_process_is_the_same(scored, tmp_path: Path) -> None:
    table, _ = scored
    _, fresh = circle.points(50, seed=9)
    own = GaussianQuality.fit(table, concentration=2.0, noise=0.5)
    own.save(tmp_path / "process.safetensors")
    read = GaussianQuality.load(tmp_path / "process.safetensors")
    assert np.array_equal(read.estimate(fresh).quality, own.estimate(fresh).quality)
    assert np.array_equal(read.estimate(fresh).std, own.estimate(fresh).std)
    with pytest.raises(UnusableEstimator, match="format"):
        TokenQuality.load(tmp_path / "process.safetensors")
    (tmp_path / "process.safetensors").write_bytes(b"short")
    with pytest.raises(UnusableEstimator, match="route fit"):
        GaussianQuality.load(tmp_path / "process.safetensors")


@pytest.mark.slow
def test_the_network_learns_and_knows_its_error(scored) -> None:
    table, encoded = scored
    angles, fresh = circle.points(300, seed=9)
    estimator = TokenQuality.fit(table, encoded, seed=1)
    found = estimator.estimate(fresh)
    assert np.abs(found.quality - circle.truth(angles)).mean() < 0.1
    residual = np.sqrt(((found.quality - circle.truth(angles)) ** 2).mean(axis=0) + 0.1**2)
    assert found.std[0] == pytest.approx(residual, rel=0.3)
    again = TokenQuality.fit(table, encoded, seed=1).estimate(fresh)
    assert np.array_equal(found.quality, again.quality)
    other = TokenQuality.fit(table, encoded, seed=2).estimate(fresh)
    assert not np.array_equal(found.quality, other.quality)


def test_held_out_prompts_and_padding_do_not_reach_the_network(scored) -> None:
    table, encoded = scored
    _, fresh = circle.points(20, seed=9)
    plain = TokenQuality.fit(table, encoded).estimate(fresh).quality
    changed = table.mean.copy()
    changed[table.rows("test")] = 77.0
    assert np.array_equal(
        plain, TokenQuality.fit(replace(table, mean=changed), encoded).estimate(fresh).quality
    )
    tokens = encoded.tokens.copy()
    tokens[~encoded.mask] = -3.0
    padded = replace(encoded, tokens=tokens)
    assert np.array_equal(plain, TokenQuality.fit(table, padded).estimate(fresh).quality)


def test_scores_that_are_missing_are_learnt_around(scored) -> None:
    table, encoded = scored
    angles, fresh = circle.points(200, seed=9)
    mean = table.mean.copy()
    mean[np.random.default_rng(3).uniform(size=mean.shape) < 0.5] = np.nan
    holes = replace(table, mean=mean)
    for estimator in (NearestPrompts(holes, 16), TokenQuality.fit(holes, encoded)):
        assert np.abs(estimator.estimate(fresh).quality - circle.truth(angles)).mean() < 0.2


def test_a_saved_network_is_the_same(scored, tmp_path: Path) -> None:
    table, encoded = scored
    _, fresh = circle.points(20, seed=9)
    estimator = TokenQuality.fit(table, encoded, epochs=2)
    path = tmp_path / "quality.safetensors"
    estimator.save(path)
    loaded = TokenQuality.load(path)
    one, other = estimator.estimate(fresh), loaded.estimate(fresh)
    for name in ("quality", "std", "similarity"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert (loaded.metric, loaded.variants, loaded.probe) == ("clip_score", estimator.variants, "probe")


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_what_is_no_estimator_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnusableEstimator, match=r"broken\.safetensors is not a saved estimator"):
        TokenQuality.load(path)


def test_no_scores_no_estimator(scored) -> None:
    table, encoded = scored
    empty = replace(table, mean=np.full_like(table.mean, np.nan))
    with pytest.raises(NotEnoughScores, match="training prompt"):
        NearestPrompts(empty)
    with pytest.raises(NotEnoughScores, match="No train prompt"):
        TokenQuality.fit(empty, encoded)


def test_a_scale_without_a_spread_is_no_division_by_zero() -> None:
    scale = Scale.of(np.array([2.0, 2.0, np.nan]))
    assert scale.to_unit(np.array([2.0, 3.0, 9.0])).tolist() == [0.0, 1.0, 1.0]
    assert scale.from_unit(scale.to_unit(np.array([2.5]))).tolist() == [2.5]


def test_columns_come_in_the_order_asked_for() -> None:
    found = columns(np.array([[1.0, 2.0]]), ["a", "b"], ["b", "c", "a"])
    assert found[0] == pytest.approx([2.0, np.nan, 1.0], nan_ok=True)
