"""A rehearsal finds what would end a run, and leaves no trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.errors import (
    NonFiniteEncoding,
    NonFiniteLoss,
    OutOfMemory,
    TrainingError,
    UnsupportedScheduler,
)
from matchgraph.training.images import list_captioned_images
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.finetune import fine_tune
from matchgraph.training.tune.rehearsal import SAMPLING_STEPS, rehearse

TRAINING = FineTuneConfig(
    steps=2, batch_size=2, learning_rate=1e-2, rank=2, alpha=2, resolution_px=32, device="cpu"
)
SAMPLING = SampleConfig(n=9, drawing=Drawing(6, resolution_px=32), batch_size=3, device="cpu")


class Looking:
    """An extractor that keeps what it was shown."""

    name = "looking"

    def __init__(self, feature: float = 0.0) -> None:
        self.shown: list[object] = []
        self._feature = feature

    def features(self, images):
        self.shown += images
        return np.full((len(images), 2), self._feature)


@pytest.fixture(scope="module")
def sd(tiny_folder):
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:
        yield loaded


def rehearsed(loaded, dataset, extractor=None, training=TRAINING):
    rehearse(loaded, dataset, list_captioned_images(dataset), training, SAMPLING, [extractor or Looking()])


def test_buckets_are_rehearsed_as_they_are_trained_on(sd, tiny_folder, mixed, monkeypatch):
    shapes = []
    own = type(sd.family).loss
    monkeypatch.setattr(
        type(sd.family), "loss", lambda *given: shapes.append(given[3].shape[-2:]) or own(*given)
    )
    # A square and a wide image.
    training = replace(TRAINING, aspect_buckets=True)
    rehearsed(sd, mixed, training=training)
    assert [tuple(shape) for shape in shapes] in ([(8, 8)], [(6, 10)])
    with (
        LoadedPipeline(tiny_folder("sd3"), device="cpu") as loaded,
        pytest.raises(TrainingError, match="at most 64"),
    ):
        rehearsed(loaded, mixed, training=replace(training, resolution_px=64))


def test_a_run_is_the_same_with_and_without(sd, dataset, tmp_path, monkeypatch):
    def run(name):
        record = fine_tune(sd, dataset, TRAINING, tmp_path / name)
        images = sample_images(sd, record.adapter, ["a"], replace(SAMPLING, n=2))
        return record.sha256, record.losses, [image.tobytes() for image in images]

    plain = run("plain")
    random = torch.get_rng_state()
    asked = []
    own = type(sd.family).sample
    monkeypatch.setattr(
        type(sd.family),
        "sample",
        lambda *given, **named: asked.append(named["steps"]) or own(*given, **named),
    )
    extractor = Looking()
    rehearsed(sd, dataset, extractor)
    monkeypatch.undo()
    assert torch.equal(torch.get_rng_state(), random)
    assert run("rehearsed") == plain
    # One batch, as large as the run's own, in few steps.
    assert len(extractor.shown) == SAMPLING.batch_size
    assert asked == [SAMPLING_STEPS]


@pytest.mark.parametrize("stage", ["training", "sampling", "encoding text", "encoding images"])
def test_a_lack_of_memory_names_its_stage(sd, dataset, monkeypatch, stage):
    def lacking(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    method = {
        "training": "loss",
        "sampling": "sample",
        "encoding text": "encode_prompts",
        "encoding images": "encode_images",
    }[stage]
    monkeypatch.setattr(type(sd.family), method, lacking)
    with pytest.raises(OutOfMemory) as raised:
        rehearsed(sd, dataset)
    assert raised.value.stage == stage


def test_numbers_that_are_none_are_found(sd, dataset, monkeypatch):
    own = type(sd.family).loss
    with monkeypatch.context() as patched:
        patched.setattr(type(sd.family), "loss", lambda *given: own(*given) * float("nan"))
        with pytest.raises(NonFiniteLoss):
            rehearsed(sd, dataset)
    with pytest.raises(NonFiniteEncoding, match="looking"):
        rehearsed(sd, dataset, Looking(float("inf")))


def test_a_scheduler_without_an_objective_is_found(sd, dataset, monkeypatch):
    from diffusers import DDIMScheduler

    odd = DDIMScheduler.from_config(sd.pipe.scheduler.config, prediction_type="sample")
    monkeypatch.setattr(sd.pipe, "scheduler", odd)
    with pytest.raises(UnsupportedScheduler) as raised:
        rehearsed(sd, dataset)
    assert isinstance(raised.value, TrainingError)
