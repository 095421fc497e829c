"""A whole graph written as a folder of records, see `ingest.tables.records`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.graphdb.checks import INITIAL
from matchgraph.graphdb.models import STANDARD_ERROR, Metric, Statistics
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.queries import load
from matchgraph.ingest.tables.csv_file import write_table
from matchgraph.ingest.tables.datasets import EMBEDDING_COLUMN
from matchgraph.ingest.tables.prompt_export import prompt_records, write_prompt_records
from matchgraph.ingest.tables.records import (
    DATASETS,
    METRICS,
    MODELS,
    RESULTS,
    RUN_COLUMNS,
    RUN_FACTS,
    RUN_TIMES,
    RUNS,
    SIMILARITIES,
    STATISTICS,
    read_runs,
)
from matchgraph.ingest.tables.rest import KEYS, REST, RestRow, fits_cell, is_same, kept_by_table, write_rest
from matchgraph.ingest.tables.results import COUNTS, LISTS, NUMBERS, STAGES, TEXTS
from matchgraph.ingest.tables.similarities import COUNTS as SIMILAR_COUNTS
from matchgraph.ingest.tables.similarities import NUMBERS as SIMILAR_NUMBERS
from matchgraph.ingest.tables.similarities import TEXTS as SIMILAR_TEXTS
from matchgraph.training.files import write_tensors

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Dataset
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.graphdb.runner import Runner

# Local paths, which are private, and values that depend on the machine and its load: records to
# be shared leave them out.
LOCAL = ("source", "throughput")
# Columns of nodes that are something else, and of a dataset e0, e1... as well.
TAKEN = frozenset({"id", "model", "dataset", "prompt", "embedding"})
SIMILARITY_COLUMNS = (
    "dataset",
    "other",
    "metric",
    "value",
    *SIMILAR_COUNTS,
    *SIMILAR_NUMBERS,
    *SIMILAR_TEXTS,
)
RESULT_COLUMNS = ("model", "dataset", "metric", "stage", "value", *COUNTS, *NUMBERS, *LISTS, *TEXTS)


def write_records(
    graph: MatchingGraph, runner: Runner, folder: Path, *, shareable: bool = False
) -> dict[str, int]:
    """Write the whole graph as a folder of records.

    Args:
        graph: what is written.
        runner: its connection.
        folder: gets the files; files of records that are there are replaced.
        shareable: leave out what is of this machine alone: where files lie, how fast models are here, and
            of runs those that are not done, hosts and times of the day.

    Returns:
        How many rows each file got.

    Raises:
        IngestError: see `write_prompt_records`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rest: list[RestRow] = []
    level = prompt_records(PromptGraph(runner))
    prompts = _split("prompt", {prompt.id: prompt.properties for prompt in level.prompts}, rest)
    in_tables = tuple(replace(prompt, properties=prompts[prompt.id]) for prompt in level.prompts)
    prompt_counts = write_prompt_records(replace(level, prompts=in_tables), folder)
    models, datasets = graph.models(), graph.datasets()
    known = _shared if shareable else dict
    model_rows = [
        {"model": name, **own}
        for name, own in _split("model", {each.id: known(each.properties) for each in models}, rest).items()
    ]
    plain = _split("dataset", {each.id: known(each.properties) for each in datasets}, rest)
    dataset_rows = _dataset_rows(datasets, plain, rest)
    metrics = [Metric(**row) for row in runner.read(load("read/metrics"))]
    names = {metric.name for metric in metrics}
    similar, results = list(_similar(runner, names)), list(_results(runner, names))
    similar_rows = [_edge_row("similarity", row, rest) for row in similar]
    result_rows = [_edge_row("result", row, rest) for row in results]
    recorded = runner.read(load("ledger/recorded"), statuses=["DONE"] if shareable else None)
    runs = [_run_row(row, names) for row in recorded]
    figures = sorted({name for row in runs for name in row} - {*RUN_COLUMNS, *RUN_FACTS, *RUN_TIMES})
    rest += [{"of": "student", **row} for row in runner.read(load("distillation/students"))]
    tables: dict[str, tuple[Sequence[str], Sequence[Mapping[str, Any]]]] = {
        MODELS: (_columns("model", model_rows), model_rows),
        DATASETS: (_columns("dataset", dataset_rows), dataset_rows),
        METRICS: (
            ("metric", "larger_is_better", "minimum", "maximum"),
            [{"metric": metric.name, **asdict(metric)} for metric in metrics],
        ),
        SIMILARITIES: (SIMILARITY_COLUMNS, similar_rows),
        RESULTS: (RESULT_COLUMNS, result_rows),
        RUNS: ((*RUN_COLUMNS, *RUN_FACTS, *RUN_TIMES, *figures), runs),
    }
    for name, (columns, rows) in tables.items():
        write_table(folder / name, columns, rows)
    counts = {name: len(rows) for name, (_, rows) in tables.items()}
    if not shareable and runs:
        ids = ({model.id for model in models}, {dataset.id for dataset in datasets})
        rest += _rest_of_runs(recorded, read_runs(folder / RUNS, *ids))
    statistics = graph.all_statistics()
    _write_statistics(folder / STATISTICS, statistics)
    beside = write_rest(folder / REST, rest)
    return {**counts, STATISTICS: len(statistics), **prompt_counts, **({REST: beside} if beside else {})}


