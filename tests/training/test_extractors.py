"""CLIP as a measuring instrument: where it comes from, what it sees, and when two are the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matchgraph.training.errors import ExtractorUnavailable, TooFewSamples
from matchgraph.training.measure.extractors import clean_resize, load_clip
from matchgraph.training.measure.extractors.clip import open_weights
from tests.training import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.save_clip(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in [(32, 32), (40, 24), (64, 64), (32, 32), (16, 16)]
    ]


@pytest.mark.parametrize("changed", [{}, {"quick_gelu": True}, {"vision_cfg": {"pool_type": "avg"}}])
def test_features_are_those_of_open_clip_on_clean_resized_images(tmp_path, images, changed):
    import open_clip
    from cleanfid.resize import make_resizer

    config = copy.deepcopy(tiny.CLIP_CONFIG)
    config["model_cfg"]["vision_cfg"] |= changed.get("vision_cfg", {})
    config["model_cfg"] |= {name: value for name, value in changed.items() if name != "vision_cfg"}
    folder = tiny.save_clip(tmp_path, config=config)
    extractor = load_clip(str(folder), device="cpu")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    resize = make_resizer("PIL", False, "bicubic", (32, 32))
    seen = np.stack([resize(np.asarray(image)) for image in images]) / 255
    seen = (seen - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    with torch.no_grad():
        expected = model.encode_image(torch.tensor(seen, dtype=torch.float32).permute(0, 3, 1, 2))
    features = extractor.features(iter(images))
    assert (features.shape, features.dtype) == ((5, 24), np.float64)
    np.testing.assert_array_equal(features, expected.numpy())
    assert extractor.hash == open_weights(folder, "cpu").hash
    np.testing.assert_allclose(extractor.features(images, batch_size=2), features, rtol=1e-4, atol=1e-5)
    assert extractor.features([]).shape == (0, 24)


def test_statistics_stream_the_same_features(folder, images):
    extractor = load_clip(folder, device="cpu")
    features = extractor.features(images)
    statistics = extractor.statistics(iter(images), batch_size=2)
    assert statistics.n == 5
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), rtol=1e-3, atol=1e-5)
    with pytest.raises(TooFewSamples):
        extractor.statistics(images[:1])


def test_resizing_keeps_an_image_of_the_right_size(images):
    np.testing.assert_array_equal(clean_resize(images[0], 32), np.asarray(images[0], dtype=np.float32))


def test_hash_follows_weights_and_preprocessing_and_nothing_else(folder, tmp_path):
    same = tiny.save_clip(tmp_path / "same")
    from safetensors.torch import load_file, save_file

    weights = same / "open_clip_model.safetensors"
    save_file(load_file(weights), weights, metadata={"note": "another header"})
    other_config = copy.deepcopy(tiny.CLIP_CONFIG)
    other_config["preprocess_cfg"]["std"] = [0.2, 0.3, 0.5]
    reference = load_clip(folder, device="cpu").hash
    assert len(reference) == 16
    assert load_clip(same, device="cpu").hash == reference
    assert load_clip(tiny.save_clip(tmp_path / "weights", seed=1), device="cpu").hash != reference
    other = tiny.save_clip(tmp_path / "preprocessing", config=other_config)
    assert load_clip(other, device="cpu").hash != reference


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "open_clip_model.safetensors").unlink(), "has no open_clip_model.safetensors"),
        (lambda f: (f / "open_clip_config.json").unlink(), "has no open_clip_config.json"),
        (lambda f: (f / "open_clip_config.json").write_text("{}"), "is not an open_clip configuration"),
        (lambda f: (f / "open_clip_config.json").write_text("{"), "is not an open_clip configuration"),
        (
            lambda f: (f / "open_clip_model.safetensors").write_bytes(
                (f / "open_clip_model.safetensors").read_bytes()[:-100]
            ),
            "cannot be loaded as a CLIP model",
        ),
        (
            lambda f: (f / "open_clip_config.json").write_text(
                json.dumps(tiny.CLIP_CONFIG).replace('"layers": 2', '"layers": 3')
            ),
            "cannot be loaded as a CLIP model",
        ),
    ],
)
def test_unusable_folders_are_refused_in_one_line(tmp_path, spoil, message):
    folder = tiny.save_clip(tmp_path / "probe")
    spoil(folder)
    with pytest.raises(ExtractorUnavailable, match=message) as refused:
        load_clip(folder, device="cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("spec", ["no/such/folder", "ViT-B-32", "ViT-B-32/no_such_tag", ""])
def test_unknown_names_are_refused(spec):
    with pytest.raises(ExtractorUnavailable, match="neither a folder nor"):
        load_clip(spec, device="cpu")


def test_weights_that_cannot_be_fetched_are_told_without_retries(monkeypatch):
    import huggingface_hub

    # An address of this machine at which nothing answers stands for a missing network.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    # The hub's client would try again for half a minute.
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(ExtractorUnavailable, match="Give a local folder") as refused:
        load_clip("ViT-B-32/laion2b_s34b_b79k", device="cpu")
    assert "\n" not in str(refused.value)
