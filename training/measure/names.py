"""Names of metrics, taken apart: a named extractor with a distance.

A metric is called `<extractor>_<distance>`; `fid` and `kid` are those of `inception`, `cmmd` that of `clip`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matchgraph.training.errors import UnknownMeasure

# Distance -> version of its definition here; values of different versions are not comparable.
DISTANCES = {"fid": "1", "kid": "1", "cmmd": "1"}
# Metrics that the literature knows by shorter names than extractor and distance would give.
SHORT = {"fid": ("inception", "fid"), "kid": ("inception", "kid"), "cmmd": ("clip", "cmmd")}
# The extractor that --probe gives.
PROBE = "clip"
# Distances that look at the features themselves and not only at their mean and covariance.
OF_FEATURES = frozenset({"kid", "cmmd"})


@dataclass(frozen=True)
class Measure:
    """A metric taken apart.

    Attributes:
        metric: its name.
        extractor: name of the extractor.
        distance: one of DISTANCES.
    """

    metric: str
    extractor: str
    distance: str

    @property
    def version(self) -> str:
        """Of its definition."""
        return DISTANCES[self.distance]


def parse_metric(metric: str) -> Measure:
    """Take a metric's name apart.

    Args:
        metric: such as `clip_fid`, `kid` or `dinov2_cmmd`.

    Raises:
        UnknownMeasure: it ends in no known distance, or is known by a shorter name.
    """
    if metric in SHORT:
        return Measure(metric, *SHORT[metric])
    extractor, _, distance = metric.rpartition("_")
    if not extractor or distance not in DISTANCES:
        raise UnknownMeasure(
            f"{metric!r} cannot be measured here: name {', '.join(SHORT)}, or an extractor and a distance "
            f"({', '.join(DISTANCES)}), as in clip_fid or dinov2_kid."
        )
    for short, parts in SHORT.items():
        if parts == (extractor, distance):
            raise UnknownMeasure(f"{metric!r} is called {short!r}; use that name.")
    return Measure(metric, extractor, distance)


def needed_extractors(metrics: Iterable[str]) -> tuple[str, ...]:
    """Names of the extractors that metrics need, each once.

    Raises:
        UnknownMeasure: a metric cannot be measured.
    """
    return tuple(dict.fromkeys(parse_metric(metric).extractor for metric in metrics))
