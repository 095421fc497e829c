"""A run that is looked at while it trains is the same run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from matchgraph.training.config import FineTuneConfig
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.images import list_captioned_images
from matchgraph.training.pipelines import placement
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.memory import PeakMemory
from matchgraph.training.tune import session, validation
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.finetune import fine_tune
from matchgraph.training.tune.validation import HELD_OUT, TRAINED_ON, Validation

CONFIG = FineTuneConfig(
    steps=3, batch_size=2, learning_rate=1e-2, rank=2, alpha=2, resolution_px=32, device="cpu"
)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("sd", {"ema": 0.5}), ("pixart", {"precision": "bf16"}), ("sd3", {"method": "full"})],
)
def test_looking_changes_nothing(tiny_folder, dataset, tmp_path, monkeypatch, name, changes):
    looks = []
    config = replace(CONFIG, **changes)
    with LoadedPipeline(tiny_folder(name), device="cpu", precision=config.precision) as loaded:
        monkeypatch.setattr(type(loaded.family), "default_steps", 2)
        plain = fine_tune(loaded, dataset, config, tmp_path / "plain")
        random = torch.get_rng_state()
        looking = Validation(2, 2, lambda *look: looks.append(look))
        seen = fine_tune(loaded, dataset, config, tmp_path / "seen", validation=looking)
    assert torch.equal(torch.get_rng_state(), random)
    assert (seen.sha256, seen.losses) == (plain.sha256, plain.losses)
    # And after the last step.
    assert [step for step, _, _ in looks] == [2, 3]
    assert seen.happened["validations"] == [{"step": step, "loss": loss} for step, loss, _ in looks]
    assert seen.happened["validated_on"] == TRAINED_ON
    assert [len(pictures) for _, _, pictures in looks] == [2, 2]
    # Each with what was learnt by then.
    assert looks[0][1] != looks[1][1]
    before, after = (np.asarray(pictures[0], dtype=int) for _, _, pictures in looks)
    assert before.std() > 0
    assert (before != after).any()


def test_the_loss_is_of_held_out_images_at_the_same_noise(tiny_folder, dataset, tmp_path):
    images = list_captioned_images(dataset)
    images = [replace(image, held_out=number < 2) for number, image in enumerate(images)]
    config = replace(CONFIG, learning_rate=1e-12)
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:

        def run(config: FineTuneConfig, folder: str):
            return fine_tune(
                loaded, dataset, config, tmp_path / folder, images=images, validation=Validation(1)
            ).happened

        found = run(config, "out")
        assert (found["validated_on"], found["images"]) == (HELD_OUT, 3)
        first, *others = [look["loss"] for look in found["validations"]]
        assert others == pytest.approx([first, first], rel=1e-5)
        # With their own captions, whatever is left out in training.
        assert run(replace(config, caption_dropout=1.0), "dropped")["validations"][0]["loss"] == first


def test_the_loss_of_images_of_several_shapes_is_their_mean(tiny_folder, mixed, tmp_path, monkeypatch):
    config = replace(CONFIG, steps=1, learning_rate=1e-12, aspect_buckets=True)
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:
        plain = fine_tune(loaded, mixed, config, tmp_path / "plain")
        own, losses = type(loaded.family).loss, []

        def loss(*given):
            found = own(*given)
            losses.append((float(found.detach()), len(given[3])))
            return found

        monkeypatch.setattr(type(loaded.family), "loss", loss)
        seen = fine_tune(loaded, mixed, config, tmp_path / "seen", validation=Validation(1))
    assert seen.sha256 == plain.sha256
    [look] = seen.happened["validations"]
    # The step's own, and five squares, four wide images and one more, two at a time.
    assert [count for _, count in losses[1:]] == [2, 2, 1, 2, 2, 1]
    assert look["loss"] == pytest.approx(sum(one * count for one, count in losses[1:]) / 10)


def test_looks_before_an_interruption_are_kept(tiny_folder, dataset, tmp_path):
    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path / "kept", 1, tmp_path / "kept")
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:
        options = {"checkpoints": checkpoints, "validation": Validation(1)}
        with pytest.raises(KeyboardInterrupt):
            fine_tune(loaded, dataset, CONFIG, tmp_path / "out", stop, **options)
        record = fine_tune(loaded, dataset, CONFIG, tmp_path / "out", **options)
    assert record.happened["resumed_at"] == [2]
    assert [look["step"] for look in record.happened["validations"]] == [1, 2, 3]


def test_a_lack_of_memory_for_pictures_leaves_the_run_alone(tiny_folder, dataset, tmp_path, monkeypatch):
    def lacking(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    config = replace(CONFIG, steps=1)
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:
        # For the VAE, and for what is drawn.
        for place, name in ((validation, "beside"), (type(loaded.family), "sample")):
            with monkeypatch.context() as lack:
                lack.setattr(place, name, lacking)
                record = fine_tune(loaded, dataset, config, tmp_path, validation=Validation(1, 1))
            assert len(record.happened["validations"]) == 1


def test_a_part_that_finds_no_memory_leaves_the_pipeline_as_it_was(monkeypatch):
    class Pipe:
        vae = torch.nn.Linear(1, 1)

    def move(_: object, device: torch.device) -> None:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(placement, "_move", move)
    loaded = SimpleNamespace(pipe=Pipe(), device=torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError), placement.beside(loaded, "vae"):
        pass
    assert type(loaded.pipe) is Pipe


def test_looks_are_no_time_of_training(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def passing(seconds: float) -> None:
        clock[0] += seconds

    training = SimpleNamespace(
        step=lambda _: passing(1.0) or 0.5, check_finite=lambda _: None, notes=[], skipped_steps=0
    )
    found = session.Session(
        3, None, {}, 0.0, PeakMemory(torch.device("cpu")), validate=lambda _: passing(9.0)
    )
    found.train(training, None)
    assert found.seconds == 3.0


def test_numbers_of_looks_are_checked():
    with pytest.raises(InvalidConfig):
        Validation(0)
