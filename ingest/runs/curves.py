"""The loss of a run as a figure for its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matchgraph.svg import COLOURS, FAINT, INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More steps than pixels are drawn as a band from the smallest to the largest loss of each bin.
MOST_POINTS = 700
# The mean is taken over this share of the run, which flattens the noise of single steps and keeps the course.
SMOOTHED_SHARE = 1 / 20


def loss_curve(losses: Sequence[float], resumed_at: Sequence[int] = ()) -> str | None:
    """Draw the loss of each step, faint, and its moving mean.

    Args:
        losses: one number for each step, the first of step 1; what is not finite leaves a gap.
        resumed_at: steps after which the run was interrupted and resumed, drawn as dashed lines.

    Returns:
        SVG text without scripts, in the colours of the page around it; None where there is no finite loss.
    """
    steps, known = finite_losses(losses)
    if not len(steps):
        return None
    mean = moving_mean(known)
    description = (
        f"Training loss of {len(losses)} steps; the moving mean goes from {mean[0]:.4g} to {mean[-1]:.4g}."
    )
    with drawing("loss", width=8.0, height=3.2, description=description) as (figure, finish):
        plot_losses(figure.subplots(), losses, resumed_at)
        return finish()


def plot_losses(axes: Axes, losses: Sequence[float], resumed_at: Sequence[int] = ()) -> None:
    """Draw on existing axes what `loss_curve` shows, from at least one finite loss."""
    from matplotlib.ticker import MaxNLocator

    steps, known = finite_losses(losses)
    size = -(-len(steps) // MOST_POINTS)
    starts = np.arange(0, len(steps), size)
    mean = moving_mean(known)
    if size > 1:
        low, high = np.minimum.reduceat(known, starts), np.maximum.reduceat(known, starts)
        axes.fill_between(steps[starts], low, high, color=FAINT, alpha=0.6, label="range of the steps")
    else:
        marker = "o" if len(steps) == 1 else ""
        axes.plot(steps, known, color=FAINT, linewidth=0.8, marker=marker, label="each step")
    shown = np.union1d(starts, len(steps) - 1)
    span = window(len(steps))
    label = f"mean of {span} steps" if span > 1 else "mean"
    axes.plot(steps[shown], mean[shown], color=COLOURS[0], linewidth=2, label=label)
    for number, step in enumerate(resumed_at):
        # An underscore keeps the others out of the legend.
        label = "_" if number else "interrupted and resumed"
        axes.axvline(step + 0.5, color=INK, linestyle=":", linewidth=1, label=label)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.8)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def finite_losses(losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The steps, from 1, that have a finite loss, and that loss; both (n_finite,)."""
    values = np.asarray(losses, dtype=np.float64)
    finite = np.isfinite(values)
    return np.flatnonzero(finite) + 1, values[finite]


def window(count: int) -> int:
    """How many steps of `count` the moving mean spans: an odd number."""
    return 2 * round(count * SMOOTHED_SHARE / 2) + 1


def moving_mean(losses: np.ndarray) -> np.ndarray:
    """The mean over a window centred on each step, cut off at both ends of the run; (n_steps,)."""
    import pandas as pd

    centred = pd.Series(losses).rolling(window(len(losses)), center=True, min_periods=1)
    return centred.mean().to_numpy()
