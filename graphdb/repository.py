"""Typed writes to and reads from the matching graph.

Each write checks all it got before the first statement, is one transaction, and may be repeated: the graph
then is the same as after the first time. Only more edges than a server of the default heap can hold in one
transaction are written in several; where that is cut short, a part of them is there, and repeating the write
completes it.

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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import InvalidValue, MixedExtractors, NodeNotFound, UnknownMetric
from matchgraph.graphdb.metrics import DEFAULT_METRIC, KNOWN_METRICS
from matchgraph.graphdb.models import (
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
from matchgraph.graphdb.queries import did_you_mean
from matchgraph.graphdb.weights import LEAST_WEIGHT, SHARPNESS

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.runner import Runner

T = TypeVar("T")
Statement = tuple[str, dict[str, Any]]

BATCH_ROWS = 2000
# A transaction is held in the heap of the server until it ends: this many edges, with weights and bands, take
# about 100 MB of the 1 GB that the managed server has by default.
TRANSACTION_EDGES = 50_000
# What values are told to be measured with of which no extractor is recorded, as from most tables.
NOT_RECORDED = "not-recorded"
PERFORMS_COLUMNS = ["model", "dataset", "value", "initial"]
SIMILAR_COLUMNS = ["dataset", "other", "value"]
# The column that says what extractor a value was measured with.
VALUES_BY = {"value": "extractor", "initial": "initial_extractor"}


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

    @property
    def runner(self) -> Runner:
        """The connection."""
        return self._runner

    # -- writes

    def save_models(self, models: Sequence[Model], *, replaced: Collection[str] = ()) -> None:
        """Save models; one that is there gets exactly these properties, its edges stay.

        Args:
            models: the models.
            replaced: ids of models whose content is another now: what was measured with them is removed.

        Raises:
            InvalidValue: two of them have one id but differ.
        """
        rows = [
            {"id": m.id, "properties": {**m.properties, "id": m.id}}
            for m in _distinct(models, lambda m: m.id, "models")
        ]
        self._write([*_forgotten("write/forget-model-results", replaced), *_batched("write/models", rows)])

    def save_datasets(
        self,
        datasets: Sequence[Dataset],
        statistics: Sequence[Statistics] = (),
        similar: Sequence[Similar] = (),
        *,
        changed: Collection[str] = (),
        replaced: Collection[str] = (),
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
            replaced: ids of datasets of which results and runs are removed too.

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
        edges = self._checked_similarities(similar, given)
        rows = [{"id": d.id, "properties": _dataset_properties(d)} for d in datasets]
        # Covariances are megabytes: one statement each keeps messages small.
        self._save_edges(
            edges,
            [
                *_batched("write/datasets", rows),
                *_forgotten("write/forget-statistics", changed),
                *_forgotten("write/forget-distances", changed),
                *_forgotten("write/forget-dataset-results", replaced),
                *((queries.load("write/statistics"), {"rows": [_statistics_row(s)]}) for s in described),
            ],
        )

    def save_similarities(self, similar: Sequence[Similar]) -> None:
        """Save distances or similarities between datasets of the graph.

        Raises:
            NodeNotFound, UnknownMetric, InvalidValue: see `save_datasets`.
        """
        self._save_edges(self._checked_similarities(similar, set()))

    def save_results(self, results: Sequence[Result]) -> None:
        """Save how well models do on datasets; a value that is there is replaced with what it was measured
        with.

        Raises:
            NodeNotFound: a model or dataset is not in the graph.
            UnknownMetric: a metric is neither known nor saved with `save_metric`.
            InvalidValue: a value is out of its metric's range, or two rows contradict each other.
        """
        self._save_edges(self._checked_results(results))

    def result_statements(self, results: Sequence[Result]) -> list[Statement]:
        """Check results as `save_results` does, for a caller that writes them along with something else.

        Returns:
            The statements that write them, to be run in this order in one transaction.

        Raises:
            NodeNotFound, UnknownMetric, InvalidValue: see `save_results`.
        """
        edges = self._checked_results(results)
        return [_lock(), *edges.statements()] if edges else []

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

    def measured(self, kind: Literal["model", "dataset"]) -> dict[str, int]:
        """Count the results, scores and finished runs of models or datasets; ids without any are left out."""
        return {
            row["id"]: row["measured"] for row in self._runner.read(queries.load(f"read/measured-{kind}s"))
        }

    def models(self) -> list[Model]:
        """All models, sorted by id."""
        return self._models("read/models")

    def _models(self, query: str) -> list[Model]:
        rows = (dict(row["properties"]) for row in self._runner.read(queries.load(query)))
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
        similar = self._edges_by("similar", metric, ["other", "value"], ["extractor"])
        measured = similar[similar["extractor"] == extractor]
        return {(min(pair), max(pair)) for pair in zip(measured["dataset"], measured["other"], strict=True)}

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
        metrics = self._known_metrics()
        chosen = _require_metric(metric, metrics, "")
        compared_by = self._similarity_metric(metric, similarity, metrics)
        # Edges before nodes: nodes are only ever added, so each edge read finds its nodes below.
        performs = self._edges_by(
            "performs", metric, ["model", "value", "initial"], ["extractor", "initial_extractor"]
        )
        similar = self._edges_by(
            "similar", compared_by.name if compared_by else metric, ["other", "value"], ["extractor"]
        )
        measured_with, compared_with = _extractors(metric, performs, compared_by, similar, set(extractors))
        for value, by in VALUES_BY.items():
            performs[value] = performs[value].where(performs[by] == measured_with)
        performs = performs[performs[["value", "initial"]].notna().any(axis=1)]
        similar = similar[similar["extractor"] == compared_with]
        return Snapshot(
            metric=chosen,
            models=tuple(self._models("read/candidates")),
            datasets=tuple(self.datasets()),
            performs=_in_order(performs[PERFORMS_COLUMNS], ["model", "dataset"]),
            similar=_in_order(_sorted_pairs(similar[SIMILAR_COLUMNS]), ["dataset", "other"]),
            similarity=compared_by,
            measured_with=measured_with,
            compared_with=compared_with,
        )

    def _edges_by(
        self, kind: str, metric: str, columns: Sequence[str], extractors: Sequence[str]
    ) -> pd.DataFrame:
        """The edges of one kind by one metric, with the extractor of each value, in no order."""
        import pandas as pd

        answer = self._runner.read(queries.load(f"read/{kind}"), metric=metric)
        frame = pd.DataFrame(
            [(group["dataset"], *edge) for group in answer for edge in group["edges"]],
            columns=["dataset", *columns, *extractors],
            dtype=object,
        )
        numbers = [column for column in columns if column in VALUES_BY]
        frame[numbers] = frame[numbers].astype("float64")
        frame[list(extractors)] = frame[list(extractors)].fillna(NOT_RECORDED)
        return frame

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

    def _checked_results(self, results: Sequence[Result]) -> _Edges:
        distinct = _distinct(results, lambda r: (r.model, r.dataset, r.metric, r.stage), "results")
        metrics = self._metrics_of(results, "results")
        self._check_nodes("model", {r.model: f"results[{i}]" for i, r in enumerate(results)})
        self._check_nodes("dataset", {r.dataset: f"results[{i}]" for i, r in enumerate(results)})
        return _Edges("PERFORMS", distinct, metrics)

    def _checked_similarities(self, similar: Sequence[Similar], given: set[str]) -> _Edges:
        distinct = _distinct(
            similar, lambda s: (s.pair, s.metric), "similar", content=lambda s: (s.value, s.provenance)
        )
        metrics = self._metrics_of(similar, "similar")
        ends = {end: f"similar[{i}]" for i, s in enumerate(similar) for end in s.pair if end not in given}
        self._check_nodes("dataset", ends)
        return _Edges("SIMILAR", distinct, metrics)

    def _save_edges(self, edges: _Edges, first: Sequence[Statement] = ()) -> None:
        """Write edges, after some other statements: in one transaction, or where they are many in several."""
        if len(edges) <= TRANSACTION_EDGES:
            self._write([*first, *edges.statements()])
            return
        self._write(first)
        for start in range(0, len(edges), TRANSACTION_EDGES):
            self._write(edges.rows(slice(start, start + TRANSACTION_EDGES)))
        degrees = self._runner.read(queries.load("read/dataset-edges"), type=edges.kind)
        for datasets in _portions([(row["dataset"], row["edges"]) for row in degrees]):
            self._write(edges.marks(datasets, datasets))

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
    metric: str, performs: pd.DataFrame, compared_by: Metric | None, similar: pd.DataFrame, chosen: set[str]
) -> tuple[str | None, str | None]:
    """Return the one extractor of each kind of edge, None where there are no values.

    Raises:
        MixedExtractors: there are several, and `chosen` does not leave one; or the two kinds of edge are by
            one metric but by different extractors.
    """
    kinds = [
        (f"Results by {metric}", sum((_used(performs, value) for value in VALUES_BY), Counter())),
        (f"Similarities by {compared_by.name if compared_by else ''}", _used(similar, "value")),
    ]
    unknown = chosen - {extractor for _, used in kinds for extractor in used}
    if unknown:
        raise MixedExtractors(
            f"No value was measured with the extractor {min(unknown)!r}; those there are: "
            f"{'; '.join(_listed(used) for _, used in kinds if used)}."
        )
    kept: list[str | None] = []
    for what, used in kinds:
        left = [name for name in used if len(used) == 1 or name in chosen]
        if len(used) > 1 and len(left) != 1:
            raise MixedExtractors(
                f"{what} were measured with different extractors, whose values cannot be compared: "
                f"{_listed(used)}. Keep to one with --measured-with HASH."
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


def _used(edges: pd.DataFrame, value: str) -> Counter[str]:
    """How many values were measured with each extractor."""
    return Counter(edges.loc[edges[value].notna(), VALUES_BY[value]])


def _listed(used: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({used[name]} values)" for name in sorted(used))


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


def _forgotten(name: str, ids: Collection[str]) -> list[Statement]:
    return [(queries.load(name), {"ids": sorted(ids)})] if ids else []


def _batched(name: str, rows: Sequence[dict[str, Any]], **params: Any) -> list[Statement]:
    query = queries.load(name)
    starts = range(0, len(rows), BATCH_ROWS)
    return [(query, {"rows": rows[start : start + BATCH_ROWS], **params}) for start in starts]


@dataclass(frozen=True)
class _Edges:
    """Checked edges of one kind, and the statements that write them.

    Attributes:
        kind: their type.
        values: results or similarities, each once.
        metrics: the metrics of these.
    """

    kind: Literal["PERFORMS", "SIMILAR"]
    values: Sequence[Result] | Sequence[Similar]
    metrics: Sequence[Metric]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def name(self) -> str:
        """What the files of the statements call them."""
        return "results" if self.kind == "PERFORMS" else "similarities"

    def statements(self) -> list[Statement]:
        """All that brings them into the graph, in the order in which it is run."""
        if not self.values:
            return []
        # A result's weight comes of its rank on its dataset, a similarity's of all others.
        datasets = sorted({result.dataset for result in self.values}) if self.kind == "PERFORMS" else None
        return [*self.rows(slice(None)), *self.marks(datasets, None)]

    def rows(self, part: slice) -> list[Statement]:
        """What writes the values of some of them."""
        rows = [_edge_row(value) for value in self.values[part]]
        keys = [{"key": key} for key in sorted({row["key"] for row in rows})]
        return [
            (queries.load("write/metrics"), {"rows": [_metric_row(metric) for metric in self.metrics]}),
            *_batched(f"write/{self.name}", rows),
            *_batched(f"write/{self.name}-default", keys, default=DEFAULT_METRIC),
        ]

    def marks(self, weighed: Sequence[str] | None, banded: Sequence[str] | None) -> list[Statement]:
        """What brings weights and bands up to date.

        Args:
            weighed: ids of the datasets to which the edges lead whose weights to write; None for all, which
                only similarities know.
            banded: the same of bands.
        """
        # Results have no use for `least`, which Neo4j does not mind.
        weights = {"sharpness": SHARPNESS, "least": LEAST_WEIGHT, "datasets": weighed}
        return [
            (queries.load(f"write/{self.name}-weights"), weights),
            (queries.load("write/bands"), {"type": self.kind, "datasets": banded}),
        ]


def _portions(degrees: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Group datasets, so that not many more edges lead to a group than a transaction holds."""
    portion: list[str] = []
    edges = 0
    for dataset, degree in degrees:
        portion.append(dataset)
        edges += degree
        if edges >= TRANSACTION_EDGES:
            yield portion
            portion, edges = [], 0
    if portion:
        yield portion


