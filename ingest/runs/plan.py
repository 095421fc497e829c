"""Which fine-tuning runs there are: the pairs asked for, what there is of them already, and how they get
into the ledger.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.models import Dataset, Model
from matchgraph.ingest.errors import BadInput, ExtractorMismatch, IngestError, NothingToDo
from matchgraph.ingest.runs.artefacts import has_artefact
from matchgraph.ingest.runs.choices import (
    as_measured,
    check_replicates,
    check_unfinished,
    chosen,
    kept_runs,
    repeated,
)
from matchgraph.ingest.runs.config import RunConfig, Selection
from matchgraph.ingest.runs.entries import DONE, FAILED, QUEUED, RUNNING, Run, RunRequest
from matchgraph.ingest.runs.estimates import Estimate, Estimator
from matchgraph.ingest.runs.ledger import MAX_ATTEMPTS, Ledger
from matchgraph.ingest.runs.notes import few_samples, in_bf16, quantised, without_captions
from matchgraph.ingest.runs.sources import Sources
from matchgraph.ingest.tables.csv_file import check_ids, read_table, write_table
from matchgraph.ingest.tables.results import check_known
from matchgraph.training.measure.names import PROBE

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.measure.extractors import Extractor

# The state of a pair of which the ledger has no run.
NEW = "NEW"


@dataclass(frozen=True)
class Plan:
    """The runs asked for, grouped by model.

    Args:
        requests: run id to request, in the order of work.
        models: the models by id.
        datasets: the datasets by id.
        config: what each run does.
        configs: the same by model, as its runs that are not done have it: precision and quantisation may go
            by the device, or by a run of the pair.
        sources: the folders, checked.
        notes: what a user should know before the work begins, one sentence each.
    """

    requests: Mapping[str, RunRequest]
    models: Mapping[str, Model]
    datasets: Mapping[str, Dataset]
    config: RunConfig
    configs: Mapping[str, RunConfig]
    sources: Sources
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One pair of a plan, and what there is of it already.

    Args:
        id: the run's id.
        model: the model's id.
        dataset: the dataset's id.
        state: the run's status in the ledger, or NEW; a run that is marked as done and whose edge or adapter
            is gone is QUEUED, as `run` would queue it.
        recorded: whether the edge has a value of each metric, from whatever source.
        estimate: how long what is left of it takes.
    """

    id: str
    model: str
    dataset: str
    state: str
    recorded: bool
    estimate: Estimate


def read_pairs(path: Path, *, models: Collection[str], datasets: Collection[str]) -> list[tuple[str, str]]:
    """Read (model, dataset) pairs from a CSV file with these two columns.

    Args:
        path: the file.
        models: ids of the models in the graph.
        datasets: ids of the datasets in the graph.

    Returns:
        The pairs, each once.

    Raises:
        BadInput: the file has problems.
    """
    table = read_table(path, required=("model", "dataset"))
    check_ids(table, {"model": "model", "dataset": "dataset"})
    check_known(table, "model", "model", models)
    check_known(table, "dataset", "dataset", datasets)
    if table.problems:
        raise BadInput(sorted(set(table.problems)), skippable=False)
    return list(dict.fromkeys((row.cells["model"], row.cells["dataset"]) for row in table.rows))


def write_pairs(path: Path, pairs: Iterable[Mapping[str, Any]], further: Sequence[str] = ()) -> None:
    """Write pairs as the table that `read_pairs` reads.

    Args:
        path: the file.
        pairs: `model`, `dataset`, and a value for each further column.
        further: names of further columns, which `read_pairs` passes over.

    Raises:
        IngestError: the file cannot be written.
    """
    try:
        write_table(path, ("model", "dataset", *further), list(pairs))
    except OSError as error:
        raise IngestError(f"{path} cannot be written ({error.strerror}): check the path.") from error


