"""What the matching graph holds, as frozen dataclasses that cannot be built with values the graph must not
hold, see `graphdb.checks`.

Checks that need the graph (does that model exist, is that metric known) are the repository's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from matchgraph.graphdb.checks import (
    Property,
    check_id,
    check_metric_name,
    check_number,
    check_string,
    checked_properties,
    checked_provenance,
)
from matchgraph.graphdb.errors import InvalidValue

if TYPE_CHECKING:
    import pandas as pd

Stage: TypeAlias = Literal["initial", "finetuned"]

# The property of a node that Neo4j Browser shows, see `graphdb.browser`; none of the node's own.
BROWSER_NAME = "matchgraph_name"
# After a metric's name, that of its standard error.
STANDARD_ERROR = "__standard_error"


@dataclass(frozen=True)
class Metric:
    """A way to measure how well a model does on a dataset, or how far two datasets are apart.

    Attributes:
        name: the property that holds it on an edge, `[a-z][a-z0-9_]{0,40}`.
        larger_is_better: True for accuracies and scores, False for distances such as FID.
        minimum: the least value possible, None when there is none.
        maximum: the greatest value possible, None when there is none.
    """

    name: str
    larger_is_better: bool = False
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        check_metric_name(self.name)
        if not isinstance(self.larger_is_better, bool):
            raise InvalidValue(
                f"Metric {self.name}: larger_is_better is {self.larger_is_better!r}: True or False is needed."
            )
        for bound in ("minimum", "maximum"):
            if getattr(self, bound) is not None:
                object.__setattr__(
                    self, bound, check_number(getattr(self, bound), f"Metric {self.name}: {bound}")
                )
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise InvalidValue(
                f"Metric {self.name}: its minimum {self.minimum} is not below its maximum {self.maximum}."
            )

    def check(self, value: float, what: str) -> float:
        """Return `value` if it lies in the metric's range.

        Raises:
            InvalidValue: it does not, or is not finite; the message begins with `what`.
        """
        value = check_number(value, what)
        if self.minimum is not None and value < self.minimum:
            raise InvalidValue(f"{what} is {value:g}: {self.name} cannot be less than {self.minimum:g}.")
        if self.maximum is not None and value > self.maximum:
            raise InvalidValue(f"{what} is {value:g}: {self.name} cannot be more than {self.maximum:g}.")
        return value


@dataclass(frozen=True)
class Model:
    """A pretrained model of the zoo.

    Attributes:
        id: its name, unique in the graph.
        properties: its attributes (family, released, params, throughput, `<component>_<config key>`...):
            booleans, numbers, strings, or lists of one of these. None means "not known" and is left out.
    """

    id: str
    properties: Mapping[str, Property] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.id, "model")
        reserved = {"id", BROWSER_NAME}
        object.__setattr__(
            self, "properties", checked_properties(self.properties, f"Model {self.id!r}", reserved)
        )


@dataclass(frozen=True)
class Dataset:
    """A dataset of images.

    Attributes:
        id: its name, unique in the graph.
        properties: its attributes (images, captioned, probe, extractor, n_real, resize, source...), as for a
            model.
        embedding: mean probe embedding of its images, or None when nothing probed it.
    """

    id: str
    properties: Mapping[str, Property] = field(default_factory=dict)
    embedding: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_id(self.id, "dataset")
        what = f"Dataset {self.id!r}"
        reserved = {"id", "embedding", BROWSER_NAME}
        object.__setattr__(self, "properties", checked_properties(self.properties, what, reserved))
        if self.embedding is None:
            return
        values = np.asarray(self.embedding, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise InvalidValue(f"{what}: its embedding has shape {values.shape}: one vector is needed.")
        if not np.isfinite(values).all():
            raise InvalidValue(
                f"{what}: number {int(np.argmin(np.isfinite(values)))} of its embedding is not finite."
            )
        object.__setattr__(self, "embedding", tuple(values.tolist()))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of the features of a dataset's images, all that a Frechet distance needs to know of
    it.

    Attributes:
        dataset: the dataset's id.
        extractor: hash of the feature extractor (weights and preprocessing).
        resize: name of the resizing mode.
        n: how many images they were computed from, at least 2.
        mean: float64, (d,).
        covariance: float64, (d, d), symmetric; the last bits of an asymmetry are averaged away.
        searched: metrics by which the dataset was compared with the nearest ones of all that were there.
    """

    dataset: str
    extractor: str
    resize: str
    n: int
    mean: np.ndarray
    covariance: np.ndarray
    searched: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.dataset, "dataset")
        what = f"Statistics of dataset {self.dataset!r}"
        for name in ("extractor", "resize"):
            check_string(getattr(self, name), f"{what}: {name}")
        if isinstance(self.n, bool) or not isinstance(self.n, Integral) or self.n < 2:
            raise InvalidValue(f"{what}: n is {self.n!r}: a covariance needs at least 2 images.")
        mean = np.array(self.mean, dtype="<f8")
        covariance = np.array(self.covariance, dtype="<f8")
        if mean.ndim != 1 or mean.size == 0 or covariance.shape != (mean.size, mean.size):
            raise InvalidValue(
                f"{what}: mean {mean.shape} and covariance {covariance.shape} do not fit: (d,) and (d, d)."
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise InvalidValue(f"{what}: mean or covariance holds NaN or infinity.")
        if not np.array_equal(covariance, covariance.T):
            if not np.allclose(
                covariance, covariance.T, rtol=1e-6, atol=1e-9 * float(np.abs(covariance).max())
            ):
                raise InvalidValue(f"{what}: the covariance is not symmetric.")
            covariance = (covariance + covariance.T) / 2
        for array in (mean, covariance):
            array.flags.writeable = False
        object.__setattr__(self, "n", int(self.n))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)

    @property
    def dimension(self) -> int:
        """Number of features, d."""
        return self.mean.size

    @property
    def triangle(self) -> np.ndarray:
        """The covariance's lower triangle by rows, all that has to be stored: float64, (d (d + 1) / 2,)."""
        return self.covariance[np.tril_indices(self.dimension)]

    @classmethod
    def from_triangle(
        cls,
        dataset: str,
        extractor: str,
        resize: str,
        n: int,
        mean: np.ndarray,
        triangle: np.ndarray,
        searched: Sequence[str] = (),
    ) -> Statistics:
        """Statistics from their mean and `triangle`, the other arguments being those of the class."""
        covariance = np.zeros((len(mean), len(mean)))
        lower = np.tri(len(mean), dtype=bool)
        covariance[lower] = covariance.T[lower] = triangle
        return cls(dataset, extractor, resize, n, mean, covariance, tuple(searched))


