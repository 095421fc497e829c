"""The Inception network of FID: the 2015 TensorFlow weights in a PyTorch network, from a safetensors file.

The weights are published as a pickle (`weights-inception-2015-12-05-6726825d.pth` in release v0.2.0 of
toshas/torch-fidelity, the same file as in release fid_weights of mseitzer/pytorch-fid). It is read once, by
torch's loader that takes tensors only, and written as safetensors:

    python -m matchgraph.training.measure.extractors.inception weights-inception-2015-12-05-6726825d.pth \
        inception.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import ExtractorUnavailable, TrainingError, first_line
from matchgraph.training.measure.extractors.base import (
    CLEAN_RESIZE,
    Extractor,
    instrument_hash,
    loading_errors,
)
from matchgraph.training.pipelines.loading import choose_device

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "inception.safetensors"
INPUT_PX = 299
CLASSES = 1008
DIMENSION = 2048
# (x - 128) / 128 of values in 0..255, as the network was trained, for values in 0..1.
MEAN, STD = (128 / 255,) * 3, (128 / 255,) * 3
ADVICE = (
    "Fetch weights-inception-2015-12-05-6726825d.pth (release v0.2.0 of toshas/torch-fidelity on GitHub) and "
    "convert it once with `python -m matchgraph.training.measure.extractors.inception FILE.pth "
    f"{WEIGHTS_FILE}`."
)


def load(weights: str, device: str) -> Extractor:
    """Load FID's Inception network; features are its last pooling layer's, at clean-fid's resizing.

    Args:
        weights: a safetensors file, or a folder with `inception.safetensors`.
        device: `auto` or a torch device name.

    Raises:
        ExtractorUnavailable: there is no such file, or it holds something else.

    Source:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017); Parmar, Zhang and Zhu, "On
        aliased resizing and surprising subtleties in GAN evaluation" (2022).
    """
    from safetensors.torch import load_file

    path = Path(weights)
    if path.is_dir():
        path = path / WEIGHTS_FILE
    if not path.is_file() or path.suffix != ".safetensors":
        raise ExtractorUnavailable(
            f"{path} is not a safetensors file with the weights of Inception. {ADVICE}"
        )
    try:
        network = build()
        network.load_state_dict(load_file(path))
        seen = {"kind": "inception", "px": INPUT_PX, "resize": CLEAN_RESIZE}
        digest = instrument_hash([path], seen)
    except loading_errors() as error:
        raise ExtractorUnavailable(
            f"{path} does not hold the weights of FID's Inception: {first_line(error).rstrip('.:')}. {ADVICE}"
        ) from error
    target = choose_device(device)
    network.to(target).eval().requires_grad_(False)
    return Extractor(
        path.stem, digest, DIMENSION, INPUT_PX, MEAN, STD, lambda pixels: _pooled(network, pixels), target
    )


def build() -> torch.nn.Module:
    """Return the network without weights: torchvision's, with the blocks in which TensorFlow's differs.

    Source:
        The blocks of clean-fid (after mseitzer/pytorch-fid), whose averages leave padding out and whose last
        block pools by maximum.
    """
    from cleanfid.inception_pytorch import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False)
    network.Mixed_5b = FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = FIDInceptionE_1(1280)
    network.Mixed_7c = FIDInceptionE_2(2048)
    return network


def _pooled(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    # All layers but the classifier, which torchvision's forward would apply as well.
    for name, layer in network.named_children():
        if name == "avgpool":
            return layer(pixels).flatten(1)
        pixels = layer(pixels)
    raise AssertionError("torchvision's Inception has no average pooling any more")


def convert(source: Path, target: Path) -> None:
    """Write the published weights as safetensors.

    Args:
        source: the published file, a pickled dictionary of tensors. It is read by torch's loader that refuses
            everything but tensors.
        target: the file to write.

    Raises:
        ExtractorUnavailable: the source holds anything but the weights of this network.
    """
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
        build().load_state_dict(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)
    except loading_errors(pickle.UnpicklingError, EOFError) as error:
        raise ExtractorUnavailable(
            f"{source} does not hold the weights of FID's Inception: {first_line(error)}"
        ) from error


def main() -> None:
    """Convert the published Inception weights to safetensors, once."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", metavar="FILE.pth", type=Path)
    parser.add_argument("target", metavar="FILE.safetensors", type=Path)
    files = parser.parse_args()
    try:
        convert(files.source, files.target)
    except (TrainingError, OSError) as error:
        parser.error(str(error))
    print(files.target)


if __name__ == "__main__":
    main()
