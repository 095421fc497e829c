"""Estimators of each candidate's quality for a prompt, before anything is drawn.

Three kinds, behind one interface: the mean of the nearest known prompts, to which a new candidate is added
by scoring it alone; a Gaussian process over prompt embeddings; and a small network on the tokens of a frozen
CLIP, which learns all candidates together.

Source:
    CATImage, section 3.2 (plug-in estimators) and "Quality estimator" in section 5.1, for the first and the
    last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from matchgraph.routing.errors import NotEnoughScores, UnusableEstimator

if TYPE_CHECKING:
    import torch

    from matchgraph.graphdb.prompts import PromptGraph, ScoreTable
    from matchgraph.training.measure.prompts import EncodedPrompts

NEIGHBOURS = 32
HIDDEN = 256
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
# Epochs without a better validation loss after which training ends.
PATIENCE = 8
SAVED = "matchgraph-quality-1"
SAVED_PROCESS = "matchgraph-process-2"
# Solving for a process takes the cube of its prompts; of more, these many are drawn at random.
MOST_PROCESS_PROMPTS = 5_000


@dataclass(frozen=True, eq=False)
class Estimates:
    """Expected quality of each candidate for each prompt, on the metric's scale.

    Attributes:
        quality: float64, (n, m); NaN where nothing is known.
        std: standard error of `quality`, float64, (n, m); NaN where unknown.
        similarity: cosine to the most similar prompt learnt from, (n,).
    """

    quality: np.ndarray
    std: np.ndarray
    similarity: np.ndarray


class QualityEstimator(Protocol):
    """What estimates quality.

    Attributes:
        metric: of the quality.
        variants: ids of the candidates, in the order of the columns.
    """

    metric: str
    variants: tuple[str, ...]

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """Estimate every candidate's quality for prompts encoded by the CLIP that the graph's were."""
        ...


class NearestPrompts:
    """The mean quality on the most similar prompts, found exactly, in memory.

    Args:
        table: scores; its training prompts alone are learnt from.
        count: how many neighbours, K.

    Raises:
        NotEnoughScores: no training prompt is scored.
    """

    def __init__(self, table: ScoreTable, count: int = NEIGHBOURS) -> None:
        rows = scored_rows(table)
        self.metric = table.metric
        self.variants = tuple(variant.id for variant in table.variants)
        self._count = min(count, len(rows))
        self._embeddings = np.stack([table.prompts[row].embedding for row in rows])
        self._scores = table.mean[rows]

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`."""
        similarity = prompts.embeddings @ self._embeddings.T
        nearest = np.argpartition(-similarity, self._count - 1, axis=1)[:, : self._count]
        return averaged(self._scores[nearest], similarity.max(axis=1))


