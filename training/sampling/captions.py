"""Which captions samples are drawn for."""

from __future__ import annotations

from collections.abc import Sequence

from matchgraph.training.seeds import seeded_generator


def draw_captions(captions: Sequence[str], n: int, seed: int) -> list[int]:
    """Choose a caption for each of n images, all equally often.

    The first m images have a seeded random choice of m captions, or all of them where they are fewer: so a
    sample of any size stands for the whole dataset, in whatever order its images lie.

    Args:
        captions: of the dataset's images, at least one.
        n: how many images are drawn.
        seed: decides the order.

    Returns:
        For each image the place of its caption. No place comes twice as long as another has not come.
    """
    import torch

    order = torch.randperm(len(captions), generator=seeded_generator("captions", seed)).tolist()
    return [order[number % len(order)] for number in range(n)]
