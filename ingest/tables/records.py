"""A whole graph as a folder of tables, to be shipped, looked at, put under version control and loaded again.

`models.csv`, `datasets.csv`, `metrics.csv`, `similarities.csv` and `results.csv` are in the formats that the
single commands of `matchgraph ingest` read. `runs.csv` says how each value was measured: configuration, seed,
hashes of model, dataset and adapter; the figures of runs that repeat a measurement under another seed are
there alone. `statistics.safetensors` holds the mean and covariance of each dataset's features, which is all
that a new folder of images is compared with. Where the graph has prompts, their files are there as well, see
`ingest.tables.prompt_records`; what no table can hold is in `rest.jsonl`, see `ingest.tables.rest`.

So loading gives the graph that was written, property by property, but for what Neo4j Browser shows of the
edges, which `graphdb.refresh` derives. Records to be shared leave out what is of one machine alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.graphdb.edges import lock
from matchgraph.graphdb.errors import GraphError
from matchgraph.graphdb.models import Metric, Result, Similar, Statistics
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.queries import load
from matchgraph.ingest.errors import BadInput, IngestError, Problem
from matchgraph.ingest.tables.csv_file import Row, Table, check_ids, check_unique, parse_number, read_table
from matchgraph.ingest.tables.datasets import read_dataset_table
from matchgraph.ingest.tables.identity import Identity
from matchgraph.ingest.tables.models import read_model_table
from matchgraph.ingest.tables.prompt_records import PromptRecords, read_prompt_records
from matchgraph.ingest.tables.rest import REST, Rest, RestRow
from matchgraph.ingest.tables.results import read_results
from matchgraph.ingest.tables.similarities import read_similarities
from matchgraph.progress import Progress, no_progress

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset, Model
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner


MODELS, DATASETS, METRICS = "models.csv", "datasets.csv", "metrics.csv"
SIMILARITIES, RESULTS, RUNS = "similarities.csv", "results.csv", "runs.csv"
STATISTICS = "statistics.safetensors"
# Of a run, beside its configuration and its figures.
RUN_COLUMNS = ("run", "model", "dataset", "replicate", "config", "metrics")
RUN_FACTS = ("model_fingerprint", "dataset_fingerprint", "adapter_sha256", "attempt", "average")
RUN_TIMES = ("training_seconds", "seconds_per_image")


@dataclass(frozen=True)
class Records:
    """What a folder of records holds, checked.

    Attributes:
        models: the models.
        datasets: the datasets.
        metrics: metrics with a direction of their own.
        statistics: of the datasets' features.
        similar: distances between datasets.
        results: values on model-dataset edges.
        runs: rows of cypher/ledger/record.cypher.
        prompt_level: prompts, variants and scores.
        students: student, teacher and properties of each pair, as rows of cypher/distillation/save.cypher.
    """

    models: tuple[Model, ...]
    datasets: tuple[Dataset, ...]
    metrics: tuple[Metric, ...]
    statistics: tuple[Statistics, ...]
    similar: tuple[Similar, ...]
    results: tuple[Result, ...]
    runs: tuple[Mapping[str, Any], ...]
    prompt_level: PromptRecords
    students: tuple[Mapping[str, Any], ...] = ()

    def without(self, datasets: Collection[str]) -> Records:
        """The same without some datasets and all that is known of them.

        Raises:
            IngestError: one is not among the records.
        """
        if unknown := sorted(set(datasets) - {dataset.id for dataset in self.datasets}):
            raise IngestError(f"The records hold no dataset {unknown[0]!r}: check --without.")

        def kept(rows: Iterable[Any], name: Callable[[Any], str]) -> tuple[Any, ...]:
            return tuple(row for row in rows if name(row) not in datasets)

        return replace(
            self,
            datasets=kept(self.datasets, lambda row: row.id),
            statistics=kept(self.statistics, lambda row: row.dataset),
            similar=tuple(row for row in self.similar if not set(datasets) & set(row.pair)),
            results=kept(self.results, lambda row: row.dataset),
            runs=kept(self.runs, lambda row: row["dataset"]),
        )


def read_records(folder: Path, metric: Callable[[str], Metric]) -> Records:
    """Read and check a folder of records.

    Args:
        folder: as `write_records` leaves it.
        metric: finds a known metric by name and raises UnknownMetric, as `MatchingGraph.metric` does.

    Returns:
        All of it, in file order.

    Raises:
        BadInput: a file is missing or has problems, which are named by line.
    """
    try:
        return _read(folder, metric)
    except BadInput as error:
        # Records are whole, or they are not read.
        raise BadInput(error.problems, skippable=False) from None


def _read(folder: Path, metric: Callable[[str], Metric]) -> Records:
    for name in (MODELS, DATASETS, METRICS, SIMILARITIES, RESULTS, RUNS, STATISTICS):
        if not (folder / name).is_file():
            reason = f"there is no {name}"
            raise BadInput([Problem(str(folder), 0, reason, "name a folder that `graph export` wrote")])
    rest = Rest(folder / REST)
    models = read_model_table(folder / MODELS, exact=True)[0] if _has_rows(folder / MODELS) else ()
    datasets = read_dataset_table(folder / DATASETS, exact=True)[0] if _has_rows(folder / DATASETS) else ()
    metrics = _read_metrics(folder / METRICS) if _has_rows(folder / METRICS) else ()
    own = {found.name: found for found in metrics}

    def known(name: str) -> Metric:
        return own[name] if name in own else metric(name)

    dataset_ids, model_ids = {d.id for d in datasets}, {m.id for m in models}
    similar: tuple[Similar, ...] = ()
    if _has_rows(folder / SIMILARITIES):
        similar = read_similarities(
            folder / SIMILARITIES, datasets=dataset_ids, metric=known, exact=True
        ).similar
    results: tuple[Result, ...] = ()
    if _has_rows(folder / RESULTS):
        results = read_results(
            folder / RESULTS, models=model_ids, datasets=dataset_ids, metric=known, exact=True
        ).results
    runs = read_runs(folder / RUNS, model_ids, dataset_ids) if _has_rows(folder / RUNS) else ()
    statistics = _read_statistics(folder / STATISTICS, dataset_ids)
    level = read_prompt_records(folder, model_ids)
    students = tuple(rest.all_of("student"))
    if strangers := [row for row in students if not {row["student"], row["teacher"]} <= model_ids]:
        reason = f"has the student {strangers[0]['student']!r} of {strangers[0]['teacher']!r}"
        remedy = f"add both to {MODELS}, or delete the line"
        raise BadInput([Problem(str(folder / REST), 0, reason, remedy)])
    found = Records(
        rest.over("model", models, lambda row: (row.id,)),
        rest.over("dataset", datasets, lambda row: (row.id,)),
        metrics,
        statistics,
        rest.over("similarity", similar, lambda row: (row.dataset, row.other, row.metric)),
        rest.over("result", results, lambda row: (row.model, row.dataset, row.metric, row.stage)),
        tuple(_with_rest(row, rest.take("run", row["id"])) for row in runs),
        replace(level, prompts=rest.over("prompt", level.prompts, lambda row: (row.id,))),
        students,
    )
    rest.finish()
    return found


def _with_rest(row: Mapping[str, Any], fields: RestRow) -> dict[str, Any]:
    """A run with what no table holds of it; what is null there, the table says and the run has not."""
    properties = {**row["properties"], **fields.get("properties", {})}
    return {**row, "properties": {name: value for name, value in properties.items() if value is not None}}


def _has_rows(path: Path) -> bool:
    """Whether a table has more than its header; the single commands take none that has not."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return len([line for line, _ in zip(file, range(2), strict=False)]) == 2


