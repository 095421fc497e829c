"""The figure of the loss: every step is in it, the mean is the mean, and any losses make an SVG."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matchgraph.ingest.runs.curves import MOST_POINTS, loss_curve, moving_mean, plot_losses


def plotted(losses: list[float], resumed_at: tuple[int, ...] = ()) -> Axes:
    axes = Figure().subplots()
    plot_losses(axes, losses, resumed_at)
    return axes


def test_each_step_has_its_loss_and_a_gap_where_it_is_no_number() -> None:
    steps, mean = plotted([4.0, math.nan, 2.0, math.inf, 0.5]).lines
    assert steps.get_xydata().tolist() == [[1, 4], [3, 2], [5, 0.5]]
    assert mean.get_xydata().tolist() == steps.get_xydata().tolist()


def test_a_long_run_is_a_band_that_holds_every_step() -> None:
    losses = np.random.default_rng(0).random(10_000)
    losses[[1234, 8765]] = 3.0, -2.0
    axes = plotted(losses.tolist())
    corners = axes.collections[0].get_paths()[0].vertices
    assert len(corners) < 3 * MOST_POINTS
    assert (corners[:, 1].min(), corners[:, 1].max()) == (-2, 3)
    # The mean spans the whole run.
    assert axes.lines[0].get_xdata()[[0, -1]].tolist() == [1, 10_000]
    assert len(loss_curve(losses.tolist())) < 100_000


def test_the_mean_is_centred_and_cut_off_at_the_ends() -> None:
    # About a twentieth of 40 steps, and odd: 3.
    mean = moving_mean(np.arange(40.0) ** 2)
    assert mean[[0, 1, 39]] == pytest.approx([(0 + 1) / 2, (0 + 1 + 4) / 3, (38**2 + 39**2) / 2])


def test_an_interruption_is_marked_behind_its_step() -> None:
    axes = plotted([float(i) for i in range(11)], (5, 8))
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [5.5, 8.5]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["each step", "mean", "interrupted and resumed"]


@pytest.mark.parametrize("losses", [[1.0], [2.0, 2.0], [1e-9, 3e12, math.nan], [-1e300, 1e300]])
def test_any_losses_make_a_picture_for_a_page(losses: list[float]) -> None:
    svg = loss_curve(losses)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label").startswith(f"Training loss of {len(losses)} ")
    assert "currentColor" in svg
    assert not re.search("<style|<script|mathdefault", svg)


@pytest.mark.parametrize("losses", [[], [math.nan]])
def test_nothing_to_draw_is_no_picture(losses: list[float]) -> None:
    assert loss_curve(losses) is None
