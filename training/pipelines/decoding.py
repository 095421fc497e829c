"""Decoding latents without nonsense: in float32 where half precision overflows, and checked on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import NonFiniteImages

if TYPE_CHECKING:
    import torch


ADVICE = {
    "float16": "Try bf16 or fp32.",
    "bfloat16": "Try fp32.",
    "float32": "The model's weights, or its adapter, are damaged.",
}


@contextmanager
def single_precision(vae: Any) -> Iterator[None]:
    """Hold a VAE of half precision in float32, as its activations overflow; its weights come back unchanged.

    bfloat16 has float32's range and stays.

    Args:
        vae: the autoencoder.
    """
    import torch

    half = vae.dtype == torch.float16
    # The module's own method, because diffusers' would warn of what is meant here.
    if half:
        torch.nn.Module.to(vae, torch.float32)
    try:
        yield
    finally:
        if half:
            torch.nn.Module.to(vae, torch.float16)


@contextmanager
def checked_decoding(pipe: Any, *, denormalises: bool) -> Iterator[None]:
    """Let a pipeline's call decode in enough precision, and refuse latents or pixels that are not finite.

    A pipeline makes black pixels of NaN, which would be measured as if the model had drawn them.

    Args:
        pipe: the pipeline, which calls `decode` of its VAE.
        denormalises: whether it undoes the VAE's `latents_mean` and `latents_std` itself.

    Raises:
        NonFiniteImages: latents or pixels hold NaN or infinity.
    """
    vae = pipe.vae
    before, decode = vars(vae).get("decode"), vae.decode

    def checked(latents: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        _check(latents, "latents", "the denoiser", pipe)
        if not denormalises:
            latents = _denormalised(vae, latents)
        made = decode(latents.to(vae.dtype), *arguments, **named)
        _check(made[0], "pixels", "the VAE", pipe)
        return made

    with single_precision(vae):
        vae.decode = checked
        try:
            yield
        finally:
            del vae.decode
            if before is not None:
                vae.decode = before


def normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the denoiser expects them: the VAE's own, centred and scaled as its configuration says.

    Args:
        vae: the autoencoder.
        latents: as it encodes, float32, (n, channels, h, w).
    """
    statistics = _statistics(vae, latents)
    if statistics is None:
        return (latents - _shift(vae)) * _scale(vae)
    mean, deviation = statistics
    return (latents - mean) * _scale(vae) / deviation


def _denormalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Undo `latents_mean` and `latents_std` where a pipeline has undone scale and shift alone."""
    statistics = _statistics(vae, latents)
    if statistics is None:
        return latents
    mean, deviation = statistics
    return (latents - _shift(vae)) * deviation + mean


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    mean, deviation = (getattr(vae.config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is None or deviation is None:
        return None
    shape = (1, -1, *[1] * (latents.ndim - 2))
    return latents.new_tensor(mean).view(shape), latents.new_tensor(deviation).view(shape)


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


def _scale(vae: Any) -> float:
    # Those of videos have nothing but statistics.
    return vae.config.get("scaling_factor", 1.0)


def _check(values: torch.Tensor, what: str, whose: str, pipe: Any) -> None:
    import torch

    # Tensors without content come where only the cost of a call is counted.
    if values.is_meta or torch.isfinite(values).all():
        return
    rows = int((~torch.isfinite(values.flatten(1)).all(dim=1)).sum())
    precision = str(pipe.dtype).removeprefix("torch.")
    raise NonFiniteImages(
        f"{rows} of {len(values)} images have {what} that are infinite or NaN, from {whose} in {precision}; "
        f"nothing was measured. {ADVICE[precision]}"
    )
