"""Typed writes to and reads from the matching graph.

Each write checks all it got before the first statement, is one transaction, and may be repeated: the graph
then is the same as after the first time.

What an edge holds (PERFORMS and SIMILAR alike): `key`; each metric's value under its name; what a value was
measured with, under `<metric>__<name>`. For reading in Neo4j Browser, `metric`, `value` and plain provenance
names repeat those of the edge's default metric (clip_fid if it has that, else the first one recorded), and
`band` (best, good, fair, poor: the quartiles) says how near that value is among all edges of the kind.
`weight` is what walks would follow if they saw the whole graph, see `graphdb.weights`. Both are brought up to
date within the write. PERFORMS holds the pretrained model's values under `initial_<metric>`. Prediction
computes weights by the same functions anew from the edges it may see, so a held-out edge cannot leak through
a stored median.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from graphdb import queries
from graphdb.errors import InvalidValue, MixedExtractors, NodeNotFound, UnknownMetric
from graphdb.metrics import DEFAULT_METRIC, KNOWN_METRICS
from graphdb.models import (
    INITIAL,
    Dataset,
    Metric,
    Model,
    Property,
    Result,
    Similar,
    Snapshot,
    Statistics,
)
from graphdb.queries import did_you_mean
from graphdb.weights import LEAST_WEIGHT, SHARPNESS

if TYPE_CHECKING:
    from graphdb.runner import Runner

T = TypeVar("T")
Statement = tuple[str, dict[str, Any]]

BATCH_ROWS = 2000
# What values are told to be measured with of which no extractor is recorded, as from most tables.
NOT_RECORDED = "not-recorded"
PERFORMS_COLUMNS = ["model", "dataset", "value", "initial"]
SIMILAR_COLUMNS = ["dataset", "other", "value"]


def edge_key(first: str, second: str) -> str:
    """The unique key of an edge: a JSON list, which no two pairs of ids share."""
    return json.dumps([first, second], ensure_ascii=False)


class MatchingGraph:
    """The matching graph of one Neo4j.

    Args:
        runner: the connection; see `graphdb.connection.connect`.

    Source:
        Match & Choose, section 4.3: models and datasets, joined by how well a model does on a dataset and by
        how near two datasets are; models are never joined to each other.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    # -- writes

    def save_models(self, models: Sequence[Model]) -> None:
        """Save models; one that is there gets exactly these properties, its edges stay.

        Raises:
            InvalidValue: two of them have one id but differ.
        """
        rows = [
            {"id": m.id, "properties": {**m.properties, "id": m.id}}
            for m in _distinct(models, lambda m: m.id, "models")
        ]
        self._write(_batched("write/models", rows))

    def save_datasets(
        self,
        datasets: Sequence[Dataset],
        statistics: Sequence[Statistics] = (),
        similar: Sequence[Similar] = (),
        *,
        changed: Collection[str] = (),
    ) -> None:
        """Save datasets with, in the same transaction, statistics of their features and their distances.

        A dataset that is there gets exactly these properties; its edges and other statistics stay.

        Args:
            datasets: the datasets.
            statistics: of these datasets or of ones in the graph; one of the same extractor and resize is
                replaced.
            similar: distances between these datasets or ones in the graph.
            changed: ids of datasets whose images are others now: what extractors measured on them before is
                removed, as far as it is not given anew.

        Raises:
            NodeNotFound: statistics or a distance are of a dataset that is neither given nor in the graph.
            UnknownMetric: a distance's metric is not known.
            InvalidValue: a value is out of its metric's range, or two rows contradict each other.
        """
        datasets = _distinct(datasets, lambda d: d.id, "datasets")
        given = {dataset.id for dataset in datasets}
        described = _distinct(statistics, _statistics_key, "statistics")
        self._check_nodes(
            "dataset",
            {s.dataset: f"statistics[{i}]" for i, s in enumerate(statistics) if s.dataset not in given},
        )
        edges = self._similarity_statements(similar, given)
        rows = [{"id": d.id, "properties": _dataset_properties(d)} for d in datasets]
        forgotten = ("statistics", "distances") if changed else ()
        # Covariances are megabytes: one statement each keeps messages small.
        self._write(
            [
                *_batched("write/datasets", rows),
                *((queries.load(f"write/forget-{what}"), {"ids": sorted(changed)}) for what in forgotten),
                *((queries.load("write/statistics"), {"rows": [_statistics_row(s)]}) for s in described),
                *edges,
            ]
        )

    def save_similarities(self, similar: Sequence[Similar]) -> None:
        """Save distances or similarities between datasets of the graph.

        Raises:
            NodeNotFound, UnknownMetric, InvalidValue: see `save_datasets`.
        """
        self._write(self._similarity_statements(similar, set()))

    def save_results(self, results: Sequence[Result]) -> None:
        """Save how well models do on datasets; a value that is there is replaced with what it was measured
        with.

        Raises:
            NodeNotFound: a model or dataset is not in the graph.
            UnknownMetric: a metric is neither known nor saved with `save_metric`.
            InvalidValue: a value is out of its metric's range, or two rows contradict each other.
        """
        self._runner.write_many(self.result_statements(results))

    def result_statements(self, results: Sequence[Result]) -> list[Statement]:
        """Check results as `save_results` does, for a caller that writes them along with something else.

        Returns:
            The statements that write them, to be run in this order in one transaction.

        Raises:
            NodeNotFound, UnknownMetric, InvalidValue: see `save_results`.
        """
        distinct = _distinct(results, lambda r: (r.model, r.dataset, r.metric, r.stage), "results")
        metrics = self._metrics_of(results, "results")
        self._check_nodes("model", {r.model: f"results[{i}]" for i, r in enumerate(results)})
        self._check_nodes("dataset", {r.dataset: f"results[{i}]" for i, r in enumerate(results)})
        rows = []
        for result in distinct:
            name = INITIAL + result.metric if result.stage == "initial" else result.metric
            rows.append(
                {
                    "key": edge_key(result.model, result.dataset),
                    "model": result.model,
                    "dataset": result.dataset,
                    **_edge_properties(name, result.value, result.provenance),
                }
            )
        return [_lock(), *_edge_statements("results", "PERFORMS", rows, metrics)] if rows else []

    def save_metric(self, metric: Metric) -> None:
        """Define a metric, or repeat its definition.

        Raises:
            InvalidValue: the metric is known, or defined in the graph, with the other direction, or `metric`
                is narrower in range than what the graph knows of it.
        """
        present = self._known_metrics().get(metric.name)
        if present is not None and present.larger_is_better != metric.larger_is_better:
            direction = "larger" if present.larger_is_better else "smaller"
            raise InvalidValue(
                f"{metric.name} is known as a metric of which {direction} is better: choose another name."
            )
        # A definition without a range adds nothing to a known one.
        if present is not None and metric.minimum is None and metric.maximum is None:
            metric = present
        self._write(_batched("write/metrics", [_metric_row(metric)]))

    def clear(self) -> None:
        """Remove everything but the record of the schema."""
        self._runner.write(queries.load("write/clear"))

    # -- reads

    def metric(self, name: str) -> Metric:
        """A metric by name.

        Raises:
            UnknownMetric: it is neither known nor defined in the graph.
        """
        return _require_metric(name, self._known_metrics(), "")

    def require(self, kind: Literal["model", "dataset"], identifier: str) -> None:
        """Make sure that a model or dataset is in the graph.

        Raises:
            NodeNotFound: it is not; the message names the nearest id.
        """
        self._check_nodes(kind, {identifier: ""})

    def models(self) -> list[Model]:
        """All models, sorted by id."""
        rows = (dict(row["properties"]) for row in self._runner.read(queries.load("read/models")))
        return sorted((Model(row.pop("id"), row) for row in rows), key=lambda model: model.id)

    def datasets(self) -> list[Dataset]:
        """All datasets, sorted by id."""
        rows = (dict(row["properties"]) for row in self._runner.read(queries.load("read/datasets")))
        found = (Dataset(row.pop("id"), embedding=row.pop("embedding", None), properties=row) for row in rows)
        return sorted(found, key=lambda dataset: dataset.id)

    def statistics(self, extractor: str) -> list[Statistics]:
        """The statistics by one extractor, sorted by dataset and resize.

        Args:
            extractor: the extractor's hash.
        """
        rows = self._runner.read(queries.load("read/statistics"), extractor=extractor)
        return sorted((_statistics_from(row) for row in rows), key=lambda s: (s.dataset, s.resize))

    def own_statistics(self) -> list[Statistics]:
        """Feature statistics of each dataset by the extractor of its embedding."""
        return [_statistics_from(row) for row in self._runner.read(queries.load("read/own-statistics"))]

    def compared(self, metric: str, extractor: str) -> set[tuple[str, str]]:
        """The pairs of datasets, ids in sorted order, that were compared by a metric of one extractor.

        Args:
            metric: its name.
            extractor: the extractor's hash.
        """
        rows = self._runner.read(queries.load("read/similar"), metric=metric)
        return {
            (min(row["dataset"], row["other"]), max(row["dataset"], row["other"]))
            for row in rows
            if row["extractor"] == extractor
        }

    def snapshot(
        self,
        metric: str = DEFAULT_METRIC,
        similarity: str | None = None,
        extractors: Collection[str] = (),
    ) -> Snapshot:
        """The whole matching graph by one metric.

        Values of one metric by different extractors are different quantities, and are never put together.

        Args:
            metric: the metric of the model-dataset edges.
            similarity: the metric of the dataset-dataset edges; None for `metric` if two datasets were
                compared by it, else for the only one by which any were.
            extractors: hashes of the extractors to keep to, where values of one metric are by several;
                `NOT_RECORDED` for values of which no extractor is recorded.

        Raises:
            UnknownMetric: a metric is not known.
            MixedExtractors: the values are by several extractors, and `extractors` does not choose one.
            InvalidValue: `similarity` is None and several other metrics are there to choose from.
        """
        import pandas as pd

        metrics = self._known_metrics()
        chosen = _require_metric(metric, metrics, "")
        compared_by = self._similarity_metric(metric, similarity, metrics)
        # Edges before nodes: nodes are only ever added, so each edge read finds its nodes below.
        performs = self._runner.read(queries.load("read/performs"), metric=metric)
        similar = (
            self._runner.read(queries.load("read/similar"), metric=compared_by.name) if compared_by else []
        )
        measured_with, compared_with = _extractors(metric, performs, compared_by, similar, set(extractors))
        _keep_to(measured_with, performs)
        return Snapshot(
            metric=chosen,
            models=tuple(self.models()),
            datasets=tuple(self.datasets()),
            performs=_frame(
                pd.DataFrame(
                    [row for row in performs if row["value"] is not None or row["initial"] is not None],
                    columns=PERFORMS_COLUMNS,
                ),
                ["model", "dataset"],
            ),
            similar=_frame(
                _sorted_pairs(
                    pd.DataFrame(
                        [row for row in similar if (row["extractor"] or NOT_RECORDED) == compared_with],
                        columns=SIMILAR_COLUMNS,
                    )
                ),
                ["dataset", "other"],
            ),
            similarity=compared_by,
            measured_with=measured_with,
            compared_with=compared_with,
        )

    # -- checks and statements

    def _write(self, statements: Sequence[Statement]) -> None:
        if statements:
            self._runner.write_many([_lock(), *statements])

    def _known_metrics(self) -> dict[str, Metric]:
        rows = self._runner.read(queries.load("read/metrics"))
        defined = (Metric(r["name"], r["larger_is_better"], r["minimum"], r["maximum"]) for r in rows)
        return {**KNOWN_METRICS, **{metric.name: metric for metric in defined}}

    def _metrics_of(self, rows: Sequence[Result] | Sequence[Similar], what: str) -> list[Metric]:
        known = self._known_metrics()
        taken = {*known, *(INITIAL + name for name in known)}
        used = {}
        for index, row in enumerate(rows):
            where = f"{what}[{index}]"
            metric = used[row.metric] = _require_metric(row.metric, known, f"{where}: ")
            if clash := sorted(taken & row.provenance.keys()):
                raise InvalidValue(
                    f"{where}: the provenance field {clash[0]!r} has the name of a metric: rename it."
                )
            pair = f"model {row.model!r} on" if isinstance(row, Result) else f"dataset {row.other!r} and"
            metric.check(row.value, f"{where} ({pair} dataset {row.dataset!r}): {row.metric}")
        return [used[name] for name in sorted(used)]

    def _check_nodes(self, kind: Literal["model", "dataset"], wanted: Mapping[str, str]) -> None:
        if not wanted:
            return
        rows = self._runner.read(queries.load(f"read/missing-{kind}s"), ids=sorted(wanted))
        if not rows:
            return
        missing = rows[0]["id"]
        where = f"{wanted[missing]}: there" if wanted[missing] else "There"
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        known = [row["id"] for row in self._runner.read(queries.load(f"read/{kind}-ids"))]
        advice = did_you_mean(missing, known) or f". Save {kind}s before what refers to them"
        raise NodeNotFound(f"{where} is no {kind} {missing!r} in the graph{more}{advice}.")

    def _similarity_statements(self, similar: Sequence[Similar], given: set[str]) -> list[Statement]:
        distinct = _distinct(
            similar, lambda s: (s.pair, s.metric), "similar", content=lambda s: (s.value, s.provenance)
        )
        metrics = self._metrics_of(similar, "similar")
        ends = {end: f"similar[{i}]" for i, s in enumerate(similar) for end in s.pair if end not in given}
        self._check_nodes("dataset", ends)
        rows = [
            {
                "key": edge_key(*s.pair),
                "dataset": s.pair[0],
                "other": s.pair[1],
                **_edge_properties(s.metric, s.value, s.provenance),
            }
            for s in distinct
        ]
        return _edge_statements("similarities", "SIMILAR", rows, metrics)

    def _similarity_metric(
        self, metric: str, similarity: str | None, known: Mapping[str, Metric]
    ) -> Metric | None:
        if similarity is not None:
            return _require_metric(similarity, known, "")
        present = [row["name"] for row in self._runner.read(queries.load("read/similarity-metrics"))]
        if metric in present:
            return known[metric]
        if len(present) > 1:
            raise InvalidValue(
                f"Datasets are compared by {', '.join(present)}, not by {metric}: name a similarity."
            )
        return known[present[0]] if present else None


