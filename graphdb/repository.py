"""Typed writes to and reads from the matching graph.

Each write checks all it got before the first statement, is one transaction, and may be repeated: the graph
then is the same as after the first time. Only more edges than a server of the default heap can hold in one
transaction are written in several; where that is cut short, a part of them is there, and repeating the write
completes it.

What an edge holds (PERFORMS and SIMILAR alike): each metric's value under its name, and what a value was
measured with under `<metric>__<name>`. PERFORMS holds the pretrained model's values under `initial_<metric>`.
What depends on other edges as well (weights, quality bands) is computed from the edges that a reader may see,
so that a held-out edge cannot leak through a stored median, and a write costs the same in a large graph as in
a small one. For Neo4j Browser, `graphdb.refresh` stores it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from matchgraph.graphdb import incoming, queries
from matchgraph.graphdb import statistics as statistics_rows
from matchgraph.graphdb.edges import (
    TRANSACTION_EDGES,
    Edges,
    Statement,
    batched,
    lock,
    metrics_statement,
)
from matchgraph.graphdb.errors import (
    ContentChanged,
    GraphChanged,
    GuardFailed,
    InvalidValue,
)
from matchgraph.graphdb.metrics import DEFAULT_METRIC
from matchgraph.graphdb.models import (
    BROWSER_NAME,
    Dataset,
    Metric,
    Model,
    Result,
    Similar,
    Snapshot,
    Statistics,
)
from matchgraph.graphdb.sketches import KnownSketches, read_sketches, sketched
from matchgraph.graphdb.snapshot import (
    ERRORS,
    PERFORMS_COLUMNS,
    SIMILAR_COLUMNS,
    VALUES_BY,
    edges_by,
    in_order,
    one_extractor,
    sorted_pairs,
)

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

# A statement that gives no row where a transaction must not run, and why it must not.
Guard: TypeAlias = tuple[Statement, type[GraphChanged]]

CHANGED = {
    GraphChanged: (
        "Another writer has added a dataset in the meantime, which these were not compared with: run the "
        "command again."
    ),
    ContentChanged: (
        "Another writer has saved different content under the same id in the meantime: run the command again."
    ),
}

# Nodes deleted in one transaction, which also holds their edges.
CLEAR_NODES = 500


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

    def save_models(
        self,
        models: Sequence[Model],
        *,
        replaced: Collection[str] = (),
        merge: bool = False,
        read: Mapping[str, Model] | None = None,
    ) -> None:
        """Save models; one that is there gets exactly these properties, its edges stay.

        Args:
            models: the models.
            replaced: ids of models whose content is another now: what was measured with them is removed.
            merge: whether properties of the graph that these models do not have stay as well.
            read: the models of the graph when these ones were compared with them; None not to check that
                their content is still the same.

        Raises:
            ContentChanged: another writer has given one of the ids other content since then; nothing was
                written.
            InvalidValue: two of them have one id but differ.
        """
        models = incoming.distinct(models, lambda m: m.id, "models")
        rows = [{"id": m.id, "properties": {**m.properties, "id": m.id}} for m in models]
        self._write(
            [
                *_forgotten("write/forget-model-results", replaced),
                *batched("write/models", rows, merge=merge),
            ],
            _content_guards("write/check-models", models, read),
        )

    def save_datasets(
        self,
        datasets: Sequence[Dataset],
        statistics: Sequence[Statistics] = (),
        similar: Sequence[Similar] = (),
        *,
        changed: Collection[str] = (),
        replaced: Collection[str] = (),
        compared: Mapping[str, Collection[str]] | None = None,
        merge: bool = False,
        read: Mapping[str, Dataset] | None = None,
    ) -> None:
        """Save datasets with, in the same transaction, statistics of their features and their distances.

        A dataset that is there gets exactly these properties; its edges and other statistics stay.

        Args:
            datasets: the datasets.
            statistics: of these datasets or of ones in the graph; one of the same extractor and resize is
                replaced.
            similar: distances between these datasets or ones in the graph.
            changed: ids of datasets whose images are others now: what extractors measured on them before is
                removed, unless it is among what is given.
            replaced: ids of datasets of which results and runs are removed too.
            compared: for each extractor's hash the datasets that these ones were compared with; None not to
                check.
            merge: whether properties of the graph that these datasets do not have stay as well.
            read: the datasets of the graph when these ones were compared with them; None not to check that
                their content is still the same.

        Raises:
            ContentChanged: another writer has given one of the ids other content since then; nothing was
                written.
            GraphChanged: since `compared` was read, another writer has added a dataset that the extractor
                measured; nothing was written. Read again, compare with it as well, and save again.
            NodeNotFound: statistics or a distance are of a dataset that is neither given nor in the graph.
            UnknownMetric: a distance's metric is not known.
            InvalidValue: a value is out of its metric's range, or two rows contradict each other.
        """
        datasets = incoming.distinct(datasets, lambda d: d.id, "datasets")
        given = {dataset.id for dataset in datasets}
        described = incoming.distinct(statistics, statistics_rows.key_of, "statistics")
        incoming.require_nodes(
            self._runner,
            "dataset",
            {s.dataset: f"statistics[{i}]" for i, s in enumerate(statistics) if s.dataset not in given},
        )
        edges = incoming.similarity_edges(self._runner, similar, given)
        rows = [{"id": d.id, "properties": _dataset_properties(d)} for d in datasets]
        known = [
            {"extractor": extractor, "datasets": sorted({*ids, *given})}
            for extractor, ids in (compared or {}).items()
        ]
        new_directions, sketches = sketched(self._runner, described)
        # Covariances are megabytes: one statement each keeps messages small.
        self._save_edges(
            edges,
            [
                *batched("write/datasets", rows, merge=merge),
                *_forgotten("write/forget-statistics", changed),
                *_forgotten("write/forget-distances", changed),
                *_forgotten("write/forget-dataset-results", replaced),
                *new_directions,
                *(
                    (queries.load("write/statistics"), {"rows": [statistics_rows.row_of(*pair)]})
                    for pair in zip(described, sketches, strict=True)
                ),
            ],
            [
                *_content_guards("write/check-datasets", datasets, read),
                *(
                    [((queries.load("write/check-compared"), {"known": known}), GraphChanged)]
                    if known
                    else []
                ),
            ],
        )

    def save_similarities(self, similar: Sequence[Similar]) -> None:
        """Save distances or similarities between datasets of the graph.

        Raises:
            NodeNotFound, UnknownMetric, InvalidValue: see `save_datasets`.
        """
        self._save_edges(incoming.similarity_edges(self._runner, similar, set()))

    def save_results(self, results: Sequence[Result]) -> None:
        """Save how well models do on datasets; a value that is there is replaced with what it was measured
        with.

        Raises:
            NodeNotFound: a model or dataset is not in the graph.
            UnknownMetric: a metric is neither known nor saved with `save_metric`.
            InvalidValue: a value is out of its metric's range, or two rows contradict each other.
        """
        self._save_edges(incoming.result_edges(self._runner, results))

    def result_statements(self, results: Sequence[Result]) -> list[Statement]:
        """Check results as `save_results` does, for a caller that writes them along with something else.

        Returns:
            The statements that write them, to be run in this order in one transaction.

        Raises:
            NodeNotFound, UnknownMetric, InvalidValue: see `save_results`.
        """
        edges = incoming.result_edges(self._runner, results)
        return [lock(), *edges.statements()] if edges else []

    def save_metric(self, metric: Metric) -> None:
        """Define a metric, or repeat its definition.

        Raises:
            InvalidValue: the metric is known, or defined in the graph, with the other direction, or `metric`
                is narrower in range than what the graph knows of it.
        """
        present = incoming.known_metrics(self._runner).get(metric.name)
        if present is not None and present.larger_is_better != metric.larger_is_better:
            direction = "larger" if present.larger_is_better else "smaller"
            raise InvalidValue(
                f"The metric {metric.name} is in the graph with {direction} is better: choose another name."
            )
        # A definition without a range adds nothing to a known one.
        if present is not None and metric.minimum is None and metric.maximum is None:
            metric = present
        self._write([metrics_statement([metric])])

    def clear(self) -> int:
        """Remove all that this program wrote, except the record of the schema.

        Returns:
            How many nodes were removed.
        """
        clear = queries.load("write/clear"), {"limit": CLEAR_NODES}
        removed = 0
        while deleted := self._runner.write_many([lock(), clear])[1][0]["deleted"]:
            removed += deleted
        self._runner.write_many([lock(), (queries.load("write/clear-metrics"), {})])
        return removed

    # -- reads

    def metric(self, name: str) -> Metric:
        """A metric by name.

        Raises:
            UnknownMetric: it is neither known nor defined in the graph.
        """
        return incoming.require_metric(name, incoming.known_metrics(self._runner))

    def require(self, kind: Literal["model", "dataset"], identifier: str) -> None:
        """Make sure that a model or dataset is in the graph.

        Raises:
            NodeNotFound: it is not; the message names the nearest id.
        """
        incoming.require_nodes(self._runner, kind, {identifier: ""})

    def measured(self, kind: Literal["model", "dataset"]) -> dict[str, int]:
        """Count the results, scores and finished runs of models or datasets; ids without any are left out."""
        return {
            row["id"]: row["measured"] for row in self._runner.read(queries.load(f"read/measured-{kind}s"))
        }

    def models(self) -> list[Model]:
        """All models, sorted by id."""
        return self._models("read/models")

    def model_folders(self) -> dict[str, Path]:
        """Pipeline folders of the models that have one, by the model's id."""
        return {
            model.id: Path(str(model.properties["source"]))
            for model in self.models()
            if "source" in model.properties
        }

    def _models(self, query: str) -> list[Model]:
        rows = self._nodes(query)
        return sorted((Model(row.pop("id"), row) for row in rows), key=lambda model: model.id)

    def _nodes(self, query: str) -> Iterator[dict[str, Any]]:
        """The nodes' own properties, without what Neo4j Browser shows."""
        for row in self._runner.read(queries.load(query)):
            yield {name: value for name, value in row["properties"].items() if name != BROWSER_NAME}

    def datasets(self) -> list[Dataset]:
        """All datasets, sorted by id."""
        rows = self._nodes("read/datasets")
        found = (Dataset(row.pop("id"), embedding=row.pop("embedding", None), properties=row) for row in rows)
        return sorted(found, key=lambda dataset: dataset.id)

    def statistics(self, extractor: str, datasets: Collection[str] | None = None) -> list[Statistics]:
        """The statistics by one extractor, sorted by dataset and resize.

        Args:
            extractor: the extractor's hash.
            datasets: ids to keep to; None for all.
        """
        only = None if datasets is None else sorted(datasets)
        rows = self._runner.read(queries.load("read/statistics"), extractor=extractor, datasets=only)
        return sorted((statistics_rows.from_row(row) for row in rows), key=lambda s: (s.dataset, s.resize))

    def sketches(self, extractor: str) -> KnownSketches:
        """All statistics by one extractor in brief.

        Args:
            extractor: the extractor's hash.
        """
        return read_sketches(self._runner, extractor)

    def statistics_of(self, dataset: str) -> Statistics | None:
        """Feature statistics of one dataset by the extractor of its embedding; None where there are none."""
        rows = self._runner.read(queries.load("read/statistics-of"), dataset=dataset)
        return statistics_rows.from_row(rows[0]) if rows else None

    def all_statistics(self) -> list[Statistics]:
        """Feature statistics of each dataset by each extractor, sorted by dataset, extractor and resize."""
        return [
            statistics_rows.from_row(row) for row in self._runner.read(queries.load("read/all-statistics"))
        ]

    def compared(self, metric: str, extractor: str) -> dict[tuple[str, str], float]:
        """The distances of the pairs of datasets, ids in sorted order, that were compared by a metric of one
        extractor.

        Args:
            metric: its name.
            extractor: the extractor's hash.
        """
        similar = edges_by(self._runner, "similar", metric, ["other", "value"], ["extractor"])
        measured = similar[similar["extractor"] == extractor]
        ends = zip(measured["dataset"], measured["other"], measured["value"], strict=True)
        return {(min(one, other), max(one, other)): value for one, other, value in ends}

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
        metrics = incoming.known_metrics(self._runner)
        chosen = incoming.require_metric(metric, metrics)
        compared_by = self._similarity_metric(metric, similarity, metrics)
        # Edges before nodes: nodes are only ever added, so each edge read finds its nodes below.
        performs = edges_by(
            self._runner,
            "performs",
            metric,
            ["model", "value", "initial", *ERRORS.values()],
            ["extractor", "initial_extractor"],
        )
        similar = edges_by(
            self._runner,
            "similar",
            compared_by.name if compared_by else metric,
            ["other", "value"],
            ["extractor"],
        )
        measured_with, compared_with = one_extractor(metric, performs, compared_by, similar, set(extractors))
        for value, by in VALUES_BY.items():
            for column in (value, ERRORS[value]):
                performs[column] = performs[column].where(performs[by] == measured_with)
        performs = performs[performs[["value", "initial"]].notna().any(axis=1)]
        similar = similar[similar["extractor"] == compared_with]
        return Snapshot(
            metric=chosen,
            models=tuple(self._models("read/candidates")),
            datasets=tuple(self.datasets()),
            performs=in_order(performs[PERFORMS_COLUMNS], ["model", "dataset"]),
            similar=in_order(sorted_pairs(similar[SIMILAR_COLUMNS]), ["dataset", "other"]),
            similarity=compared_by,
            measured_with=measured_with,
            compared_with=compared_with,
            searched=self._searched(compared_by, compared_with),
        )

    def _searched(self, metric: Metric | None, extractor: str | None) -> frozenset[str]:
        if metric is None:
            return frozenset()
        rows = self._runner.read(queries.load("read/searched"), metric=metric.name, extractor=extractor)
        return frozenset(row["dataset"] for row in rows)

    # -- checks and statements

    def _write(self, statements: Sequence[Statement], guards: Sequence[Guard] = ()) -> None:
        """Run statements under the lock; guards first, each of which gives a row unless they must not run."""
        if not statements:
            return
        first = [lock(), *(guard for guard, _ in guards)]
        try:
            self._runner.write_many([*first, *statements], guards=range(1, len(first)))
        except GuardFailed as error:
            changed = guards[error.position - 1][1]
            raise changed(CHANGED[changed]) from error

    def _save_edges(
        self, edges: Edges, first: Sequence[Statement] = (), guards: Sequence[Guard] = ()
    ) -> None:
        """Write edges, after some other statements: in one transaction, or where they are many in several."""
        self._write([*first, *edges.statements(slice(TRANSACTION_EDGES))], guards)
        for start in range(TRANSACTION_EDGES, len(edges), TRANSACTION_EDGES):
            self._write(edges.statements(slice(start, start + TRANSACTION_EDGES)))

    def _similarity_metric(
        self, metric: str, similarity: str | None, known: Mapping[str, Metric]
    ) -> Metric | None:
        if similarity is not None:
            return incoming.require_metric(similarity, known)
        present = [row["name"] for row in self._runner.read(queries.load("read/similarity-metrics"))]
        if metric in present:
            return known[metric]
        if len(present) > 1:
            raise InvalidValue(
                f"Datasets are compared by {', '.join(present)}, not by {metric}: "
                "choose one with --similarity."
            )
        return known[present[0]] if present else None


def _content_guards(
    name: str,
    nodes: Sequence[Model] | Sequence[Dataset],
    read: Mapping[str, Model] | Mapping[str, Dataset] | None,
) -> list[Guard]:
    """What gives no row once another writer has given one of the ids other content than was read."""
    if read is None:
        return []
    rows = []
    for node in nodes:
        former = [read[node.id]] if node.id in read else []
        contents = {own.properties.get("content_hash") for own in (node, *former)} - {None}
        rows.append({"id": node.id, "contents": sorted(map(str, contents))})
    return [((queries.load(name), {"nodes": rows}), ContentChanged)]


def _forgotten(name: str, ids: Collection[str]) -> list[Statement]:
    return [(queries.load(name), {"ids": sorted(ids)})] if ids else []


def _dataset_properties(dataset: Dataset) -> dict[str, Any]:
    embedding = {} if dataset.embedding is None else {"embedding": list(dataset.embedding)}
    return {**dataset.properties, **embedding, "id": dataset.id}