def save_records(
    graph: MatchingGraph, runner: Runner, records: Records, *, on_progress: Progress = no_progress
) -> None:
    """Save records in the graph, beside what is there.

    A property that the records do not have stays in the graph. Each kind of row is one transaction, but for
    more than 50,000; where it is cut short, saving again completes it.

    Args:
        graph: gets them.
        runner: its connection.
        records: what to save.
        on_progress: called with the rows saved and all of them.

    Raises:
        IngestError: the graph has other content under the id of a model or dataset, so that what was measured
            with one would pass to the other; nothing is saved.
        ContentChanged: the same, by another writer in the meantime.
        MixedExtractors: the graph has prompts that another CLIP embedded; nothing is saved.
    """
    prompts, level = PromptGraph(runner), records.prompt_level
    prompts.check_probes(level.prompts)
    models = {model.id: model for model in graph.models()}
    datasets = {dataset.id: dataset for dataset in graph.datasets()}
    _check_contents("model", records.models, models)
    _check_contents("dataset", records.datasets, datasets)
    few = len(records.models) + len(records.datasets) + len(records.similar) + len(records.results)
    pairs = len({(score.variant, score.prompt) for score in level.scores})
    rows = [few, len(records.runs), len(level.prompts) + len(level.variants), pairs]
    saved = 0

    def note(number: int) -> None:
        nonlocal saved
        saved += number
        on_progress("Saving records", saved, sum(rows))

    note(0)
    graph.save_models(records.models, merge=True, read=models)
    for metric in records.metrics:
        graph.save_metric(metric)
    graph.save_datasets(records.datasets, records.statistics, records.similar, merge=True, read=datasets)
    graph.save_results(records.results)
    note(rows[0])
    runner.write(load("ledger/record"), rows=list(records.runs))
    note(rows[1])
    if records.students:
        runner.write_many([lock(), *((load("distillation/save"), dict(row)) for row in records.students)])
    prompts.save_prompts(level.prompts)
    prompts.save_variants(level.variants)
    note(rows[2])
    prompts.save_scores(level.scores, on_saved=note)


