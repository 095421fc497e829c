"""Adapters on a pipeline: put on, saved, loaded and taken off, the denoiser's through diffusers' own code.

`PixArtSigmaPipeline` and its transformer lack the adapter methods that diffusers gives its other pipelines.
Its transformer gets them from diffusers' `PeftAdapterMixin`, and its files have the same form without the
component's prefix, as that mixin writes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadAdapter, first_line, is_out_of_memory
from matchgraph.training.files import failing_as_files_do, publish
from matchgraph.training.pipelines.loading import quiet_libraries
from matchgraph.training.pipelines.lycoris import kind_of, load_lycoris
from matchgraph.training.pipelines.text_parts import load_text_parts, text_tensors, unload_text_parts

if TYPE_CHECKING:
    import torch

    from matchgraph.training.pipelines.families.base import Family

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_NAME = "matchgraph"
# Names of tensors -> the kind of adapter that has them, of those that are not loaded.
OTHER_KINDS = {
    r"\.(diff|diff_b|set_weight)": "full difference",
    r"\.(w_norm|b_norm)": "normalisation",
    r"\.(oft_\w+|rescale)(\.weight)?": "OFT",
    r"\.[ab][12]\.weight": "GLoRA",
    r"\.on_input": "IA3",
}
# Embeddings that OneTrainer puts beside a LoRA, of words that no caption here has.
EMBEDDING = "bundle_emb."


def attach_adapter(
    pipe: Any, family: Family, *, rank: int, alpha: float, generator: torch.Generator
) -> list[torch.nn.Parameter]:
    """Freeze the pipeline and put a fresh LoRA adapter on its denoiser.

    A is uniform with Kaiming's bound for linear layers, drawn on the CPU from the generator, and B is zero,
    so the adapted denoiser starts equal to the plain one.

    Args:
        pipe: the loaded pipeline, without an adapter.
        family: its family, which names the layers.
        rank: r of Hu et al.
        alpha: the update is scaled by alpha / rank.
        generator: CPU generator.

    Returns:
        The trainable parameters, float32 whatever the pipeline's own dtype.

    Source:
        Hu et al., "LoRA: low-rank adaptation of large language models" (2022), section 4.1.
    """
    import torch
    from peft import LoraConfig

    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False)
    denoiser = _adaptable(family.denoiser(pipe))
    # peft draws start values from the global generator; they are replaced below, and its state given back.
    with torch.random.fork_rng(devices=[]):
        denoiser.add_adapter(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(family.lora_targets)),
            adapter_name=ADAPTER_NAME,
        )
    trainable = []
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            bound = 1 / parameter.shape[1] ** 0.5
            start = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
            parameter.data.copy_(start)
        else:
            parameter.data.zero_()
        trainable.append(parameter)
    return trainable


def save_adapter(pipe: Any, family: Family, folder: str | os.PathLike[str]) -> Path:
    """Write the adapter as safetensors, complete or not at all.

    Args:
        pipe: a pipeline with an adapter that `attach_adapter` put on.
        family: its family.
        folder: where `pytorch_lora_weights.safetensors` goes, replacing one that is there.

    Returns:
        The path of the file. Equal weights give equal bytes.

    Raises:
        OSError: it cannot be written.
    """
    from peft.utils import get_peft_model_state_dict

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    denoiser = family.denoiser(pipe)
    config = denoiser.peft_config[ADAPTER_NAME]
    # A set would be written in an order that changes from one process to the next.
    config.target_modules = sorted(config.target_modules)
    scratch = Path(tempfile.mkdtemp(dir=target, prefix=".adapter-"))
    try:
        with quiet_libraries(), failing_as_files_do(target / ADAPTER_FILE):
            if hasattr(pipe, "save_lora_weights"):
                part = family.denoiser_attribute
                layers = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER_NAME)
                type(pipe).save_lora_weights(
                    scratch,
                    weight_name=ADAPTER_FILE,
                    safe_serialization=True,
                    **{f"{part}_lora_layers": layers, f"{part}_lora_adapter_metadata": config.to_dict()},
                )
            else:
                denoiser.save_lora_adapter(scratch, adapter_name=ADAPTER_NAME, weight_name=ADAPTER_FILE)
        _sort_metadata(scratch / ADAPTER_FILE)
        publish(scratch / ADAPTER_FILE, target / ADAPTER_FILE)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target / ADAPTER_FILE


def load_adapter(
    pipe: Any, family: Family, adapter: str | os.PathLike[str], *, text_encoders: bool = True
) -> list[str]:
    """Load a saved adapter onto a pipeline's denoiser and text encoders.

    The denoiser's part goes through diffusers' own loader where that knows all of its names, else through
    `load_lycoris`, as the text encoders' part always does.

    Args:
        pipe: the loaded pipeline, without an adapter.
        family: its family.
        adapter: the safetensors file, or the folder that holds `pytorch_lora_weights.safetensors`.
        text_encoders: whether its parts that change text encoders are loaded.

    Returns:
        What was left out of it, one sentence each.

    Raises:
        BadAdapter: the file is missing, no safetensors, damaged, of a kind that is not loaded, changes text
            encoders alone, or was made for another model.
    """
    path = _file(adapter)
    names = adapter_tensors(path)
    of_text = text_tensors(names)
    own = [name for name in names if name not in set(of_text) and not name.startswith(EMBEDDING)]
    if not own:
        raise BadAdapter(f"{path} changes only text encoders, which are not fine-tuned; give another LoRA.")
    if kind_of(own) is not None:
        _load_factors(pipe, family, path, own)
    elif len(own) == len(names):
        _load_file(pipe, family, path, path, own)
    else:
        with tempfile.TemporaryDirectory(prefix="adapter-") as folder:
            denoiser_part = Path(folder, ADAPTER_FILE)
            _copy_tensors(path, own, denoiser_part)
            _load_file(pipe, family, path, denoiser_part, own)
    if of_text and text_encoders:
        with _loading(pipe, family, path):
            load_text_parts(pipe, path, _tensors(path, of_text), ADAPTER_NAME)
    return left_out(path, text_encoders=text_encoders)


def changes_text(adapter: str | os.PathLike[str]) -> bool:
    """Whether `load_adapter` changes text encoders, so that prompts have to be encoded again.

    Raises:
        BadAdapter: see `adapter_tensors`.
    """
    return bool(text_tensors(adapter_tensors(_file(adapter))))


def left_out(path: Path, *, text_encoders: bool = True) -> list[str]:
    """What `load_adapter` would leave out of a file, one sentence each.

    Raises:
        BadAdapter: see `adapter_tensors`.
    """
    names = adapter_tensors(path)
    notes = []
    if any(name.startswith(EMBEDDING) for name in names):
        notes.append(f"{path.name} also holds embeddings of words, which were not loaded.")
    if (of_text := text_tensors(names)) and not text_encoders:
        notes.append(
            f"{path.name} also changes text encoders ({len(of_text)} of its {len(names)} tensors); only its "
            "part for the denoiser was loaded."
        )
    return notes


def _file(adapter: str | os.PathLike[str]) -> Path:
    path = Path(adapter)
    return path / ADAPTER_FILE if path.is_dir() else path


def adapter_tensors(path: Path) -> list[str]:
    """Names of a LoRA file's tensors.

    Raises:
        BadAdapter: it is not a safetensors file, damaged, or an adapter of another kind.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise BadAdapter(f"{path} is not a .safetensors file; only safetensors adapters are loaded.")
    try:
        with safe_open(path, framework="numpy") as weights:
            names = list(weights.keys())
    except (OSError, SafetensorError) as error:
        raise BadAdapter(f"{path} cannot be read as safetensors: {first_line(error)}.") from None
    for mark, kind in OTHER_KINDS.items():
        if name := next((name for name in names if re.search(f"{mark}$", name)), None):
            raise BadAdapter(
                f"{path} holds {name}: {kind} adapters are not supported; give a LoRA, LoHa, LoKr or DoRA."
            )
    return names


