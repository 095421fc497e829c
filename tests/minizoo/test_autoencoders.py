"""The two autoencoders: their latents' shape, that they learn, and that they keep what they learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from matchgraph.minizoo.build import autoencoders, loop
from matchgraph.minizoo.build.autoencoders import (
    CONFIGS,
    encode,
    load_autoencoder,
    new_autoencoder,
    save_autoencoder,
)
from matchgraph.minizoo.build.corpus import pixels_to_tensor
from matchgraph.minizoo.build.errors import StageNotReady

SHAPES = {"kl": (8, 8, 8), "dc": (32, 4, 4)}
each_kind = pytest.mark.parametrize("kind", sorted(SHAPES))


@pytest.mark.slow
@each_kind
def test_training_reconstructs_better_and_saving_keeps_it(
    kind, small_pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WORK", tmp_path)
    monkeypatch.setattr(loop, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(autoencoders, "WORK", tmp_path)
    quick = replace(
        CONFIGS[kind], steps=10, batch_size=4, warmup_steps=1, log_every=2, checkpoint_every=10, ema_decay=0.5
    )
    monkeypatch.setitem(autoencoders.CONFIGS, kind, quick)
    autoencoders.train_autoencoder(kind, small_pool)
    rows = (tmp_path / "logs" / f"{quick.name}.csv").read_text(encoding="utf-8").splitlines()[1:]
    errors = [float(row.split(",")[3]) for row in rows]
    assert errors[-1] < 0.8 * errors[0]

    measured = save_autoencoder(kind, small_pool, tmp_path / quick.name)
    model = load_autoencoder(kind, tmp_path)
    latents = encode(model, pixels_to_tensor(small_pool.pixels))
    assert latents.shape[1:] == SHAPES[kind]
    assert float((latents * model.config.scaling_factor)[::3].std()) == pytest.approx(1.0, abs=0.02)
    assert measured["scaling_factor"] == model.config.scaling_factor
    if kind == "kl":
        # What fine-tuning draws from it is what pretraining learnt from.
        posterior = model.encode(pixels_to_tensor(small_pool.pixels)).latent_dist
        assert torch.allclose(posterior.sample(), latents, atol=1e-5)
    with torch.no_grad():
        decoded = model.decode(latents[::20]).sample.clamp(-1, 1)
    error = float((decoded - pixels_to_tensor(small_pool.pixels)[::20]).abs().mean()) * 127.5
    assert error == pytest.approx(measured["mean_absolute_error"], abs=0.5)


def test_an_autoencoder_that_is_not_there_is_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(StageNotReady, match=r"python -m matchgraph\.minizoo\.build\.autoencoders dc"):
        load_autoencoder("dc", tmp_path)


@each_kind
def test_initial_weights_follow_the_seed(kind) -> None:
    one, same, other = (new_autoencoder(kind, seed).encoder.conv_in.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
