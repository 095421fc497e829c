"""Tables made of folds whose figures can be worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Snapshot
from matchgraph.predictor.recipes import PAPER
from matchgraph.report.comparison_sections import (
    inputs_section,
    metrics_section,
    rankers_section,
    selection_section,
)
from matchgraph.report.comparisons import Comparison, Row, inputs, rankers, selection, views
from matchgraph.report.sources import View
from matchgraph.report.sparsity import sparsity, sparsity_section
from matchgraph.report.variants import Outcome
from tests.report.conftest import rows_of

RANDOM = [1 / 3] * 10


def row(table: Comparison, key: str) -> Row:
    return next(row for row in table.rows if row.key == key)


def test_selection_averages_seeds_within_datasets_and_tests_over_datasets(outcome):
    always, never = [1.0] * 10, [0.0] * 10
    half = [1.0] * 5 + [0.0] * 5
    outcomes = {
        (PAPER, 0): outcome(method=always, average_value=never, average_rank=never, random=RANDOM),
        (PAPER, 1): outcome(method=half, average_value=never, average_rank=never, random=RANDOM),
    }
    table = selection(outcomes)
    method, overall = row(table, PAPER), row(table, "average_rank")
    assert table.folds == 10
    assert table.seeds == (0, 1)
    assert method.figures["osr"].value == pytest.approx(0.75)
    assert method.figures["osr"].count == 10
    assert method.between_seeds["osr"] == pytest.approx(0.5 / math.sqrt(2))
    # Ten datasets, all in favour: both signs of 2^10.
    assert overall.p_value["osr"] == pytest.approx(2 / 1024)
    assert not method.p_value
    assert method.paper["osr"] == 0.613
    assert row(table, "initial").note == "no values from before fine-tuning are recorded"
    oracle = row(table, "oracle").figures
    assert (oracle["osr"].value, oracle["tau_w"].value, oracle["o2o"].value) == (1, 1, 0)
    # The model best on average is 1 behind the best one in each fold, so who knows the truth leads it by 1.
    assert oracle["o2b"].value == pytest.approx(-1)

    section = selection_section(table, models=3)
    assert "chose the best of 3 models on 75.0 % of 10 held-out datasets" in section.lead
    assert "clearly more often than Overall (average rank) (0.0 %, p = 0.002)" in section.also
    # The order was made the same for all.
    assert "Its whole order (τ_w) agrees not clearly more or less than" in section.also
    rows = {row["key"]: row for row in rows_of(section.tables[0])}
    shown = rows[PAPER]
    assert (float(shown["osr"]), float(shown["tau_w"]), shown["osr_p"]) == (0.75, 0.5, "")
    assert float(shown["osr_low"]) == method.figures["osr"].low < method.figures["osr"].high
    assert float(shown["osr_high"]) == method.figures["osr"].high
    # Half of the seeds' picks miss by 1 on half of the datasets, the model best on average always by 1.
    assert (float(shown["o2b"]), float(shown["o2o"])) == (-0.75, 0.25)
    assert (shown["paper_osr"], shown["paper_tau_w"]) == ("0.613", "0.51")
    assert float(rows["average_rank"]["osr_p"]) == overall.p_value["osr"]
    assert float(shown["osr_seeds"]) == method.between_seeds["osr"]


def test_selection_keeps_to_the_datasets_that_all_have(outcome):
    outcomes = {
        (PAPER, 0): outcome(method=[1.0, 0.0, 1.0], average_value=[0.0] * 3, average_rank=[0.0] * 3),
        (PAPER, 1): outcome(method=[1.0, 0.0], average_value=[0.0] * 2, average_rank=[0.0] * 2),
    }
    table = selection(outcomes)
    assert table.folds == 2
    assert row(table, PAPER).figures["osr"].value == pytest.approx(0.5)


def test_selection_without_folds_says_why():
    row = selection({(PAPER, 0): Outcome(failure="No dataset has a similarity.")}).rows[0]
    assert not row.figures
    assert row.note == "No dataset has a similarity."


def test_inputs_compares_parts_with_the_whole(outcome):
    table = inputs(
        {
            (PAPER, "all", 0): outcome(method=[1.0] * 8),
            (PAPER, "node", 0): outcome(method=[0.0] * 8),
            (PAPER, "graph", 0): Outcome(failure="no graph"),
        }
    )
    assert [row.title for row in table.rows] == ["Both", "Model and dataset features", "Graph embeddings"]
    assert row(table, f"{PAPER}:node").p_value["osr"] == pytest.approx(2 / 256)
    assert row(table, f"{PAPER}:graph").note == "no graph"
    assert row(table, f"{PAPER}:node").paper == {"osr": 0.484, "tau_w": 0.46}
    lead = inputs_section(table).lead
    assert lead == "Both: OSR 100.0 %, τ_w 0.50; Model and dataset features: OSR 0.0 %, τ_w 0.50."


def test_views_scale_by_the_range_of_values_and_tell_what_could_not_be_read(outcome):
    performs = pd.DataFrame(
        {"model": ["a", "b"], "dataset": ["d", "d"], "value": [3.0, 7.0], "initial": [None] * 2}
    )
    snapshot = Snapshot(KNOWN_METRICS["kid"], (), (), performs, pd.DataFrame())
    known = (View("metric:kid", "kid", "kid"), View("", "fid", "fid", "by several extractors"))
    table = views(
        known,
        {(PAPER, "metric:kid", 0): outcome(method=[0.0] * 4, average_rank=[1.0] * 4)},
        {"metric:kid": snapshot},
        "table5",
    )
    # A miss is 1 behind, of a range of 4.
    assert table.rows[0].figures["o2o"].value == pytest.approx(0.25)
    assert table.rows[0].figures["osr"].value == 0
    assert table.rows[1].note == "by several extractors"
    assert table.rows[1].paper["osr"] == 0.379
    # Four datasets are too few for a clear difference, whatever it is.
    assert metrics_section(table, alone=False).lead == (
        "kid has the highest OSR: 0.0 %, τ_w 0.50; not clearly more or less than the best average rank "
        "(p = 0.125)."
    )


def test_rankers_have_the_papers_rows(outcome):
    outcomes = {(name, 0): outcome(method=[1.0, 0.0]) for name in ("svc", "mlp", "forest", "catboost")}
    outcomes["xgboost", 0] = Outcome(failure="No module named 'xgboost'. It is needed for this row only.")
    table = rankers(outcomes)
    assert [row.key for row in table.rows] == ["svc", "mlp", "forest", "xgboost", "catboost"]
    assert "No module named" in row(table, "xgboost").note
    assert row(table, "catboost").paper == {"osr": 0.613, "tau_w": 0.51}
    assert not row(table, "catboost").p_value
    assert rankers_section(table).lead == (
        "SVC has the highest OSR: 50.0 %, τ_w 0.50; not clearly more or less than CatBoost (p = 1.000)."
    )


def test_sparsity_finds_from_where_on_chance_does_as_well(outcome):
    good, poor = [1.0] * 10, [1.0] * 4 + [0.0] * 6
    outcomes = {
        (PAPER, share, 0): outcome(method=good if share < 0.5 else poor, average_rank=poor, random=RANDOM)
        for share in (0.0, 0.4, 0.5, 0.9)
    }
    study = sparsity(outcomes)
    assert study.removed == (0.0, 0.4, 0.5, 0.9)
    assert study.lost_at == 0.5
    assert [point.value for point in study.series[0].figures["osr"]] == pytest.approx([1, 1, 0.4, 0.4])
    assert [series.key for series in study.series] == [PAPER, "average_rank", "random"]
    section = sparsity_section(study)
    assert "on 100.0 % of the datasets; with 90 % of them removed, on 40.0 %." in section.lead
    assert "From 50 % on it is not clearly above chance" in section.lead
    row = rows_of(section.tables[0])[2]
    shown = [float(row[name]) for name in ("removed", f"{PAPER}_osr", "average_rank_osr", "random_osr")]
    assert shown == pytest.approx([0.5, 0.4, 0.4, 1 / 3])
    assert float(row[f"{PAPER}_tau_w"]) == 0.5
    always = {key: outcome(method=good, average_rank=poor, random=RANDOM) for key in outcomes}
    assert sparsity(always).lost_at is None
