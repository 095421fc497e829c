"""Settings of fine-tuning that decide what comes out: schedules, min-SNR weights, the weights' average."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import load_file

from matchgraph.training.config import SCHEDULES, FineTuneConfig
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.pipelines.encoding import encode_dataset
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.fine_tuning import FineTuning, average_decay, learning_rate_share
from matchgraph.training.tune.finetune import fine_tune
from matchgraph.training.tune.loop import attached
from matchgraph.training.tune.methods import Lora

TINY = FineTuneConfig(
    steps=4, batch_size=2, learning_rate=1e-2, rank=2, alpha=2, resolution_px=32, device="cpu"
)

# Low, so that it bounds some of five timesteps.
GAMMA = 0.05


@pytest.fixture(scope="module")
def sd(tiny_folder):
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:
        yield loaded


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_learning_rate_goes_as_diffusers_has_it(name, warmup):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kind = f"{name}_with_warmup" if name == "constant" else name
    theirs = get_scheduler(kind, optimiser, num_warmup_steps=warmup, num_training_steps=10)
    for step in range(1, 11):
        share = learning_rate_share(name, step, 10, warmup)
        assert share == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        theirs.step()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_losses_are_weighted_by_min_snr(sd, dataset, monkeypatch, prediction):
    data = encode_dataset(sd, dataset, resolution_px=32, seed=0)
    latents, rows = data.batch(range(5), [True] * 5)
    scheduler = type(sd.pipe.scheduler).from_config(sd.pipe.scheduler.config, prediction_type=prediction)
    monkeypatch.setattr(sd.pipe, "scheduler", scheduler)

    def loss(of: slice, *gamma: float) -> float:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            return float(sd.family.loss(sd.pipe, sd.pipe.unet, latents, rows, generator, of, *gamma))

    steps = torch.randint(0, len(scheduler.alphas_cumprod), (5,), generator=torch.Generator().manual_seed(7))
    snr = compute_snr(scheduler, steps)
    weights = snr.clamp(max=GAMMA) / (snr + (prediction == "v_prediction"))
    alone = [loss(slice(n, n + 1)) for n in range(5)]
    wanted = sum(one * float(weight) for one, weight in zip(alone, weights, strict=True)) / 5
    assert loss(slice(None), GAMMA) == pytest.approx(wanted, rel=1e-4)
    assert wanted != pytest.approx(sum(alone) / 5, rel=1e-2)


def test_min_snr_is_refused_where_it_means_nothing(tiny_folder, dataset, tmp_path):
    with pytest.raises(InvalidConfig, match="--snr-gamma"):
        fine_tune(tiny_folder("flux"), dataset, replace(TINY, snr_gamma=5.0), tmp_path)
    with pytest.raises(InvalidConfig, match="warmup_steps must be at most steps, 4, got 5"):
        replace(TINY, warmup_steps=5)


def test_what_is_kept_is_the_average_of_the_weights(sd, dataset):
    data = encode_dataset(sd, dataset, resolution_px=32, seed=0)
    config = replace(TINY, ema=0.15)
    theirs = EMAModel([], decay=0.15)
    # As diffusers has it: the start weights are left at once, and the decay rises to what is asked for.
    decays = [theirs.get_decay(step) for step in (1, 2, 3)]
    assert decays == [0.0, 0.15, 0.15]
    assert [average_decay(0.9, step) for step in (2, 3)] == [2 / 11, 3 / 12]
    with attached(sd, Lora(2, 2), config) as parameters:
        training = FineTuning(sd, parameters, data, config)
        wanted = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for step, decay in enumerate(decays, 1):
            training.step(step)
            for name, parameter in parameters.items():
                wanted[name] = decay * wanted[name] + (1 - decay) * parameter.detach()
        training.keep_average()
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.detach(), wanted[name])


def test_a_run_with_all_of_them_resumes_as_if_it_had_not_been_stopped(sd, dataset, tmp_path):
    config = replace(TINY, schedule="cosine", warmup_steps=2, snr_gamma=5.0, ema=0.5, caption_dropout=0.5)
    whole = fine_tune(sd, dataset, config, tmp_path / "whole")

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    kept = Checkpoints(tmp_path / "kept", 1, tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(sd, dataset, config, tmp_path / "parts", stop, checkpoints=kept)
    parts = fine_tune(sd, dataset, config, tmp_path / "parts", checkpoints=kept)
    assert (parts.losses, parts.sha256) == (whole.losses, whole.sha256)
    # The average lags behind.
    last = fine_tune(sd, dataset, replace(config, ema=0.0), tmp_path / "last")
    assert last.losses == whole.losses
    one, other = (load_file(run.adapter) for run in (whole, last))
    names = [name for name in one if "lora_B" in name or "lora.up" in name]
    assert sum(one[name].abs().sum() for name in names) < sum(other[name].abs().sum() for name in names)