def _similar(runner: Runner, names: Collection[str]) -> Iterable[dict[str, Any]]:
    for row in runner.read(load("read/edges"), type="SIMILAR"):
        for value in _values(row["properties"], names):
            yield {"dataset": row["from"], "other": row["to"], **value}


def _results(runner: Runner, names: Collection[str]) -> Iterable[dict[str, Any]]:
    for row in runner.read(load("read/edges"), type="PERFORMS"):
        edge = {"model": row["from"], "dataset": row["to"]}
        stages = {
            "finetuned": row["properties"],
            "initial": {
                key.removeprefix(INITIAL): value
                for key, value in row["properties"].items()
                if key.startswith(INITIAL)
            },
        }
        for stage in STAGES:
            for value in _values(stages[stage], names):
                yield {**edge, "stage": stage, **value}


def _values(properties: Mapping[str, Any], names: Collection[str]) -> Iterable[dict[str, Any]]:
    """The values on an edge, each with what it was measured with."""
    for name in sorted(names & properties.keys()):
        prefix = f"{name}__"
        provenance = {
            key.removeprefix(prefix): value for key, value in properties.items() if key.startswith(prefix)
        }
        yield {"metric": name, "value": properties[name], "provenance": provenance}


def _shared(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in properties.items()
        if key not in LOCAL and not key.startswith("throughput_")
    }


def _split(
    kind: Literal["model", "dataset", "prompt"], nodes: Mapping[str, Mapping[str, Any]], rest: list[RestRow]
) -> dict[str, dict[str, Any]]:
    """The properties of each node that a table keeps; what it would not is added to the rest."""
    kept = kept_by_table(
        list(nodes.values()),
        lambda name: name in TAKEN or (kind == "dataset" and EMBEDDING_COLUMN.fullmatch(name) is not None),
    )
    for node, own in nodes.items():
        if left := {name: value for name, value in own.items() if name not in kept}:
            rest.append({"of": kind, kind: node, "properties": left})
    return {node: {name: value for name, value in own.items() if name in kept} for node, own in nodes.items()}


