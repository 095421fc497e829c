"""The prompt level of the graph: prompts, models as they are served, and how well these do on prompts.

`(:Variant)-[:OF]->(:Model)` and `(:Variant)-[:SCORED]->(:Prompt)`. A SCORED edge has each metric's mean over
all images drawn, under its name, and what it was measured with under `<metric>__<name>`, as PERFORMS does:
among them `<metric>__samples` and `<metric>__std`, the images' number and sample standard deviation.

Prompts to learn from also have the label MatchGraphTrainPrompt, over which the vector index
`matchgraph_prompt_embedding` is, so that held-out prompts are never anyone's neighbours.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from matchgraph.drawing import Drawing
from matchgraph.graphdb import queries
from matchgraph.graphdb.edges import lock
from matchgraph.graphdb.errors import InvalidValue, MixedExtractors, NodeNotFound
from matchgraph.graphdb.models import Property, check_id, check_metric_name, check_number, checked_properties

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

Split: TypeAlias = Literal["train", "validation", "test"]
Unit: TypeAlias = Literal["TFLOP", "s", "USD"]

SPLITS: tuple[Split, ...] = get_args(Split)
UNITS: tuple[Unit, ...] = get_args(Unit)
MAX_PROMPT_CHARACTERS = 4000
BATCH_ROWS = 1000
# A transaction is held in the heap of the server until it ends.
TRANSACTION_ROWS = 50_000
# How many times as many neighbours the index is asked for as are wanted; measured in bench/README.md.
REACH = 4
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


class PromptGraph:
    """The prompt level of one Neo4j's graph.

    Args:
        runner: the connection; see `graphdb.connection.connect`.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def check_probes(self, prompts: Iterable[Prompt]) -> None:
        """Make sure that prompts can be saved beside those of the graph.

        Raises:
            MixedExtractors: they are embedded by another probe.
        """
        probes = {prompt.probe for prompt in prompts}
        if probes and len(probes.union(self.probes())) > 1:
            named = ", ".join(sorted(probes.union(self.probes())))
            raise MixedExtractors(
                f"Prompts are embedded by different probes ({named}) and cannot be "
                "compared: use the probe of those in the graph, or remove them first."
            )

    def save_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Save prompts; one that is there gets exactly these properties and this split, its scores stay.

        Raises:
            MixedExtractors: they are embedded by another probe than those in the graph.
        """
        self.check_probes(prompts)
        rows = [
            {
                "id": prompt.id,
                "train": prompt.split == "train",
                "properties": {
                    **prompt.properties,
                    "id": prompt.id,
                    "text": prompt.text,
                    "split": prompt.split,
                    "probe": prompt.probe,
                    "embedding": prompt.embedding.tolist(),
                },
            }
            for prompt in prompts
        ]
        self._write("prompts/save-prompts", rows)

    def save_variants(self, variants: Sequence[Variant]) -> None:
        """Save variants; one that is there gets exactly these properties, its scores stay.

        Raises:
            InvalidValue: one that has scores is of another model or drawing; nothing is written.
            NodeNotFound: a variant's model is not in the graph.
        """
        self._check_scored(variants)
        wanted = sorted({variant.model for variant in variants})
        missing = self._runner.read(queries.load("read/missing-models"), ids=wanted)
        if missing:
            raise NodeNotFound(
                f"There is no model {missing[0]['id']!r} in the graph: ingest it before its variants."
            )
        self._write(
            "prompts/save-variants",
            [
                {
                    "id": variant.id,
                    "model": variant.model,
                    "properties": {name: value for name, value in variant.flat().items() if name != "model"},
                }
                for variant in variants
            ],
        )

    def _check_scored(self, variants: Sequence[Variant]) -> None:
        """Refuse another drawing under an id whose scores would then count as scores of that drawing."""
        there = {variant.id: variant.flat() for variant in self.variants()}
        changes = {}
        for variant in variants:
            now, before = variant.flat(), there.get(variant.id)
            names = [*Drawing.__dataclass_fields__, "model"]
            if before and (name := next((one for one in names if before.get(one) != now.get(one)), None)):
                changes[variant.id] = name, before.get(name), now.get(name)
        for row in self._runner.read(queries.load("prompts/scored-variants"), ids=list(changes)):
            name, old, new = changes[row["id"]]
            again = f"--resolution {old}" if name == "resolution_px" else f"{name} {old}"
            raise InvalidValue(
                f"{row['id']} has scores of images with {name} {old}, not {new}: give `{again}`, or remove "
                f"its scores in Cypher: MATCH (:Variant {{id: '{row['id']}'}})-[s:SCORED]->() DELETE s"
            )

    def save_scores(self, scores: Iterable[Score]) -> None:
        """Save scores of prompts and variants of the graph; one of the same metric is replaced.

        One transaction for every 50,000 pairs of variant and prompt; where saving is cut short, saving again
        completes it.

        Raises:
            NodeNotFound: a prompt or variant is not in the graph; nothing is written.
        """
        groups = _score_rows(scores)
        for kind in ("prompt", "variant"):
            ids = sorted({row[kind] for group in groups for row in group.rows})
            missing = self._runner.read(queries.load(f"prompts/missing-{kind}s"), ids=ids)
            if missing:
                raise NodeNotFound(
                    f"There is no {kind} {missing[0]['id']!r} in the graph: save it before its scores."
                )
        self._write_batches(
            "prompts/save-scores",
            [
                {"shared": group.shared, "prefixes": group.prefixes, "names": group.names, "rows": rows}
                for group in groups
                for rows in _batches(group.rows)
            ],
        )

    def probes(self) -> list[str]:
        """Hashes of the CLIPs that embedded the prompts; of a sound graph one at most."""
        return [row["probe"] for row in self._runner.read(queries.load("prompts/probes"))]

    def prompts(self) -> list[Prompt]:
        """All prompts, sorted by id."""
        return [_prompt_from(row["properties"]) for row in self._runner.read(queries.load("prompts/prompts"))]

    def texts(self, split: Split) -> list[str]:
        """The prompts of a split, sorted by id."""
        return [prompt.text for prompt in self.prompts() if prompt.split == split]

    def variants(self) -> list[Variant]:
        """All variants, by cost and id."""
        rows = self._runner.read(queries.load("prompts/variants"))
        found = [Variant.from_flat({**row["properties"], "model": row["model"]}) for row in rows]
        return sorted(found, key=lambda variant: (variant.cost, variant.id))

    def metrics(self) -> dict[str, int]:
        """Metrics of the scores, and how many scores there are by each."""
        return {row["metric"]: row["scores"] for row in self._runner.read(queries.load("prompts/metrics"))}

    def scores(self, metric: str) -> list[Score]:
        """All scores by one metric, in no order."""
        check_metric_name(metric)
        return [
            Score(metric=metric, **row)
            for row in self._runner.read(queries.load("prompts/scores"), metric=metric)
        ]

    def scored(self, variant: str, metric: str, scorer: str, samples: int) -> set[str]:
        """Ids of the prompts that a variant is scored on by a metric, with this scorer and number of images.

        Args:
            variant: its id.
            metric: name of the metric.
            scorer: the scorer's hash.
            samples: images, at least.
        """
        check_metric_name(metric)
        rows = self._runner.read(
            queries.load("prompts/scored"), variant=variant, metric=metric, scorer=scorer, samples=samples
        )
        return {row["id"] for row in rows}

    def table(self, metric: str) -> ScoreTable:
        """All scores by one metric.

        Raises:
            MixedExtractors: they come from different scorers.
        """
        check_metric_name(metric)
        prompts, variants = self.prompts(), self.variants()
        row_of = {prompt.id: number for number, prompt in enumerate(prompts)}
        column_of = {variant.id: number for number, variant in enumerate(variants)}
        shape = (len(prompts), len(variants))
        mean, std, samples = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
        scorers = set()
        for row in self._runner.read(queries.load("prompts/scores"), metric=metric):
            at = row_of[row["prompt"]], column_of[row["variant"]]
            mean[at], samples[at] = row["value"], row["samples"]
            if row["std"] is not None:
                std[at] = row["std"]
            scorers.add(row["scorer"])
        if len(scorers) > 1:
            raise MixedExtractors(
                f"Scores by {metric} come from different scorers ({', '.join(sorted(scorers))}) and cannot "
                "be compared: score all variants with one."
            )
        return ScoreTable(metric, "".join(scorers), tuple(prompts), tuple(variants), mean, std, samples)

    def nearest(self, embedding: np.ndarray, count: int, metric: str) -> list[Neighbour]:
        """The prompts to learn from that are nearest to an embedding, with their scores, by the vector index.

        Args:
            embedding: of length 1; (d,).
            count: how many; the index is approximate and may give fewer.
            metric: of the scores.
        """
        check_metric_name(metric)
        rows = self._runner.read(
            queries.load("prompts/nearest"),
            embedding=embedding.tolist(),
            count=count,
            reach=REACH * count,
            metric=metric,
        )
        return [Neighbour(row["text"], row["cosine"], dict(row["scores"])) for row in rows]

    def _write(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        self._write_batches(name, [{"rows": batch} for batch in _batches(rows)])

    def _write_batches(self, name: str, batches: Sequence[dict[str, Any]]) -> None:
        """Run a statement for each batch, with as many in a transaction as fit the server's heap."""
        query = queries.load(name)
        transaction = [lock()]
        held = 0
        for batch in batches:
            if held + len(batch["rows"]) > TRANSACTION_ROWS:
                self._runner.write_many(transaction)
                transaction, held = [lock()], 0
            transaction.append((query, batch))
            held += len(batch["rows"])
        self._runner.write_many(transaction)


