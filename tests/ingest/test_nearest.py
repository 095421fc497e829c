"""The nearest datasets are found exactly, and with few distances computed."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.graphdb.models import Dataset, Similar, Statistics
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.upkeep import check
from matchgraph.ingest.tables import nearest
from matchgraph.ingest.tables.nearest import KnownSamples
from matchgraph.predictor.pairs import missing_pairs_note
from matchgraph.stats import sketches
from matchgraph.training.measure.frechet import GaussianStatistics, frechet_distance, gaussian_statistics
from matchgraph.training.measure.scoring import Sample

DIMENSION, STYLES, EACH = 12, 12, 12


def statistics(name: str, style: int, generator: np.random.Generator, images: int = 40) -> Statistics:
    """A dataset of a style: datasets of one style are near, those of others far."""
    of_style = np.random.default_rng(style)
    centre, scales = 4 * of_style.normal(size=DIMENSION), of_style.uniform(0.2, 2, DIMENSION)
    features = centre + generator.normal(size=DIMENSION) + generator.normal(size=(images, DIMENSION)) * scales
    found = gaussian_statistics(features)
    return Statistics(name, "e", "clean", images, found.mean, found.covariance)


def distances(own: Statistics, others: list[Statistics]) -> dict[str, float]:
    return {
        other.dataset: frechet_distance(own.mean, own.covariance, other.mean, other.covariance)
        for other in others
    }


def sample(own: Statistics) -> Sample:
    return Sample(GaussianStatistics(own.n, own.mean, own.covariance))


@pytest.fixture
def known(graph: MatchingGraph, monkeypatch: pytest.MonkeyPatch) -> list[Statistics]:
    """Datasets of several styles, sketched in fewer directions than there are dimensions."""
    monkeypatch.setattr(sketches, "DIRECTIONS", 4)
    monkeypatch.setattr(nearest, "BATCH", 4)
    generator = np.random.default_rng(0)
    # Of few images too, whose covariances have no full rank.
    found = [
        statistics(f"{style}-{number}", style, generator, images=40 if number % 3 else 5)
        for style in range(STYLES)
        for number in range(EACH)
    ]
    graph.save_datasets([Dataset(own.dataset) for own in found], found)
    return found


@pytest.mark.slow
def test_bounds_are_bounds_and_near(known: list[Statistics], graph: MatchingGraph):
    kept = graph.sketches("e")
    assert kept.directions is not None
    assert kept.directions.shape == (DIMENSION, 4)
    own = known[0]
    factor = sketches.projected_factor(own.covariance, kept.directions)
    trace = float(np.trace(own.covariance))
    places = np.arange(len(kept.datasets))
    exact = np.array([distances(own, known)[name] for name in kept.datasets])
    quick = kept.sketches.quick_bounds(own.mean, trace)
    close = kept.sketches.bounds(places, own.mean, trace, factor)
    assert (quick <= exact + 1e-9).all()
    assert (close <= exact + 1e-9).all()
    others = exact > 1e-6
    assert np.median(quick[others] / exact[others]) < np.median(close[others] / exact[others]) < 1


@pytest.mark.parametrize("images", [6, 40])
def test_the_nearest_are_found_with_few_distances(
    known: list[Statistics], graph: MatchingGraph, images: int, monkeypatch: pytest.MonkeyPatch
):
    computed: list[str] = []
    read = KnownSamples.samples
    monkeypatch.setattr(
        KnownSamples, "samples", lambda self, names: read(self, [*names, *(computed.extend(names) or ())])
    )
    samples = KnownSamples(graph, "e")
    for seed in range(3):
        own = statistics("new", seed, np.random.default_rng(100 + seed), images)
        exact = distances(own, known)
        expected = dict(sorted(exact.items(), key=lambda item: item[1])[:5])
        computed.clear()
        found = samples.nearest(sample(own), 5, without="new")
        assert found == pytest.approx(expected)
        assert len(computed) < len(known) / 4
        # A far dataset that this one is near enough to, one that is compared in any case, one left out.
        far = sorted(exact, key=lambda name: exact[name])[-2:]
        radii, always = {far[0]: exact[far[0]] * 1.001, far[1]: 1.0}, [far[1]]
        within = samples.nearest(sample(own), 5, without=min(expected), always=always, radii=radii)
        nearest_others = sorted((v, k) for k, v in exact.items() if k != min(expected))[:5]
        assert within.keys() == {*far, *(name for _, name in nearest_others)}
    assert samples.nearest(sample(own), None, without="new") == pytest.approx(exact)


def test_many_new_datasets_are_not_all_compared_with_each_other(
    known: list[Statistics], graph: MatchingGraph, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nearest, "MOST_FRESH", 3)
    samples = KnownSamples(graph, "e")
    generator = np.random.default_rng(5)
    new = [statistics(f"new {number}", number, generator) for number in range(5)]
    for own in new:
        graph.save_datasets([Dataset(own.dataset)], [own])
        samples.add(own.dataset, sample(own), ["clip_fid"])
    assert {own.dataset for own in new} <= {*samples}
    asked = statistics("asked", 2, generator)
    expected = dict(sorted(distances(asked, [*known, *new]).items(), key=lambda item: item[1])[:5])
    assert "new 2" in expected
    assert samples.nearest(sample(asked), 5, without="asked") == pytest.approx(expected)
    samples.forget("new 2")
    assert "new 2" not in samples.nearest(sample(asked), 5, without="asked")


@pytest.mark.parametrize("style", ['["3-', ""])
def test_statistics_without_a_sketch_are_compared(known: list[Statistics], graph: MatchingGraph, style: str):
    graph.runner.write(
        "MATCH (s:MatchGraphStatistics) WHERE s.key STARTS WITH $style REMOVE s.sketch, s.directions",
        style=style,
    )
    own = statistics("new", 3, np.random.default_rng(7))
    expected = dict(sorted(distances(own, known).items(), key=lambda item: item[1])[:5])
    assert KnownSamples(graph, "e").nearest(sample(own), 5, without="") == pytest.approx(expected)


def test_pairs_that_were_left_out_are_not_missing(graph: MatchingGraph):
    generator = np.random.default_rng(0)
    names = ["a", "b", "c", "d"]
    own = [statistics(name, 0, generator) for name in names]
    searched = [
        Statistics(
            s.dataset, "e", "clean", s.n, s.mean, s.covariance, ("clip_fid",) if s.dataset < "d" else ()
        )
        for s in own
    ]
    pairs = [Similar(*pair, "clip_fid", 1.0, {"extractor": "e"}) for pair in (("a", "b"), ("a", "d"))]
    graph.save_datasets([Dataset(name) for name in names], searched, pairs)
    assert {pair[:2] for pair in check(graph.runner).missing_pairs} == {("b", "d"), ("c", "d")}
    snapshot = graph.snapshot("clip_fid")
    assert snapshot.searched == {"a", "b", "c"}
    note = missing_pairs_note(snapshot, "c")
    assert note is not None
    assert note.startswith("2 of 6 pairs")
    assert "c and d, b and d." in note
    assert missing_pairs_note(snapshot, "d", ["b", "c"]) is None