@dataclass(frozen=True)
class Similar:
    """Distance or similarity of two datasets by one metric; the pair has no order.

    Attributes:
        dataset: one dataset's id.
        other: the other's.
        metric: name of the metric.
        value: its value.
        provenance: what it was measured with (n_real, extractor, resize...).
    """

    dataset: str
    other: str
    metric: str
    value: float
    provenance: Mapping[str, Property] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.dataset, "dataset")
        check_id(self.other, "dataset")
        what = f"Similarity of {self.dataset!r} and {self.other!r}"
        if self.dataset == self.other:
            raise InvalidValue(f"{what}: a dataset is not compared with itself.")
        check_metric_name(self.metric)
        object.__setattr__(self, "value", check_number(self.value, f"{what}: {self.metric}"))
        object.__setattr__(self, "provenance", checked_provenance(self.provenance, what))

    @property
    def pair(self) -> tuple[str, str]:
        """The two ids in sorted order."""
        return (self.dataset, self.other) if self.dataset < self.other else (self.other, self.dataset)


@dataclass(frozen=True)
class Result:
    """How well a model does on a dataset by one metric.

    Attributes:
        model: the model's id.
        dataset: the dataset's id.
        metric: name of the metric.
        value: its value.
        stage: "initial" for the pretrained model, "finetuned" after fine-tuning on the dataset.
        provenance: what it was measured with (run, n_real, n_gen, extractor, resize, std...).
    """

    model: str
    dataset: str
    metric: str
    value: float
    stage: Stage = "finetuned"
    provenance: Mapping[str, Property] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id(self.model, "model")
        check_id(self.dataset, "dataset")
        what = f"Result of model {self.model!r} on dataset {self.dataset!r}"
        check_metric_name(self.metric)
        object.__setattr__(self, "value", check_number(self.value, f"{what}: {self.metric}"))
        if self.stage not in ("initial", "finetuned"):
            raise InvalidValue(f"{what}: the stage is {self.stage!r}: it must be initial or finetuned.")
        object.__setattr__(self, "provenance", checked_provenance(self.provenance, what))


@dataclass(frozen=True, eq=False)
class MeasuredDataset:
    """A dataset as its images show it, before or without being saved; see `MatchingGraph.save_datasets`.

    Attributes:
        dataset: the node.
        statistics: of its features, by each extractor.
        similar: its distances to other datasets.
        compared: by the hash of each extractor, the datasets that it was compared with; None where a save
            need not check that these are all.
        notes: what was not read, or could not be measured.
    """

    dataset: Dataset
    statistics: tuple[Statistics, ...]
    similar: tuple[Similar, ...]
    compared: Mapping[str, Collection[str]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The matching graph at one moment, by one metric, in an order that depends on nothing but the ids.

    Attributes:
        metric: the metric of `performs`.
        models: all models, sorted by id.
        datasets: all datasets, sorted by id.
        performs: columns model, dataset, value, initial, standard_error and initial_standard_error, sorted by
            model and dataset; `value` is after fine-tuning, `initial` before it; either may be NaN, never
            both. Standard errors are NaN where none is recorded.
        similar: columns dataset, other, value with dataset < other, sorted.
        similarity: the metric of `similar`; None when no two datasets were compared.
        measured_with: hash of the extractor of all values of `performs`, "not-recorded" where none is known.
        compared_with: the same of `similar`.
        searched: datasets that were compared with the nearest ones alone: of two of these, one without an
            edge to the other is not among its nearest.
    """

    metric: Metric
    models: tuple[Model, ...]
    datasets: tuple[Dataset, ...]
    performs: pd.DataFrame
    similar: pd.DataFrame
    similarity: Metric | None = None
    measured_with: str | None = None
    compared_with: str | None = None
    searched: frozenset[str] = frozenset()
