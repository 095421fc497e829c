"""Stages on a faked GPU: types and devices that do not go together fail here.

Tensors have shapes, types and devices, and no values. What schedulers do between the passes of a sampling
needs values, and a backward pass a driver; both are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from matchgraph.training.memory.tracing import as_on_a_gpu
from matchgraph.training.pipelines.adapters import attach_adapter
from matchgraph.training.pipelines.loading import load_pipeline

SIDE = 32


def tensors(module: torch.nn.Module) -> Iterator[tuple[dict, str, torch.Tensor]]:
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            yield from ((held, name, value) for name, value in held.items() if value is not None)


def to_fake_gpu(pipe) -> None:
    """Put stand-ins on the GPU in the place of a pipeline's weights; nothing of them is left on the CPU."""
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            for held, name, value in list(tensors(component)):
                made = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                parameter = isinstance(value, torch.nn.Parameter)
                held[name] = torch.nn.Parameter(made, value.requires_grad) if parameter else made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sana", "sd3", "flux"])
def test_every_stage_goes_through_on_a_gpu(tiny_folder, name):
    narrow = torch.bfloat16
    pipe, family = load_pipeline(tiny_folder(name), device="cpu", dtype=narrow)
    denoiser = family.denoiser(pipe)
    attach_adapter(pipe, family, rank=2, alpha=2, generator=torch.Generator())
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake_gpu(pipe)
        text = family.encode_prompts(pipe, ["a cat", ""])
        assert {value.device.type for value in text.values()} == {"cuda"}
        latents = family.encode_images(pipe, torch.zeros(2, 3, SIDE, SIDE))
        assert (latents.device.type, latents.dtype) == ("cuda", torch.float32)
        # As they are kept on disk.
        rows = {key: value.float() if value.is_floating_point() else value for key, value in text.items()}
        sizes = family.image_conditioning(pipe, [(40, 36), (SIDE, SIDE)], SIDE)
        # Without a GPU, torch switches its autocast off.
        with as_on_a_gpu(narrow):
            loss = family.loss(pipe, denoiser, latents, rows | sizes, torch.Generator())
        assert (loss.device.type, loss.dtype, loss.requires_grad) == ("cuda", torch.float32, True)
        with torch.no_grad():
            levels = torch.full((2,), 0.5, device="cuda")
            predicted = family.predict(pipe, denoiser, latents.to(narrow), levels, text)
            decoded = pipe.vae.decode(latents.to(narrow), return_dict=False)[0]
        for drawn in (predicted, decoded):
            assert (drawn.device.type, drawn.dtype) == ("cuda", narrow)
