"""What was trained elsewhere, adapters and whole models: sampled and scored as runs are, and recorded on the
edge.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.graphdb.queries import load
from matchgraph.ingest.errors import BadInput, IngestError, Problem
from matchgraph.ingest.runs.artefacts import CHECKPOINT_FOLDER, RECORD_FILE
from matchgraph.ingest.runs.config import SAMPLED, RunConfig, Selection
from matchgraph.ingest.runs.entries import Run, finished
from matchgraph.ingest.runs.jobs import Job
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.planning import planned
from matchgraph.ingest.runs.recording import results_of
from matchgraph.ingest.runs.worker import WorkerOptions, local_executor
from matchgraph.ingest.tables.checkpoints import INDEX, pipeline_of_checkpoint
from matchgraph.ingest.tables.comparison import define_metric
from matchgraph.ingest.tables.fingerprints import fingerprint_files
from matchgraph.ingest.tables.image_folders import source_of
from matchgraph.progress import Progress, no_progress
from matchgraph.training.errors import TrainingError
from matchgraph.training.files import file_hash, json_hash, write_json
from matchgraph.training.measure.names import PROBE, parse_metric
from matchgraph.training.pipelines.adapters import left_out
from matchgraph.training.pipelines.families import family_of
from matchgraph.training.pipelines.loading import read_model_index
from matchgraph.training.pipelines.trainers import FULL, is_full, training_facts
from matchgraph.training.pipelines.weights import DENOISER_FILE, write_denoiser

if TYPE_CHECKING:
    from matchgraph.graphdb.models import Result
    from matchgraph.graphdb.repository import MatchingGraph

ADAPTERS_FOLDER = "adapters"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ScoredAdapter:
    """An adapter and what it came to.

    Attributes:
        file: the safetensors file, or the folder of a model fine-tuned in full.
        folder: its samples and record, in the data folder.
        values: by metric.
        facts: its trainer and settings, as far as the file says.
        recorded: whether the edge has these values; of several adapters, that of the best.
    """

    file: Path
    folder: Path
    values: Mapping[str, float]
    facts: Mapping[str, Any]
    recorded: bool = False


@dataclass(frozen=True)
class AdaptersReport:
    """What scoring of adapters did.

    Attributes:
        adapters: in the order of their files.
        notes: what was not loaded of them, and how they were sampled, one sentence each.
    """

    adapters: tuple[ScoredAdapter, ...]
    notes: tuple[str, ...]


def score_adapters(
    graph: MatchingGraph,
    path: Path,
    *,
    model: str,
    dataset: str,
    home: Path,
    probe: str | None = None,
    extractors: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    replace_result: bool = False,
    options: WorkerOptions | None = None,
    on_step: Progress = no_progress,
    notice: Callable[[str], None] = lambda _: None,
) -> AdaptersReport:
    """Score adapters, or a model fine-tuned in full, of a dataset of the graph, and write the edge.

    They are sampled as the newest run of the graph was, of this dataset if there is one, and carry what their
    files say of their training. Of several adapters of one pair, such as the epochs of one training, the edge
    gets the best by the first metric, and says of how many.

    Args:
        graph: the graph.
        path: a safetensors file, or a folder of them; of a model fine-tuned in full its pipeline's folder,
            its denoiser's, or a checkpoint in a single file.
        model: id of the model that they were trained for.
        dataset: id of the dataset that they were trained on.
        home: the data folder.
        probe: the CLIP model that the dataset was ingested with.
        extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
        changes: settings of `RunConfig` to use instead of those of the graph's runs.
        replace_result: whether a fine-tuned result that the edge has already may be replaced.
        options: how they are sampled on this machine.
        on_step: hears how far each is.
        notice: told of what a user should know at once.

    Returns:
        What was scored.

    Raises:
        BadInput: there is no adapter, or one cannot be read.
        IngestError: the pair has a result already, or as `plan_runs`.
        TrainingError: an adapter does not fit the model, or it cannot be sampled.
    """
    options = options or WorkerOptions()
    files = _files(path)
    facts: dict[Path, dict[str, Any]] = {}
    weights: dict[Path, Path] = {}
    notes: list[str] = []
    for file in files:
        try:
            facts[file] = training_facts(file)
            weights[file] = _weights(graph, file, model, home)
            if facts[file]["trained_kind"] == FULL:
                notes.append(
                    f"{file.name} was fine-tuned in full: its denoiser was loaded, with the text encoders "
                    f"and the VAE of {model}."
                )
            else:
                notes += left_out(file)
        except TrainingError as error:
            problem = Problem(str(file), 0, str(error).removeprefix(f"{file} ").rstrip("."), "give a LoRA")
            raise BadInput([problem], skippable=False) from error
    config, source = sampled_as(Ledger(graph.runner).runs(), dataset, changes or {})
    notes.append(f"sampled {source}: {config.samples} images at most, {config.resolution_px} px.")
    before = _edge(graph, model, dataset)
    config = replace(config, initial=any(f"initial_{metric}" not in before for metric in config.metrics))
    selection = Selection((model,), (dataset,), probe=probe, extractors=tuple(extractors))
    plan, instruments = planned(graph, config, selection, options.device, options, home)
    config = plan.configs[model]
    notes += plan.notes
    (request,) = plan.requests.values()
    for metric in config.metrics:
        define_metric(graph, parse_metric(metric))
    known = None
    if PROBE in request.config["extractors"]:
        known = graph.statistics(request.config["extractors"][PROBE], [dataset])[0]
    jobs: dict[Path, Job] = {}
    for file in files:
        identity = json_hash([request.id, file_hash(weights[file])])[:16]
        out = home / ADAPTERS_FOLDER / identity
        jobs[file] = Job(
            run=identity,
            model=model,
            model_folder=plan.sources.model(plan.models[model]),
            model_hash=request.model_fingerprint,
            dataset=dataset,
            dataset_folder=source_of(plan.datasets[dataset]),
            dataset_hash=request.dataset_fingerprint,
            images=plan.sources.images(plan.datasets[dataset]),
            reference=known,
            config=config,
            asked=request.config,
            extractors=request.extractors,
            out=out,
            checkpoint=out / CHECKPOINT_FOLDER,
            resume_from=None,
            adapter=weights[file],
        )
    _check_free(before, config, {job.run for job in jobs.values()}, model, dataset, replace_result)
    executor = local_executor(home, options, instruments, notice)
    scored: dict[Path, list[Result]] = {}
    try:
        for file, job in jobs.items():
            job.out.mkdir(parents=True, exist_ok=True)
            outcome = executor.execute(job, lambda stage, done, of, _=None: on_step(stage, done, of))
            of_file = {"adapter": file.name, "adapter_sha256": file_hash(weights[file]), **facts[file]}
            scored[file] = [
                replace(result, provenance={**result.provenance, **of_file})
                if result.stage == "finetuned"
                else result
                for result in results_of(job, outcome)
            ]
            values = {score.metric: score.to_dict() for score in outcome.finetuned}
            write_json(
                job.out / RECORD_FILE,
                {"adapter": str(file), "model": model, "dataset": dataset, "asked": dict(request.config)}
                | {"trained": facts[file], "finetuned": values, **outcome.details},
            )
            shutil.rmtree(job.checkpoint, ignore_errors=True)
    finally:
        executor.close()
    best = _best(graph, scored, config.metrics[0])
    chosen = scored[best]
    if len(files) > 1:
        chosen = [
            replace(result, provenance={**result.provenance, "best_of": len(files)})
            if result.stage == "finetuned"
            else result
            for result in chosen
        ]
    graph.save_results(chosen)
    return AdaptersReport(
        tuple(
            ScoredAdapter(
                file,
                jobs[file].out,
                {result.metric: result.value for result in scored[file] if result.stage == "finetuned"},
                facts[file],
                recorded=file == best,
            )
            for file in files
        ),
        tuple(notes),
    )


def sampled_as(runs: Sequence[Run], dataset: str, changes: Mapping[str, Any]) -> tuple[RunConfig, str]:
    """How adapters are sampled, so that their values compare with the graph's: as its newest run was.

    Args:
        runs: the ledger's.
        dataset: runs of it count before others.
        changes: settings to use instead.

    Returns:
        The configuration, whose training settings mean nothing, and in words where it is from.
    """
    done = finished(runs)
    if not done:
        return RunConfig(**changes), "by default settings, as the graph has no finished run"
    like = ([run for run in done if run.dataset == dataset] or done)[-1]
    sampled = RunConfig.as_recorded({name: like.config[name] for name in SAMPLED if name in like.config})
    return replace(sampled, **changes), f"as run {like.id} was"


def _files(path: Path) -> list[Path]:
    if (path / INDEX).is_file() or (path / "config.json").is_file():
        return [path]
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        problem = Problem(
            str(path), 0, f"is neither a {SUFFIX} file nor a folder of them", "give an adapter's file"
        )
        raise BadInput([problem], skippable=False)
    return files


def _weights(graph: MatchingGraph, given: Path, model: str, home: Path) -> Path:
    """The file to load: an adapter itself; of a whole model its denoiser, written to the data folder once."""
    if given.is_file():
        if not is_full(given) or given.name == DENOISER_FILE:
            return given
        given = pipeline_of_checkpoint(graph, given, model, home)
    if (given / INDEX).is_file():
        given = given / family_of(read_model_index(given)).denoiser_attribute
    fingerprint = fingerprint_files(given, sorted(given.glob(f"*{SUFFIX}")))
    target = home / ADAPTERS_FOLDER / fingerprint[:16] / DENOISER_FILE
    if not target.is_file():
        write_denoiser(given, target)
    return target


def _edge(graph: MatchingGraph, model: str, dataset: str) -> Mapping[str, Any]:
    rows = graph.runner.read(load("read/result"), model=model, dataset=dataset)
    return rows[0]["properties"] if rows else {}


def _check_free(
    before: Mapping[str, Any], config: RunConfig, own: set[str], model: str, dataset: str, replaced: bool
) -> None:
    taken = [metric for metric in config.metrics if metric in before]
    others = [metric for metric in taken if before.get(f"{metric}__run") not in own]
    if others and not replaced:
        by = before.get(f"{others[0]}__run")
        raise IngestError(
            f"{model!r} on {dataset!r} already has a {others[0]}{f', of {by}' if by else ''}; --replace puts "
            "this adapter's in its place."
        )


def _best(graph: MatchingGraph, scored: Mapping[Path, Sequence[Result]], metric: str) -> Path:
    sign = -1 if graph.metric(metric).larger_is_better else 1

    def value(file: Path) -> float:
        found = (r.value for r in scored[file] if r.metric == metric and r.stage == "finetuned")
        return sign * next(found)

    return min(scored, key=value)
