"""Colours of labels in segmentation maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matchgraph.training.errors import ScorerUnavailable
from matchgraph.training.seeds import seeded_generator

if TYPE_CHECKING:
    import numpy as np

# One colour of ADE20K's scene parsing challenge after the other, three bytes each: what published ControlNets
# for segmentation maps were trained on.
ADE20K = (
    "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff0796053d78784608ff33ff0652"
    "8fff8cccff04ff3307cc46030066c83de6faff06330b66ffff0747ff09e00907e6dcdcdcff095c7009ff08ffd607ffe0"
    "ffb8060aff47ff290a07ffffe0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff05990633ffeb0cffa0961400a3ff"
    "8c8c8cfa0a0f14ff001fff00ff1f00ffe00099ff000000ffff470000ebff00adff1f00ff0bc8c8ff520000fff5003dff"
    "00ff7000ff85ff0000ffa300ff6600c2ff00008fff33ff000052ff00ff2900ffad0a00ffadff0000ff99ff5c00ff00ff"
    "ff00f5ff0066ffad00ff0014ffb8b8001fff00ff3d0047ffff00cc00ffc200ff52000aff0070ff3300ff00c2ff007aff"
    "00ffa3ff990000ff0aff70008fff005200ffa3ff00ffeb0008b8aa8500ff00ff5cb800ffff001f00b8ff00d6ffff0070"
    "5cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00ff00a3ffcc00ff008f00ffeb85ff00ff00ebf500ffff007afff500"
    "0abed4d6ff0000ccff1400ffffff000099ff0029ff00ffcc2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cff"
    "b8ff000085ffffd60019c2c266ff005c00ff"
)
ADE20K_LABELS = 150
# Other labels' colours are drawn from this many levels a channel.
LEVELS = 16


def palette(labels: int) -> np.ndarray:
    """One colour for each label of a segmentation model.

    Args:
        labels: how many; 150 stand for those of ADE20K.

    Returns:
        uint8, (labels, 3). But for ADE20K, which has a colour twice, all are different, and a label's
        colour is the same however many follow it.

    Raises:
        ScorerUnavailable: there are more labels than colours.

    Source:
        Zhou et al., "Scene parsing through ADE20K dataset" (2017), whose benchmark of 150 labels has the
        first; Zhang et al., "Adding conditional control to text-to-image diffusion models" (2023), for their
        use in control images.
    """
    import numpy as np
    import torch

    if labels == ADE20K_LABELS:
        return np.frombuffer(bytes.fromhex(ADE20K), dtype=np.uint8).reshape(labels, 3)
    if not 1 <= labels <= LEVELS**3:
        raise ScorerUnavailable(
            f"A segmentation map can show 1 to {LEVELS**3} labels, the model has {labels}."
        )
    places = torch.randperm(LEVELS**3, generator=seeded_generator("palette"))[:labels].numpy()
    levels = np.stack([places // LEVELS**2, places // LEVELS % LEVELS, places % LEVELS], axis=1)
    return (levels * (255 // (LEVELS - 1))).astype(np.uint8)
