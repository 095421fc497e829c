"""What is said of work before and after its first images."""

from __future__ import annotations

import pytest

from matchgraph import progress
from matchgraph.progress import Pace, Work


def test_the_pace_of_the_first_images_gives_the_time_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    said: list[Work] = []
    pace = Pace(Work(40, 8.0), said.append)
    assert said == [Work(40, 8.0)]
    # A quarter of the cost took three seconds.
    pace.drew(2.0)
    pace.drew(4.0)
    assert said[1:] == [Work(40, 8.0, 9.0)]


def test_nothing_is_said_of_nothing_or_of_what_is_done_at_once() -> None:
    said: list[Work] = []
    Pace(Work(0, 0.0), said.append).drew(0.0)
    assert said == []
    Pace(Work(1, 2.0), said.append).drew(2.0)
    assert said == [Work(1, 2.0)]
