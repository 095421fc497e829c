"""Quality of candidates by a small network on the tokens of a frozen CLIP, which learns all together.

Source:
    CATImage, "Quality estimator" in section 5.1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.errors import NotEnoughScores, UnusableEstimator
from matchgraph.routing.estimators import Estimates, read_saved, unusable

if TYPE_CHECKING:
    import torch

    from matchgraph.graphdb.prompt_models import ScoreTable
    from matchgraph.training.measure.prompts import EncodedPrompts

HIDDEN = 256
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
# Epochs without a better validation loss after which training ends.
PATIENCE = 8
SAVED = "matchgraph-quality-1"


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
            UnusableEstimator: the prompts were read without tokens.

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
        tokens, mask = _tokens(prompts)
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
            logits = _pooled(self._network, *_tokens(prompts))
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
        import torch

        facts, tensors = read_saved(path, SAVED)
        try:
            error, known = tensors.pop("error"), tensors.pop("known")
            width, hidden = tensors["0.weight"].shape[1], tensors["0.weight"].shape[0]
            network = _network(width, hidden, len(facts["variants"]), None)
            network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
        except (KeyError, ValueError, RuntimeError) as problem:
            raise unusable(path, problem) from None
        return cls(
            network,
            metric=facts["metric"],
            variants=tuple(facts["variants"]),
            probe=facts["probe"],
            scale=Scale(facts["low"], facts["high"]),
            error=error,
            known=known,
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


def _tokens(prompts: EncodedPrompts) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask."""
    import torch

    if prompts.tokens is None or prompts.mask is None:
        raise UnusableEstimator(
            "The network reads the tokens of a CLIP, but these prompts were read without one: give a CLIP "
            "with --probe, or fit a router of another kind."
        )
    return torch.from_numpy(prompts.tokens), torch.from_numpy(prompts.mask)


def _pooled(network: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.to(tokens.dtype).unsqueeze(-1)
    return (network(tokens) * weights).sum(dim=1) / weights.sum(dim=1)