def _dataset_rows(
    datasets: Sequence[Dataset], plain: Mapping[str, Mapping[str, Any]], rest: list[RestRow]
) -> list[dict[str, Any]]:
    """Rows with embeddings of the length that most have; the table has no place for others."""
    lengths = Counter(len(dataset.embedding) for dataset in datasets if dataset.embedding)
    usual = max(lengths, key=lambda length: (lengths[length], length), default=0)
    rows = []
    for dataset in datasets:
        embedding = dataset.embedding or ()
        if embedding and len(embedding) != usual:
            own = next(
                (row for row in rest if (row["of"], row.get("dataset")) == ("dataset", dataset.id)), None
            )
            if own is None:
                own = {"of": "dataset", "dataset": dataset.id}
                rest.append(own)
            own["embedding"] = list(embedding)
            embedding = ()
        cells = {f"e{place}": value for place, value in enumerate(embedding)}
        rows.append({"dataset": dataset.id, **plain[dataset.id], **cells})
    return rows


def _edge_row(
    kind: Literal["similarity", "result"], row: Mapping[str, Any], rest: list[RestRow]
) -> dict[str, Any]:
    """The row of an edge's value; what its columns do not keep of the provenance is added to the rest."""
    texts, counts, numbers = (
        (TEXTS, COUNTS, NUMBERS) if kind == "result" else (SIMILAR_TEXTS, SIMILAR_COUNTS, SIMILAR_NUMBERS)
    )
    own = row["provenance"]
    cells = {name: own[name] for name in texts if isinstance(own.get(name), str) and fits_cell(own[name])}
    cells |= {name: own[name] for name in counts if type(own.get(name)) is int and own[name] > 0}
    cells |= {name: own[name] for name in numbers if type(own.get(name)) is float}
    if kind == "result":
        cells |= {name: " ".join(map(str, own[name])) for name in LISTS if _is_list_of_counts(own.get(name))}
    keys = {name: row[name] for name in KEYS[kind]}
    if left := {name: value for name, value in own.items() if name not in cells}:
        rest.append({"of": kind, **keys, "provenance": left})
    return {**keys, "value": row["value"], **cells}


def _is_list_of_counts(value: object) -> bool:
    """Whether a cell of numbers with spaces between them holds a value; an empty list would be no cell."""
    return isinstance(value, list) and bool(value) and all(type(one) is int and one >= 0 for one in value)


def _rest_of_runs(
    recorded: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, Any]]
) -> Iterable[RestRow]:
    """What the table of runs does not say of them: null for what it says and they have not."""
    for row, again in zip(recorded, read, strict=True):
        own, told = row["properties"], again["properties"]
        left = {name: value for name, value in own.items() if not is_same(value, told.get(name))}
        left |= dict.fromkeys(told.keys() - own.keys())
        if left:
            yield {"of": "run", "run": own["id"], "properties": left}


def _run_row(row: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    run = row["properties"]
    config = json.loads(run["config"])
    kept = {name: run[name] for name in (*RUN_FACTS, *RUN_TIMES) if name in run}
    figures = {
        name: run[name] for name in run if name.removeprefix(INITIAL).removesuffix(STANDARD_ERROR) in names
    }
    return {
        "run": run["id"],
        "model": row["model"],
        "dataset": row["dataset"],
        "replicate": run["replicate"],
        "config": json.dumps(config, sort_keys=True),
        "metrics": " ".join(config["metrics"]),
        **kept,
        **figures,
    }


def _columns(first: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of a table of nodes: its id, attributes by name, and the embedding in its order."""
    names = {key for row in rows for key in row} - {first}
    embedding = {name for name in names if EMBEDDING_COLUMN.fullmatch(name)}
    return [first, *sorted(names - embedding), *sorted(embedding, key=lambda name: int(name[1:]))]


def _write_statistics(path: Path, statistics: Sequence[Statistics]) -> None:
    tensors, about = {}, []
    for number, own in enumerate(statistics):
        tensors[f"{number}.mean"] = own.mean
        tensors[f"{number}.covariance"] = own.triangle
        searched = [list(own.searched)] if own.searched else []
        about.append([own.dataset, own.extractor, own.resize, own.n, *searched])
    write_tensors(path, tensors, {"statistics": json.dumps(about)})