def _check_contents(
    kind: Literal["model", "dataset"],
    nodes: Sequence[Model] | Sequence[Dataset],
    stored: Mapping[str, Model] | Mapping[str, Dataset],
) -> None:
    identity = Identity(kind, stored, {})
    for node in nodes:
        content = node.properties.get("content_hash")
        if content is not None and identity.is_other(node.id, str(content)):
            raise IngestError(
                f"The graph has a {kind} {node.id!r} already, with content other than that of the records: "
                f"rename or remove it with `matchgraph graph rename {kind}` or `graph remove {kind}` first."
            )


def _read_metrics(path: Path) -> tuple[Metric, ...]:
    table = read_table(path, required=("metric", "larger_is_better"), optional=("minimum", "maximum"))
    check_unique(table, "metric")
    found = []
    for row in table.rows:
        direction = {"true": True, "false": False}.get(row.cells["larger_is_better"].lower())
        if direction is None:
            reason = f"larger_is_better is {row.cells['larger_is_better'][:40]!r}"
            table.problem(row.line, reason, "write true or false")
            continue
        filled = {name: row.cells[name] for name in ("minimum", "maximum") if row.cells.get(name)}
        bounds = {name: parse_number(text) for name, text in filled.items()}
        try:
            found.append(Metric(row.cells["metric"], direction, **bounds))
        except GraphError as error:
            table.problem(row.line, str(error).rstrip("."), "correct the row")
    table.finish(skip_bad=False)
    return tuple(found)


def read_runs(path: Path, models: Collection[str], datasets: Collection[str]) -> tuple[dict[str, Any], ...]:
    """The runs of a table, as rows of cypher/ledger/record.cypher.

    Args:
        path: the table.
        models: ids that there are.
        datasets: likewise.

    Raises:
        BadInput: the table has problems.
    """
    table = read_table(path, required=RUN_COLUMNS, verbatim=("model", "dataset"))
    check_ids(table, {"model": "model", "dataset": "dataset"})
    check_unique(table, "run")
    figures = [name for name in table.columns if name not in (*RUN_COLUMNS, *RUN_FACTS)]
    rows = []
    for row in table.rows:
        if row.cells["model"] not in models or row.cells["dataset"] not in datasets:
            table.problem(row.line, "its model or dataset is not among the records", "delete the row")
        properties = _run_properties(table, row, figures)
        ends = {name: row.cells[name] for name in ("model", "dataset")}
        rows.append({"id": row.cells["run"], "properties": properties, **ends})
    table.finish(skip_bad=False)
    return tuple(rows)


def _run_properties(table: Table, row: Row, figures: Sequence[str]) -> dict[str, Any]:
    try:
        known = isinstance(json.loads(row.cells["config"]), dict)
    except ValueError:
        known = False
    if not known:
        table.problem(row.line, "config is not a JSON object", "write the run's configuration")
        return {}
    properties: dict[str, Any] = {
        "id": row.cells["run"],
        "config": row.cells["config"],
        "extractors": "{}",
        "replicate": row.cells["replicate"] == "true",
        "max_attempts": 1,
        "status": "DONE",
        "fence": 0,
        **{name: text for name in RUN_FACTS if (text := row.cells.get(name))},
    }
    properties["attempt"] = int(properties.get("attempt", 1))
    for name in figures:
        if text := row.cells[name]:
            value = parse_number(text)
            if value is None:
                table.problem(row.line, f"{name} is {text[:40]!r}", "write a number")
            properties[name] = value
    return properties


def _read_statistics(path: Path, datasets: Collection[str]) -> tuple[Statistics, ...]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            header = stored.metadata() or {}
            if "statistics" not in header:
                raise ValueError("its header lists none")
            about = json.loads(header["statistics"])
            found = []
            for number, (dataset, extractor, resize, n, *searched) in enumerate(about):
                mean = stored.get_tensor(f"{number}.mean")
                triangle = stored.get_tensor(f"{number}.covariance")
                own = (dataset, extractor, resize, n, mean, triangle, *searched)
                found.append(Statistics.from_triangle(*own))
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError, GraphError) as error:
        reason = f"holds no usable statistics: {error}".splitlines()[0]
        raise BadInput([Problem(str(path), 0, reason, "export the records again")]) from None
    if strangers := [own.dataset for own in found if own.dataset not in datasets]:
        reason = f"has statistics of {strangers[0]!r}, which {DATASETS} does not list"
        raise BadInput([Problem(str(path), 0, reason, "export the records again")])
    return tuple(found)
