"""What the report reads of a real graph: other metrics, other probes, repeated measurements."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from matchgraph.graphdb.models import Metric, Result, Similar, Statistics
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.predictor.seeds import Replicate
from matchgraph.report.sources import read_sources
from matchgraph.report.variants import MAIN_VIEW

REPEATED = """
UNWIND $rows AS row
MATCH (m:MatchGraphModel {id: row.model}) MATCH (d:MatchGraphDataset {id: row.dataset})
CREATE (run:MatchGraphRun {id: row.id, status: row.status, replicate: row.replicate, config: row.config})
SET run[row.metric] = row.value
CREATE (run)-[:OF]->(m) CREATE (run)-[:ON]->(d)
"""


def test_views_and_replicates_of_a_real_graph(graph: MatchingGraph, runner, zoo, save):
    snapshot = zoo(3, 2)
    datasets = [
        replace(d, properties={"probe": "clip-tiny", "extractor": "aaaa"}, embedding=(1.0, float(i)))
        for i, d in enumerate(snapshot.datasets)
    ]
    save(graph, replace(snapshot, datasets=tuple(datasets)))
    graph.save_metric(Metric("score", larger_is_better=True))
    graph.save_results([Result("m0", "d00", "score", 1.0), Result("m1", "d00", "score", 2.0)])
    graph.save_similarities([Similar("d00", "d01", "dinov2_fid", 3.0, {"extractor": "bbbb"})])
    graph.save_datasets(
        [],
        [
            Statistics(d.id, "cccc", "mode", 5, np.array([float(i), 2.0]), np.eye(2))
            for i, d in enumerate(datasets)
        ]
        + [Statistics("d00", "dddd", "mode", 5, np.zeros(3), np.eye(3))],
    )
    runner.write(
        REPEATED,
        rows=[
            {"id": str(i), "model": "m0", "dataset": "d01", "metric": metric, "value": 7.0 + i,
             "status": status, "replicate": replicate, "config": json.dumps({"seed": 4})}
            for i, (metric, status, replicate) in enumerate(
                [("clip_fid", "DONE", True), ("clip_fid", "FAILED", True), ("clip_fid", "DONE", False),
                 ("kid", "DONE", True)]
            )
        ],
    )  # fmt: skip

    # An edge that is the mean over two runs of the ledger.
    graph.save_results([Result("m1", "d01", "clip_fid", 5.0, provenance={"run": "5", "version": "1"})])
    runner.write(
        REPEATED + "SET run.average = row.average",
        rows=[
            {"id": str(5 + i), "model": "m1", "dataset": "d01", "metric": "clip_fid", "value": 4.0 + i,
             "status": "DONE", "replicate": False, "config": json.dumps({"seed": i}), "average": average}
            for i, average in enumerate(["a", "another", "a"])
        ],
    )  # fmt: skip
    # One of another version of the metric than the edge's value.
    runner.write(
        "MATCH (run:MatchGraphRun {id: '5'})-[:OF]->(m), (run)-[:ON]->(d) "
        "CREATE (again:MatchGraphRun {id: '9', status: 'DONE', replicate: false, average: run.average}) "
        "SET again.config = '{\"seed\": 9}', again.clip_fid = 99.0, again.clip_fid__version = '0' "
        "CREATE (again)-[:OF]->(m), (again)-[:ON]->(d)"
    )

    sources = read_sources(graph, graph.snapshot("clip_fid"))

    assert [view.title for view in sources.metrics] == ["clip_fid", "score"]
    score = sources.snapshots[sources.metrics[1].key]
    assert score.metric.larger_is_better
    assert score.performs["value"].tolist() == [1.0, 2.0]
    assert sources.metrics[1].note == "similarities by clip_fid"
    assert [view.title for view in sources.probes] == [
        "features of clip-tiny, similarities by clip_fid",
        "similarities by dinov2_fid (bbbb)",
        "features of extractor cccc",
    ]
    assert sources.probes[0].paper == "clip"
    main, by_dino, by_cccc = (sources.snapshots[view.key] for view in sources.probes)
    assert main is sources.snapshots[MAIN_VIEW] is sources.main
    assert by_dino.similar["value"].tolist() == [3.0]
    assert by_dino.performs.equals(main.performs)
    assert [dataset.embedding for dataset in by_cccc.datasets] == [(0.0, 2.0), (1.0, 2.0), (2.0, 2.0)]
    assert by_cccc.similar.equals(main.similar)
    assert sources.replicates == (
        Replicate("m0", "d01", "4", 7.0),
        Replicate("m1", "d01", "0", 4.0, in_mean=True),
        Replicate("m1", "d01", "2", 6.0, in_mean=True),
    )
    assert sources.has_similarities


def test_results_by_several_extractors_are_named_and_not_mixed(graph: MatchingGraph, zoo, save):
    save(graph, zoo(3, 2))
    graph.save_results(
        [Result("m0", d, "kid", 1.0, provenance={"extractor": e}) for d, e in (("d00", "aa"), ("d01", "bb"))]
    )
    views = read_sources(graph, graph.snapshot("clip_fid")).metrics
    assert views[1].key == ""
    assert "different extractors" in views[1].note
