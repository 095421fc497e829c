"""What a user should know of a plan before its work begins, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matchgraph.graphdb.models import Dataset
from matchgraph.ingest.runs.config import AUTO, RunConfig
from matchgraph.training.config import EXACT
from matchgraph.training.measure.names import parse_metric
from matchgraph.words import some

if TYPE_CHECKING:
    from matchgraph.ingest.runs.entries import RunRequest
    from matchgraph.training.measure.extractors import Extractor


def without_captions(datasets: Sequence[Dataset]) -> list[str]:
    """Say which datasets have nothing to learn a prompt from."""
    without = [dataset.id for dataset in datasets if dataset.properties.get("captioned") == 0]
    if not without:
        return []
    return [f"{some(without)}: no image has a caption, so training and sampling use the empty prompt."]


def few_samples(config: RunConfig, extractors: Mapping[str, Extractor]) -> list[str]:
    """Say which Frechet distances are of too few generated images for a covariance of full rank."""
    notes = []
    for measure in map(parse_metric, config.metrics):
        dimension = extractors[measure.extractor].dimension if measure.extractor in extractors else 0
        if measure.distance == "fid" and config.samples <= dimension:
            notes.append(
                f"{measure.metric} is measured on {config.samples} generated images, and features of "
                f"{dimension} dimensions need more than {dimension}: values are unreliable. Raise --samples."
            )
    return notes


def quantised(asked: Mapping[str, RunConfig], configs: Mapping[str, RunConfig]) -> list[str]:
    """Say which models are quantised although nobody asked for it.

    Args:
        asked: by model, what was asked for, with the settings of its family.
        configs: by model, what the runs do that go by what the device needs.
    """
    return [
        f"{model} fits the GPU's memory only with its denoiser's weights in {own.quantisation}, which "
        "changes its results a little. Give --quantisation none to run it with exact weights or not at all."
        for model, own in configs.items()
        if asked[model].quantisation is None and own.kept_in != EXACT
    ]


def in_bf16(asked: Mapping[str, RunConfig], requests: Sequence[RunRequest]) -> list[str]:
    """Say how many runs compute in bf16 although nobody asked for it.

    Args:
        asked: by model, what was asked for, with the settings of its family.
        requests: the runs.
    """
    narrow = sum(
        asked[request.model].precision == AUTO and request.config["precision"] == "bf16"
        for request in requests
    )
    if not narrow:
        return []
    if narrow == len(requests):
        return ["The runs compute in bf16; --precision fp32 is slower and rounds less."]
    return [
        f"{narrow} of {len(requests)} runs compute in bf16; pairs with a run in fp32 or bf16 keep its "
        "precision. --precision fp32 is slower and rounds less."
    ]
