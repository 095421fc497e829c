"""The picture of the loss: every step is in it, the mean is the mean, and any losses make an SVG."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matchgraph.ingest.runs.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    loss_curve,
    moving_mean,
    nice_ticks,
    step_ticks,
)

SVG = "{http://www.w3.org/2000/svg}"


def drawn(losses: list[float], **options: list[int]) -> ElementTree.Element:
    curve = loss_curve(losses, **options)
    assert curve is not None
    return ElementTree.fromstring(curve)


def points(picture: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    for element in picture.iter():
        if element.get("class") == name and element.get("points"):
            return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]
    raise AssertionError(f"no {name} drawn")


def test_each_step_lies_where_its_loss_is() -> None:
    picture = drawn([0.0, 1.0, 0.5])
    (x1, y1), (x2, y2), (x3, y3) = points(picture, "steps")
    assert (x1, x3) == (LEFT, WIDTH - RIGHT)
    assert x2 == (x1 + x3) / 2
    assert (y1, y2) == (HEIGHT - BOTTOM, TOP)  # the axis goes from 0 to 1
    assert y3 == (y1 + y2) / 2


def test_a_long_run_is_drawn_as_a_band_that_holds_every_step() -> None:
    losses = np.random.default_rng(0).random(10_000)
    losses[[1234, 8765]] = 3.0, -2.0
    curve = loss_curve(losses.tolist())
    assert curve is not None
    assert len(curve) < 60_000
    band = points(ElementTree.fromstring(curve), "band")
    assert len(band) <= 2 * MOST_POINTS
    # The ticks go from -2 to 3, so the extremes touch the frame.
    assert {min(y for _, y in band), max(y for _, y in band)} == {float(TOP), float(HEIGHT - BOTTOM)}


def test_the_mean_smooths_and_keeps_the_level() -> None:
    assert moving_mean([1, 2, 3, 4, 9], 3) == [1.5, 2, 3, 16 / 3, 6.5]
    assert moving_mean([5.0, 7.0], 1) == [5.0, 7.0]
    noisy = np.random.default_rng(1).normal(4, 1, 1000)
    smooth = np.array(moving_mean(noisy.tolist(), 51))
    assert smooth.std() < noisy.std() / 4
    assert smooth.mean() == pytest.approx(4, abs=0.1)


def test_an_interruption_is_marked_behind_its_step() -> None:
    picture = drawn([float(i) for i in range(11)], resumed_at=[5])
    place = next(
        float(line.get("x1")) for line in picture.iter(f"{SVG}line")
        if line.get("class") == "resumed" and line.get("y2") != "16"
    )  # fmt: skip
    xs = [x for x, _ in points(picture, "steps")]
    assert xs[4] < place < xs[5]
    assert "interrupted and resumed" in ElementTree.tostring(picture, encoding="unicode")


def test_a_loss_that_is_no_number_leaves_a_gap() -> None:
    assert len(points(drawn([1.0, math.nan, math.inf, 2.0]), "steps")) == 2


@pytest.mark.parametrize("losses", [[], [math.nan]])
def test_nothing_to_draw_is_no_picture(losses: list[float]) -> None:
    assert loss_curve(losses) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_every_run_gives_a_picture_within_its_frame(losses: list[float]) -> None:
    picture = drawn(losses)
    for x, y in points(picture, "mean"):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM
    assert not picture.findall(f".//{SVG}script")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_the_values(low: float, spread: float) -> None:
    ticks = nice_ticks(low, low + spread)
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= low + spread * 1e-6
    assert ticks[-1] >= (low + spread) - spread * 1e-6


def test_ticks_are_round() -> None:
    assert nice_ticks(0.07, 0.43) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert nice_ticks(2.0, 2.0) == pytest.approx([1.8, 1.9, 2.0, 2.1, 2.2])
    assert step_ticks(200) == [1, 50, 100, 150, 200]
    assert step_ticks(2) == [1, 2]
