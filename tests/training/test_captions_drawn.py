"""Samples stand for all captions, however many are drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from matchgraph.training.sampling.captions import draw_captions


@pytest.mark.parametrize("n", [3, 10, 25])
def test_every_caption_is_drawn_equally_often(n: int) -> None:
    counts = Counter(draw_captions(["a"] * 10, n, seed=1))
    assert counts.total() == n
    assert max(counts.values()) - min(counts[place] for place in range(10)) <= 1


def test_fewer_images_than_captions_are_a_random_choice_that_the_seed_decides() -> None:
    some = draw_captions(["a"] * 100, 10, seed=1)
    assert some == draw_captions(["a"] * 100, 20, seed=1)[:10]
    assert some != list(range(10))
    assert some != draw_captions(["a"] * 100, 10, seed=2)
