"""Metrics and extractors as a command's options name them, and how they are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from matchgraph.ingest.errors import IngestError

NEEDS_PROBE = (
    "Image folders need a probe model: give a CLIP folder or MODEL/TAG with --probe or in "
    "MATCHGRAPH_PROBE; none was given."
)
# In the data folder: features of datasets, which can be computed again.
FEATURES_FOLDER = "features"

if TYPE_CHECKING:
    from matchgraph.training.measure.extractors import CaptionExtractor, Extractor, ExtractorSpec


def extractor_specs(probe: str | None, extractors: Iterable[str]) -> dict[str, ExtractorSpec]:
    """Read which extractors the options give, by name.

    Args:
        probe: of --probe, which gives the one called `clip`; None where there is none.
        extractors: of --extractor, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.

    Raises:
        IngestError: both options give `clip`.
        InvalidConfig: one cannot be read.
    """
    from matchgraph.training.measure.extractors import ExtractorSpec, parse_extractors
    from matchgraph.training.measure.names import PROBE

    specs = parse_extractors(extractors)
    if probe is not None:
        given = ExtractorSpec(PROBE, PROBE, probe)
        if specs.setdefault(PROBE, given) != given:
            raise IngestError(
                f"--probe and --extractor {specs[PROBE]} both give the extractor {PROBE!r}: leave one out."
            )
    return specs


def load_instruments(
    specs: Mapping[str, ExtractorSpec], names: Iterable[str], device: str = "auto"
) -> dict[str, Extractor | CaptionExtractor]:
    """Load extractors by name.

    Args:
        specs: all that were given.
        names: those to load.
        device: `auto` or a torch device name.

    Raises:
        IngestError: one was not given.
        ExtractorUnavailable: the weights of one cannot be had or read.
    """
    from matchgraph.training.measure.extractors import load_extractor
    from matchgraph.training.measure.names import PROBE

    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in specs:
            if name == PROBE:
                raise IngestError(NEEDS_PROBE)
            raise IngestError(
                f"The extractor {name!r} was not given: name it with --extractor {name}=WEIGHTS."
            )
    return {name: load_extractor(specs[name], device=device) for name in wanted}