def _edge_row(value: Result | Similar) -> dict[str, Any]:
    if isinstance(value, Result):
        name = INITIAL + value.metric if value.stage == "initial" else value.metric
        ends = {"model": value.model, "dataset": value.dataset}
    else:
        name, ends = value.metric, dict(zip(("dataset", "other"), value.pair, strict=True))
    return {"key": edge_key(*ends.values()), **ends, **_edge_properties(name, value.value, value.provenance)}


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
            "covariance": statistics.triangle.astype("<f8").tobytes(),
        },
    }


def _statistics_from(row: Mapping[str, Any]) -> Statistics:
    mean, triangle = (np.frombuffer(row[name], dtype="<f8") for name in ("mean", "covariance"))
    own = (row["dataset"], row["extractor"], row["resize"], row["n"])
    return Statistics.from_triangle(*own, mean, triangle)


def _sorted_pairs(edges: pd.DataFrame) -> pd.DataFrame:
    # The stored direction follows the order of ids in Python, but who wrote it with another tool need not
    # have kept to it.
    swapped = edges["dataset"] > edges["other"]
    return edges.assign(
        dataset=edges["dataset"].where(~swapped, edges["other"]),
        other=edges["other"].where(~swapped, edges["dataset"]),
    )


def _in_order(edges: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    # Sorted by Python's own order of strings, which is the one that lists of ids have.
    ends = list(zip(*(edges[key] for key in keys), strict=True))
    return edges.iloc[sorted(range(len(ends)), key=ends.__getitem__)].reset_index(drop=True)