def _extractors(
    metric: str,
    performs: list[dict[str, Any]],
    compared_by: Metric | None,
    similar: list[dict[str, Any]],
    chosen: set[str],
) -> tuple[str | None, str | None]:
    """Return the one extractor of each kind of edge, None where there are no values.

    Raises:
        MixedExtractors: there are several, and `chosen` does not leave one; or the two kinds of edge are by
            one metric but by different extractors.
    """
    results = [row for row in performs if row["value"] is not None]
    initial = [row for row in performs if row["initial"] is not None]
    kinds = [
        (f"Results by {metric}", [row["extractor"] for row in results]
         + [row["initial_extractor"] for row in initial]),
        (f"Similarities by {compared_by.name if compared_by else ''}", [row["extractor"] for row in similar]),
    ]  # fmt: skip
    unknown = chosen - {extractor or NOT_RECORDED for _, used in kinds for extractor in used}
    if unknown:
        raise MixedExtractors(
            f"No value was measured with the extractor {min(unknown)!r}; those there are: "
            f"{'; '.join(_by_extractor(used) for _, used in kinds if used)}."
        )
    kept: list[str | None] = []
    for what, used in kinds:
        counts = Counter(extractor or NOT_RECORDED for extractor in used)
        left = [name for name in counts if len(counts) == 1 or name in chosen]
        if len(counts) > 1 and len(left) != 1:
            raise MixedExtractors(
                f"{what} were measured with different extractors, whose values cannot be compared: "
                f"{_by_extractor(used)}. Keep to one with --measured-with HASH."
            )
        kept.append(left[0] if left else None)
    by_results, by_similarities = kept
    if compared_by is not None and compared_by.name == metric and len({*kept} - {None, NOT_RECORDED}) > 1:
        raise MixedExtractors(
            f"Results by {metric} were measured with the extractor {by_results}, similarities with "
            f"{by_similarities}, and their values cannot be compared: measure both with one, or choose "
            "another metric of similarities with --similarity."
        )
    return by_results, by_similarities


