"""Pipelines that only draw are planned as runs are, and a lack of memory is one line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from matchgraph.cli.choose import choose
from matchgraph.cli.collaborate import collaborate
from matchgraph.cli.route import route
from matchgraph.drawing import Drawing
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import InsufficientMemory, OutOfMemory
from matchgraph.training.memory import drawing
from matchgraph.training.memory.drawing import OTHERWISE, drawing_plan, opened_pair_to_draw, opened_to_draw
from matchgraph.training.memory.plan import GIB, STAGES
from matchgraph.training.sampling.generate import joined, sample_images, stream_batches

ZOO = Path(__file__).parents[2] / "zoo"
CONFIG = SampleConfig(n=4, drawing=Drawing(1, resolution_px=32), batch_size=4, device="cpu")
TINY = {"device": "cpu", "resolution_px": 32, "batch_size": 4}


@pytest.mark.slow
def test_what_only_draws_is_planned_without_training():
    options = {"held_bytes": 2 * GIB, "resolution_px": 1024, "batch_size": 32}
    plan = drawing_plan(ZOO / "sd-1.5", budget_bytes=10 * GIB, **options)
    assert not plan.too_large
    counted = [stage for stage in STAGES if not stage.startswith(("training", "encoding images"))]
    assert max(plan.peaks[stage] for stage in counted) <= 10 * GIB
    # Neither 32 images at a time nor a VAE that decodes them together would fit.
    assert plan.sampling_batch < 32
    assert plan.placement.vae_slicing or plan.placement.vae_tiling
    assert drawing_plan(ZOO / "sd-1.5", budget_bytes=GIB // 2, **options).too_large


@pytest.mark.slow
def test_half_precision_is_planned_with_half_the_weights():
    options = {"budget_bytes": 40 * GIB, "held_bytes": 0, "resolution_px": 512, "batch_size": 1}
    whole, half = (drawing_plan(ZOO / "sdxl-base", precision=each, **options) for each in ("fp32", "bf16"))
    assert half.peaks["loading"] == pytest.approx(whole.peaks["loading"] / 2, rel=0.1)


def test_a_pipeline_is_opened_in_the_precision_that_is_asked_for(tiny_folder):
    images = {}
    for precision in ("fp32", "bf16"):
        config = replace(CONFIG, drawing=replace(CONFIG.drawing, precision=precision))
        with opened_to_draw(tiny_folder("sd"), precision=precision, **TINY) as loaded:
            assert loaded.precision == precision
            images[precision] = np.asarray(sample_images(loaded, None, ["a cat"], config)[0]).astype(int)
    assert 0 < np.abs(images["fp32"] - images["bf16"]).mean() < 8


def test_fewer_images_at_a_time_are_the_same_images(tiny_folder):
    with opened_to_draw(tiny_folder("sd"), **TINY) as loaded:
        assert loaded.drawn_together is None
        wanted = [np.asarray(image) for image in sample_images(loaded, None, ["a cat"], CONFIG)]
    with opened_to_draw(tiny_folder("sd"), gpu_memory=500, **TINY) as loaded:
        assert loaded.drawn_together == 4
        loaded.drawn_together = 3
        batches = list(stream_batches(loaded, None, ["a cat"], CONFIG, follow=True))
    assert [len(batch.images) for batch in batches] == [3, 1]
    whole = joined(batches)
    assert whole.latents.shape[0] == len(whole.curvature) == 4
    for one, other in zip(whole.images, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(one).astype(int), other.astype(int), atol=1)


@pytest.mark.slow
def test_a_lack_of_memory_is_one_line_that_names_the_flags(tiny_folder, monkeypatch):
    lacking = rf"needs about \d\.\d GiB for .*, and there are 0\.0\. Either {re.escape(OTHERWISE)}\.$"
    with pytest.raises(InsufficientMemory, match=lacking):
        opened_to_draw(tiny_folder("sd"), gpu_memory=1e-3, **TINY).__enter__()

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def draw() -> None:
        folder = tiny_folder("sd")
        # As a teacher beside its student.
        with opened_to_draw(folder, **TINY), opened_to_draw(folder, **TINY) as loaded:
            monkeypatch.setattr(loaded.family, "sample", fail)
            sample_images(loaded, None, ["a cat"], CONFIG)

    with pytest.raises(OutOfMemory, match=r"^Out of memory in sampling: .*--gpu-memory") as raised:
        draw()
    assert str(raised.value).count("--gpu-memory") == 1
    assert "\n" not in str(raised.value)


def test_the_flags_that_it_names_are_those_of_the_commands_that_it_names():
    """Those that draw have the one, and those that say how have the others."""

    def flags(command: click.Command) -> set[str]:
        return {flag for parameter in command.params for flag in parameter.opts}

    for group, names in ((route, ("score", "generate")), (collaborate, ("tune", "generate", "evaluate"))):
        assert all("--gpu-memory" in flags(group.commands[name]) for name in names)
    assert "--gpu-memory" in flags(choose)
    for group, name in ((route, "variants"), (collaborate, "calibrate")):
        assert f"{name}`" in OTHERWISE
        named = set(re.findall(r"--[a-z-]+", OTHERWISE))
        assert named == {"--resolution", "--precision"} & flags(group.commands[name])


def test_two_that_stay_loaded_have_half_of_what_is_left_each(monkeypatch):
    held, planned = [2 * GIB], []

    class Weights:
        def __init__(self, *_: object, **__: object) -> None:
            held[0] += 5 * GIB

        def __enter__(self) -> Weights:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def plan(_: object, *, budget_bytes: int, held_bytes: int, resolution_px: int, **__: object) -> None:
        planned.append((budget_bytes / GIB, held_bytes / GIB, resolution_px))

    monkeypatch.setattr(drawing, "choose_device", torch.device)
    monkeypatch.setattr(drawing, "free_memory", lambda _: (22 * GIB, held[0]))
    monkeypatch.setattr(drawing, "drawing_plan", plan)
    monkeypatch.setattr(drawing, "LoadedPipeline", Weights)
    with opened_pair_to_draw("student", "teacher", device="cuda", resolution_px=32, batch_size=1):
        pass
    with opened_pair_to_draw(
        "student", "teacher", device="cuda", resolution_px=32, teacher_px=64, batch_size=1, gpu_memory=14
    ):
        pass
    # What scores their images stays beside either.
    assert planned == [(12, 2, 32), (12, 2, 32), (13, 12, 32), (13, 12, 64)]
