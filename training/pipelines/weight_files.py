"""Weight files of a model's folder: which of them a loader opens, and whether those are safe and whole.

Files that no loader opens do not matter: pickles of another framework, optimiser states of a training
script, or exports to OpenVINO and ONNX may lie beside the safetensors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from matchgraph.training.errors import BadPipeline, UnsafeWeights, first_line

# Formats that torch and others unpickle: opening one can run any code.
PICKLED_SUFFIXES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
# A file's or shard's name, with the variant that diffusers and transformers put into it.
WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?(-\d+-of-\d+)?(\.(?P<older>\w+))?\.safetensors"
)
SHARDS_INDEX = re.compile(
    r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?\.safetensors\.index(\.(?P<older>\w+))?\.json"
)
SHARD = re.compile(r".*-\d+-of-\d+(\.\w+)?\.safetensors")
# transformers puts the adapter that a folder with this file holds on the model, from a pickle if need be.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def opened_weights(files: Iterable[str], variant: str | None = None) -> list[str]:
    """Choose the weights that diffusers and transformers open of a network's folder.

    Args:
        files: names of all its files.
        variant: what is asked for; a network that lacks it is loaded from its plain weights.

    Returns:
        Names of the weights or their shards, and of the list of shards, in alphabetical order.
    """
    by_variant: dict[str | None, list[str]] = {}
    for file in sorted(files):
        found = WEIGHTS.fullmatch(file) or SHARDS_INDEX.fullmatch(file)
        if found:
            by_variant.setdefault(found["variant"] or found["older"], []).append(file)
    return by_variant.get(variant) or by_variant.get(None, [])


def shared_variant(files: Mapping[str, Iterable[str]]) -> str | None:
    """Find the variant (`fp16`, `bf16`) that the weights of several networks have to be asked for by.

    Plain files win: loaded in half precision they give the variant's values, and in single precision better
    ones.

    Args:
        files: names of the files of each network.

    Returns:
        None where every network has plain weights (or none).

    Raises:
        BadPipeline: no one variant has the weights of all networks that lack plain ones.
    """
    needed: dict[str, set[str]] = {}
    for component, inside in files.items():
        names = [WEIGHTS.fullmatch(name) for name in inside]
        variants = {name["variant"] or name["older"] for name in names if name}
        if variants and None not in variants:
            needed[component] = variants
    if not needed:
        return None
    shared = set.intersection(*needed.values())
    if not shared:
        found = ", ".join(f"{component}: {'/'.join(sorted(names))}" for component, names in needed.items())
        raise BadPipeline(f"its weights are in incompatible variants ({found}).")
    return sorted(shared)[0]


def weight_variant(folder: str | os.PathLike[str], components: Iterable[str]) -> str | None:
    """Find the variant of some subfolders of a folder; see `shared_variant`.

    Args:
        folder: the pipeline folder.
        components: names of its subfolders; one that is not there has no weights.

    Raises:
        BadPipeline: see `shared_variant`.
    """
    try:
        return shared_variant({component: _names(Path(folder) / component) for component in components})
    except BadPipeline as error:
        raise BadPipeline(f"{folder}: {error}") from None


def check_weight_files(folder: str | os.PathLike[str], variant: str | None = None) -> None:
    """Refuse a network's folder unless what is opened of it is safetensors, all there and intact.

    Only headers are read, so a file may say what it likes about its size.

    Args:
        folder: of one network, such as a pipeline's `unet`.
        variant: see `opened_weights`.

    Raises:
        UnsafeWeights: all weights are pickled, or a list of shards names a file beside it that is not
            safetensors.
        BadPipeline: there are no weights, a shard is missing, or a file is truncated or corrupt.
    """
    from safetensors import SafetensorError, safe_open

    root = Path(folder)
    names = _names(root)
    opened = opened_weights(names, variant)
    if ADAPTER_CONFIG in names:
        opened.append(ADAPTER_WEIGHTS)
    for index in opened:
        if index.endswith(".json"):
            _check_shards(root / index)
    weights = [name for name in opened if name.endswith(".safetensors")]
    pickled = [name for name in names if Path(name).suffix.lower() in PICKLED_SUFFIXES]
    if pickled and not (weights and all((root / name).is_file() for name in weights)):
        raise UnsafeWeights(
            f"{root / pickled[0]} holds pickled weights, which run code when they are opened, and there are "
            "no safetensors instead. Convert them to safetensors."
        )
    if not weights:
        raise BadPipeline(f"{root} has no weights (*.safetensors). Fetch the whole model.")
    if any(map(SHARD.fullmatch, weights)) and not any(name.endswith(".json") for name in opened):
        raise BadPipeline(f"{root} has shards of its weights but no index of them. Fetch the whole model.")
    for name in weights:
        try:
            with safe_open(root / name, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise BadPipeline(
                f"{root / name} is not an intact safetensors file: {first_line(error)}. Fetch or save it "
                "again."
            ) from None


def _names(folder: Path) -> list[str]:
    """Names of the files of a folder, in alphabetical order; none where there is no such folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _check_shards(index: Path) -> None:
    """Refuse a list of shards that leads elsewhere: loaders open whatever it names."""
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadPipeline(f"{index} is not an index of shards; fetch or save the model again.") from None
    for shard in sorted(map(str, shards)):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UnsafeWeights(f"{index} names {shard!r}, which is not a safetensors file beside it.")
        if not (index.parent / shard).is_file():
            raise BadPipeline(f"{index} names {shard!r}, which is missing. Fetch the model again.")