def _keep_to(extractor: str | None, performs: list[dict[str, Any]]) -> None:
    """Take out of rows of results what was measured with another extractor."""
    for row in performs:
        for value, by in (("value", "extractor"), ("initial", "initial_extractor")):
            if (row[by] or NOT_RECORDED) != extractor:
                row[value] = None


def _by_extractor(used: Iterable[str | None]) -> str:
    counts = Counter(extractor or NOT_RECORDED for extractor in used)
    return ", ".join(f"{name} ({counts[name]} values)" for name in sorted(counts))


def _distinct(rows: Sequence[T], key: Any, what: str, content: Any = lambda row: row) -> list[T]:
    first: dict[Any, int] = {}
    for index, row in enumerate(rows):
        earlier = first.setdefault(key(row), index)
        if not _same(content(rows[earlier]), content(row)):
            raise InvalidValue(
                f"{what}[{earlier}] and {what}[{index}] are of the same {key(row)!r} but differ: keep one."
            )
    return [rows[index] for index in first.values()]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Statistics):
        return (
            one.n == other.n
            and np.array_equal(one.mean, other.mean)
            and np.array_equal(one.covariance, other.covariance)
        )
    return one == other


def _require_metric(name: str, known: Mapping[str, Metric], where: str) -> Metric:
    if name not in known:
        near = did_you_mean(name, known)
        raise UnknownMetric(
            f"{where}{name!r} is not a known metric{near}. Define one of your own first, with its direction."
        )
    return known[name]


