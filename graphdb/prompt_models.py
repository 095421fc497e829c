"""What the prompt level of the graph holds: prompts, models as they are served, and scores."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from matchgraph.drawing import Drawing
from matchgraph.graphdb.checks import Property, check_id, check_metric_name, check_number, checked_properties
from matchgraph.graphdb.errors import InvalidValue

Split: TypeAlias = Literal["train", "validation", "test"]
Unit: TypeAlias = Literal["TFLOP", "s", "USD"]
SPLITS: tuple[Split, ...] = get_args(Split)
UNITS: tuple[Unit, ...] = get_args(Unit)
# The option or argument that a budget is given by.
BUDGETS: Mapping[Unit, str] = {"TFLOP": "budget_tflop", "s": "budget_seconds", "USD": "budget_usd"}
MAX_PROMPT_CHARACTERS = 4000
LINE_BREAKS = frozenset("\t\n\r")


def prompt_id(text: str) -> str:
    """A prompt's id: the first 16 hexadecimal digits of the SHA-256 of its text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def check_prompt(text: object) -> str:
    """Return `text` if it can be a prompt, by itself and without a change.

    Raises:
        InvalidValue: it is not a string, blank, longer than 4,000 characters, or has control characters
            other than tabs and line breaks, or half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise InvalidValue(f"A prompt is of type {type(text).__name__}: give a string.")
    if not text.strip():
        raise InvalidValue("A prompt is blank: say what is to be drawn.")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidValue(
            f"The prompt {text[:40]!r}... has {len(text)} characters: {MAX_PROMPT_CHARACTERS} at most."
        )
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in LINE_BREAKS:
            raise InvalidValue(
                f"The prompt {text[:40]!r} holds {character!r}: control characters are refused."
            )
    return text


@dataclass(frozen=True)
class Budget:
    """What an image may cost on average.

    Attributes:
        cost: above 0.
        unit: of the cost; that of the candidates.
    """

    cost: float
    unit: Unit = "TFLOP"


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt whose images were, or are to be, scored.

    Attributes:
        text: the prompt.
        split: what it is for.
        probe: hash of the CLIP that embedded it.
        embedding: of its text, of length 1; float32, (d,).
        properties: what else is known of it (source, category...).
    """

    text: str
    split: Split
    probe: str
    embedding: np.ndarray
    properties: Mapping[str, Property] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_prompt(self.text)
        what = f"Prompt {self.text[:40]!r}"
        if self.split not in SPLITS:
            raise InvalidValue(f"{what}: its split is {self.split!r}: one of {', '.join(SPLITS)} is needed.")
        embedding = np.array(self.embedding, dtype=np.float32)
        if embedding.ndim != 1 or not embedding.size or not np.isfinite(embedding).all():
            raise InvalidValue(f"{what}: its embedding is not a vector of finite numbers.")
        if abs(float(np.linalg.norm(embedding.astype(np.float64))) - 1) > 1e-3:
            raise InvalidValue(f"{what}: its embedding is not of length 1.")
        embedding.flags.writeable = False
        object.__setattr__(self, "embedding", embedding)
        reserved = {"id", "text", "split", "probe", "embedding"}
        object.__setattr__(self, "properties", checked_properties(self.properties, what, reserved))

    @property
    def id(self) -> str:
        """See `prompt_id`."""
        return prompt_id(self.text)


