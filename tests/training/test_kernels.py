"""KID and CMMD against independent implementations and the formulas written out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from matchgraph.training.errors import NonFiniteDistance, ShapeMismatch, TooFewSamples
from matchgraph.training.measure import kernels
from matchgraph.training.measure.kernels import BLOCK_ROWS, cmmd, kid, mean_similarity


def features(seed: int, n: int, d: int = 8, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


@pytest.mark.parametrize(("n", "m", "size"), [(60, 80, 40), (50, 50, 50), (1000, 1200, 1000)])
def test_kid_agrees_with_torch_fidelity(n, m, size):
    from torch_fidelity.metric_kid import kid_features_to_metric

    one, two = features(0, n), features(1, m, shift=0.3)
    theirs = kid_features_to_metric(
        torch.tensor(one), torch.tensor(two), kid_subsets=7, kid_subset_size=size, rng_seed=5, verbose=False
    )
    # Without a size, what the reference takes where it has a value: 1000.
    given = None if size == 1000 else size
    ours = kid(one, two, subsets=7, subset_size=given, seed=5)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6, abs=1e-12)


def test_kid_agrees_with_clean_fid():
    from cleanfid.fid import kernel_distance

    one, two = features(2, 70), features(3, 90, shift=0.2)
    np.random.seed(9)
    theirs = kernel_distance(two, one, num_subsets=5, max_subset_size=30)
    assert kid(one, two, subsets=5, subset_size=30, seed=9).value == pytest.approx(theirs, rel=1e-9)


def test_kid_of_small_sets_has_a_deviation():
    one, two = features(4, 20), features(5, 20, shift=1.0)
    assert kid(one, two).std > 0
    assert kid(one, two) == kid(one, two, subset_size=10)
    assert abs(kid(one, features(6, 20)).value) < kid(one, two).value / 5


def as_published(one: np.ndarray, two: np.ndarray) -> float:
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, two))

    def kernel(a, b):
        return np.exp(-(((a - b) ** 2).sum()) / (2 * 10.0**2))

    def within(rows):
        n = len(rows)
        return sum(kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    between = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return 1000 * (within(x) + within(y) - 2 * between)


def test_cmmd_is_the_published_formula():
    one, two = features(7, 14, shift=0.4), features(8, 9)
    assert cmmd(one, two).value == pytest.approx(as_published(one, two), rel=1e-9)
    assert cmmd(one, two).std is None
    # The length of a feature vector does not count.
    assert cmmd(one * 3, two).value == pytest.approx(cmmd(one, two).value, rel=1e-9)
    known = cmmd(one, two, within_one=mean_similarity(one), within_two=mean_similarity(two))
    assert known == cmmd(one, two)


def test_cmmd_in_blocks_is_cmmd_at_once():
    one, two = features(9, BLOCK_ROWS + 300, 4), features(10, 2 * BLOCK_ROWS + 1, 4, shift=0.5)
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, two))
    kernels = [np.exp((a @ b.T - 1) / 100) for a, b in ((x, x), (y, y), (x, y))]
    n, m = len(x), len(y)
    expected = (kernels[0].sum() - n) / (n * (n - 1)) + (kernels[1].sum() - m) / (m * (m - 1))
    expected = 1000 * (expected - 2 * kernels[2].mean())
    assert cmmd(one, two).value == pytest.approx(expected, rel=1e-8)


def test_memory_does_not_grow_with_features_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK_ROWS", 256)
    peaks = []
    for n in (4 * 256, 8 * 256):
        on_disk = np.lib.format.open_memmap(tmp_path / f"{n}.npy", "w+", np.float32, (n, 16))
        on_disk[:] = features(11, n, 16)
        tracemalloc.start()
        cmmd(on_disk, on_disk)
        kid(on_disk, on_disk, subsets=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_refuses_what_has_no_distance(distance):
    good = features(12, 6)
    with pytest.raises(TooFewSamples):
        distance(good, good[:1])
    with pytest.raises(ShapeMismatch):
        distance(good, good[:, :3])
    with pytest.raises(NonFiniteDistance):
        distance(good, np.full_like(good, np.nan))


def test_refuses_subsets_larger_than_the_sets_and_zero_vectors():
    good = features(13, 6)
    with pytest.raises(TooFewSamples, match="subsets of 7"):
        kid(good, good, subset_size=7)
    with pytest.raises(NonFiniteDistance, match="all zeros"):
        cmmd(good, np.zeros_like(good))
    with pytest.raises(NonFiniteDistance, match="not a valid number"):
        kid(good * 1e200, good)
