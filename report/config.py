"""What a report is made of: its studies and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from matchgraph.predictor.config import EMBEDDERS
from matchgraph.predictor.errors import InvalidRows
from matchgraph.predictor.recipes import Method
from matchgraph.report.page import Section
from matchgraph.settings import check_settings, same_setting, setting

# Title and, where there is one, the part of the paper; in the order of the page.
STUDIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "selection": ("Choosing the model", "Table 3"),
        "calibration": ("Are the probabilities calibrated?", ""),
        "landscape": ("What was measured", "Figure 3"),
        "inputs": ("Inputs of the ranker", "Table 4"),
        "sparsity": ("Fewer results", "Figure 6"),
        "metrics": ("Other metrics of quality", "Table 5"),
        "probes": ("Other probes of the datasets", "Table 6"),
        "rankers": ("Other rankers", "Table 7"),
        "importances": ("Importance of model attributes", "Table 1"),
        "noise": ("Noise between seeds", ""),
        "time": ("Time of a prediction", "Section 5.2"),
    }
)
# Sweeps compare many variants, each of which takes as long as the method itself.
SEEDS_OF_A_SWEEP = 3


@dataclass(frozen=True)
class ReportConfig:
    """Settings of a report.

    Raises:
        InvalidRows: a value out of range, or an unknown study.
    """

    metric: str = same_setting(Method, "metric")
    similarity: str | None = same_setting(Method, "similarity")
    measured_with: tuple[str, ...] = same_setting(Method, "measured_with")
    embedder: str = setting(
        "gds", "node2vec in Graph Data Science, or node2vec+ in this process.", choices=EMBEDDERS
    )
    seeds: int = setting(
        3,
        "Seeds of Tables 3 and 4; the other studies use a third of them, rounded up.",
        at_least=1,
        at_most=100,
    )
    only: tuple[str, ...] = setting(
        (), "Run only this study; by default all. Repeatable.", choices=tuple(STUDIES)
    )
    jobs: int = setting(2, "Number of processes.", at_least=1, at_most=64)

    def __post_init__(self) -> None:
        check_settings(self, InvalidRows)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The studies, in the report's order."""
        return tuple(key for key in STUDIES if not self.only or key in self.only)

    @property
    def many(self) -> range:
        """The seeds of Tables 3 and 4."""
        return range(self.seeds)

    @property
    def few(self) -> range:
        """The seeds of the other comparisons."""
        return range(-(-self.seeds // SEEDS_OF_A_SWEEP))


def section_of(study: str, lead: str, caption: str = "", **further: Any) -> Section:
    """The section of a study, under its title.

    Args:
        study: its key.
        lead: see `Section`, as all that follow.
        caption: how to read it.
        further: figures, tables and the like.
    """
    return Section(study, *STUDIES[study], lead, caption, **further)


def without_data(study: str, why: str) -> Section:
    """The section of a study that the graph has no data for."""
    return section_of(study, why, missing=True)
