"""The training loop: resuming, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from matchgraph.minizoo.build import loop
from matchgraph.minizoo.build.errors import NonFiniteTraining
from matchgraph.minizoo.build.loop import LoopConfig, averaged_weights, generator_of, is_finished, train

CONFIG = LoopConfig(
    "line", steps=12, batch_size=8, learning_rate=0.05, warmup_steps=3, log_every=4, checkpoint_every=4
)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch: pytest.MonkeyPatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(loop, "WORK", tmp_path / "work")
    monkeypatch.setattr(loop, "LOGS", tmp_path / "logs")
    yield
    torch.set_num_threads(threads)


def line_losses(model: torch.nn.Linear, stop_at: int | None = None):
    def losses(step: int, generator: torch.Generator):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

    return losses


def new_line() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def test_an_interrupted_run_equals_an_uninterrupted_one() -> None:
    whole = new_line()
    train(CONFIG, whole, line_losses(whole))
    curve = (loop.LOGS / "line.csv").read_text()
    loop.checkpoint_path("line").unlink()
    (loop.LOGS / "line.csv").unlink()

    broken = new_line()
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, broken, line_losses(broken, stop_at=10))
    assert not is_finished(CONFIG)
    assert averaged_weights("line")[0] == 8
    resumed = torch.nn.Linear(3, 1)
    train(CONFIG, resumed, line_losses(resumed))
    assert is_finished(CONFIG)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)

    def columns(text: str) -> list[list[str]]:
        return [
            [cell for index, cell in enumerate(row.split(",")) if index != 1] for row in text.splitlines()
        ]

    assert columns(curve) == columns((loop.LOGS / "line.csv").read_text())  # but for the seconds


def test_weights_that_are_never_touched_stay_as_they_are_and_do_not_hinder_resuming() -> None:
    def with_idle() -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"used": new_line(), "idle": torch.nn.Linear(2, 2)})

    model = with_idle()
    idle = model["idle"].weight.detach().clone()
    train(replace(CONFIG, stop_after=4), model, line_losses(model["used"]))
    resumed = with_idle()
    train(CONFIG, resumed, line_losses(resumed["used"]))
    assert torch.equal(resumed["idle"].weight, idle)
    assert is_finished(CONFIG)


def test_a_memory_layout_of_its_own_survives_resuming() -> None:
    def convolution() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def losses_of(model: torch.nn.Module):
        def losses(step: int, generator: torch.Generator):  # noqa: ARG001
            return {"loss": model(torch.randn(2, 3, 5, 5, generator=generator)).square().mean()}

        return losses

    whole = convolution()
    train(CONFIG, whole, losses_of(whole))
    loop.checkpoint_path("line").unlink()
    broken = convolution()
    train(replace(CONFIG, stop_after=4), broken, losses_of(broken))
    resumed = convolution()
    train(CONFIG, resumed, losses_of(resumed))
    assert resumed.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(whole.weight, resumed.weight)


def test_training_learns_and_leaves_the_average_in_the_model() -> None:
    model = new_line()
    average = train(replace(CONFIG, steps=200), model, line_losses(model))
    assert torch.equal(average["weight"], model.weight)
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.05)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() -> None:
    model = new_line()
    healthy = line_losses(model)

    def losses(step: int, generator: torch.Generator):
        terms = healthy(step, generator)
        return terms if step < 6 else {"loss": terms["loss"] * float("nan")}

    with pytest.raises(NonFiniteTraining, match="line: loss nan at step 6"):
        train(CONFIG, model, losses)
    step, _, weights = averaged_weights("line")
    assert step == 4
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_run_made_longer_before_its_rate_falls_keeps_its_past() -> None:
    short = LoopConfig("line", steps=100, batch_size=8, learning_rate=0.1, warmup_steps=10, decay_share=0.25)
    long = replace(short, steps=200)
    assert [short.learning_rate_at(s) for s in range(75)] == [long.learning_rate_at(s) for s in range(75)]
    assert short.learning_rate_at(99) < 0.01 < long.learning_rate_at(99)
    assert short.learning_rate_at(0) == pytest.approx(0.01)
    assert replace(short, decay_share=0.0).learning_rate_at(99) == pytest.approx(0.1)
    falling = [short.learning_rate_at(s) for s in range(75, 100)]
    assert falling == sorted(falling, reverse=True)


def test_each_step_and_each_seed_draws_its_own() -> None:
    draws = {
        float(torch.randn(1, generator=generator_of(seed, step))) for seed in range(5) for step in range(50)
    }
    assert len(draws) == 250


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"learning_rate": 0.0}, {"ema_decay": 1.0}, {"decay_share": -0.1}]
)
def test_a_configuration_that_cannot_train_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="invalid training configuration"):
        replace(CONFIG, **wrong)