@dataclass(frozen=True)
class Variant:
    """A model as it is served: what a prompt can be routed to.

    Attributes:
        id: its name, unique in the graph.
        model: the model's id.
        drawing: how it draws, with its number of steps; None of one that is only known by its scores, such as
            a closed service.
        cost: of one image, above 0.
        unit: of the cost: TFLOP, seconds or US dollars.
    """

    id: str
    model: str
    drawing: Drawing | None
    cost: float
    unit: Unit = "TFLOP"

    def __post_init__(self) -> None:
        check_id(self.id, "variant")
        check_id(self.model, "model")
        what = f"Variant {self.id!r}"
        if self.drawing is not None and self.drawing.steps is None:
            raise InvalidValue(f"{what}: its number of steps is missing.")
        object.__setattr__(self, "cost", check_number(self.cost, f"{what}: cost"))
        if self.cost <= 0:
            raise InvalidValue(f"{what}: cost is {self.cost:g}: it must be above 0.")
        if self.unit not in UNITS:
            raise InvalidValue(f"{what}: unit is {self.unit!r}: one of {', '.join(UNITS)} is needed.")

    def require_drawing(self, otherwise: str = "its scores were given") -> Drawing:
        """How it draws.

        Args:
            otherwise: why it is needed or what to do instead, for the message.

        Raises:
            InvalidValue: it is not drawn by a pipeline of the graph.
        """
        if self.drawing is None:
            raise InvalidValue(f"{self.id} is not drawn by a pipeline of the graph: {otherwise}.")
        return self.drawing

    def flat(self) -> dict[str, Any]:
        """All values by name, those of the drawing beside the others, for a node or a row."""
        drawing = {} if self.drawing is None else asdict(self.drawing)
        return {"id": self.id, "model": self.model, **drawing, "cost": self.cost, "unit": self.unit}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Variant:
        """The reverse of `flat`; what is missing takes the default of `Drawing`.

        Raises:
            InvalidValue: the id, the model, the cost or the number of steps cannot be used.
            InvalidDrawing: another value of the drawing cannot be used.
        """
        named = {name: values[name] for name in Drawing.__dataclass_fields__ if name in values}
        drawing = Drawing(**named) if named else None
        return cls(values["id"], values["model"], drawing, values["cost"], values.get("unit", "TFLOP"))


@dataclass(frozen=True)
class Score:
    """How well a variant does on a prompt by one metric; larger is better.

    Attributes:
        variant: the variant's id.
        prompt: the prompt's id.
        metric: name of the metric.
        value: mean over the images.
        samples: how many images, S in the paper.
        std: their sample standard deviation; None of one image.
        scorer: hash of what scored them.
    """

    variant: str
    prompt: str
    metric: str
    value: float
    samples: int
    std: float | None
    scorer: str

    def __post_init__(self) -> None:
        what = f"Score of {self.variant!r} on {self.prompt!r}"
        check_metric_name(self.metric)
        object.__setattr__(self, "value", check_number(self.value, f"{what}: {self.metric}"))
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise InvalidValue(f"{what}: samples is {self.samples!r}: at least 1 is needed.")
        if self.std is not None and not check_number(self.std, f"{what}: std") >= 0:
            raise InvalidValue(f"{what}: std is {self.std}: it cannot be negative.")

    @property
    def figures(self) -> tuple[float, float | None]:
        """Mean and standard deviation."""
        return self.value, self.std


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores by one metric: prompts by variants.

    Attributes:
        metric: its name.
        scorer: hash of what scored; "" where nothing is scored.
        prompts: sorted by id.
        variants: sorted by cost, then id.
        mean: float64, (n, m); NaN where nothing is scored.
        std: of the images, float64, (n, m); NaN where unknown.
        samples: images, int, (n, m).
    """

    metric: str
    scorer: str
    prompts: tuple[Prompt, ...]
    variants: tuple[Variant, ...]
    mean: np.ndarray
    std: np.ndarray
    samples: np.ndarray

    @property
    def cost(self) -> np.ndarray:
        """Of one image of each variant, float64, (m,)."""
        return np.array([variant.cost for variant in self.variants])

    @property
    def embeddings(self) -> np.ndarray:
        """Of the prompts, float32, (n, d)."""
        return np.stack([prompt.embedding for prompt in self.prompts])

    def rows(self, split: Split) -> np.ndarray:
        """Numbers of a split's prompts."""
        return np.flatnonzero([prompt.split == split for prompt in self.prompts])


@dataclass(frozen=True)
class Neighbour:
    """A prompt near to one that was asked for.

    Attributes:
        text: the prompt.
        cosine: cosine similarity of the embeddings.
        scores: mean by the metric asked for, by variant.
    """

    text: str
    cosine: float
    scores: Mapping[str, float]
