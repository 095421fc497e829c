"""What an adapter's file says of how it was trained elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matchgraph.training.pipelines.adapters import adapter_tensors
from matchgraph.training.pipelines.lycoris import kind_of

# Header fields of the trainers, by what they say. The first of each that is there counts.
# Sources: kohya-ss/sd-scripts `train_util.py` (ss_*), Stability AI's ModelSpec (modelspec.*), ai-toolkit's
# `toolkit/metadata.py` (software, training_info), OneTrainer's (ot_*).
FIELDS: Mapping[str, tuple[str, ...]] = {
    "trained_steps": ("ss_steps", "training_info.step"),
    "trained_epochs": ("ss_epoch", "training_info.epoch"),
    "trained_learning_rate": ("ss_unet_lr", "ss_learning_rate"),
    "trained_batch": ("ss_total_batch_size", "ss_batch_size_per_device"),
    "trained_alpha": ("ss_network_alpha",),
    "trained_images": ("ss_num_train_images",),
    "trained_seed": ("ss_seed",),
    "trained_from": ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture"),
    "trained_at": ("modelspec.date",),
}
# The kind of what is no adapter, and who trained what does not say.
FULL, UNKNOWN = "full", "unknown"
TEXTS = ("trained_from", "trained_at")
# Tensors with as many rows as the rank.
RANKED = (".lora_down.", ".lora_A.", ".lora.down.", ".hada_w1_b", ".lokr_w1_b", ".lokr_w2_b")


def training_facts(file: Path) -> dict[str, str | int | float]:
    """The trainer of an adapter and its settings, as far as the file says them; nothing is guessed.

    Args:
        file: the safetensors file; of a model fine-tuned in full also its folder, which says nothing.

    Returns:
        `trained_by` (unknown where the header does not say), `trained_kind` and `trained_rank`, which the
        tensors show, and those of FIELDS that are there.

    Raises:
        BadAdapter: see `adapters.adapter_tensors`.
    """
    from safetensors import safe_open

    if file.is_dir():
        return {"trained_by": UNKNOWN, "trained_kind": FULL}
    names = adapter_tensors(file)
    with safe_open(file, framework="numpy") as opened:
        header = _flat(opened.metadata() or {})
        ranks = {
            opened.get_slice(name).get_shape()[0] for name in names if any(mark in name for mark in RANKED)
        }
    facts: dict[str, str | int | float] = {
        "trained_by": _trainer(header),
        "trained_kind": kind_of(names) or ("LoRA" if _is_lora(names) else FULL),
    }
    if len(ranks) == 1:
        facts["trained_rank"] = ranks.pop()
    for name, fields in FIELDS.items():
        value = next((header[field] for field in fields if header.get(field) not in (None, "", "None")), None)
        if value is None:
            continue
        if name in TEXTS:
            facts[name] = str(value)[:200]
        elif (number := _number(value)) is not None:
            facts[name] = number
    return facts


def is_full(file: Path) -> bool:
    """Whether a file holds all weights of a model, or of its denoiser, and is no adapter.

    Raises:
        BadAdapter: see `adapters.adapter_tensors`.
    """
    names = adapter_tensors(file)
    return kind_of(names) is None and not _is_lora(names)


def _is_lora(names: Sequence[str]) -> bool:
    return any("lora" in name for name in names)


def _flat(header: Mapping[str, str]) -> dict[str, Any]:
    """The header's fields, and those of fields that hold JSON objects as `field.key`."""
    found: dict[str, Any] = dict(header)
    for name, text in header.items():
        if not text.startswith("{"):
            continue
        try:
            inner = json.loads(text)
        except (ValueError, RecursionError):
            continue
        found |= {f"{name}.{key}": value for key, value in inner.items()}
    return found


def _trainer(header: Mapping[str, Any]) -> str:
    if named := header.get("software.name"):
        return str(named)[:100]
    if any(field.startswith("ot_") for field in header):
        return "OneTrainer"
    if any(field.startswith("ss_") for field in header):
        return "kohya sd-scripts"
    return "diffusers" if "lora_adapter_metadata" in header else UNKNOWN


def _number(value: Any) -> int | float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if number != number or abs(number) == float("inf"):
        return None
    return int(number) if number.is_integer() else number