class NearestInGraph:
    """The mean quality on the most similar prompts, found by Neo4j's vector index.

    A candidate scored after this was made is not among its columns; fit it again.

    Args:
        graph: the prompts, with their scores.
        metric: of the scores.
        count: how many neighbours, K.
    """

    def __init__(self, graph: PromptGraph, metric: str, count: int = NEIGHBOURS) -> None:
        self.metric = metric
        self.variants = tuple(variant.id for variant in graph.variants())
        self._column = {variant: number for number, variant in enumerate(self.variants)}
        self._graph, self._count = graph, count

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`.

        Raises:
            NotEnoughScores: the graph has no training prompts.
        """
        parts = []
        for embedding in prompts.embeddings:
            neighbours = self._graph.nearest(embedding, self._count, self.metric)
            if not neighbours:
                raise NotEnoughScores("The graph has no scored prompts: run `matchgraph route score` first.")
            scores = np.full((1, len(neighbours), len(self.variants)), np.nan)
            for place, neighbour in enumerate(neighbours):
                for variant, value in neighbour.scores.items():
                    if variant in self._column:
                        scores[0, place, self._column[variant]] = value
            parts.append(averaged(scores, np.array([neighbours[0].cosine])))
        return Estimates(
            np.concatenate([part.quality for part in parts]),
            np.concatenate([part.std for part in parts]),
            np.concatenate([part.similarity for part in parts]),
        )


def scored_rows(table: ScoreTable) -> np.ndarray:
    """The table's rows of training prompts that have a score of some candidate.

    Raises:
        NotEnoughScores: there are none.
    """
    rows = table.rows("train")
    rows = rows[~np.isnan(table.mean[rows]).all(axis=1)]
    if not len(rows):
        raise NotEnoughScores(
            f"No training prompt is scored by {table.metric}: run `matchgraph route score` first."
        )
    return rows


def known_mean(scores: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis over the values that are not NaN; NaN where there are none."""
    known = ~np.isnan(scores)
    count = known.sum(axis=axis)
    total = np.where(known, scores, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def averaged(scores: np.ndarray, similarity: np.ndarray) -> Estimates:
    """Average over neighbours, with the standard error of the mean.

    Args:
        scores: of the neighbours, (n, neighbours, m); NaN where one is not scored.
        similarity: of the nearest, (n,).
    """
    known = ~np.isnan(scores)
    count = known.sum(axis=1)
    mean = known_mean(scores, 1)
    squares = np.where(known, (scores - mean[:, None]) ** 2, 0.0).sum(axis=1)
    error = np.full(mean.shape, np.nan)
    several = count > 1
    error[several] = np.sqrt(squares[several] / (count[several] - 1) / count[several])
    return Estimates(mean, error, similarity)


class GaussianQuality:
    """scikit-learn's Gaussian process over prompt embeddings, with the same kernel for every candidate.

    The kernel is exp(c (cosine - 1)): of unit vectors an RBF of length scale c^(-1/2). A prompt far from all
    training prompts is expected to have each candidate's mean quality over these. `fit` makes one, `load`
    reads one.

    Attributes:
        metric: of the quality.
        variants: ids of the candidates.
        concentration: c.
        noise: variance of a measured quality about the process, in units of the process' own.

    Source:
        Rasmussen and Williams, "Gaussian processes for machine learning" (2006), Algorithm 2.1.
    """

    def __init__(
        self,
        *,
        metric: str,
        variants: tuple[str, ...],
        concentration: float,
        noise: float,
        known: np.ndarray,
        apart: np.ndarray,
        average: np.ndarray,
    ) -> None:
        """Build it from what was learnt.

        Args:
            metric: see the class, as the next three.
            variants: likewise.
            concentration: likewise.
            noise: likewise.
            known: embeddings of the training prompts, float64, (k, d).
            apart: their qualities less the average, 0 where there is none, float64, (k, m).
            average: mean quality of each candidate, NaN where it is not scored, (m,).
        """
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF

        self.metric, self.variants = metric, variants
        self.concentration, self.noise = concentration, noise
        self._known, self._apart, self._average = known, apart, average
        kernel = RBF(concentration**-0.5, length_scale_bounds="fixed")
        self._process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(known, apart)
        # The process' own standard deviation, with which the marginal likelihood is largest.
        weights = self._process.alpha_.reshape(apart.shape)
        self._scale = np.sqrt(np.maximum((apart * weights).sum(axis=0), 0.0) / len(apart))

    @classmethod
    def fit(
        cls, table: ScoreTable, *, concentration: float = 3.0, noise: float = 1.0, seed: int = 0
    ) -> GaussianQuality:
        """Learn from the training prompts.

        Args:
            table: scores; a candidate that some prompts have no score of is taken to be average there.
            concentration: of the kernel.
            noise: see the class.
            seed: of the choice among more than `MOST_PROCESS_PROMPTS` prompts.

        Raises:
            NotEnoughScores: no training prompt is scored.
        """
        rows = scored_rows(table)
        if len(rows) > MOST_PROCESS_PROMPTS:
            generator = np.random.default_rng(seed)
            rows = np.sort(generator.choice(rows, MOST_PROCESS_PROMPTS, replace=False))
        known = np.stack([table.prompts[row].embedding for row in rows]).astype(np.float64)
        scores = table.mean[rows]
        average = known_mean(scores, 0)
        return cls(
            metric=table.metric,
            variants=tuple(variant.id for variant in table.variants),
            concentration=concentration,
            noise=noise,
            known=known,
            apart=np.nan_to_num(scores - average),
            average=average,
        )

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`."""
        asked = prompts.embeddings.astype(np.float64)
        mean, std = self._process.predict(asked, return_std=True)
        # One target comes back without its column, and all targets have the same relative error.
        quality = self._average + mean.reshape(len(asked), -1)
        error = std.reshape(len(asked), -1)[:, :1] * self._scale
        return Estimates(
            quality, np.where(np.isnan(quality), np.nan, error), (asked @ self._known.T).max(axis=1)
        )

    def save(self, path: Path) -> None:
        """Write all of it as one safetensors file, whole or not at all."""
        import torch

        from matchgraph.training.files import write_tensors

        facts = {
            "format": SAVED_PROCESS,
            "metric": self.metric,
            "variants": self.variants,
            "concentration": self.concentration,
            "noise": self.noise,
        }
        tensors = {"known": self._known, "apart": self._apart, "average": self._average}
        write_tensors(
            path,
            {name: torch.from_numpy(value) for name, value in tensors.items()},
            {"estimator": json.dumps(facts)},
        )

    @classmethod
    def load(cls, path: Path) -> GaussianQuality:
        """Read what `save` wrote.

        Raises:
            UnusableEstimator: it cannot be read, or an earlier version wrote it.
        """
        facts, tensors = _saved(path, SAVED_PROCESS)
        try:
            return cls(
                metric=facts["metric"],
                variants=tuple(facts["variants"]),
                concentration=float(facts["concentration"]),
                noise=float(facts["noise"]),
                **{name: tensors[name].numpy() for name in ("known", "apart", "average")},
            )
        except (KeyError, ValueError, TypeError) as problem:
            raise _unusable(path, problem) from None


@dataclass(frozen=True)
class Scale:
    """Qualities of all training prompts brought into [0, 1], linearly and by one scale for all candidates.

    Attributes:
        low: the quality that becomes 0.
        high: the quality that becomes 1.
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """The scale that takes some values, NaN left out, into [0, 1]."""
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        return cls(low, high if high > low else low + 1.0)

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Qualities, cut off at 0 and 1."""
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)

    def from_unit(self, values: np.ndarray) -> np.ndarray:
        """The reverse."""
        return self.low + values * (self.high - self.low)


class TokenQuality:
    """A two-layer perceptron with a head for each candidate, on every token of a frozen CLIP.

    `fit` trains one, `load` reads one. Where the paper is silent: the logits are averaged over the prompt's
    own tokens, start and end included; 256 hidden units with GELU; AdamW; the epoch of the least validation
    loss counts. A score that is missing takes no part in the loss.

    Attributes:
        metric: of the quality.
        variants: ids of the candidates.
        probe: hash of the CLIP.
        scale: of the qualities.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        metric: str,
        variants: tuple[str, ...],
        probe: str,
        scale: Scale,
        error: np.ndarray,
        known: np.ndarray,
    ) -> None:
        self.metric, self.variants, self.probe, self.scale = metric, variants, probe, scale
        self._network, self._error, self._known = network, error, known

    @classmethod
    def fit(
        cls,
        table: ScoreTable,
        prompts: EncodedPrompts,
        *,
        hidden: int = HIDDEN,
        epochs: int = EPOCHS,
        seed: int = 0,
    ) -> TokenQuality:
        """Train on the training prompts, and stop by the validation prompts.

        Args:
            table: scores.
            prompts: of the table, in its order.
            hidden: units of the hidden layer.
            epochs: at most.
            seed: of the initial weights and the order of prompts.

        Raises:
            NotEnoughScores: a split has no scored prompt.

        Source:
            CATImage, section 5.1: per-token embeddings, two-layer MLP with M heads, pooled; sigmoid
            cross-entropy, qualities scaled linearly over all training examples.
        """
        import torch

        scored = ~np.isnan(table.mean).all(axis=1)
        rows = {name: table.rows(name)[scored[table.rows(name)]] for name in ("train", "validation")}
        for name, some in rows.items():
            if not len(some):
                raise NotEnoughScores(f"No {name} prompt is scored by {table.metric}: score more prompts.")
        scale = Scale.of(table.mean[rows["train"]])
        unit = torch.from_numpy(scale.to_unit(table.mean)).float()
        known = ~torch.isnan(unit)
        target = torch.nan_to_num(unit)
        tokens, mask = torch.from_numpy(prompts.tokens), torch.from_numpy(prompts.mask)
        generator = torch.Generator().manual_seed(seed)
        network = _network(tokens.shape[-1], hidden, len(table.variants), generator)

        def loss(some: torch.Tensor) -> torch.Tensor:
            logits = _pooled(network, tokens[some], mask[some])
            each = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, target[some], reduction="none"
            )
            return (each * known[some]).sum() / known[some].sum().clamp(min=1)

        optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        train, validation = (torch.from_numpy(rows[name]) for name in ("train", "validation"))
        best, least, since = network.state_dict(), float("inf"), 0
        for _ in range(epochs):
            for batch in train[torch.randperm(len(train), generator=generator)].split(BATCH):
                optimiser.zero_grad(set_to_none=True)
                loss(batch).backward()
                optimiser.step()
            with torch.no_grad():
                reached = float(loss(validation))
            since += 1
            if reached < least:
                best = {name: value.clone() for name, value in network.state_dict().items()}
                least, since = reached, 0
            if since == PATIENCE:
                break
        network.load_state_dict(best)
        with torch.no_grad():
            predicted = torch.sigmoid(_pooled(network, tokens[validation], mask[validation])).numpy()
        residual = scale.from_unit(predicted) - table.mean[rows["validation"]]
        error = np.sqrt(np.nanmean(residual**2, axis=0))
        return cls(
            network,
            metric=table.metric,
            variants=tuple(variant.id for variant in table.variants),
            probe=table.prompts[0].probe,
            scale=scale,
            error=error,
            known=prompts.embeddings[rows["train"]],
        )

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """See `QualityEstimator.estimate`; the error is that on the validation prompts, the same for all."""
        import torch

        with torch.inference_mode():
            logits = _pooled(self._network, torch.from_numpy(prompts.tokens), torch.from_numpy(prompts.mask))
            quality = self.scale.from_unit(torch.sigmoid(logits).double().numpy())
        similarity = (prompts.embeddings @ self._known.T).max(axis=1)
        return Estimates(quality, np.broadcast_to(self._error, quality.shape).copy(), similarity)

    def save(self, path: Path) -> None:
        """Write weights and all that belongs to them as one safetensors file, whole or not at all."""
        import torch

        from matchgraph.training.files import write_tensors

        facts = {
            "format": SAVED,
            "metric": self.metric,
            "variants": self.variants,
            "probe": self.probe,
            "low": self.scale.low,
            "high": self.scale.high,
        }
        tensors = dict(self._network.state_dict())
        tensors |= {"error": torch.from_numpy(self._error), "known": torch.from_numpy(self._known)}
        write_tensors(path, tensors, {"estimator": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> TokenQuality:
        """Read what `save` wrote.

        Raises:
            UnusableEstimator: it cannot be read.
        """
        facts, tensors = _saved(path, SAVED)
        try:
            error, known = tensors.pop("error").numpy(), tensors.pop("known").numpy()
            width, hidden = tensors["0.weight"].shape[1], tensors["0.weight"].shape[0]
            network = _network(width, hidden, len(facts["variants"]), None)
            network.load_state_dict(tensors)
        except (KeyError, ValueError, RuntimeError) as problem:
            raise _unusable(path, problem) from None
        return cls(
            network,
            metric=facts["metric"],
            variants=tuple(facts["variants"]),
            probe=facts["probe"],
            scale=Scale(facts["low"], facts["high"]),
            error=error,
            known=known,
        )


def _saved(path: Path, form: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Facts and tensors of a saved estimator of some form."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["estimator"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["format"] != form:
            raise ValueError(f"its format is {facts['format']}")
    except (OSError, SafetensorError, KeyError, ValueError) as problem:
        raise _unusable(path, problem) from None
    return facts, tensors


def _unusable(path: Path, problem: Exception) -> UnusableEstimator:
    return UnusableEstimator(
        f"{path} is not a saved estimator: {problem}. Fit it again with `matchgraph route fit`."
    )


def _network(width: int, hidden: int, heads: int, generator: torch.Generator | None) -> torch.nn.Sequential:
    import torch

    network = torch.nn.Sequential(
        torch.nn.Linear(width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, heads)
    )
    if generator is not None:
        for layer in (network[0], network[2]):
            torch.nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            torch.nn.init.zeros_(layer.bias)
    return network.eval()


def _pooled(network: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.to(tokens.dtype).unsqueeze(-1)
    return (network(tokens) * weights).sum(dim=1) / weights.sum(dim=1)


def columns(estimates: np.ndarray, has: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Columns of estimates in another order; NaN for candidates that the estimator does not know.

    Args:
        estimates: (n, candidates).
        has: the candidates' ids.
        wanted: ids of those to give.
    """
    place = {variant: number for number, variant in enumerate(has)}
    found = np.full((len(estimates), len(wanted)), np.nan)
    for number, variant in enumerate(wanted):
        if variant in place:
            found[:, number] = estimates[:, place[variant]]
    return found
