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

from matchgraph.drawing import Drawing
from matchgraph.graphdb import queries
from matchgraph.graphdb.checks import check_metric_name, check_number
from matchgraph.graphdb.edges import lock
from matchgraph.graphdb.errors import InvalidValue, NodeNotFound

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

PERCENTILES = 101
# What the properties of the teacher's drawing begin with.
TEACHER = "teacher_"


@dataclass(frozen=True)
class Calibration:
    """Scores of a student's images, and all that they depend on.

    Attributes:
        metric: name of the quality metric that is the oracle.
        scorer: its hash.
        drawing: how the student drew them; its steps are known.
        samples: how many images were scored.
        percentiles: the scores' 0th to 100th.
    """

    metric: str
    scorer: str
    drawing: Drawing
    samples: int
    percentiles: tuple[float, ...]

    def __post_init__(self) -> None:
        check_metric_name(self.metric)
        if self.drawing.steps is None:
            raise InvalidValue("Calibration: the student's number of steps is missing.")
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise InvalidValue(f"Calibration: samples is {self.samples!r}: at least 1 is needed.")
        values = tuple(check_number(value, f"Calibration: {self.metric}") for value in self.percentiles)
        if len(values) != PERCENTILES or any(low > high for low, high in pairwise(values)):
            raise InvalidValue(f"Calibration: {PERCENTILES} ascending percentiles are needed.")
        object.__setattr__(self, "percentiles", values)

    def flat(self) -> dict[str, Any]:
        """All values by name, those of the drawing beside the others."""
        return {
            "metric": self.metric,
            "scorer": self.scorer,
            **asdict(self.drawing),
            "samples": self.samples,
            "percentiles": list(self.percentiles),
        }

    def threshold(self, k: float) -> float:
        """The k-th percentile: minus infinity for 0, which accepts all, and infinity for 100, which none.

        Raises:
            InvalidValue: k is not from 0 to 100.
        """
        if not 0 <= k <= 100:
            raise InvalidValue(f"A percentile lies between 0 and 100, got {k!r}.")
        if k in (0, 100):
            return math.copysign(math.inf, k - 50)
        return float(np.interp(k, np.arange(PERCENTILES), self.percentiles))


@dataclass(frozen=True)
class Tuned:
    """What was found best for an average cost.

    Attributes:
        k: percentile of the student's scores below which the teacher steps in.
        rollback: of refinement; None to regenerate.
        teacher: how the teacher draws; its steps are known.
        tflop: to expect of an image, on average.
        quality: likewise, by the oracle.
    """

    k: float
    rollback: float | None
    teacher: Drawing
    tflop: float
    quality: float

    def __post_init__(self) -> None:
        for name in ("k", "tflop", "quality"):
            object.__setattr__(self, name, check_number(getattr(self, name), f"Tuned: {name}"))
        if self.teacher.steps is None:
            raise InvalidValue("Tuned: the teacher's number of steps is missing.")

    def flat(self) -> dict[str, Any]:
        """All values by name, those of the teacher's drawing as `teacher_steps` and so on."""
        drawing = {TEACHER + name: value for name, value in asdict(self.teacher).items()}
        numbers = {"k": self.k, "rollback": self.rollback, "tflop": self.tflop, "quality": self.quality}
        return {**numbers, **drawing}


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
            raise InvalidValue(f"{self.student!r} is tuned but not calibrated.")


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
                f"There is no model {missing[0]['id']!r} in the graph: "
                "add it with `matchgraph ingest models`."
            )
        properties: dict[str, Any] = {}
        for part in (distilled.calibration, distilled.tuned):
            if part is not None:
                properties |= {name: value for name, value in part.flat().items() if value is not None}
        ends = {"student": distilled.student, "teacher": distilled.teacher}
        save = queries.load("distillation/save"), {**ends, "properties": properties}
        self._runner.write_many([lock(), save])

    def load(self, student: str) -> Distilled | None:
        """A student with its teacher; None where it has none."""
        rows = self._runner.read(queries.load("distillation/teacher"), student=student)
        if not rows:
            return None
        properties = rows[0]["properties"]
        return Distilled(student, rows[0]["teacher"], *_from_flat(properties))


def _from_flat(properties: Mapping[str, Any]) -> tuple[Calibration | None, Tuned | None]:
    """What `flat` gave of both; a property that is missing stands for None, no caching, fp32, or, of the
    teacher's resolution, for the student's.
    """
    if "percentiles" not in properties:
        return None, None

    def drawing(prefix: str) -> Drawing:
        given = {name: properties.get(prefix + name) for name in ("steps", "guidance", "sampler")}
        interval = properties.get(prefix + "cache_interval", 1)
        side = properties.get(prefix + "resolution_px", properties["resolution_px"])
        precision = properties.get(prefix + "precision", "fp32")
        return Drawing(**given, resolution_px=side, cache_interval=interval, precision=precision)

    calibration = Calibration(
        properties["metric"],
        properties["scorer"],
        drawing(""),
        properties["samples"],
        tuple(properties["percentiles"]),
    )
    if "k" not in properties:
        return calibration, None
    rollback = properties.get("rollback")
    numbers = properties["tflop"], properties["quality"]
    return calibration, Tuned(properties["k"], rollback, drawing(TEACHER), *numbers)
