"""Students and their teachers: (:Model)-[:DISTILLED_FROM]->(:Model), with the threshold by which the teacher
steps in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb import queries
from matchgraph.graphdb.errors import InvalidValue, NodeNotFound
from matchgraph.graphdb.models import check_metric_name, check_number
from matchgraph.graphdb.repository import edge_key

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

PERCENTILES = 101


@dataclass(frozen=True)
class Calibration:
    """Scores of a student's images, and all that they depend on.

    Attributes:
        metric: name of the quality metric that is the oracle.
        scorer: its hash.
        steps: the student's denoising steps.
        guidance: its guidance scale; None for the pipeline's own.
        sampler: class of its scheduler; None for the pipeline's own.
        resolution_px: side of its images.
        samples: how many images were scored.
        percentiles: the scores' 0th to 100th.
    """

    metric: str
    scorer: str
    steps: int
    guidance: float | None
    sampler: str | None
    resolution_px: int
    samples: int
    percentiles: tuple[float, ...]

    def __post_init__(self) -> None:
        check_metric_name(self.metric)
        for name in ("steps", "resolution_px", "samples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidValue(f"Calibration: {name} is {value!r}: at least 1 is needed.")
        values = tuple(check_number(value, f"Calibration: {self.metric}") for value in self.percentiles)
        if len(values) != PERCENTILES or any(low > high for low, high in pairwise(values)):
            raise InvalidValue(f"Calibration: {PERCENTILES} ascending percentiles are needed.")
        object.__setattr__(self, "percentiles", values)

    def threshold(self, k: float) -> float:
        """The k-th percentile: minus infinity for 0, which accepts all, and infinity for 100, which none.

        Raises:
            InvalidValue: k is not from 0 to 100.
        """
        if not 0 <= k <= 100:
            raise InvalidValue(f"A percentile is from 0 to 100, got {k!r}.")
        if k in (0, 100):
            return math.copysign(math.inf, k - 50)
        return float(np.interp(k, np.arange(PERCENTILES), self.percentiles))


@dataclass(frozen=True)
class Tuned:
    """What was found best for an average cost.

    Attributes:
        k: percentile of the student's scores below which the teacher steps in.
        rollback: of refinement; None to regenerate.
        teacher_steps: the teacher's denoising steps.
        teacher_guidance: its guidance scale; None for the pipeline's own.
        teacher_sampler: class of its scheduler; None for the pipeline's own.
        tflop: to expect of an image, on average.
        quality: likewise, by the oracle.
    """

    k: float
    rollback: float | None
    teacher_steps: int
    teacher_guidance: float | None
    teacher_sampler: str | None
    tflop: float
    quality: float

    def __post_init__(self) -> None:
        for name in ("k", "tflop", "quality"):
            object.__setattr__(self, name, check_number(getattr(self, name), f"Tuned: {name}"))


@dataclass(frozen=True)
class Distilled:
    """A student as the graph knows it.

    Attributes:
        student: its id.
        teacher: its teacher's.
        calibration: None until it is calibrated.
        tuned: None until it is tuned.
    """

    student: str
    teacher: str
    calibration: Calibration | None = None
    tuned: Tuned | None = None

    def __post_init__(self) -> None:
        if self.student == self.teacher:
            raise InvalidValue(f"{self.student!r} cannot be distilled from itself.")
        if self.tuned is not None and self.calibration is None:
            raise InvalidValue(f"{self.student!r} is tuned and not calibrated.")


class DistillationGraph:
    """Students and teachers of one Neo4j's graph.

    Args:
        runner: the connection; see `graphdb.connection.connect`.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def save(self, distilled: Distilled) -> None:
        """Join a student to its teacher alone; what was calibrated and tuned before is replaced.

        Raises:
            NodeNotFound: one of the two is not in the graph.
        """
        ids = [distilled.student, distilled.teacher]
        missing = self._runner.read(queries.load("read/missing-models"), ids=ids)
        if missing:
            raise NodeNotFound(
                f"There is no model {missing[0]['id']!r} in the graph: add it by `matchgraph ingest models`."
            )
        key = edge_key(*ids)
        properties: dict[str, Any] = {"key": key}
        for part in (distilled.calibration, distilled.tuned):
            if part is not None:
                values = {name: value for name, value in asdict(part).items() if value is not None}
                properties |= {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
        self._runner.write(
            queries.load("distillation/save"),
            student=distilled.student,
            teacher=distilled.teacher,
            key=key,
            properties=properties,
        )

    def load(self, student: str) -> Distilled | None:
        """A student with its teacher; None where it has none."""
        rows = self._runner.read(queries.load("distillation/teacher"), student=student)
        if not rows:
            return None
        properties = rows[0]["properties"]
        calibration = _built(Calibration, properties) if "percentiles" in properties else None
        tuned = _built(Tuned, properties) if "k" in properties else None
        return Distilled(student, rows[0]["teacher"], calibration, tuned)


def _built(kind: type[Any], properties: Mapping[str, Any]) -> Any:
    names = kind.__dataclass_fields__
    values = {name: properties.get(name) for name in names}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})
