"""The answer to "which model for this dataset?", as data, as a data frame, and as a notebook shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from matchgraph.predictor.confidence import Confidence
    from matchgraph.predictor.matching import Cost, Neighbour, Prediction, RankedModel
    from matchgraph.predictor.verdict import Verdict


@dataclass(frozen=True)
class Answer:
    """A ranking of the zoo for one dataset.

    Attributes:
        prediction: the ranking with its reasons.
        verdict: which model to take, its chance, what a wrong choice costs, and whether to trust it.
        measured: of a dataset of the graph, what was measured on it by model; not used in the prediction.
        confidence: the smallest set of models that contains the best one; None if not requested.
        seconds: how long the answer took.
        notes: what limits how far the answer can be trusted, one sentence each.
    """

    prediction: Prediction
    verdict: Verdict
    measured: Mapping[str, float] = field(default_factory=dict)
    confidence: Confidence | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        """Id of the dataset."""
        return self.prediction.dataset

    @property
    def ranking(self) -> tuple[RankedModel, ...]:
        """All models, best expected rank first."""
        return self.prediction.ranking

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        """The most similar datasets, most similar first."""
        return self.prediction.neighbours

    @property
    def costs(self) -> dict[str, Cost]:
        """Cost of using each model, in the order of the ranking."""
        return {model.model: model.cost for model in self.ranking}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the answer was computed from and with."""
        return self.prediction.provenance

    def to_frame(self) -> pd.DataFrame:
        """One row per model, best first; the index is the place, from 1.

        Returns:
            Columns model, expected_rank, rank_std, p_best, the fields of `Cost`, and measured where the
            graph has results of the dataset.
        """
        import pandas as pd

        rows = []
        for model in self.ranking:
            row = {name: getattr(model, name) for name in ("model", "expected_rank", "rank_std", "p_best")}
            row |= asdict(model.cost)
            if self.measured:
                row["measured"] = self.measured.get(model.model)
            rows.append(row)
        return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="rank"))

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; `measured` is None for models without a result."""
        ranking = []
        for model in self.ranking:
            row = asdict(model)
            if self.measured:
                row["measured"] = self.measured.get(model.model)
            ranking.append(row)
        return {
            "dataset": self.dataset,
            "ranking": ranking,
            "neighbours": [asdict(neighbour) for neighbour in self.neighbours],
            "confidence": None if self.confidence is None else self.confidence.to_dict(),
            "verdict": self.verdict.to_dict(),
            "notes": list(self.notes),
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }

    def _repr_html_(self) -> str:
        """The ranking as a table, for notebooks."""
        known = self.to_frame().dropna(axis="columns", how="all")
        title = f"Models for {escape(self.dataset)} by {escape(str(self.provenance['metric']))}"
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        table = known.to_html(float_format="{:.4g}".format, border=0)
        return f"<p><b>{title}</b></p>{table}{notes}"
