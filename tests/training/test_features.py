"""Features as files: what is read is what was written, damage is noticed, and memory stays small."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from matchgraph.training.errors import NonFiniteDistance, ShapeMismatch, TooFewSamples
from matchgraph.training.measure.features import Features, read_features, writing
from matchgraph.training.measure.kernels import mean_similarity

FACTS = {"content": "c0ffee", "extractor": "0123"}


def write_features(
    batches: Iterable[np.ndarray], target: Path | None = None, facts: Mapping[str, str] | None = None
) -> Features:
    with writing(None if target is None else target.parent) as writer:
        for batch in batches:
            writer.add(batch)
        return writer.finish(target, facts)


def batches(n: int = 50, d: int = 6) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(0).normal(size=(n, d)), 7)


def test_what_is_read_is_what_was_written(tmp_path):
    target = tmp_path / "new" / "features.safetensors"
    whole = np.concatenate(batches()).astype(np.float32)
    written = write_features(iter(batches()), target, FACTS)
    again = read_features(target, FACTS)
    for features in (written, again):
        np.testing.assert_array_equal(features.rows, whole)
        np.testing.assert_allclose(features.statistics.mean, whole.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(features.statistics.covariance, np.cov(whole, rowvar=False), rtol=1e-5)
        assert features.mean_similarity == mean_similarity(whole)
        assert features.n == 50
    # It is a file that others can read too.
    np.testing.assert_array_equal(load_file(target)["features"], whole)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("how", ["missing", "truncated", "one bit", "no header", "another dataset", "longer"])
def test_damaged_files_and_those_of_something_else_are_not_read(tmp_path, how):
    target = tmp_path / "features.safetensors"
    write_features(batches(), target, FACTS)
    raw = bytearray(target.read_bytes())
    facts = FACTS
    match how:
        case "missing":
            target.unlink()
        case "truncated":
            target.write_bytes(raw[:-4])
        case "one bit":
            raw[-10] ^= 1
            target.write_bytes(raw)
        case "no header":
            target.write_bytes(b"\xff" * len(raw))
        case "another dataset":
            facts = {**FACTS, "content": "other"}
        case "longer":
            target.write_bytes(raw + b"0000")
    assert read_features(target, facts) is None


def test_an_interrupted_pass_leaves_nothing(tmp_path):
    def interrupted():
        yield np.ones((2, 3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(interrupted(), tmp_path / "features.safetensors")
    for wrong, error in (
        ([np.ones((2, 3)), np.ones((2, 4))], ShapeMismatch),
        ([np.array([[1.0, np.nan]])], NonFiniteDistance),
        ([], TooFewSamples),
    ):
        with pytest.raises(error):
            write_features(wrong, tmp_path / "features.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_temporary_file_goes_with_its_features():
    features = write_features(batches())
    path = features.path
    assert path.is_file()
    del features
    gc.collect()
    assert not path.exists()


def test_memory_does_not_grow_with_the_number_of_features(tmp_path):
    peaks = []
    for n in (200, 800):
        tracemalloc.start()
        features = write_features((np.ones((64, 128)) * i for i in range(n)), tmp_path / f"{n}.safetensors")
        assert features.n == 64 * n
        _ = features.statistics, read_features(features.path, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