def make_plan(
    graph: MatchingGraph,
    config: RunConfig,
    extractors: Mapping[str, Extractor],
    selection: Selection,
    *,
    weights: Mapping[str, str] | None = None,
    own: Callable[[Path, RunConfig], RunConfig] = lambda _, config: config,
    fitted: Callable[[Path, RunConfig], RunConfig] = lambda _, config: config,
    runs: Sequence[Run] = (),
    retry_failed: bool = False,
) -> Plan:
    """Decide which runs there are; reads the graph and the folders, writes nothing.

    Args:
        graph: the graph.
        config: what each run does.
        extractors: by name, those that the metrics need; the probe among them, if it is, must be the one that
            the datasets were ingested with.
        selection: which pairs.
        weights: where workers find each extractor, by its name: `WEIGHTS` or `KIND:WEIGHTS`.
        own: the configuration with the settings of the family of a model's folder.
        fitted: that as the device needs it, for pairs of which no run goes on; see `runs.choices`.
        runs: those of the ledger.
        retry_failed: whether failed runs are queued again.

    Returns:
        The plan, grouped by model.

    Raises:
        NothingToDo: no pair is left.
        SourceChanged: a folder is gone or changed since it was ingested.
        ExtractorMismatch: a dataset was ingested with another probe.
        BadInput: the file of pairs has problems.
    """
    all_models = {model.id: model for model in graph.models()}
    all_datasets = {dataset.id: dataset for dataset in graph.datasets()}
    wanted = select_pairs(all_models, all_datasets, selection)
    sources = Sources()
    folders = {model: sources.model(all_models[model]) for model, _ in wanted}
    asked = {model: own(folder, config) for model, folder in folders.items()}
    places = [all_datasets[dataset] for dataset in dict.fromkeys(dataset for _, dataset in wanted)]
    for dataset in places:
        sources.images(dataset)
    if PROBE in extractors:
        _check_measured_by(graph, extractors[PROBE], places)
    hashes = {name: extractors[name].hash for name in sorted(extractors)}

    def request(model: str, dataset: str, config: RunConfig) -> RunRequest:
        return RunRequest(
            model,
            dataset,
            {**config.asked(), **config.drawn_by_default(folders[model]), "extractors": hashes},
            str(all_models[model].properties["content_hash"]),
            str(all_datasets[dataset].properties["content_hash"]),
            selection.replicate,
            dict(weights or {}),
        )

    kept = kept_runs(runs, retry_failed=retry_failed)
    fits: dict[str, RunConfig] = {}

    def fit(model: str) -> RunConfig:
        if model not in fits:
            fits[model] = fitted(folders[model], asked[model])
        return fits[model]

    requests: list[RunRequest] = []
    configs: dict[str, RunConfig] = {}
    changed: dict[str, RunConfig] = {}
    for model, place in wanted:
        ask, found = partial(request, model, place), asked[model]
        if selection.replicate:
            found = as_measured(found, model, place, runs)
        if found == asked[model]:
            found = chosen(found, ask, partial(fit, model), kept)
        seeded = [
            replace(one, repeat=selection.repeats > 1)
            for one in repeated(found, selection.repeats, ask, kept)
        ]
        requests += seeded
        # What is done takes no memory any more.
        if model not in configs or any(kept.get(request.id) != DONE for request in seeded):
            configs[model] = found
        if found is fits.get(model):
            changed[model] = found
    notes = (
        *without_captions(sorted(places, key=lambda dataset: dataset.id)),
        *few_samples(config, extractors),
        *in_bf16(asked, requests),
        *quantised(asked, changed),
    )
    return Plan(
        {request.id: request for request in requests},
        all_models,
        all_datasets,
        config,
        configs,
        sources,
        notes,
    )


def select_pairs(
    all_models: Mapping[str, Model], all_datasets: Mapping[str, Dataset], selection: Selection
) -> list[tuple[str, str]]:
    """Decide which pairs of model and dataset are meant, sorted.

    Args:
        all_models: the graph's models by id.
        all_datasets: the graph's datasets by id.
        selection: which pairs.

    Raises:
        NothingToDo: a model or dataset is unknown, or none has a folder.
        BadInput: the file of pairs has problems.
    """
    if selection.pairs is not None:
        return sorted(read_pairs(selection.pairs, models=all_models, datasets=all_datasets))
    chosen_models = _chosen("model", selection.models, all_models)
    chosen_datasets = _chosen("dataset", selection.datasets, all_datasets)
    return sorted((model, dataset) for model in chosen_models for dataset in chosen_datasets)


