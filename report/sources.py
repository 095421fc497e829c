"""What the report reads of the graph: the results by each metric, the datasets as each probe sees them, and
the measurements that were repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import InvalidValue, MixedExtractors
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.predictor.seeds import Replicate, read_replicates
from matchgraph.report.variants import MAIN_VIEW

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Snapshot
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner

HASH_SHOWN = 8


@dataclass(frozen=True)
class View:
    """The graph seen by one metric or through one probe.

    Attributes:
        key: its name in `Sources.snapshots`; empty where it could not be read.
        title: readable title.
        paper: the paper's row to compare with; empty for none.
        note: why it could not be read, or what is particular about it.
    """

    key: str
    title: str
    paper: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Sources:
    """All that a report is made of.

    Attributes:
        snapshots: the graph by view; `MAIN_VIEW` is the one asked for.
        metrics: the views of Table 5, that of the metric asked for first.
        probes: the views of Table 6, the one asked for first.
        replicates: of the metric asked for.
    """

    snapshots: Mapping[str, Snapshot]
    metrics: tuple[View, ...]
    probes: tuple[View, ...]
    replicates: tuple[Replicate, ...]

    @property
    def main(self) -> Snapshot:
        """The graph by the metric asked for."""
        return self.snapshots[MAIN_VIEW]

    @property
    def has_similarities(self) -> bool:
        """Whether any two datasets of the main view were compared."""
        return len(self.main.similar) > 0


def read_sources(graph: MatchingGraph, main: Snapshot, extractors: Sequence[str] = ()) -> Sources:
    """Read the other views of the graph beside the main one.

    Args:
        graph: the graph.
        main: the graph by the metric and the similarity asked for.
        extractors: hashes of extractors to keep to, see `MatchingGraph.snapshot`.

    Returns:
        All there is; a view that is ambiguous has a note that says so.
    """
    runner = graph.runner
    snapshots = {MAIN_VIEW: main}
    metrics = [View(MAIN_VIEW, main.metric.name, main.metric.name, "used everywhere else in this report")]
    defined = [row["name"] for row in runner.read(queries.load("read/metrics"))]
    names = sorted({*KNOWN_METRICS, *defined})
    for row in runner.read(queries.load("predict/metrics"), names=names):
        name = row["name"]
        if name == main.metric.name:
            continue
        try:
            snapshot, note = _by_metric(graph, name, main, extractors)
        except (MixedExtractors, InvalidValue) as error:
            metrics.append(View("", name, name, str(error)))
            continue
        key = f"metric:{name}"
        snapshots[key] = snapshot
        metrics.append(View(key, name, name, note))
    probes = [View(MAIN_VIEW, _probe_title(main), _paper_probe(_probe_title(main)), "used everywhere else")]
    others = [*_other_similarities(graph, runner, main, names), *_other_features(runner, main)]
    for view, seen in others:
        probes.append(view)
        if seen is not None:
            snapshots[view.key] = seen
    return Sources(snapshots, tuple(metrics), tuple(probes), read_replicates(runner, main))


def _by_metric(
    graph: MatchingGraph, name: str, main: Snapshot, extractors: Sequence[str]
) -> tuple[Snapshot, str]:
    """The graph by another metric, with its own similarities, or the main ones where it has none."""
    try:
        found = graph.snapshot(name, None, extractors)
    except InvalidValue:
        # Datasets are compared by several metrics, and by none of this name.
        if main.similarity is None:
            raise
        found = graph.snapshot(name, main.similarity.name, extractors)
    if found.similarity is None or found.similarity.name == name:
        return found, ""
    return found, f"similarities by {found.similarity.name}"


def _other_similarities(
    graph: MatchingGraph, runner: Runner, main: Snapshot, names: Sequence[str]
) -> list[tuple[View, Snapshot | None]]:
    """The same results and features, with the datasets compared in another way."""
    from matchgraph.graphdb.snapshot import NOT_RECORDED

    used = (main.similarity.name if main.similarity else None, main.compared_with)
    views: list[tuple[View, Snapshot | None]] = []
    for row in runner.read(queries.load("predict/similarity-extractors"), names=names):
        extractor = row["extractor"] or NOT_RECORDED
        if (row["name"], extractor) == used:
            continue
        of = "" if extractor == NOT_RECORDED else f" ({extractor[:HASH_SHOWN]})"
        title, paper = f"similarities by {row['name']}{of}", _paper_probe(row["name"])
        results = [name for name in (main.measured_with,) if name is not None]
        try:
            found = graph.snapshot(main.metric.name, row["name"], sorted({extractor, *results}))
        except MixedExtractors as error:
            views.append((View("", title, paper, str(error)), None))
            continue
        snapshot = replace(
            main,
            similar=found.similar,
            similarity=found.similarity,
            compared_with=found.compared_with,
        )
        views.append((View(f"similar:{row['name']}:{extractor}", title, paper), snapshot))
    return views


def _other_features(runner: Runner, main: Snapshot) -> list[tuple[View, Snapshot]]:
    """The same graph, with the mean features of another extractor as the datasets' features."""
    means: dict[str, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for row in runner.read(queries.load("predict/mean-features")):
        vector = tuple(np.frombuffer(row["mean"], dtype="<f8").tolist())
        means[row["extractor"]].setdefault(row["dataset"], vector)
    stored = {dataset.properties.get("extractor") for dataset in main.datasets if dataset.embedding}
    measured = set(main.performs.loc[main.performs["value"].notna(), "dataset"])
    views = []
    for extractor, vectors in sorted(means.items()):
        lengths = {len(vector) for vector in vectors.values()}
        if extractor in stored or len(lengths) > 1 or not measured <= set(vectors):
            continue
        datasets = tuple(
            replace(
                dataset,
                properties={**dataset.properties, "extractor": extractor},
                embedding=vectors.get(dataset.id),
            )
            for dataset in main.datasets
        )
        title = f"features of extractor {extractor[:HASH_SHOWN]}"
        views.append((View(f"features:{extractor}", title), replace(main, datasets=datasets)))
    return views


def _probe_title(main: Snapshot) -> str:
    probes = sorted({str(d.properties["probe"]) for d in main.datasets if d.properties.get("probe")})
    features = f"features of {probes[0]}" if len(probes) == 1 else "features as recorded"
    if not any(dataset.embedding for dataset in main.datasets):
        features = "datasets' attributes"
    by = f", similarities by {main.similarity.name}" if main.similarity else ", no similarities"
    return features + by


def _paper_probe(title: str) -> str:
    """The row of the paper's Table 6 that a probe belongs to, by its name."""
    lowered = title.lower()
    if "imagebind" in lowered:
        return "imagebind"
    if "sentence" in lowered or "t5" in lowered:
        return "sentence-t5"
    return "clip" if "clip" in lowered else ""
