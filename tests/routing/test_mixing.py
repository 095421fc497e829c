"""A mixture of metrics: each in its own standard deviations, as a metric of the graph and of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from matchgraph.graphdb.prompt_models import Score
from matchgraph.routing import mixing
from matchgraph.routing.errors import InvalidScores, NotEnoughScores
from matchgraph.training.errors import ScorerUnavailable
from matchgraph.training.measure.mixture import MixedScore, Mixture, mixtures_in
from matchgraph.training.measure.scorers import load_scorers
from tests.routing import circle


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two metrics of very different scales; the second has no score of one image."""
    one = circle.table(40, metric="beauty")
    other = replace(one, metric="fit", mean=1000 + 100 * one.mean[:, ::-1], scorer="another")
    other.mean[3, 1] = np.nan
    tables = {"beauty": one, "fit": other, "saved": []}
    graph = SimpleNamespace(
        table=tables.__getitem__,
        metrics=lambda: tables.keys() - {"saved"},
        save_scores=lambda scores: tables["saved"].extend(scores),
    )
    monkeypatch.setattr(mixing, "PromptGraph", lambda _: graph)
    return tables


def test_each_metric_counts_in_its_own_standard_deviations(tables: dict[str, Any], tmp_path: Path) -> None:
    mixture, count = mixing.mix(None, tmp_path, "liked", {"beauty": 3, "fit": 1})  # type: ignore[arg-type]
    saved: list[Score] = tables["saved"]
    assert count == len(saved) == 40 * 3 - 1
    rows = tables["beauty"].rows("train")
    expected = np.zeros((40, 3))
    for metric, weight in (("beauty", 0.75), ("fit", 0.25)):
        mean = tables[metric].mean
        expected += weight * (mean - np.nanmean(mean[rows])) / np.nanstd(mean[rows], ddof=1)
    place = {prompt.id: row for row, prompt in enumerate(tables["beauty"].prompts)}
    column = {variant.id: number for number, variant in enumerate(circle.VARIANTS)}
    for score in saved:
        assert score.value == pytest.approx(expected[place[score.prompt], column[score.variant]])
        assert (score.metric, score.scorer, score.samples) == ("liked", mixture.hash, 4)
    assert Mixture.load(mixtures_in(tmp_path)["liked"]) == mixture


def test_what_cannot_be_mixed_is_named(tables: dict[str, Any], tmp_path: Path) -> None:
    def mix(name: str, weights: dict[str, float]) -> None:
        mixing.mix(None, tmp_path, name, weights)  # type: ignore[arg-type]

    with pytest.raises(InvalidScores, match="sharpness is a metric already"):
        mix("sharpness", {"beauty": 1, "fit": 1})
    with pytest.raises(InvalidScores, match="at least two metrics"):
        mix("liked", {"beauty": 1})
    tables["rating"] = replace(tables["beauty"], metric="rating", scorer="given")
    with pytest.raises(InvalidScores, match="rating is a metric already"):
        mix("rating", {"beauty": 1, "fit": 1})
    tables["fit"].mean[:] = 2.0
    with pytest.raises(NotEnoughScores, match="scores of fit on the training prompts have no spread"):
        mix("liked", {"beauty": 1, "fit": 1})
    assert not tables["saved"]


def test_a_mixture_is_defined_again_but_not_mixed(tables: dict[str, Any], tmp_path: Path) -> None:
    parts = {"beauty": 1.0, "fit": 1.0}
    mixture, count = mixing.mix(None, tmp_path / "here", "liked", parts)  # type: ignore[arg-type]
    tables["liked"] = replace(tables["beauty"], metric="liked", scorer=mixture.hash)
    # Records bring its scores into another data folder, but not its definition.
    for folder in ("here", "there"):
        assert mixing.mix(None, tmp_path / folder, "liked", parts)[1] == count  # type: ignore[arg-type]
    other, _ = mixing.mix(None, tmp_path / "here", "liked", parts | {"fit": 2.0})  # type: ignore[arg-type]
    assert other != mixture
    with pytest.raises(InvalidScores, match="liked is a mixture itself"):
        mixing.mix(None, tmp_path / "here", "more", {"liked": 1, "fit": 1})  # type: ignore[arg-type]


def test_images_are_scored_by_the_mixture_that_was_stated(tables: dict[str, Any], tmp_path: Path) -> None:
    mixture, _ = mixing.mix(None, tmp_path, "liked", {"beauty": 1, "fit": 1})  # type: ignore[arg-type]

    def scorer(metric: str, made_by: str) -> Any:
        table = tables[metric]
        return SimpleNamespace(metric=metric, hash=made_by, score=lambda *_: table.mean[:2, 0])

    found = MixedScore(mixture, [scorer("beauty", "scorer"), scorer("fit", "another")]).score([], [])
    places = {prompt.id: row for row, prompt in enumerate(tables["beauty"].prompts)}
    known = {places[score.prompt]: score.value for score in tables["saved"] if score.variant == "m-1"}
    assert found.tolist() == pytest.approx([known[0], known[1]])
    with pytest.raises(
        ScorerUnavailable, match="liked is of scores of fit that other weights or images made"
    ):
        MixedScore(mixture, [scorer("beauty", "scorer"), scorer("fit", "new")])
    # Its parts are loaded by their own names, and these two are of people.
    with pytest.raises(ScorerUnavailable, match=r"no scorer called 'beauty'.*matchgraph route mix"):
        load_scorers(["liked"], "clip", weights=mixtures_in(tmp_path))
