"""A fitted router: from a prompt to the candidate that is worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from matchgraph.graphdb.prompt_models import ScoreTable, Unit, Variant, check_prompt
from matchgraph.routing.errors import UnusableEstimator
from matchgraph.routing.estimators import Estimates, columns, known_mean, scored_rows
from matchgraph.routing.policy import choose, lambda_for_budget, one_unit

if TYPE_CHECKING:
    from matchgraph.routing.chances import Errors
    from matchgraph.routing.estimators import QualityEstimator
    from matchgraph.training.measure.prompts import EncodedPrompts, PromptEncoder

# One prompt in a hundred like those learnt from is less similar to them than what counts as familiar.
UNFAMILIAR_SHARE = 0.01
# Fewer held-out prompts say nothing of what is unfamiliar; from the second number on the least similar of
# them is in that hundredth with `CONFIDENCE`.
FEWEST_PROMPTS, ENOUGH_PROMPTS, CONFIDENCE = 10, 299, 0.95


@dataclass(frozen=True)
class Option:
    """A candidate for a prompt.

    Attributes:
        variant: its id.
        quality: to expect, on the metric's scale; None where nothing is known.
        std: standard error of that; None where unknown.
        cost: of an image, in the decision's unit.
        p_best: how likely it is the best of all candidates for this prompt; None where too little is known,
            as of an unfamiliar prompt.
        p_success: how likely its quality is at least what was asked for; likewise, and None if nothing was.
    """

    variant: str
    quality: float | None
    std: float | None
    cost: float
    p_best: float | None = None
    p_success: float | None = None


@dataclass(frozen=True)
class Decision:
    """What a prompt was routed to, and why.

    Attributes:
        variant: the candidate's id.
        model: its model's id.
        steps: its denoising steps; None of a candidate that is not drawn here.
        quality: to expect of it.
        cost: of an image.
        unit: of all costs.
        lam: the lambda decided by.
        basis: `prompt` where estimates for this prompt decided; `average` where it is unlike all known ones,
            and the candidates' average qualities did.
        similarity: cosine to the most similar known prompt.
        options: all candidates, by cost.
    """

    variant: str
    model: str
    steps: int | None
    quality: float
    cost: float
    unit: Unit
    lam: float
    basis: Literal["prompt", "average"]
    similarity: float
    options: tuple[Option, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Familiarity:
    """Averages over all prompts, used for prompts unlike any known one.

    Attributes:
        least_similarity: below this cosine to every known prompt, a prompt counts as unfamiliar.
        average: mean quality of each candidate over the training prompts, NaN where it is not scored; (m,).
    """

    least_similarity: float
    average: np.ndarray

    @classmethod
    def of(cls, table: ScoreTable, similarity: np.ndarray) -> Familiarity:
        """Learn it from scored prompts.

        Args:
            table: scores.
            similarity: of held-out prompts to the most similar training prompt, (k,).

        Raises:
            NotEnoughScores: no training prompt is scored.
        """
        average = known_mean(table.mean[scored_rows(table)], 0)
        return cls(least_familiar(similarity), average)


def least_familiar(similarity: np.ndarray) -> float:
    """The similarity below which a prompt counts as unfamiliar.

    Where so many prompts are held out that the least similar ones show where the last hundredth begins, it is
    their quantile. Of fewer, it is the lower tolerance limit of a normal distribution, which 99 % of prompts
    are above with a confidence of 95 %; and of a handful nothing can be told, so no prompt is unfamiliar.

    Args:
        similarity: of held-out prompts to the most similar training prompt, (k,).

    Source:
        Krishnamoorthy and Mathew, "Statistical tolerance regions" (2009), section 2.2.
    """
    count = len(similarity)
    if count < FEWEST_PROMPTS:
        return -1.0
    quantile = float(np.quantile(similarity, UNFAMILIAR_SHARE))
    if count >= ENOUGH_PROMPTS:
        return quantile
    from scipy.special import nctdtrit, ndtri

    root = np.sqrt(count)
    factor = nctdtrit(count - 1, -ndtri(UNFAMILIAR_SHARE) * root, CONFIDENCE) / root
    return min(quantile, float(similarity.mean() - factor * similarity.std(ddof=1)))


class Router:
    """Decides for prompts.

    Args:
        estimator: expects qualities.
        variants: the candidates, by cost.
        familiarity: of prompts.
        lam: what a unit of cost is worth in quality, unless a request says otherwise.
        encoder: reads prompts as the known ones were read; `decide` needs it.
        errors: of the estimator on validation and left-out training prompts, from which chances are made;
            None for none.

    Raises:
        UnusableEstimator: the estimator knows none of the candidates.
        InvalidScores: the candidates' costs are of different units.
    """

    def __init__(
        self,
        estimator: QualityEstimator,
        variants: Sequence[Variant],
        familiarity: Familiarity,
        lam: float = 0.0,
        encoder: PromptEncoder | None = None,
        errors: Errors | None = None,
    ) -> None:
        if not {variant.id for variant in variants} & set(estimator.variants):
            raise UnusableEstimator(
                "The estimator knows no candidate: fit the router again with `matchgraph route fit`."
            )
        self.variants, self.lam = tuple(variants), lam
        self.unit = one_unit(variants)
        self.metric = estimator.metric
        self._encoder, self.estimator, self._familiarity = encoder, estimator, familiarity
        self.cost = np.array([variant.cost for variant in variants])
        self._errors = None if errors is None else errors.ordered([variant.id for variant in variants])

    def decide(
        self,
        prompts: Sequence[str],
        lam: float | Sequence[float] | None = None,
        least: float | None = None,
    ) -> list[Decision]:
        """Route prompts.

        Args:
            prompts: at least one.
            lam: for all, or for each; the router's by default.
            least: quality that counts as a success; None for no chances of one.

        Raises:
            InvalidValue: a prompt is none.
            InvalidScores: a lambda is negative or not finite.
        """
        for prompt in prompts:
            check_prompt(prompt)
        assert self._encoder is not None
        estimates, familiar = self._expected(self._encoder.encode(prompts))
        quality, std = estimates.quality, estimates.std
        lams = np.broadcast_to(
            np.asarray(self.lam if lam is None else lam, dtype=np.float64), (len(prompts),)
        )
        chosen = choose(quality, self.cost, lams)
        unknown = np.full(quality.shape, np.nan)
        # The errors are those of estimates, and averages are none.
        sure = np.where(familiar[:, None], quality, np.nan)
        best = unknown if self._errors is None else self._errors.best(sure)
        enough = unknown if self._errors is None or least is None else self._errors.enough(sure, least)
        return [
            self._decision(
                int(chosen[row]),
                np.stack([quality[row], std[row], best[row], enough[row]], axis=1),
                float(lams[row]),
                bool(familiar[row]),
                float(estimates.similarity[row]),
            )
            for row in range(len(prompts))
        ]

    def estimate(self, prompts: EncodedPrompts) -> Estimates:
        """Estimates in the order of the router's candidates."""
        found = self.estimator.estimate(prompts)
        wanted = [variant.id for variant in self.variants]
        return Estimates(
            columns(found.quality, self.estimator.variants, wanted),
            columns(found.std, self.estimator.variants, wanted),
            found.similarity,
        )

    def lambda_for(self, prompts: EncodedPrompts, budget: float) -> float:
        """The lambda that keeps the average cost of prompts within a budget.

        Args:
            prompts: that stand for those to come: the validation split.
            budget: cost of an image, on average.

        Raises:
            BudgetTooSmall: the cheapest candidates cost more.
        """
        return lambda_for_budget(self.compared(prompts), self.cost, budget)

    def compared(self, prompts: EncodedPrompts) -> np.ndarray:
        """The qualities that decide; float64, (n, m)."""
        return self._expected(prompts)[0].quality

    def _expected(self, prompts: EncodedPrompts) -> tuple[Estimates, np.ndarray]:
        """Estimates, averages in place of those of unfamiliar prompts, and which prompts are familiar."""
        found = self.estimate(prompts)
        familiar = found.similarity >= self._familiarity.least_similarity
        return (
            Estimates(
                np.where(familiar[:, None], found.quality, self._familiarity.average),
                np.where(familiar[:, None], found.std, np.nan),
                found.similarity,
            ),
            familiar,
        )

    def _decision(
        self, chosen: int, figures: np.ndarray, lam: float, familiar: bool, similarity: float
    ) -> Decision:
        """Of each candidate's quality, standard error and chances, (m, 4)."""
        variant = self.variants[chosen]
        return Decision(
            variant.id,
            variant.model,
            None if variant.drawing is None else variant.drawing.steps,
            float(figures[chosen, 0]),
            variant.cost,
            variant.unit,
            lam,
            "prompt" if familiar else "average",
            similarity,
            tuple(
                Option(each.id, _number(quality), _number(std), each.cost, _number(best), _number(enough))
                for each, (quality, std, best, enough) in zip(self.variants, figures, strict=True)
            ),
        )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
