"""Edges of the graph as tables, and the one extractor whose values can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import MixedExtractors
from matchgraph.graphdb.models import Metric

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.runner import Runner

# The extractor of values of which none is recorded, as of most tables.
NOT_RECORDED = "not-recorded"
PERFORMS_COLUMNS = ["model", "dataset", "value", "initial", "standard_error", "initial_standard_error"]
SIMILAR_COLUMNS = ["dataset", "other", "value"]
# The column of the extractor that a value was measured with.
VALUES_BY = {"value": "extractor", "initial": "initial_extractor"}
# The column of a value's standard error.
ERRORS = {"value": "standard_error", "initial": "initial_standard_error"}


def edges_by(
    runner: Runner, kind: str, metric: str, columns: Sequence[str], extractors: Sequence[str]
) -> pd.DataFrame:
    """The edges of one kind by one metric, with the extractor of each value, in no order."""
    import pandas as pd

    answer = runner.read(queries.load(f"read/{kind}"), metric=metric)
    frame = pd.DataFrame(
        [(group["dataset"], *edge) for group in answer for edge in group["edges"]],
        columns=["dataset", *columns, *extractors],
        dtype=object,
    )
    numbers = [column for column in columns if column in VALUES_BY or column in ERRORS.values()]
    frame[numbers] = frame[numbers].astype("float64")
    frame[list(extractors)] = frame[list(extractors)].fillna(NOT_RECORDED)
    return frame


def one_extractor(
    metric: str, performs: pd.DataFrame, compared_by: Metric | None, similar: pd.DataFrame, chosen: set[str]
) -> tuple[str | None, str | None]:
    """Return the one extractor of each kind of edge, None where there are no values.

    Raises:
        MixedExtractors: there are several, and `chosen` does not leave one; or the two kinds of edge are by
            one metric but by different extractors.
    """
    kinds = [
        (f"Results by {metric}", sum((_used(performs, value) for value in VALUES_BY), Counter())),
        (f"Similarities by {compared_by.name if compared_by else ''}", _used(similar, "value")),
    ]
    unknown = chosen - {extractor for _, used in kinds for extractor in used}
    if unknown:
        raise MixedExtractors(
            f"No value was measured with the extractor {min(unknown)!r}; the graph has: "
            f"{'; '.join(_listed(used) for _, used in kinds if used)}."
        )
    kept: list[str | None] = []
    for what, used in kinds:
        left = [name for name in used if len(used) == 1 or name in chosen]
        if len(used) > 1 and len(left) != 1:
            raise MixedExtractors(
                f"{what} were measured with different extractors, whose values cannot be compared: "
                f"{_listed(used)}. Keep to one with --measured-with HASH."
            )
        kept.append(left[0] if left else None)
    by_results, by_similarities = kept
    if compared_by is not None and compared_by.name == metric and len({*kept} - {None, NOT_RECORDED}) > 1:
        raise MixedExtractors(
            f"Results by {metric} were measured with the extractor {by_results}, similarities with "
            f"{by_similarities}, and their values cannot be compared: measure both with one, or choose "
            "another metric of similarities with --similarity."
        )
    return by_results, by_similarities


def _used(edges: pd.DataFrame, value: str) -> Counter[str]:
    """How many values were measured with each extractor."""
    return Counter(edges.loc[edges[value].notna(), VALUES_BY[value]])


def _listed(used: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({used[name]} values)" for name in sorted(used))


def sorted_pairs(edges: pd.DataFrame) -> pd.DataFrame:
    # The stored direction follows the order of ids in Python, but who wrote it with another tool need not
    # have kept to it.
    swapped = edges["dataset"] > edges["other"]
    return edges.assign(
        dataset=edges["dataset"].where(~swapped, edges["other"]),
        other=edges["other"].where(~swapped, edges["dataset"]),
    )


def in_order(edges: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    # Sorted by Python's own order of strings, which is the one that lists of ids have.
    ends = list(zip(*(edges[key] for key in keys), strict=True))
    return edges.iloc[sorted(range(len(ends)), key=ends.__getitem__)].reset_index(drop=True)
