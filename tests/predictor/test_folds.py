"""Which datasets are held out, and what of a method is scored on each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from matchgraph.predictor.baselines import Baseline
from matchgraph.predictor.folds import METHOD, evaluate_fold, held_out_datasets
from matchgraph.predictor.recipes import Method


def test_two_datasets_of_two_models_are_enough(zoo):
    snapshot = zoo(n_datasets=3)
    performs = snapshot.performs[snapshot.performs["model"].isin(["m0", "m1"])]
    few = performs[(performs["dataset"] != "d02") | (performs["model"] == "m0")]
    assert held_out_datasets(replace(snapshot, performs=few), needs_similarities=True) == (
        ["d00", "d01"],
        {"d02": "1 measured model: nothing to rank"},
    )


def test_a_baseline_is_scored_by_what_it_ranks_and_left_out_where_that_is_nothing(zoo):
    snapshot = zoo(n_datasets=3)
    some, none = np.full((2, len(snapshot.models)), np.nan)
    some[0] = 1.0
    baselines = (
        Baseline("some", "Some", lambda *_: some),
        Baseline("none", "None", lambda *_: none),
    )
    fold = evaluate_fold(snapshot, "d00", Method(recipe="gaussian").build(None), baselines=baselines)
    assert fold.scores.keys() == {METHOD, "some"}
    assert fold.scores["some"].selected == (snapshot.models[0].id,)
