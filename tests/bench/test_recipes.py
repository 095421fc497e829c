"""The choice between recipes never looks at what it is scored on."""

from __future__ import annotations

import numpy as np
import pytest

from bench.candidates import by_order
from bench.recipes import NESTED, Predicted, foretell, nested, read_records, summarised
from bench.zoos import measured_zoo
from graphdb.models import Metric
from predictor.gaussian import GaussianMatcher
from predictor.visibility import loss_matrix


def test_what_is_chosen_depends_on_inner_predictions_alone():
    snapshot = measured_zoo(0, n_datasets=3)
    losses = loss_matrix(snapshot).losses
    names = [dataset.id for dataset in snapshot.datasets]
    right = {name: by_order(losses[:, i]) for i, name in enumerate(names)}
    wrong = {name: by_order(-losses[:, i]) for i, name in enumerate(names)}
    pairs = [(target, other) for target in names for other in names if other != target]
    predicted = {
        "right inside": Predicted(wrong, {pair: right[pair[1]] for pair in pairs}, 0.0),
        "right outside": Predicted(right, {pair: wrong[pair[1]] for pair in pairs}, 0.0),
    }
    rows, chosen = nested(snapshot, predicted)
    assert chosen == {"right inside": 3}
    assert all(row[NESTED] == row["right inside"] for row in rows)
    assert all(row["right outside"]["tau_w"] == pytest.approx(1) for row in rows)
    table = {row["recipe"]: row for row in summarised(rows, {})}
    assert table[NESTED]["tau_w"]["mean"] == pytest.approx(-1)


def test_every_other_dataset_is_foretold_without_the_target_and_itself():
    snapshot = measured_zoo(0, n_datasets=5)
    names = [dataset.id for dataset in snapshot.datasets]
    seen = []

    class Watched(GaussianMatcher):
        def rank(self, visible, datasets, *, explain=False):
            seen.append((set(visible.performs["dataset"]), datasets))
            return super().rank(visible, datasets, explain=explain)

    done = foretell(snapshot, Watched, names[:2], 2, 0)
    assert set(done.outer) == set(names[:2])
    assert set(done.inner) == {(t, other) for t in names[:2] for other in names if other != t}
    for target, asked in zip(names[:2], (seen[:3], seen[3:]), strict=True):
        assert all(target not in visible for visible, _ in asked)
    one, other = names[1], names[3]
    matcher = GaussianMatcher()
    groups = next(datasets for visible, datasets in seen[3:] if other in datasets)
    expected = matcher.rank(snapshot, [one, *groups])[other].prediction.p_best
    assert np.array_equal(done.inner[one, other].p_best, expected)


def test_records_are_read_without_a_database(tmp_path):
    (tmp_path / "models.csv").write_text("model,params\nb,2\na,\n")
    (tmp_path / "datasets.csv").write_text("dataset,images,e0,e1\ny,5,0.5,1\nx,6,1.5,2\n")
    (tmp_path / "results.csv").write_text(
        "model,dataset,metric,stage,value\na,x,clip_fid,finetuned,1\na,x,clip_fid,initial,4\n"
        "a,x,kid,finetuned,9\nb,y,clip_fid,finetuned,3\n"
    )
    (tmp_path / "similarities.csv").write_text("dataset,other,metric,value\ny,x,taste,7\n")
    snapshot = read_records(tmp_path, "clip_fid", None)
    assert [model.id for model in snapshot.models] == ["a", "b"]
    assert "params" not in snapshot.models[0].properties
    assert snapshot.models[1].properties["params"] == 2
    assert snapshot.datasets[0].embedding == (1.5, 2.0)
    assert snapshot.similarity == Metric("taste")
    assert snapshot.similar.iloc[0].tolist() == ["x", "y", 7]
    rows = snapshot.performs.fillna(-1).to_numpy().tolist()
    assert rows == [["a", "x", 1, 4], ["b", "y", 3, -1]]
