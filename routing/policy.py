"""The routing rule: the largest estimated quality minus lambda times cost.

Everything here is of whole tables, prompts by candidates, and exact: what a router does changes only at
finitely many values of lambda, and these are computed instead of searched for.

Source:
    CATImage, section 3: Eq. 1 and 2 (most quality under an average cost), Proposition 1 and Eq. 3 (the rule).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.routing.errors import BudgetTooSmall, InvalidScores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

    from matchgraph.graphdb.prompt_models import Unit, Variant

# Changes of choice that are nearer to each other than this, relatively, are one.
ROUNDING = 1e-9


def one_unit(variants: Sequence[Variant]) -> Unit:
    """The unit of some candidates' costs.

    Raises:
        InvalidScores: they have several, so that costs cannot be compared.
    """
    by_unit = {variant.unit: variant.id for variant in variants}
    if len(by_unit) > 1:
        named = " and ".join(f"{name} in {unit}" for unit, name in sorted(by_unit.items()))
        raise InvalidScores(f"Costs of different units cannot be compared ({named}): price all in one.")
    return next(iter(by_unit))


def choose(quality: np.ndarray, cost: np.ndarray, lam: float | np.ndarray) -> np.ndarray:
    """Choose a candidate for each prompt: the largest quality - lambda cost.

    Of candidates that are equally good the cheapest is taken, and of equally cheap ones the first. One whose
    quality is not known (NaN) is never taken.

    Args:
        quality: estimated quality, (n, m).
        cost: of one image, in one unit, (m,).
        lam: quality that a unit of cost is worth, at least 0; one for all prompts, or (n,).

    Returns:
        int, (n,): the candidates' numbers.

    Raises:
        InvalidScores: shapes do not fit, a cost or lambda is negative or not finite, or there is a prompt of
            which no candidate's quality is known.

    Source:
        CATImage, Eq. 3.
    """
    quality, cost = _checked(quality, cost)
    lam = np.asarray(lam, dtype=np.float64)
    if not (np.isfinite(lam).all() and (lam >= 0).all()):
        raise InvalidScores(f"lambda is {lam}: a finite number of at least 0 is needed.")
    # In the order of cost, stably, argmax finds the cheapest of the best.
    order = np.argsort(cost, kind="stable")
    gain = quality - lam.reshape(-1, 1) * cost
    return order[np.argmax(np.where(np.isnan(gain), -np.inf, gain)[:, order], axis=1)]


@dataclass(frozen=True, eq=False)
class LambdaPath:
    """All choices of the rule for a set of prompts as lambda falls from infinity to 0.

    Attributes:
        start: candidate of each prompt while lambda is large: the cheapest known one; int, (n,).
        lam: descending; from below each of these, one prompt has another candidate; float64, (k,).
        prompt: whose choice changes; int, (k,).
        before: from which candidate; int, (k,).
        after: to which; it costs more and its quality is estimated higher; int, (k,).
    """

    start: np.ndarray
    lam: np.ndarray
    prompt: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @classmethod
    def of(cls, quality: ArrayLike, cost: ArrayLike) -> LambdaPath:
        """Walk each prompt's candidates along the upper concave hull of quality over cost.

        Args:
            quality: estimates, (n, m); NaN where there is none.
            cost: (m,).

        Raises:
            InvalidScores: as `choose`.
        """
        quality, cost = _checked(quality, cost)
        count = len(quality)
        known = ~np.isnan(quality)
        rows = np.arange(count)
        cheapest = np.where(known, cost, np.inf).min(axis=1)
        at = np.where(known & (cost == cheapest[:, None]), quality, -np.inf).argmax(axis=1)
        start, steps = at.copy(), []
        while len(rows):
            # Slope to every costlier candidate; the next one on the hull has the steepest.
            rise = quality[rows] - quality[rows, at][:, None]
            run = cost - cost[at][:, None]
            ahead = known[rows] & (run > 0) & (rise > 0)
            slope = np.where(ahead, rise / np.where(ahead, run, 1.0), -np.inf)
            steepest = slope.max(axis=1)
            # Of several on one line only the farthest is ever the single best.
            following = np.where(slope == steepest[:, None], cost, -np.inf).argmax(axis=1)
            on = np.isfinite(steepest)
            steps.append((steepest[on], rows[on], at[on], following[on]))
            rows, at = rows[on], following[on]
        lam, prompt, before, after = (np.concatenate(part) for part in zip(*steps, strict=True))
        order = np.argsort(-lam, kind="stable")
        return cls(start, _together(lam[order]), prompt[order], before[order], after[order])

    @cached_property
    def levels(self) -> np.ndarray:
        """One lambda for each different set of choices, descending: above, between and below the changes.

        Between changes it is their geometric mean, so that rounding cannot tip a tie; the last is 0.
        """
        changes = np.unique(self.lam)[::-1]
        if not len(changes):
            return np.zeros(1)
        between = np.sqrt(changes[:-1]) * np.sqrt(changes[1:])
        return np.concatenate([[2 * changes[0]], between, [0.0]])

    def means(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """The mean over prompts of a value of the candidate chosen, at each of `levels`.

        Args:
            values: of each candidate, (m,), or of each prompt's, (n, m): cost, or true quality.
            weights: how often each prompt counts, (n,); once by default.

        Returns:
            float64, (number of levels,).
        """
        return self.weighted(values)(np.ones(len(self.start)) if weights is None else weights)

    def weighted(self, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """`means` as a function of the weights; what does not depend on these is computed once.

        Args:
            values: see `means`.
        """
        count = len(self.start)
        table = np.broadcast_to(values, (count, np.shape(values)[-1]))
        started = table[np.arange(count), self.start]
        change = table[self.prompt, self.after] - table[self.prompt, self.before]
        # Prompts that change at the same lambda change together.
        last = np.flatnonzero(np.diff(self.lam, append=-np.inf) != 0)

        def means(weights: np.ndarray) -> np.ndarray:
            first = (weights * started).sum()
            sums = first + np.cumsum(weights[self.prompt] * change)[last]
            return np.concatenate([[first], sums]) / weights.sum()

        return means


def lambda_for_budget(quality: ArrayLike, cost: ArrayLike, budget: float) -> float:
    """The smallest lambda that keeps the average cost of some prompts within a budget.

    So no other choice for these prompts, by whatever rule, has a higher estimated quality at the same cost.

    Args:
        quality: estimates of the prompts that stand for those to come, (n, m).
        cost: (m,).
        budget: average cost of an image, in the unit of `cost`.

    Returns:
        Lambda; 0 where the budget pays for the best of everything.

    Raises:
        BudgetTooSmall: the cheapest candidates cost more.
        InvalidScores: as `choose`.

    Source:
        CATImage, Eq. 1 and Proposition 1: the multiplier that belongs to a budget.
    """
    if math.isnan(budget):
        raise InvalidScores("The budget is NaN: a number is needed.")
    quality, cost = _checked(quality, cost)
    path = LambdaPath.of(quality, cost)
    spent = path.means(cost)
    # Sums of floats: a budget that is exactly what a level costs pays for it.
    affordable = np.flatnonzero(spent <= budget * (1 + 1e-12))
    if not len(affordable):
        raise BudgetTooSmall(
            f"A budget of {budget:g} is below {spent[0]:g}, the average cost of the cheapest candidates: "
            "raise it, or add a cheaper candidate."
        )
    return float(path.levels[affordable[-1]])


def _together(lam: np.ndarray) -> np.ndarray:
    """Descending values, those that only rounding tells apart made equal: no lambda is between them."""
    if not len(lam):
        return lam
    apart = np.concatenate([[True], lam[:-1] - lam[1:] > ROUNDING * lam[:-1]])
    return lam[apart][np.cumsum(apart) - 1]


def _checked(quality: ArrayLike, cost: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    quality, cost = np.asarray(quality, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if quality.ndim != 2 or cost.shape != quality.shape[1:] or not quality.size:
        raise InvalidScores(
            f"Qualities {quality.shape} and costs {cost.shape} do not fit: (prompts, candidates) and "
            "(candidates,), of at least one each."
        )
    if not (np.isfinite(cost).all() and (cost >= 0).all()):
        raise InvalidScores("A candidate's cost is negative or not finite.")
    if np.isinf(quality).any():
        raise InvalidScores("A quality is infinite.")
    unknown = np.flatnonzero(np.isnan(quality).all(axis=1))
    if len(unknown):
        raise InvalidScores(f"No candidate's quality is known for prompt {unknown[0]}.")
    return quality, cost
