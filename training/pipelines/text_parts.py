"""The parts of an adapter that change text encoders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadAdapter
from matchgraph.training.pipelines.lycoris import load_lycoris

if TYPE_CHECKING:
    import torch

# A tensor of a text encoder, by its number in the names of kohya's scripts, or by the component's name in
# diffusers.
TENSOR = re.compile(r"(?:lora_te(?P<number>\d?)_|(?P<component>text_encoder(?:_\d)?)\.)(?P<rest>.+)")
COMPONENT = re.compile(r"text_encoder(_\d)?")


def text_tensors(names: Sequence[str]) -> list[str]:
    """Those of an adapter's tensors that change text encoders."""
    return [name for name in names if TENSOR.fullmatch(name)]


def load_text_parts(pipe: Any, path: Path, tensors: Mapping[str, torch.Tensor], adapter_name: str) -> None:
    """Put them on the pipeline's text encoders.

    Args:
        pipe: the pipeline.
        path: the file, for errors, and for scales that stand in its header.
        tensors: of the text encoders, by name.
        adapter_name: what the adapter is called on them.

    Raises:
        BadAdapter: as `lycoris.load_lycoris`, or the pipeline lacks an encoder.
    """
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = TENSOR.fullmatch(name)
        assert found is not None
        number = "" if found["number"] in (None, "", "1") else f"_{found['number']}"
        part = parts.setdefault(found["component"] or f"text_encoder{number}", {})
        part[found["rest"]] = tensor
    for component, part in parts.items():
        encoder = getattr(pipe, component, None)
        if encoder is None:
            raise BadAdapter(f"{path} changes {component}, which this {type(pipe).__name__} lacks.")
        if (alpha := header.get(f"{component}.lora_alpha")) is not None:
            layers = [name.partition(".lora_A.")[0] for name in part if ".lora_A." in name]
            part |= {f"{layer}.alpha": torch.tensor(float(alpha)) for layer in layers}
        load_lycoris(None, encoder, path, part, adapter_name)


def unload_text_parts(pipe: Any) -> None:
    """Take them off; the encoders are then exactly what they were. Does nothing without any."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    for name, component in pipe.components.items():
        if COMPONENT.fullmatch(name) and getattr(component, "peft_config", None) is not None:
            recurse_remove_peft_layers(component)
            del component.peft_config
