"""Models of few steps: known by name or configuration, and drawn as their makers say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
from safetensors.torch import save_file

from matchgraph.training.errors import InvalidConfig
from matchgraph.training.pipelines.changed_drawing import identity_of_drawing
from matchgraph.training.pipelines.families import family
from matchgraph.training.pipelines.few_steps import of_pipeline, of_weights
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.profile import PipelineProfiler, call_arguments, native_resolution
from matchgraph.training.pipelines.samplers import default_drawing
from matchgraph.training.tune.students import make_student
from tests.training import tiny
from tests.training.test_students import draw, lora


def scheduled(pipe, scheduler: str, **changes):
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **changes)
    return pipe


@pytest.mark.parametrize(
    ("pipe", "name", "expected"),
    [
        (tiny.sdxl, "stabilityai/sdxl-turbo", (1, 0.0)),
        (tiny.sd, "sd-turbo", (1, 0.0)),
        (tiny.flux, "black-forest-labs/FLUX.1-schnell", (4, 0.0)),
        (tiny.sd3, "stabilityai/stable-diffusion-3.5-large-turbo", (4, 0.0)),
        (tiny.z_image, "Tongyi-MAI/Z-Image-Turbo", (8, 0.0)),
        (tiny.z_image, "Tongyi-MAI/Z-Image", None),
        (tiny.flux2_klein, "FLUX.2-klein-base-4B", None),
        (lambda: tiny.flux2_klein(is_distilled=True), "x", (4, 1.0)),
        (tiny.sd3, "stabilityai/stable-diffusion-3.5-large", (40, 4.5)),
        (tiny.sd3, "stabilityai/stable-diffusion-3.5-medium", None),
        (tiny.sdxl, "playgroundai/playground-v2.5-1024px-aesthetic", (50, 3.0)),
        (tiny.sd, "stabilityai/stable-diffusion-2-1", None),
        (tiny.sdxl, "sdxl", None),
        (tiny.flux, "FLUX.1-dev", None),
        # By their configurations, under any name.
        (
            lambda: scheduled(tiny.sdxl(), "EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
            "x",
            (1, 0.0),
        ),
        (
            lambda: scheduled(
                tiny.sdxl("v_prediction"),
                "EulerDiscreteScheduler",
                timestep_spacing="trailing",
                rescale_betas_zero_snr=True,
            ),
            "x",
            None,
        ),
        (
            lambda: scheduled(
                tiny.flux(guidance_embeds=False),
                "FlowMatchEulerDiscreteScheduler",
                shift=1.0,
                use_dynamic_shifting=False,
            ),
            "x",
            (4, 0.0),
        ),
        # A student of one of them is drawn as a student.
        (lambda: scheduled(tiny.sd(), "LCMScheduler"), "sd-turbo-student", None),
    ],
)
def test_which_models_are_of_few_steps(pipe, name, expected):
    assert of_pipeline(pipe(), name) == expected


@pytest.mark.parametrize(
    ("name", "pipeline", "scheduler", "changed"),
    [
        (
            "stable-diffusion-3.5-large", "StableDiffusion3Pipeline", {},
            {"default_steps": 40, "default_guidance": 4.5},
        ),
        ("stable-diffusion-3.5-large-turbo", "StableDiffusion3Pipeline", {}, {}),
        ("stable-diffusion-3.5-medium", "StableDiffusion3Pipeline", {}, {}),
        ("playground-v2.5", "StableDiffusionXLPipeline", {}, {"default_guidance": 3.0}),
        ("playground-v2.5-student", "StableDiffusionXLPipeline", {"_class_name": "LCMScheduler"}, {}),
        ("playground-v2.5-student", "StableDiffusionXLPipeline", {"few_steps": 4}, {}),
        ("any", "FluxPipeline", {}, {"prompt_tokens": 256}),
        ("any", "UnknownPipeline", {}, {}),
    ],
)  # fmt: skip
def test_only_drawings_that_changed_are_part_of_a_run(tmp_path, name, pipeline, scheduler, changed):
    folder = tmp_path / name
    contents = {
        "model_index.json": {"_class_name": pipeline},
        "scheduler/scheduler_config.json": scheduler,
        "transformer/config.json": {"guidance_embeds": False},
    }
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))
    assert identity_of_drawing(folder) == changed
    assert identity_of_drawing(tmp_path / "gone") == {}


@pytest.mark.parametrize(("guidance_embeds", "tokens"), [(True, 512), (False, 256)])
def test_schnell_reads_half_as_many_tokens_as_dev(guidance_embeds, tokens):
    pipe = tiny.flux(guidance_embeds=guidance_embeds)
    # As in both published folders.
    pipe.tokenizer_2.model_max_length = 512
    own = family("flux")
    own.prepare(pipe)
    assert own.token_limits(pipe)[1][1] == call_arguments(pipe)["max_sequence_length"] == tokens


def test_stable_diffusion_2_1_is_made_for_768_pixels():
    pipe = tiny.sd("v_prediction")
    pipe.unet.register_to_config(sample_size=96)
    pipe.register_to_config(_name_or_path="stabilityai/stable-diffusion-2-1")
    pipe.vae_scale_factor = 8
    assert native_resolution(pipe) == 768
    assert default_drawing(pipe, 50, 7.5) == (50, 7.5)


@pytest.mark.parametrize(
    ("name", "steps", "sampler"),
    [
        ("sdxl_lightning_4step_lora.safetensors", 4, "EulerDiscreteScheduler"),
        ("Hyper-SDXL-8steps-lora.safetensors", 8, "DDIMScheduler"),
        ("Hyper-SD15-2steps-lora.safetensors", 2, "DDIMScheduler"),
    ],
)
def test_weights_of_few_steps_are_known_by_their_files(name, steps, sampler):
    found = of_weights(f"x/{name}")
    made = found.scheduler(tiny.sdxl().scheduler)
    assert (found.steps, type(made).__name__, made.config.timestep_spacing) == (steps, sampler, "trailing")
    assert made.config.beta_end == 0.012
    made.set_timesteps(steps)
    assert made.timesteps[0] == 999


@pytest.mark.parametrize(
    "name",
    [
        "sdxl_lightning_1step_unet_x0.safetensors",
        "Hyper-FLUX.1-dev-8steps-lora",
        "Hyper-SDXL-8steps-CFG-lora",
    ],
)
def test_weights_of_samplers_that_are_not_known_are_refused(name):
    with pytest.raises(InvalidConfig, match="take a sampler that is not known here"):
        of_weights(name)
    assert of_weights("lcm-lora-sdxl/pytorch_lora_weights.safetensors") is None


@pytest.mark.slow
def test_a_lightning_student_draws_and_costs_what_diffusers_does_by_its_card(tiny_folder, tmp_path: Path):
    teacher, student = tiny_folder("sdxl"), tmp_path / "student"
    file = tmp_path / "sdxl_lightning_2step_lora.safetensors"
    with LoadedPipeline(teacher, device="cpu") as loaded:
        save_file(lora(loaded.pipe.unet, "kohya"), file)
        scheduled(loaded.pipe, "EulerDiscreteScheduler", timestep_spacing="trailing")
        loaded.pipe.load_lora_weights(file.parent, weight_name=file.name)
        expected = draw(loaded, steps=2, guidance=0.0)
    made = make_student(teacher, file, student)
    assert made.scheduler == {"class": "EulerDiscreteScheduler", "steps": 2}
    np.testing.assert_allclose(draw(student), expected, atol=1)
    priced = PipelineProfiler(student).price()
    assert (priced.steps, priced.calls, priced.rows) == (2, 2, 1)


def test_a_turbo_folder_is_priced_by_its_name(tiny_folder, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_folder("sdxl"), tmp_path / "sdxl-turbo"))
    priced = PipelineProfiler(folder).price()
    assert (priced.steps, priced.rows) == (1, 1)
    assert (
        json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["timestep_spacing"]
        == "leading"
    )
