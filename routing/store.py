"""How a router was fitted, kept beside the graph: `<home>/routing/<metric>.json`, and a network's weights."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from matchgraph.routing.chances import Errors
from matchgraph.routing.errors import NotFitted, UnusableEstimator
from matchgraph.routing.estimators import NEIGHBOURS, NearestInGraph, NearestPrompts, QualityEstimator
from matchgraph.routing.network import TokenQuality
from matchgraph.routing.process import GaussianQuality
from matchgraph.routing.router import Familiarity, Router

if TYPE_CHECKING:
    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.training.measure.prompts import PromptEncoder

FOLDER = "routing"
Kind = Literal["gaussian", "knn", "network"]


@dataclass(frozen=True)
class Fitted:
    """What was fitted for a metric.

    Attributes:
        metric: name of the quality metric.
        kind: `gaussian`, `knn` or `network`.
        probe: hash of the encoder that reads prompts.
        variants: ids of the candidates.
        average: their mean qualities over the training prompts; None where nothing is scored.
        least_similarity: see `routing.router.Familiarity`.
        neighbours: K of `knn`.
        lam: lambda; 0 until it is calibrated.
        budget: cost that lambda was calibrated for, None where it was not.
    """

    metric: str
    kind: Kind
    probe: str
    variants: tuple[str, ...]
    average: tuple[float | None, ...]
    least_similarity: float
    neighbours: int = NEIGHBOURS
    lam: float = 0.0
    budget: float | None = None


class RouterStore:
    """Fitted routers of one data folder.

    Args:
        home: the data folder.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def save(
        self,
        fitted: Fitted,
        estimator: TokenQuality | GaussianQuality | None = None,
        errors: Errors | None = None,
    ) -> Path:
        """Keep a fitted router; the weights are written first, so that a crash leaves the old one.

        Args:
            fitted: what was fitted.
            estimator: that has weights; without one, those that are there stay.
            errors: on validation and left-out training prompts, likewise.

        Returns:
            The file.
        """
        from matchgraph.training.files import write_json

        self._folder.mkdir(parents=True, exist_ok=True)
        if estimator is not None:
            estimator.save(self._weights(fitted.metric))
        if errors is not None:
            errors.save(self._errors(fitted.metric))
        path = self._path(fitted.metric)
        write_json(path, asdict(fitted))
        return path

    def load(self, metric: str) -> Fitted:
        """Read a fitted router.

        Raises:
            NotFitted: there is none for the metric.
            UnusableEstimator: the file cannot be read.
        """
        path = self._path(metric)
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return Fitted(
                **{**values, "variants": tuple(values["variants"]), "average": tuple(values["average"])}
            )
        except FileNotFoundError:
            there = self.metrics()
            known = f" Fitted are: {', '.join(there)}." if there else ""
            raise NotFitted(f"No router is fitted for {metric}: run `matchgraph route fit`.{known}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnusableEstimator(
                f"{path} cannot be read ({error}): fit it again with `matchgraph route fit`."
            ) from None

    def clear(self) -> None:
        """Forget all fitted routers.

        Raises:
            OSError: a file cannot be deleted.
        """
        with suppress(FileNotFoundError):
            shutil.rmtree(self._folder)

    def metrics(self) -> list[str]:
        """Metrics that a router is fitted for, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def estimator(self, fitted: Fitted, graph: PromptGraph, *, exact: bool = False) -> QualityEstimator:
        """The estimator of a fitted router.

        Args:
            fitted: the router.
            graph: the prompts.
            exact: of `knn`: search in memory instead of asking the vector index.
        """
        if fitted.kind == "network":
            return TokenQuality.load(self._weights(fitted.metric))
        if fitted.kind == "gaussian":
            return GaussianQuality.load(self._weights(fitted.metric))
        if exact:
            return NearestPrompts(graph.table(fitted.metric), fitted.neighbours)
        return NearestInGraph(graph, fitted.metric, fitted.neighbours)

    def router(
        self,
        fitted: Fitted,
        graph: PromptGraph,
        encoder: PromptEncoder | None = None,
        *,
        exact: bool = False,
    ) -> Router:
        """A router, ready to decide.

        Args:
            fitted: what was fitted.
            graph: the prompts.
            encoder: reads prompts; without one the router knows those of the graph alone.
            exact: see `estimator`.

        Raises:
            UnusableEstimator: the encoder is not the one that read the known prompts, or no candidate is
                left.
        """
        if encoder is not None and encoder.hash != fitted.probe:
            raise UnusableEstimator(
                f"The router for {fitted.metric} was fitted with prompts read by {fitted.probe}, not by "
                f"{encoder.hash}: give that encoder, or fit the router again."
            )
        average = dict(zip(fitted.variants, fitted.average, strict=True))
        there = graph.variants()
        # Candidates whose cost is of another unit than that of all scored ones cannot be compared with these.
        units = {variant.unit for variant in there if average.get(variant.id) is not None}
        variants = [variant for variant in there if variant.unit in units]
        known = np.array(
            [np.nan if average.get(v.id) is None else average[v.id] for v in variants], dtype=np.float64
        )
        return Router(
            self.estimator(fitted, graph, exact=exact),
            variants,
            Familiarity(fitted.least_similarity, known),
            fitted.lam,
            encoder,
            Errors.load(kept) if (kept := self._errors(fitted.metric)).is_file() else None,
        )

    def _path(self, metric: str) -> Path:
        return self._folder / f"{metric}.json"

    def _errors(self, metric: str) -> Path:
        return self._folder / f"{metric}.errors.safetensors"

    def _weights(self, metric: str) -> Path:
        return self._folder / f"{metric}.safetensors"
