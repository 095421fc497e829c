"""Consistency functions: how a student of few steps reads its denoiser, and how its teacher steps.

Two noise processes, one interface: variance-preserving ones, drawn with diffusers' `LCMScheduler`, and
straight flows, drawn with its `FlowMatchLCMScheduler`. Both schedulers take the denoiser's output for a
prediction of noise or velocity and make the clean latents of it; the same is done here for training, on the
grid of noise levels that the teacher's solver goes along.

Source:
    Song et al., "Consistency models" (2023); Luo et al., "Latent consistency models" (2023).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import InvalidConfig, UnsupportedScheduler
from matchgraph.training.pipelines.few_steps import STUDENT_SCHEDULERS

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Family

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Settings of the teacher's noise process that the student's scheduler takes over.
PRESERVING_FIELDS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
FLOW_FIELDS = (
    "num_train_timesteps",
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "time_shift_type",
)


class TeacherPath(ABC):
    """A grid of noise levels from nearly clean (0) to pure noise (`len`), and the steps along it.

    Attributes:
        scheduler: what the student is drawn with.
        levels: of each place on the grid, as `Family.predict` takes them, (len + 1,).
    """

    scheduler: Any
    levels: torch.Tensor

    def __len__(self) -> int:
        return len(self.levels) - 1

    @abstractmethod
    def noised(self, latents: torch.Tensor, noise: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Noise clean latents to some places.

        Args:
            latents: float32, (n, channels, h, w).
            noise: likewise.
            places: int64, (n,).
        """

    @abstractmethod
    def step(self, noisy: torch.Tensor, output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """One step of the teacher's solver, from each place to the one below it.

        Args:
            noisy: float32, (n, channels, h, w).
            output: the denoiser's for them, guided or not.
            places: int64, (n,), from 1.
        """

    @abstractmethod
    def consistent(self, noisy: torch.Tensor, output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The consistency function: the clean latents that the student's scheduler makes of an output.

        At place 0 it is the noisy latents themselves, whatever the output (the boundary condition).

        Args:
            noisy: float32, (n, channels, h, w).
            output: the denoiser's for them.
            places: int64, (n,).

        Source:
            Song et al. (2023), Eq. 5.
        """


class PreservingPath(TeacherPath):
    """A variance-preserving process; the solver is DDIM, skipping timesteps.

    Args:
        scheduler: an `LCMScheduler`; its `original_inference_steps` are the grid.
        device: where the numbers are wanted.

    Source:
        Luo et al. (2023), section 4.3 (skipping-step) and Eq. 9; Song et al., "Denoising diffusion implicit
        models" (2020), Eq. 12 with eta 0.
    """

    def __init__(self, scheduler: Any, device: torch.device) -> None:
        import torch

        self.scheduler = scheduler
        config = scheduler.config
        skip = config.num_train_timesteps // config.original_inference_steps
        # The grid of LCMScheduler.set_timesteps, with timestep 0 before it.
        grid = torch.arange(1, config.original_inference_steps + 1) * skip - 1
        self.levels = torch.cat([torch.zeros(1, dtype=torch.long), grid]).to(device)
        kept = scheduler.alphas_cumprod[self.levels.cpu()].float().to(device)
        self._signal, self._noise = kept.sqrt(), (1 - kept).sqrt()

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """See `TeacherPath.noised`."""
        return _each(self._signal[places]) * latents + _each(self._noise[places]) * noise

    def step(self, noisy: torch.Tensor, output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """See `TeacherPath.step`."""
        clean, noise = self._parts(noisy, output, places)
        return self.noised(clean, noise, places - 1)

    def consistent(self, noisy: torch.Tensor, output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """See `TeacherPath.consistent`."""
        clean, _ = self._parts(noisy, output, places)
        skip, out = self.scheduler.get_scalings_for_boundary_condition_discrete(self.levels[places].float())
        return _each(skip) * noisy + _each(out) * clean

    def _parts(
        self, noisy: torch.Tensor, output: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents and noise that an output tells apart."""
        signal, noise = _each(self._signal[places]), _each(self._noise[places])
        if self.scheduler.config.prediction_type == "epsilon":
            return (noisy - noise * output) / signal, output
        return signal * noisy - noise * output, signal * output + noise * noisy


class FlowPath(TeacherPath):
    """A straight flow from image to noise; the solver is Euler.

    Args:
        scheduler: a `FlowMatchLCMScheduler`.
        solver_steps: of the grid.
        tokens: of an image, which a dynamic shift depends on.
        device: where the numbers are wanted.

    Source:
        Liu et al., "Flow straight and fast" (2022), section 2.1 (Euler).
    """

    def __init__(self, scheduler: Any, solver_steps: int, tokens: int, device: torch.device) -> None:
        self.scheduler = scheduler
        config = scheduler.config
        mu = None
        if config.use_dynamic_shifting:
            slope = (config.max_shift - config.base_shift) / (
                config.max_image_seq_len - config.base_image_seq_len
            )
            mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
        even = [1 - step / solver_steps for step in range(solver_steps)]
        scheduler.set_timesteps(sigmas=even, mu=mu)
        self.levels = scheduler.sigmas.flip(0).to(device)

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """See `TeacherPath.noised`."""
        sigmas = _each(self.levels[places])
        return (1 - sigmas) * latents + sigmas * noise

    def step(self, noisy: torch.Tensor, output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """See `TeacherPath.step`."""
        return noisy + _each(self.levels[places - 1] - self.levels[places]) * output

    def consistent(self, noisy: torch.Tensor, output: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """See `TeacherPath.consistent`."""
        return noisy - _each(self.levels[places]) * output


def student_scheduler(teacher: Any, family: Family, solver_steps: int) -> Any:
    """The scheduler that a student of this teacher is drawn with.

    Args:
        teacher: the teacher's scheduler; only its configuration is read.
        family: the pipeline's.
        solver_steps: of the grid that the student is trained on.

    Raises:
        UnsupportedScheduler: the teacher's scheduler states no noise process that consistency distillation
            is made for here, or is a student's.
        InvalidConfig: more solver steps than timesteps.
    """
    from diffusers import FlowMatchLCMScheduler, LCMScheduler

    config, name = teacher.config, type(teacher).__name__
    if name in STUDENT_SCHEDULERS:
        raise UnsupportedScheduler(
            f"The pipeline is drawn with {name}: it is a student already. Give the model that it was "
            "distilled from."
        )
    if solver_steps > config.get("num_train_timesteps", 0):
        raise InvalidConfig(
            f"solver_steps must not exceed the {config.get('num_train_timesteps', 0)} timesteps that the "
            f"teacher was trained with, got {solver_steps}."
        )
    if family.flow_matching:
        if not ("shift" in config or config.get("use_flow_sigmas")):
            raise UnsupportedScheduler(
                f"{name} is not a flow-matching scheduler, as {family.pipeline_class} needs; give the "
                "teacher a FlowMatchEulerDiscreteScheduler."
            )
        kept = {field: config[field] for field in FLOW_FIELDS if config.get(field) is not None}
        kept.setdefault("shift", config.get("flow_shift") or 1.0)
        return FlowMatchLCMScheduler(**kept)
    if (
        getattr(teacher, "alphas_cumprod", None) is None
        or config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction")
        or (config.get("trained_betas") is None and config.get("beta_schedule") not in BETA_SCHEDULES)
    ):
        raise UnsupportedScheduler(
            f"{name} with prediction_type {config.get('prediction_type')!r} and beta_schedule "
            f"{config.get('beta_schedule')!r} is not supported by LCMScheduler; give the teacher "
            "a scheduler with epsilon or v_prediction."
        )
    kept = {field: config[field] for field in PRESERVING_FIELDS if config.get(field) is not None}
    # An offset of 1 has no effect here; pipelines complain of any other.
    return LCMScheduler(**kept, original_inference_steps=solver_steps, steps_offset=1)


def teacher_path(
    scheduler: Any, *, solver_steps: int, tokens: int, device: torch.device
) -> PreservingPath | FlowPath:
    """The path that a student's scheduler belongs to.

    Args:
        scheduler: as `student_scheduler` gives it.
        solver_steps: of the grid.
        tokens: see `FlowPath`.
        device: where the numbers are wanted.
    """
    if type(scheduler).__name__ == "FlowMatchLCMScheduler":
        return FlowPath(scheduler, solver_steps, tokens, device)
    return PreservingPath(scheduler, device)


def _each(values: torch.Tensor) -> torch.Tensor:
    """A number for each row of latents."""
    return values.view(-1, 1, 1, 1)