def _lock() -> Statement:
    return queries.load("write/lock"), {}


def _batched(name: str, rows: Sequence[dict[str, Any]], **params: Any) -> list[Statement]:
    query = queries.load(name)
    starts = range(0, len(rows), BATCH_ROWS)
    return [(query, {"rows": rows[start : start + BATCH_ROWS], **params}) for start in starts]


def _edge_statements(
    name: str, kind: str, rows: Sequence[dict[str, Any]], metrics: Iterable[Metric]
) -> list[Statement]:
    if not rows:
        return []
    keys = [{"key": key} for key in sorted({row["key"] for row in rows})]
    return [
        (queries.load("write/metrics"), {"rows": [_metric_row(metric) for metric in metrics]}),
        *_batched(f"write/{name}", rows),
        *_batched(f"write/{name}-default", keys, default=DEFAULT_METRIC),
        # Results have no use for `least`, which Neo4j does not mind.
        (queries.load(f"write/{name}-weights"), {"sharpness": SHARPNESS, "least": LEAST_WEIGHT}),
        (queries.load("write/bands"), {"type": kind}),
    ]


def _edge_properties(name: str, value: float, provenance: Mapping[str, Property]) -> dict[str, Any]:
    prefix = f"{name}__"
    return {
        "prefix": prefix,
        "properties": {name: value, **{prefix + key: item for key, item in provenance.items()}},
    }


