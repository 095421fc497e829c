"""A lack of memory is known in all its forms, and its error holds nothing of what failed."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from matchgraph.training.errors import BadPipeline, OutOfMemory, is_out_of_memory, memory_of


class AcceleratorError(RuntimeError):
    """As torch raises it where a kernel failed."""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_every_form_of_it_is_known(error):
    assert is_out_of_memory(error)
    wrapped = BadPipeline("cannot be loaded")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)
    with pytest.raises(OutOfMemory, match=r"^Out of memory in training: ") as raised, memory_of("training"):
        raise error
    assert raised.value.stage == "training"
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x")])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as raised, memory_of("training"):
        raise error
    assert raised.value is error


def test_no_tensor_of_what_failed_is_held():
    held = []

    def step() -> None:
        activation = torch.zeros(1)
        held.append(weakref.ref(activation))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def moves_encoders_back() -> None:
        with memory_of("training"):
            step()

    gc.disable()
    try:
        with pytest.raises(OutOfMemory) as raised:
            moves_encoders_back()
        # While the error is on its way.
        assert raised.value.stage == "training"
        assert held[0]() is None
    finally:
        gc.enable()
