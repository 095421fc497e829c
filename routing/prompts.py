"""Selection and split of the prompts for routing."""

from __future__ import annotations

import numpy as np

from matchgraph.graphdb.prompt_models import Split

# CATImage, section 5.2.
LARGEST_SIMILARITY = 0.75
SHARES: dict[Split, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}
# The similarities of so many prompts to as many others are held at a time.
BLOCK = 4096


def unlike(embeddings: np.ndarray, largest: float = LARGEST_SIMILARITY) -> np.ndarray:
    """Keep prompts of which no two are as similar as `largest`: each in turn, if it is unlike those kept.

    Args:
        embeddings: of length 1; float32, (n, d).
        largest: cosine similarity at which the later of two is left out.

    Returns:
        int, ascending: the numbers of those kept.

    Source:
        CATImage, section 5.2; it does not say which of two similar prompts it keeps.
    """
    kept = np.empty_like(embeddings)
    count, numbers = 0, []
    for start in range(0, len(embeddings), BLOCK):
        block = embeddings[start : start + BLOCK]
        free = most_similar(block, kept[:count]) < largest
        first = count
        for row in np.flatnonzero(free):
            if first == count or (kept[first:count] @ block[row]).max() < largest:
                kept[count] = block[row]
                numbers.append(start + int(row))
                count += 1
    return np.array(numbers, dtype=np.int64)


def most_similar(embeddings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The cosine similarity of each prompt to the most similar of others.

    Args:
        embeddings: of length 1; float32, (n, d).
        others: likewise, (m, d).

    Returns:
        float32, (n,); -1 where there are no others.
    """
    found = np.full(len(embeddings), -1.0, dtype=np.float32)
    for start in range(0, len(embeddings), BLOCK):
        rows = slice(start, start + BLOCK)
        for first in range(0, len(others), BLOCK):
            cosines = embeddings[rows] @ others[first : first + BLOCK].T
            found[rows] = np.maximum(found[rows], cosines.max(axis=1))
    return found


def split(count: int, seed: int = 0) -> list[Split]:
    """Split prompts at random: 80 % training, 10 % validation, 10 % test.

    Args:
        count: how many.
        seed: of the draw.

    Returns:
        The split of each; every split has at least one prompt where there are three or more.

    Source:
        CATImage, section 5.2.
    """
    held_out = [max(round(count * SHARES[name]), min(1, count // 3)) for name in ("validation", "test")]
    splits: tuple[Split, Split, Split] = ("validation", "test", "train")
    sizes = (*held_out, count - sum(held_out))
    names = [split for split, size in zip(splits, sizes, strict=True) for _ in range(size)]
    order = np.random.default_rng(seed).permutation(count)
    return [names[number] for number in order]
