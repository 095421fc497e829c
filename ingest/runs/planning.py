"""Make a plan from a user's settings: load the extractors, apply what differs by family, plan memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from matchgraph.errors import Error
from matchgraph.ingest.errors import IngestError
from matchgraph.ingest.instruments import extractor_specs, load_instruments
from matchgraph.ingest.runs import local
from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.memory import FOOTPRINTS_FOLDER, narrowed, quantised_to_fit
from matchgraph.ingest.runs.plan import Plan, make_plan
from matchgraph.training.files import folder_name
from matchgraph.training.measure.extractors import require_images
from matchgraph.training.measure.names import needed_extractors

if TYPE_CHECKING:
    from matchgraph.graphdb.repository import MatchingGraph
    from matchgraph.training.measure.extractors import Extractor

# Settings of runs that differ for models of some families: by the family's name, by theirs.
Families: TypeAlias = Mapping[str, Mapping[str, Any]]


def planned(
    graph: MatchingGraph,
    config: RunConfig,
    selection: Selection,
    device: str,
    execution: Execution,
    home: Path,
    families: Families | None = None,
    *,
    retry_failed: bool = False,
) -> tuple[Plan, dict[str, Extractor]]:
    """The plan, and the extractors that it was made with, by name."""
    specs = extractor_specs(selection.probe, selection.extractors)
    needed = needed_extractors(config.metrics)
    loaded = load_instruments(specs, needed, device)
    instruments = {name: require_images(found, name) for name, found in loaded.items()}
    located = {name: specs[name].located() for name in needed}
    weights = {name: f"{spec.kind}:{spec.weights}" for name, spec in located.items()}
    kept = home / FOOTPRINTS_FOLDER
    plan = make_plan(
        graph,
        config,
        instruments,
        selection,
        weights=weights,
        own=lambda folder, asked: of_family(folder, asked, families or {}),
        fitted=lambda folder, asked: quantised_to_fit(folder, narrowed(asked, execution), execution, kept),
        runs=Ledger(graph.runner).runs(),
        retry_failed=retry_failed,
    )
    return plan, instruments


def of_family(folder: Path, config: RunConfig, families: Families) -> RunConfig:
    """The configuration with what differs for the family of a model's folder.

    Raises:
        IngestError: the settings do not go together, the family has no min-SNR weights, or the model no
            positions for aspect buckets.
    """
    from matchgraph.training.errors import UnknownFamily
    from matchgraph.training.pipelines.families import family_of
    from matchgraph.training.pipelines.loading import read_model_index

    if not families and config.snr_gamma is None and not config.aspect_buckets:
        return config
    try:
        own = family_of(read_model_index(folder))
    except UnknownFamily:
        return config
    settings = families.get(own.name, {})
    try:
        found = replace(config, **settings)
        # What fine-tuning refuses.
        found.fine_tuning(Execution())
        if found.aspect_buckets:
            own.check_buckets(folder, found.resolution_px)
    except Error as error:
        raise IngestError(f"{own.name}: {error}") from error
    if found.snr_gamma is not None and not own.has_min_snr(folder):
        raise IngestError(
            f"{folder_name(folder)} is of the family {own.name}, which has no min-SNR weights: leave "
            "--snr-gamma out, or set it in a --run-file for other families only."
        )
    return found


def on_gpu(execution: Execution) -> bool:
    """Whether runs are for a GPU: one that is here, or one whose memory the user names."""
    return execution.gpu_memory is not None or bool(local.visible_gpus(execution.device))
