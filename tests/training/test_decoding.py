"""Decoding without nonsense: what overflows, what is not finite, and images that show nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from PIL import Image

from matchgraph.training.errors import EmptyImages, NonFiniteImages
from matchgraph.training.pipelines.decoding import checked_decoding, normalised, single_precision
from matchgraph.training.sampling.plain import check_looks, looks


class Vae(torch.nn.Module):
    """Multiplies by a number that takes latents of 1 beyond the range of float16, and back."""

    def __init__(self, dtype: torch.dtype, factor: float = 1e5, **config: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([100.0], dtype=dtype))
        self.config = FrozenDict(scaling_factor=0.5, **config)
        self._factor = factor

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:  # noqa: ARG002
        return (latents * self.weight * self._factor / self._factor / 100,)


def decode(vae: Vae, latents: torch.Tensor, *, denormalises: bool = True) -> torch.Tensor:
    pipe = SimpleNamespace(vae=vae, dtype=vae.dtype)
    with checked_decoding(pipe, denormalises=denormalises):
        return vae.decode(latents, return_dict=False)[0]


ONE = torch.ones(2, 3, 1, 1)


def test_half_precision_is_decoded_in_float32_and_comes_back() -> None:
    vae = Vae(torch.float16)
    assert not torch.isfinite(vae.decode(ONE.half())[0]).all()
    assert torch.equal(decode(vae, ONE.half()), ONE)
    assert vae.dtype == torch.float16
    assert "decode" not in vars(vae)


def test_bfloat16_stays_as_it_is() -> None:
    vae = Vae(torch.bfloat16)
    with single_precision(vae):
        assert vae.dtype == torch.bfloat16
    assert decode(vae, ONE.bfloat16()).dtype == torch.bfloat16


def test_what_is_not_finite_is_refused_and_says_where_it_comes_from() -> None:
    broken = ONE.clone()
    broken[1, 0, 0, 0] = torch.nan
    vae = Vae(torch.float16)
    with pytest.raises(
        NonFiniteImages, match=r"1 of 2 images have latents .* the denoiser in float16; .* Try bf16"
    ):
        decode(vae, broken.half())
    assert vae.dtype == torch.float16
    with pytest.raises(NonFiniteImages, match=r"2 of 2 images have pixels .* the VAE in float32"):
        decode(Vae(torch.float32, factor=float("inf")), ONE)


@pytest.mark.parametrize(
    "config", [{}, {"shift_factor": 0.25}, {"latents_mean": [1.0, 2, 3], "latents_std": [2.0, 4, 8]}]
)
def test_latents_come_back_through_encoding_and_decoding(config: dict[str, Any]) -> None:
    vae = Vae(torch.float32, factor=1.0, **config)
    own = torch.arange(6.0).view(2, 3, 1, 1)
    latents = normalised(vae, own)
    # As pipelines do that know nothing of means and deviations.
    undone = latents / 0.5 + config.get("shift_factor", 0.0)
    assert torch.allclose(decode(vae, undone, denormalises=False), own)
    if "latents_mean" in config:
        assert torch.allclose(latents[0].ravel(), torch.tensor([-0.25, -0.125, -0.0625]))


def pictures(*colours: tuple[int, int, int] | None) -> Iterator[Image.Image]:
    rng = np.random.default_rng(1)
    for colour in colours:
        if colour is None:
            yield Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        else:
            yield Image.new("RGB", (4, 4), colour)


def test_images_that_show_nothing_are_named() -> None:
    black, white = (0, 0, 0), (255, 255, 255)
    for colours, message in (
        ((black, black), "All 2 sampled images are black"),
        ((white, black), "All 2 sampled images are of one colour"),
    ):
        with pytest.raises(EmptyImages, match=message):
            check_looks(**looks(list(pictures(*colours))))
    [one] = pictures(None)
    with pytest.raises(EmptyImages, match="All 3 sampled images are the same"):
        check_looks(**looks([one, one, one]))
    assert check_looks(**looks(list(pictures(None, black, None)))) == 1
