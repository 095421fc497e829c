"""Whether two methods differ: paired permutation tests."""

from __future__ import annotations

import numpy as np

PERMUTATIONS = 20_000
# Sums that are equal on paper differ in the last of their digits.
DIGITS = 9


def paired_p_value(
    one: np.ndarray, other: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """The two-sided p-value of a sign-flip permutation test on paired figures.

    If two methods are no different, each dataset's difference is as likely of one sign as of the other. The
    p-value is the share of all assignments of signs whose sum is at least as far from 0 as the one seen.

    Args:
        one: float64, (n,), a figure of one method on each dataset.
        other: float64, (n,), the same of the other; datasets where either is NaN are left out.
        permutations: the most assignments of signs to test; of more, this many are drawn, and the one seen
            is counted among them, so that no p-value is 0.
        seed: of their draws.

    Returns:
        The p-value in (0, 1]; 1 where the methods never differ, NaN without a dataset.

    Raises:
        ValueError: for unequal lengths.

    Source:
        E. J. G. Pitman, "Significance tests which may be applied to samples from any populations", 1937.
    """
    from scipy import stats

    if len(one) != len(other):
        raise ValueError(f"{len(one)} figures of one method, {len(other)} of the other")
    differences = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return float("nan")
    # Where there is no difference, there is no sign to flip.
    differences = differences[differences != 0]
    if len(differences) < 2:
        return 1.0
    scale = np.abs(differences).sum()
    test = stats.permutation_test(
        (differences,),
        lambda flipped, axis: np.round(flipped.sum(axis=axis) / scale, DIGITS),
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)