def _batches(rows: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    return [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]


@dataclass
class _ScoreRows:
    """Scores of pairs of variant and prompt that have the same metrics, measured with the same.

    What they share is sent once and not in every row: packing the rows takes most of the client's time.
    """

    shared: dict[str, Any]
    prefixes: list[str]
    names: list[str]
    rows: list[dict[str, Any]]


def _score_rows(scores: Iterable[Score]) -> list[_ScoreRows]:
    pairs: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        pairs.setdefault((score.variant, score.prompt), {})[score.metric] = score
    groups: dict[frozenset[tuple[str, int, str]], _ScoreRows] = {}
    for (variant, prompt), by_metric in pairs.items():
        key = frozenset((metric, own.samples, own.scorer) for metric, own in by_metric.items())
        if key not in groups:
            shared: dict[str, Any] = {}
            for metric, samples, scorer in key:
                shared |= {f"{metric}__samples": samples, f"{metric}__scorer": scorer}
            metrics = sorted(by_metric)
            names = [name for metric in metrics for name in (metric, f"{metric}__std")]
            groups[key] = _ScoreRows(shared, [f"{metric}__" for metric in metrics], names, [])
        values = [value for metric in sorted(by_metric) for value in by_metric[metric].figures]
        groups[key].rows.append({"variant": variant, "prompt": prompt, "values": values})
    return list(groups.values())


def _prompt_from(properties: Mapping[str, Any]) -> Prompt:
    rest = dict(properties)
    del rest["id"]
    known = {name: rest.pop(name) for name in ("text", "split", "probe", "embedding")}
    return Prompt(**known, properties=rest)
