"""Scores carry the counts and the instrument they were taken with."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.training import tiny
from training.errors import ShapeMismatch, TooFewSamples
from training.extractors import load_clip
from training.frechet import frechet_distance, gaussian_statistics
from training.scoring import clip_fid


def images(seed: int, n: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]


def test_clip_fid_is_the_frechet_distance_of_clip_features(tmp_path):
    extractor = load_clip(tiny.save_clip(tmp_path), device="cpu")
    real, made = images(0, 30), images(1, 20)
    reference = extractor.statistics(real)
    score = clip_fid(iter(made), extractor, reference, batch_size=7)
    fitted = gaussian_statistics(extractor.features(made))
    expected = frechet_distance(reference.mean, reference.covariance, fitted.mean, fitted.covariance)
    assert score.value == pytest.approx(expected, rel=1e-4)
    assert (score.metric, score.n_real, score.n_gen) == ("clip_fid", 30, 20)
    assert (score.extractor, score.resize) == (extractor.hash, "clean-bicubic")
    assert (score.std, score.extractor_name, score.version) == (None, extractor.name, "1")
    assert clip_fid(real, extractor, reference).value == pytest.approx(0, abs=1e-6)
    with pytest.raises(TooFewSamples):
        clip_fid(made[:1], extractor, reference)
    with pytest.raises(ShapeMismatch):
        clip_fid(made, extractor, gaussian_statistics(np.random.default_rng(0).normal(size=(9, 5))))
