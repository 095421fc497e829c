"""Model families: what differs between diffusers pipelines in encoding, training and sampling.

A new family is one module with a `FAMILY` object (see `training.pipelines.families.base.Family`) and one
line in
`FAMILIES`, which also says under which name the graph knows models of that pipeline class.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import UnknownFamily

if TYPE_CHECKING:
    from matchgraph.training.pipelines.families.base import Family

# Name -> diffusers pipeline class, module.
FAMILIES: dict[str, tuple[str, str]] = {
    "sd": ("StableDiffusionPipeline", "matchgraph.training.pipelines.families.sd"),
    "sdxl": ("StableDiffusionXLPipeline", "matchgraph.training.pipelines.families.sdxl"),
    "kolors": ("KolorsPipeline", "matchgraph.training.pipelines.families.kolors"),
    "pixart": ("PixArtSigmaPipeline", "matchgraph.training.pipelines.families.pixart"),
    "pixart_alpha": ("PixArtAlphaPipeline", "matchgraph.training.pipelines.families.pixart_alpha"),
    "sana": ("SanaPipeline", "matchgraph.training.pipelines.families.sana"),
    "sd3": ("StableDiffusion3Pipeline", "matchgraph.training.pipelines.families.sd3"),
    "flux": ("FluxPipeline", "matchgraph.training.pipelines.families.flux"),
    "aura_flow": ("AuraFlowPipeline", "matchgraph.training.pipelines.families.aura_flow"),
    "chroma": ("ChromaPipeline", "matchgraph.training.pipelines.families.chroma"),
    "flux2_dev": ("Flux2Pipeline", "matchgraph.training.pipelines.families.flux2_dev"),
    "flux2_klein": ("Flux2KleinPipeline", "matchgraph.training.pipelines.families.flux2"),
    "qwen_image": ("QwenImagePipeline", "matchgraph.training.pipelines.families.qwen_image"),
    "z_image": ("ZImagePipeline", "matchgraph.training.pipelines.families.z_image"),
    "lumina2": ("Lumina2Pipeline", "matchgraph.training.pipelines.families.lumina2"),
}
# Further class -> the family whose own class loads, prices and draws such folders. A latent consistency
# model's pipeline has the components of Stable Diffusion's, which tells the U-Net its guidance all the same;
# it also takes no bounds for latents, where a folder's scheduler says `clip_sample`.
ALIASES = {
    "LatentConsistencyModelPipeline": "sd",
    # The older name of Lumina2Pipeline, which the published folder has.
    "Lumina2Text2ImgPipeline": "lumina2",
}


def family(name: str) -> Family:
    """Return a family by its name.

    Args:
        name: a key of `FAMILIES`.

    Raises:
        UnknownFamily: no family has this name.
    """
    if name not in FAMILIES:
        raise UnknownFamily(f"Unknown model family {name!r}; known: {', '.join(sorted(FAMILIES))}.")
    return importlib.import_module(FAMILIES[name][1]).FAMILY


def family_of(model_index: Mapping[str, Any]) -> Family:
    """Return the family that a pipeline belongs to.

    Args:
        model_index: the content of the pipeline folder's `model_index.json`.

    Raises:
        UnknownFamily: its `_class_name` is missing or belongs to no known family.
    """
    class_name = model_index.get("_class_name")
    if isinstance(class_name, str) and class_name in ALIASES:
        return family(ALIASES[class_name])
    for name, (pipeline_class, _) in FAMILIES.items():
        if pipeline_class == class_name:
            return family(name)
    known = ", ".join(sorted([*ALIASES, *(pipeline_class for pipeline_class, _ in FAMILIES.values())]))
    raise UnknownFamily(f"No family can train pipelines of class {class_name!r}; known classes: {known}.")
