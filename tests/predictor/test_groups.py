"""Groups of datasets that are held out together, and evaluations with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.gaussian import GaussianMatcher
from matchgraph.predictor.groups import groups_of
from tests.predictor.zoos import measured_zoo

AVERAGE = tuple(own for own in BASELINES if own.key in ("average_rank", "random"))


def test_styles_and_categories_from_ids_or_properties(zoo):
    snapshot = measured_zoo(0, n_datasets=12)
    styles, categories = groups_of(snapshot, "style"), groups_of(snapshot, "category")
    assert all(f"{styles[own.id]}-{categories[own.id]}" == own.id for own in snapshot.datasets)
    datasets = tuple(
        replace(own, properties={"style": "new"} if number < 4 else {})
        for number, own in enumerate(snapshot.datasets)
    )
    groups = groups_of(replace(snapshot, datasets=datasets), "style")
    assert [groups[own.id] == "new" for own in snapshot.datasets] == [True] * 4 + [False] * 8
    for kind in ("style", "category", "colour"):
        with pytest.raises(InvalidRows, match=kind):
            groups_of(zoo(), kind)


def test_clusters_are_kinds_of_datasets(zoo):
    groups = groups_of(zoo(n_datasets=18), "cluster")
    kinds = [{groups[f"d{i:02d}"] for i in range(kind, 18, 3)} for kind in range(3)]
    assert [len(kind) for kind in kinds] == [1, 1, 1]
    assert len(set.union(*kinds)) == 3


class Seeing(GaussianMatcher):
    """Keeps which datasets had results."""

    def rank(self, visible, datasets, **options):
        self.seen = getattr(self, "seen", {})
        known = set(visible.performs["dataset"])
        self.seen |= dict.fromkeys(datasets, known)
        return super().rank(visible, datasets, **options)


def test_a_group_is_out_of_sight_and_what_measuring_gives(zoo):
    snapshot = zoo(n_datasets=12)
    matcher = Seeing()
    found = evaluate(snapshot, matcher, baselines=AVERAGE, hold_out="cluster", measure=2)
    assert found.provenance["hold_out"] == "cluster"
    groups = groups_of(snapshot, "cluster")
    for dataset, known in matcher.seen.items():
        assert known == {other for other, group in groups.items() if group != groups[dataset]}
    method, average, random = found.shortlists
    assert (method.key, method.measured, average.key) == ("method", 2, "average_rank")
    # Two of six models, drawn at random.
    assert random.osr.value == pytest.approx(1 / 3)
    alone = evaluate(snapshot, matcher, baselines=AVERAGE, measure=2)
    assert alone.shortlists[0].osr.value > method.osr.value
    assert alone.to_dict()["shortlists"][0]["regret"]["mean"] == alone.shortlists[0].regret.value
