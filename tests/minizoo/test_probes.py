"""The DINOv2 and the SigLIP: trained by the zoo's loop, loaded by the product."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matchgraph.minizoo.build import loop, probes
from matchgraph.minizoo.build.probes import CONFIGS, crops, new_probe, save_probe, train_probe
from matchgraph.training.measure.extractors import ExtractorSpec, load_extractor


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_training_brings_like_images_together_and_the_product_loads_it(
    name, small_pool, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (loop, probes):
        monkeypatch.setattr(module, "WORK", tmp_path)
    monkeypatch.setattr(loop, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(probes, "CLIP_FOLDER", shared / "clip")
    quick = replace(CONFIGS[name], steps=16, batch_size=16, warmup_steps=1, log_every=4, checkpoint_every=16)
    monkeypatch.setitem(probes.CONFIGS, name, quick)
    train_probe(name, small_pool)
    rows = (tmp_path / "logs" / f"{quick.name}.csv").read_text(encoding="utf-8").splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("loss")]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[0]
    measured = save_probe(name, small_pool, tmp_path / "saved")
    assert measured["steps"] == 16
    assert 0 <= measured["neighbour_of_style"] <= 1

    extractor = load_extractor(ExtractorSpec(name, name, str(tmp_path / "saved")), device="cpu")
    images = [Image.fromarray(pixels) for pixels in small_pool.pixels[:5]]
    seen = extractor.features(images)
    assert seen.shape == (5, probes.WIDTH)
    model = new_probe(name, 0)
    assert not np.allclose(seen[0], seen[1])
    trained = {k: v for k, v in model.state_dict().items() if v.ndim > 1}
    assert trained  # and another seed gives other weights
    other = new_probe(name, 1).state_dict()
    assert any(not torch.equal(value, other[key]) for key, value in trained.items())


def test_a_crop_is_a_part_of_its_image_and_mirrors_only_what_may_be() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32).clone()
    may_flip = torch.arange(64) % 2 == 0
    seen = crops(ramp, may_flip, torch.Generator().manual_seed(0))
    assert seen.shape == ramp.shape
    assert seen.min() >= -1
    assert seen.max() <= 1
    slope = seen[:, 0, 16, 20] - seen[:, 0, 16, 12]
    assert (slope[~may_flip] > 0).all()
    assert 0 < int((slope[may_flip] < 0).sum()) < int(may_flip.sum())
    # A part of the image at full size changes more slowly than the whole.
    whole = float(ramp[0, 0, 16, 20] - ramp[0, 0, 16, 12])
    assert (slope.abs() <= whole + 1e-5).all()
    assert slope.abs().min() > 0.55 * whole
