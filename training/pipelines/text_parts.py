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
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = TENSOR.fullmatch(name)
        assert found is not None
        number = "" if found["number"] in (None, "", "1") else f"_{found['number']}"
        # kohya's scripts number FLUX's T5 as that of Stable Diffusion 3.
        if number == "_3" and not hasattr(pipe, "text_encoder_3"):
            number = "_2"
        part = parts.setdefault(found["component"] or f"text_encoder{number}", {})
        part[found["rest"]] = tensor
    for component, part in parts.items():
        encoder = getattr(pipe, component, None)
        if encoder is None:
            raise BadAdapter(f"{path} changes {component}, which this {type(pipe).__name__} lacks.")
        scales = {name.removeprefix(f"{component}."): value for name, value in header.items()}
        part |= _alphas(part, scales if f"{component}.lora_alpha" in header else {})
        load_lycoris(None, encoder, path, part, adapter_name)


def _alphas(part: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The alpha of each layer by peft's configuration of an encoder; ranks are those of the tensors."""
    import torch
    from peft.utils.other import get_pattern_key

    found = {}
    for name, tensor in part.items():
        layer, is_down, _ = name.partition(".lora_A.")
        if config and is_down:
            patterns = config.get("alpha_pattern") or {}
            alpha = float(patterns.get(get_pattern_key(patterns, layer), config["lora_alpha"]))
            # Scaled by alpha / sqrt(rank), where others are by alpha / rank.
            stabilised = len(tensor) ** 0.5 if config.get("use_rslora") else 1.0
            found[f"{layer}.alpha"] = torch.tensor(alpha * stabilised)
    return found


def unload_text_parts(pipe: Any) -> None:
    """Take them off; the encoders are then exactly what they were. Does nothing without any."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    for name, component in pipe.components.items():
        if COMPONENT.fullmatch(name) and getattr(component, "peft_config", None) is not None:
            recurse_remove_peft_layers(component)
            del component.peft_config
