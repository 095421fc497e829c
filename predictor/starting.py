"""Where to start in a graph without results: what is published of its models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.graphdb.models import Model

# As `ingest published` writes them.
RANK, RANK_SOURCE = "published_rank", "published_rank_source"
FACTS = ("license", "released", "resolution_px")
PLAN = re.compile(r"published_memory_(\d+)_gib")
FITS = "fits"


@dataclass(frozen=True)
class StartingModel:
    """A model of a graph without results.

    Attributes:
        model: its id.
        rank: its place in the published average ranking, 1 for the best; None where it has none.
        params: values of its denoiser; None where that is not known, as for all that follow.
        tflop: TFLOP of its default call.
        license: of its weights.
        released: a year, month or day.
        resolution_px: side of the images it was made for.
        fits_gib: memory of the smallest card that a run with the default settings was planned for and fits.
    """

    model: str
    rank: int | None
    params: int | None
    tflop: float | None
    license: str | None
    released: str | None
    resolution_px: int | None
    fits_gib: int | None


@dataclass(frozen=True)
class StartingPoint:
    """The answer for any dataset while the graph has no results.

    Attributes:
        models: by their published average rank; those without one after them, cheapest first.
        notes: what this is, and how to get a prediction, one sentence each.
    """

    models: tuple[StartingModel, ...]
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per model, with the fields of `StartingModel`; the index is the place, from 1."""
        import pandas as pd

        rows = [asdict(model) for model in self.models]
        return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="place"))

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"starting_point": [asdict(model) for model in self.models], "notes": list(self.notes)}

    def _repr_html_(self) -> str:
        """The models as a table, for notebooks."""
        table = self.to_frame().dropna(axis="columns", how="all").to_html(border=0)
        return table + "".join(f"<p>{escape(note)}</p>" for note in self.notes)


def starting_point(models: Sequence[Model]) -> StartingPoint | None:
    """Order models by what is published of them.

    Args:
        models: those of the graph.

    Returns:
        None where nothing is published of any.
    """
    if not any("published_id" in model.properties for model in models):
        return None
    rows = sorted(
        (_row(model.id, model.properties) for model in models),
        key=lambda row: (row.rank or len(models) + 1, row.tflop or float("inf"), row.model),
    )
    sources = sorted({str(model.properties[RANK_SOURCE]) for model in models if RANK in model.properties})
    notes = ["The graph has no results, so this is not a prediction: it is the same for every dataset."]
    if sources:
        notes.append(
            f"Models with a rank are in the order of their average after fine-tuning on other datasets "
            f"({'; '.join(sources)}); the others follow, cheapest first."
        )
    notes.append("Each result that you add or measure (`predict --measure`) makes a prediction possible.")
    return StartingPoint(tuple(rows), tuple(notes))


def _row(name: str, properties: Mapping[str, Any]) -> StartingModel:
    published = {fact: properties.get(f"published_{fact}") for fact in FACTS}
    plans = {int(found[1]): plan for key, plan in properties.items() if (found := PLAN.fullmatch(key))}
    fitting = [card for card, plan in plans.items() if str(plan).startswith(FITS)]
    return StartingModel(
        name,
        properties.get(RANK),
        properties.get("params"),
        properties.get("tflop"),
        **published,
        fits_gib=min(fitting, default=None),
    )
