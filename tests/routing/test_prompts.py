"""Which prompts are kept, and how they are split."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from matchgraph.routing import prompts
from matchgraph.routing.prompts import most_similar, split, unlike


def unit(count: int, dimension: int, seed: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_similarities_are_held_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    points, others = unit(700, 8, 0), unit(900, 8, 1)
    expected = (points @ others.T).max(axis=1)
    monkeypatch.setattr(prompts, "BLOCK", 64)
    tracemalloc.start()
    found = most_similar(points, others)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == pytest.approx(expected, abs=1e-6)
    # All of them are 2.5 MB.
    assert peak < 200_000
    assert most_similar(points[:2], others[:0]).tolist() == [-1, -1]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_no_two_kept_prompts_are_alike_and_none_is_left_out_without_cause(block, monkeypatch) -> None:
    monkeypatch.setattr(prompts, "BLOCK", block)
    points = unit(300, 4, 0)
    kept = unlike(points, 0.75)
    similarity = points @ points.T
    assert (similarity[np.ix_(kept, kept)] - 2 * np.eye(len(kept)) < 0.75).all()
    for number in set(range(300)) - set(kept.tolist()):
        assert similarity[number, kept[kept < number]].max() >= 0.75
    assert 10 < len(kept) < 200


def test_equal_prompts_are_kept_once() -> None:
    assert unlike(np.repeat(unit(1, 3, 0), 5, axis=0), 0.75).tolist() == [0]
    assert unlike(np.empty((0, 3), dtype=np.float32)).tolist() == []


def test_the_split_is_of_the_paper_and_follows_the_seed() -> None:
    assert Counter(split(1000)) == {"train": 800, "validation": 100, "test": 100}
    assert split(50, seed=1) == split(50, seed=1) != split(50, seed=2)
    assert set(split(3)) == {"train", "validation", "test"}
    assert split(1) == ["train"]
    assert split(0) == []
