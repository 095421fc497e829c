"""A folder of records as the graphs that a prediction sees, one for each metric, without a database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matchgraph.graphdb.errors import UnknownMetric
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Metric, Snapshot
from matchgraph.ingest.tables.records import read_records


def snapshots(folder: Path) -> Mapping[str, Snapshot]:
    """Read a folder of records by each metric of its results.

    Args:
        folder: as `matchgraph graph export` writes it.

    Returns:
        By metric, those first that come first; without metrics of which nothing was measured after
        fine-tuning. Datasets are compared by the same metric, or else by the first that records compare them
        by.

    Raises:
        BadInput: the records have problems, which are named by line.
    """
    import pandas as pd

    records = read_records(folder, _known)
    metrics = {**KNOWN_METRICS, **{metric.name: metric for metric in records.metrics}}
    rows = [(own.metric, own.model, own.dataset, own.stage, own.value) for own in records.results]
    results = pd.DataFrame(rows, columns=["metric", "model", "dataset", "stage", "value"])
    pairs = pd.DataFrame(
        [(own.metric, *own.pair, own.value) for own in records.similar],
        columns=["metric", "dataset", "other", "value"],
    )
    compared_by = list(dict.fromkeys(pairs["metric"]))
    found = {}
    for name in dict.fromkeys(results.loc[results["stage"] == "finetuned", "metric"]):
        own = results[results["metric"] == name].pivot_table(
            index=["model", "dataset"], columns="stage", values="value"
        )
        performs = own.reindex(columns=["finetuned", "initial"]).reset_index()
        performs.columns = ["model", "dataset", "value", "initial"]
        by = name if name in compared_by else next(iter(compared_by), None)
        similar = pairs.loc[pairs["metric"] == by, ["dataset", "other", "value"]]
        found[name] = Snapshot(
            metrics[name],
            tuple(sorted(records.models, key=lambda model: model.id)),
            tuple(sorted(records.datasets, key=lambda dataset: dataset.id)),
            performs.sort_values(["model", "dataset"], ignore_index=True),
            similar.sort_values(["dataset", "other"], ignore_index=True),
            metrics[by] if by else None,
        )
    return found


def _known(name: str) -> Metric:
    if name not in KNOWN_METRICS:
        raise UnknownMetric(f"{name!r} is not a known metric: metrics.csv says which way it goes.")
    return KNOWN_METRICS[name]