def _chosen(kind: str, ids: Sequence[str], known: Mapping[str, Model] | Mapping[str, Dataset]) -> list[str]:
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise NothingToDo(
            f"There is no {kind} {unknown[0]!r} in the graph; add it with `matchgraph ingest {kind}s`."
        )
    chosen = list(dict.fromkeys(ids)) or [
        name for name, node in known.items() if node.properties.get("source")
    ]
    if not chosen:
        raise NothingToDo(
            f"No {kind} in the graph has a folder; add one with `matchgraph ingest {kind}s FOLDER`."
        )
    return chosen


def _check_measured_by(graph: MatchingGraph, extractor: Extractor, datasets: Sequence[Dataset]) -> None:
    known = graph.sketches(extractor.hash)
    found = {*known.datasets, *known.others}
    for dataset in datasets:
        if dataset.id not in found:
            probe = dataset.properties.get("probe", "none")
            raise ExtractorMismatch(
                f"The dataset {dataset.id!r} was measured with the probe {probe!r}, not with "
                f"{extractor.name!r} ({extractor.hash}): use that probe, or ingest the dataset with this one."
            )


def queue_plan(
    ledger: Ledger,
    plan: Plan,
    home: Path,
    *,
    retry_failed: bool = False,
    also: bool = False,
    max_attempts: int = MAX_ATTEMPTS,
) -> list[Run]:
    """Bring a plan's runs into the ledger and see which of them are really done.

    A run is done when its figures are in the graph and its adapter lies where it was written, unchanged; one
    that is marked so and is not is queued again. Runs of dead workers are taken back.

    Args:
        ledger: the ledger.
        plan: the runs.
        home: the data folder, in which artefacts lie.
        retry_failed: whether failed runs are queued again.
        also: whether unfinished runs of the same pairs with other settings may stay beside these.
        max_attempts: how many times each may be begun.

    Returns:
        The runs as they stand.

    Raises:
        ConfigChanged: see `check_unfinished`; nothing was queued.
        NothingToDo: see `check_replicates`; nothing was queued.
    """
    before = ledger.runs_of(
        {request.model for request in plan.requests.values()},
        {request.dataset for request in plan.requests.values()},
    )
    if not also:
        check_unfinished(before, plan.requests.values())
    check_replicates(before, plan.requests.values())
    known = [run for run in before if run.id in plan.requests]
    ids = ledger.enqueue(list(plan.requests.values()), max_attempts=max_attempts)
    ledger.recover(known)
    ledger.requeue(sorted(_lost(ledger, known, home)), statuses=[DONE])
    if retry_failed:
        ledger.requeue(ids, statuses=[FAILED])
    return ledger.runs(ids)


def _lost(ledger: Ledger, runs: Sequence[Run], home: Path) -> set[str]:
    """Ids of runs that are marked as done and are not."""
    done = [run for run in runs if run.status == DONE]
    measured = ledger.measured(done)
    return {run.id for run in done if not (run.id in measured and has_artefact(run, home))}


def survey(
    graph: MatchingGraph,
    ledger: Ledger,
    everything: Sequence[Run],
    plan: Plan,
    home: Path,
    *,
    gpu: bool | None = None,
) -> list[PlannedRun]:
    """Say what there is of a plan and how long the rest takes; writes nothing.

    Args:
        graph: the graph.
        ledger: the ledger.
        everything: all its runs.
        plan: the runs.
        home: the data folder, in which artefacts lie.
        gpu: see `Estimator`.

    Returns:
        The plan's runs in the order of work.
    """
    known = {run.id: run for run in everything}
    lost = _lost(ledger, [known[run] for run in plan.requests if run in known], home)
    estimator = Estimator(everything, plan.models, gpu=gpu, host=platform.node())
    recorded = [
        set(
            graph.snapshot(metric)
            .performs.dropna(subset="value")[["model", "dataset"]]
            .itertuples(False, None)
        )
        for metric in plan.config.metrics
    ]
    surveyed = []
    for request in plan.requests.values():
        run = known.get(request.id)
        state = NEW if run is None else QUEUED if run.id in lost else run.status
        if state == DONE:
            estimate = Estimate(0.0, "done")
        elif run is not None and state == RUNNING:
            estimate = estimator.left(run)
        else:
            estimate = estimator.whole(request.model, request.config)
        pair = (request.model, request.dataset)
        found = all(pair in pairs for pairs in recorded)
        surveyed.append(PlannedRun(request.id, *pair, state, found, estimate))
    return surveyed
