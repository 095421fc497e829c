"""Records as graphs without a database: the direction of a metric, and what datasets are compared by."""

from __future__ import annotations

import pytest

from matchgraph.ingest.tables.matrices import snapshots
from matchgraph.ingest.tables.records import RUN_COLUMNS, RUN_FACTS, RUN_TIMES
from matchgraph.predictor.visibility import loss_matrix


@pytest.fixture
def folder(tmp_path):
    for name, text in {
        "models.csv": "model,size\na,1\nb,2\n",
        "datasets.csv": "dataset,size\nx,1\ny,2\n",
        "metrics.csv": "metric,larger_is_better,minimum,maximum\naccuracy,true,0,1\napart,false,,\n",
        "similarities.csv": "dataset,other,metric,value\nx,y,apart,3\n",
        "results.csv": "model,dataset,metric,stage,value\na,x,accuracy,finetuned,0.9\n"
        "a,x,accuracy,initial,0.2\nb,x,accuracy,finetuned,0.7\na,y,accuracy,initial,0.1\n",
        "runs.csv": ",".join((*RUN_COLUMNS, *RUN_FACTS, *RUN_TIMES)) + "\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_metric_keeps_its_direction(folder):
    from safetensors.numpy import save_file

    save_file({}, folder / "statistics.safetensors", metadata={"statistics": "[]"})
    [(name, snapshot)] = snapshots(folder).items()
    assert name == "accuracy"
    assert snapshot.metric.larger_is_better
    assert loss_matrix(snapshot).losses.tolist() == [[-0.9], [-0.7]]
    assert snapshot.similarity.name == "apart"
    assert snapshot.similar["value"].tolist() == [3]
    assert snapshot.performs["initial"].notna().sum() == 2
