"""The loss of a run as a picture: an SVG that is read by eye in a page, in a browser tab or in a README."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

Points: TypeAlias = Sequence[tuple[int, float]]
Scale: TypeAlias = Callable[[float], float]

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 26, 34, 44
# More points than pixels are drawn as a band from the smallest to the largest of each bin.
MOST_POINTS = 700
# The mean is taken over this share of the run, which flattens the noise of single steps and keeps the course.
SMOOTHED_SHARE = 1 / 20
TICKS = 5

STYLE = """
.loss-curve {
  --curve-line: #2f6fde; --curve-noise: #9db9ea; --curve-grid: #d9dee6; --curve-back: #ffffff; color: #1d2430;
}
@media (prefers-color-scheme: dark) { .loss-curve {
  --curve-line: #7fb0ff; --curve-noise: #3c5f97; --curve-grid: #333c49; --curve-back: #12161c; color: #dfe5ee;
} }
.loss-curve text { fill: currentColor; font: 12px system-ui, sans-serif; }
.loss-curve .back { fill: var(--curve-back); }
.loss-curve .grid { stroke: var(--curve-grid); }
.loss-curve .axis { stroke: currentColor; }
.loss-curve .steps { fill: none; stroke: var(--curve-noise); stroke-width: 1; }
.loss-curve .band { fill: var(--curve-noise); }
.loss-curve .mean { fill: none; stroke: var(--curve-line); stroke-width: 2; stroke-linejoin: round; }
.loss-curve .resumed { stroke: currentColor; stroke-dasharray: 3 4; }
"""


def loss_curve(losses: Sequence[float], resumed_at: Sequence[int] = ()) -> str | None:
    """Draw the loss of each step, faint, and its moving mean.

    Args:
        losses: one number for each step, the first of step 1; what is not finite leaves a gap.
        resumed_at: steps after which the run was interrupted and taken up again, drawn as dashed lines.

    Returns:
        A self-contained SVG document without scripts, in the reader's light or dark colours; None where there
        is no finite loss.
    """
    points = [(step, loss) for step, loss in enumerate(losses, start=1) if math.isfinite(loss)]
    if not points:
        return None
    window = smoothing_window(len(points))
    mean = list(zip([step for step, _ in points], moving_mean([y for _, y in points], window), strict=True))
    ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]
    last = max(len(losses), 2)

    def x(step: float) -> float:
        return round(LEFT + (step - 1) / (last - 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(loss: float) -> float:
        return round(HEIGHT - BOTTOM - (loss - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>']
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    floor = HEIGHT - BOTTOM
    for tick in step_ticks(last):
        parts.append(f'<line class="axis" x1="{x(tick)}" x2="{x(tick)}" y1="{floor}" y2="{floor + 5}"/>')
        parts.append(f'<text x="{x(tick)}" y="{floor + 19}" text-anchor="middle">{tick:,}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8}" text-anchor="middle">step</text>'
    )
    if len(points) > MOST_POINTS:
        lows, highs = _envelope(points)
        outline = " ".join(f"{x(step)},{y(loss)}" for step, loss in [*lows, *reversed(highs)])
        parts.append(f'<polygon class="band" points="{outline}"/>')
    else:
        parts.append(f'<polyline class="steps" points="{_path(points, x, y)}"/>')
        if len(points) == 1:
            parts.append(f'<circle class="band" cx="{x(points[0][0])}" cy="{y(points[0][1])}" r="3"/>')
    parts.append(f'<polyline class="mean" points="{_path(_thinned(mean), x, y)}"/>')
    for step in resumed_at:
        place = x(step + 0.5)
        parts.append(f'<line class="resumed" x1="{place}" x2="{place}" y1="{TOP}" y2="{floor}"/>')
    parts.append(_legend(window, len(points) > MOST_POINTS, bool(resumed_at)))
    first, final = mean[0][1], mean[-1][1]
    description = f"{len(losses)} steps; the moving mean goes from {first:.4g} to {final:.4g}."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="loss-curve" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img"><title>Training loss</title><desc>{description}</desc>'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def smoothing_window(count: int) -> int:
    """How many steps the moving mean takes in: an odd number, a twentieth of the run."""
    return 2 * round(count * SMOOTHED_SHARE / 2) + 1


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean over a window centred on each value, of which less is left near the ends.

    Args:
        values: the values.
        window: an odd number of values.

    Returns:
        As many values.
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for index in range(len(values)):
        low, high = max(0, index - window // 2), min(len(values), index + window // 2 + 1)
        means.append((sums[high] - sums[low]) / (high - low))
    return means


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, from one not above `low` to one not below `high`; at least two."""
    if high <= low:
        spread = abs(low) / 10 or 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    # Rounded, or 3 * 0.1 would be written as 0.30000000000000004.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def step_ticks(last: int) -> list[int]:
    """The first step and round numbers up to the last one."""
    inner = [int(tick) for tick in nice_ticks(0, last) if tick == int(tick) and 1 < tick <= last]
    return [1, *inner]


def _path(points: Points, x: Scale, y: Scale) -> str:
    return " ".join(f"{x(step)},{y(loss)}" for step, loss in points)


def _bins(points: Points) -> Iterator[Points]:
    size = -(-len(points) // MOST_POINTS)
    for start in range(0, len(points), size):
        yield points[start : start + size]


def _envelope(points: Points) -> tuple[Points, Points]:
    lows = [(part[len(part) // 2][0], min(loss for _, loss in part)) for part in _bins(points)]
    highs = [(part[len(part) // 2][0], max(loss for _, loss in part)) for part in _bins(points)]
    return lows, highs


def _thinned(points: Points) -> Points:
    return [*(part[0] for part in _bins(points)), points[-1]]


def _legend(window: int, banded: bool, resumed: bool) -> str:
    single = "range of the steps" if banded else "each step"
    entries = [("steps", single, 130), ("mean", f"mean of {window} steps", 140)]
    if resumed:
        entries.append(("resumed", "interrupted and resumed", 0))
    parts, at = [], LEFT
    for name, label, width in entries:
        parts.append(f'<line class="{name}" x1="{at}" x2="{at + 22}" y1="16" y2="16" stroke-width="2"/>')
        parts.append(f'<text x="{at + 28}" y="20">{label}</text>')
        at += 28 + width
    return "".join(parts)
