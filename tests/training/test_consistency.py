"""The teacher's path and the consistency function, against diffusers and a case solved by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
)

from matchgraph.training.errors import InvalidConfig, UnsupportedScheduler
from matchgraph.training.pipelines.families import family
from matchgraph.training.pipelines.few_steps import STUDENT_SCHEDULERS
from matchgraph.training.tune.consistency import TeacherPath, student_scheduler, teacher_path

CPU = torch.device("cpu")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TOKENS = 16


def preserving(prediction: str = "epsilon", steps: int = 10) -> TeacherPath:
    teacher = EulerDiscreteScheduler(**BETAS, prediction_type=prediction)
    scheduler = student_scheduler(teacher, family("sdxl"), steps)
    return teacher_path(scheduler, solver_steps=steps, tokens=TOKENS, device=CPU)


def flow(steps: int = 10, **options: object) -> TeacherPath:
    teacher = FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | options)
    scheduler = student_scheduler(teacher, family("sd3"), steps)
    return teacher_path(scheduler, solver_steps=steps, tokens=TOKENS, device=CPU)


PATHS = {
    "epsilon": preserving,
    "velocity": lambda: preserving("v_prediction"),
    "flow": flow,
    "shifted by size": lambda: flow(use_dynamic_shifting=True),
}


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_preserving_solver_steps_as_ddim_does(prediction: str) -> None:
    path = preserving(prediction)
    ddim = DDIMScheduler(
        **BETAS,
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
    ddim.set_timesteps(10)
    assert path.levels[1:].tolist() == ddim.timesteps.flip(0).tolist()
    noisy, output = rows(10), rows(10, 1)
    stepped = path.step(noisy, output, torch.arange(1, 11))
    for place in range(1, 11):
        at = slice(place - 1, place)
        expected = ddim.step(output[at], int(path.levels[place]), noisy[at]).prev_sample
        torch.testing.assert_close(stepped[at], expected, rtol=1e-4, atol=1e-5)


def test_the_flow_solver_steps_as_euler_does() -> None:
    path = flow()
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_timesteps(sigmas=[1 - step / 10 for step in range(10)])
    torch.testing.assert_close(path.levels, euler.sigmas.flip(0))
    noisy, output = rows(10), rows(10, 1)
    stepped = path.step(noisy, output, torch.arange(1, 11))
    for step, timestep in enumerate(euler.timesteps):
        at = slice(9 - step, 10 - step)
        expected = euler.step(output[at], timestep, noisy[at]).prev_sample
        torch.testing.assert_close(stepped[at], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_a_step_onto_clean_latents_needs_no_solver(name: str) -> None:
    path = PATHS[name]()
    noisy, output = rows(len(path) + 1), rows(len(path) + 1, 1)
    places = torch.arange(len(path) + 1)
    made = path.consistent(noisy, output, places)
    torch.testing.assert_close(made[0], noisy[0])
    assert not torch.allclose(made[1:], noisy[1:])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_consistency_function_is_what_lcm_scheduler_calls_denoised(prediction: str) -> None:
    path = preserving(prediction)
    assert isinstance(path.scheduler, LCMScheduler)
    path.scheduler.set_timesteps(10)
    noisy, output = rows(10), rows(10, 1)
    made = path.consistent(noisy, output, torch.arange(1, 11))
    for timestep, place in zip(path.scheduler.timesteps, range(10, 0, -1), strict=True):
        assert int(path.levels[place]) == int(timestep)
        at = slice(place - 1, place)
        expected = path.scheduler.step(output[at], timestep, noisy[at]).denoised
        torch.testing.assert_close(made[at], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_consistency_function_is_the_last_step_of_flow_match_lcm_scheduler(dynamic: bool) -> None:
    path = flow(use_dynamic_shifting=dynamic)
    scheduler = path.scheduler
    assert isinstance(scheduler, FlowMatchLCMScheduler)
    # One step from each place: the next level is 0, where the noise that it adds has no weight.
    noisy, output = rows(10), rows(10, 1)
    made = path.consistent(noisy, output, torch.arange(1, 11))
    for place in range(1, 11):
        at = slice(place - 1, place)
        one = FlowMatchLCMScheduler()
        one.set_timesteps(sigmas=[float(path.levels[place])])
        expected = one.step(output[at], one.timesteps[0], noisy[at]).prev_sample
        torch.testing.assert_close(made[at], expected, rtol=1e-5, atol=1e-6)


def point_mass(
    path: TeacherPath, at: torch.Tensor, noisy: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """The exact noise, or velocity, where all clean latents are one point."""
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    signal = path.noised(one, zero, places)
    noise = path.noised(zero, one, places)
    if not isinstance(path.scheduler, LCMScheduler):
        return (noisy - at) / noise
    epsilon = (noisy - signal * at) / noise
    if path.scheduler.config.prediction_type == "epsilon":
        return epsilon
    return signal * epsilon - noise * at


@pytest.mark.parametrize("name", PATHS)
def test_the_exact_teacher_of_a_point_is_solved_exactly_and_its_student_is_consistent(name: str) -> None:
    """Along a solution of the path the noise stays the same, so the true student's answers differ by nothing.

    The variance-preserving path ends at timestep 0, not at noise 0, so there all answers are the point with
    that little noise, but for the boundary condition's weight of the noisy latents (below 1e-6).
    """
    path = PATHS[name]()
    point, noise = torch.full((1, 4, 3, 3), 0.7), rows(len(path))
    places = torch.arange(1, len(path) + 1)
    noisy = path.noised(point.expand_as(noise), noise, places)
    below = path.step(noisy, point_mass(path, point, noisy, places), places)
    torch.testing.assert_close(
        below, path.noised(point.expand_as(noise), noise, places - 1), atol=2e-5, rtol=0
    )
    above = path.consistent(noisy, point_mass(path, point, noisy, places), places)
    torch.testing.assert_close(above, point.expand_as(noise), atol=2e-5, rtol=0)
    if len(path) > 1:
        lower = places[1:] - 1
        target = path.consistent(below[1:], point_mass(path, point, below[1:], lower), lower)
        torch.testing.assert_close(above[1:], target, atol=4e-5, rtol=0)


def test_a_flow_shifted_by_size_is_shifted_as_its_pipeline_does() -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    euler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    euler.set_timesteps(sigmas=[1 - step / 10 for step in range(10)], mu=calculate_shift(TOKENS))
    torch.testing.assert_close(flow(use_dynamic_shifting=True).levels, euler.sigmas.flip(0))


def test_a_student_keeps_its_teachers_noise_process() -> None:
    teacher = DPMSolverMultistepScheduler(
        **BETAS | {"beta_end": 0.014}, num_train_timesteps=1100, prediction_type="v_prediction"
    )
    made = student_scheduler(teacher, family("kolors"), 50)
    assert type(made).__name__ in STUDENT_SCHEDULERS
    torch.testing.assert_close(made.alphas_cumprod, teacher.alphas_cumprod)
    assert (made.config.original_inference_steps, made.config.prediction_type) == (50, "v_prediction")
    sana = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    assert student_scheduler(sana, family("sana"), 50).config.shift == 3.0


@pytest.mark.parametrize(
    ("teacher", "name", "told"),
    [
        (LCMScheduler(), "sd", "student already"),
        (FlowMatchLCMScheduler(), "sd3", "student already"),
        (EulerDiscreteScheduler(), "sd3", "not a flow-matching scheduler"),
        (EulerDiscreteScheduler(prediction_type="sample"), "sd", "prediction_type 'sample'"),
        (FlowMatchEulerDiscreteScheduler(), "sd", "is not supported by LCMScheduler"),
    ],
)
def test_teachers_of_other_processes_are_refused(teacher: object, name: str, told: str) -> None:
    with pytest.raises(UnsupportedScheduler, match=told):
        student_scheduler(teacher, family(name), 10)


def test_more_solver_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="1000 timesteps"):
        student_scheduler(EulerDiscreteScheduler(), family("sd"), 1001)
