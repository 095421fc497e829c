"""What is said of work before and after its first images."""

from __future__ import annotations

import pytest

from matchgraph import progress
from matchgraph.progress import Pace, Work


def test_the_pace_after_the_first_batch_gives_the_time_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0, 105.0, 106.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    said: list[Work] = []
    pace = Pace(Work(40, 8.0), said.append)
    assert said == [Work(40, 8.0)]
    # The first batch took long, as much was loaded; the second one 3 s for 10 images and 1 of 8 TFLOP.
    pace.drew(10, 1.0)
    pace.drew(10, 1.0)
    assert said[1:] == [Work(40, 8.0, (6.0, 18.0))]
    # Not even twice the 3 s have passed, then they have.
    pace.drew(1, 1.0)
    assert len(said) == 2
    pace.drew(9, 1.0)
    assert said[2:] == [Work(40, 8.0, (pytest.approx(3.0), pytest.approx(8.0)))]
    # All is drawn: there is nothing left to say.
    pace.drew(10, 4.0)
    assert len(said) == 3


def test_nothing_is_said_of_nothing_or_of_what_is_done_at_once() -> None:
    said: list[Work] = []
    Pace(Work(0, 0.0), said.append).drew(0, 0.0)
    assert said == []
    Pace(Work(1, 2.0), said.append).drew(1, 2.0)
    assert said == [Work(1, 2.0)]