def _tensors(path: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def _copy_tensors(source: Path, names: Sequence[str], target: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    save_file(_tensors(source, names), target, metadata=metadata)


def _load_file(pipe: Any, family: Family, path: Path, file: Path, names: Sequence[str]) -> None:
    """Load an adapter that changes the denoiser alone.

    Args:
        pipe: the pipeline.
        family: its family.
        path: what the user gave, for errors.
        file: what is loaded.
        names: of its tensors.
    """
    # Files of the kohya form give each layer's alpha as a tensor of its own.
    tensors = sum(not name.endswith(".alpha") for name in names)
    denoiser = _adaptable(family.denoiser(pipe))
    place: dict[str, Any] = {"weight_name": file.name, "adapter_name": ADAPTER_NAME, "local_files_only": True}
    try:
        with _loading(pipe, family, path):
            if hasattr(pipe, "load_lora_weights"):
                pipe.load_lora_weights(file.parent, **place)
            else:
                denoiser.load_lora_adapter(file.parent, prefix=None, **place)
            loaded = sum(".lora_" in name for name, _ in denoiser.named_parameters())
            # diffusers only warns about keys that belong nowhere, and would then sample the plain model.
            if loaded != tensors:
                raise BadAdapter(
                    f"{path} does not fit this {family.pipeline_class}: {loaded} of its {tensors} tensors "
                    "belong to it. Was it made for another model?"
                )
    except BadAdapter as error:
        # Its layers may be fused ones of the model's authors, or have a prefix that diffusers does not know.
        try:
            _load_factors(pipe, family, path, names)
        except BadAdapter:
            raise error from None


def _load_factors(pipe: Any, family: Family, path: Path, names: Sequence[str]) -> None:
    with _loading(pipe, family, path):
        load_lycoris(pipe, _adaptable(family.denoiser(pipe)), path, _tensors(path, names), ADAPTER_NAME)


@contextmanager
def _loading(pipe: Any, family: Family, path: Path) -> Iterator[None]:
    """Take off what was loaded where that fails, with an error that names the file."""
    try:
        with quiet_libraries():
            yield
    except BadAdapter:
        detach_adapter(pipe, family)
        raise
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, OSError) as error:
        detach_adapter(pipe, family)
        if is_out_of_memory(error):
            raise
        raise BadAdapter(f"{path} does not fit this {family.pipeline_class}: {first_line(error)}") from error


def fuse_adapter(pipe: Any, family: Family) -> None:
    """Add the adapter to the denoiser's own weights, and take it off.

    Args:
        pipe: a pipeline with an adapter; in single precision, or the sums are rounded to less.
        family: its family.

    Raises:
        BadAdapter: the sums are infinite or not numbers.
    """
    denoiser: Any = family.denoiser(pipe)
    try:
        denoiser.fuse_lora(safe_fusing=True, adapter_names=[ADAPTER_NAME])
    except ValueError as error:
        raise BadAdapter(f"The adapter cannot be added to the denoiser: {first_line(error)}") from error
    denoiser.unload_lora()


def detach_adapter(pipe: Any, family: Family) -> None:
    """Take the adapter off; the pipeline is then exactly what it was before. Does nothing without one."""
    denoiser = family.denoiser(pipe)
    # An adapter that failed to load can leave an empty one behind.
    if getattr(denoiser, "peft_config", None) is not None:
        denoiser.unload_lora()
    unload_text_parts(pipe)


def _sort_metadata(path: Path) -> None:
    """Sort the header's metadata, which safetensors writes in an order that changes from call to call."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    sorted_header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The format allows spaces behind the header; tensors keep their 8-byte alignment.
    sorted_header += b" " * (-len(sorted_header) % 8)
    # A new file, since the library makes ones that their owner alone may read.
    path.unlink()
    path.write_bytes(len(sorted_header).to_bytes(8, "little") + sorted_header + content[8 + length :])


def _adaptable(denoiser: Any) -> Any:
    from diffusers.loaders.peft import PeftAdapterMixin

    if not isinstance(denoiser, PeftAdapterMixin):
        plain = type(denoiser)
        denoiser.__class__ = type(plain.__name__, (plain, PeftAdapterMixin), {"__module__": plain.__module__})
    return denoiser