def _metric_row(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "larger_is_better": metric.larger_is_better,
        "minimum": metric.minimum,
        "maximum": metric.maximum,
    }


def _dataset_properties(dataset: Dataset) -> dict[str, Any]:
    embedding = {} if dataset.embedding is None else {"embedding": list(dataset.embedding)}
    return {**dataset.properties, **embedding, "id": dataset.id}


def _statistics_key(statistics: Statistics) -> str:
    return json.dumps([statistics.dataset, statistics.extractor, statistics.resize], ensure_ascii=False)


def _statistics_row(statistics: Statistics) -> dict[str, Any]:
    key = _statistics_key(statistics)
    triangle = statistics.covariance[np.tril_indices(statistics.dimension)]
    return {
        "dataset": statistics.dataset,
        "key": key,
        "properties": {
            "key": key,
            "extractor": statistics.extractor,
            "resize": statistics.resize,
            "n": statistics.n,
            "dim": statistics.dimension,
            "mean": statistics.mean.astype("<f8").tobytes(),
            "covariance": triangle.astype("<f8").tobytes(),
        },
    }


def _statistics_from(row: Mapping[str, Any]) -> Statistics:
    dimension = row["dim"]
    covariance = np.zeros((dimension, dimension))
    lower = np.tril_indices(dimension)
    covariance[lower] = np.frombuffer(row["covariance"], dtype="<f8")
    covariance.T[lower] = covariance[lower]
    mean = np.frombuffer(row["mean"], dtype="<f8")
    return Statistics(row["dataset"], row["extractor"], row["resize"], row["n"], mean, covariance)


def _sorted_pairs(frame: Any) -> Any:
    # The stored direction follows the order of ids in Python, but who wrote it with another tool need not
    # have kept to it.
    swapped = frame["dataset"] > frame["other"]
    frame.loc[swapped, ["dataset", "other"]] = frame.loc[swapped, ["other", "dataset"]].to_numpy()
    return frame


def _frame(frame: Any, keys: list[str]) -> Any:
    numbers = [column for column in frame.columns if column in ("value", "initial")]
    frame[numbers] = frame[numbers].astype("float64")
    frame[keys] = frame[keys].astype("object")
    # Sorted by Python's own order of strings, which is the one that lists of ids have.
    order = sorted(range(len(frame)), key=lambda index: tuple(frame[key].iloc[index] for key in keys))
    return frame.iloc[order].reset_index(drop=True)
