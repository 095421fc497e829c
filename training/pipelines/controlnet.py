"""ControlNets put on pipelines of their architecture, and the pipelines that draw by them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.drawing import PRECISIONS
from matchgraph.training.errors import BadControlNet, BadPipeline, UnsafeWeights, first_line
from matchgraph.training.pipelines.loading import LoadedPipeline, quiet_libraries
from matchgraph.training.pipelines.weight_files import check_weight_files, weight_variant

if TYPE_CHECKING:
    from matchgraph.training.pipelines.families.base import Family

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
# Family -> diffusers' pipeline that takes a ControlNet.
CONTROLLED = {"sd": "StableDiffusionControlNetPipeline", "sdxl": "StableDiffusionXLControlNetPipeline"}
# What a U-Net and a ControlNet must have in common for the one to take what the other gives.
SHARED = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "class_embed_type",
    "encoder_hid_dim_type",
)


@contextmanager
def controlled(loaded: LoadedPipeline, controlnet_folder: str | os.PathLike[str]) -> Iterator[LoadedPipeline]:
    """Let a pipeline draw by a ControlNet inside, through diffusers' pipeline for it; as it was after.

    The pipeline's components are shared, not copied, so a student, its teacher and one ControlNet take the
    memory of the three.

    Args:
        loaded: a pipeline of the families sd or sdxl, not necessarily the one the ControlNet was trained on.
        controlnet_folder: `config.json` and safetensors weights, as `train_controlnet` and diffusers write
            them.

    Yields:
        `loaded`; `training.sampling.generate.stream_images` then takes `controls`.

    Raises:
        BadControlNet: the family has no ControlNets, the folder holds none, or it does not fit.
        UnsafeWeights: the folder holds pickled weights only.

    Source:
        Starodubcev et al., "Your student is better than expected" (2024), section 4.3: a ControlNet of the
        teacher is put on the student as it is.
    """
    check_controllable(loaded)
    plain = loaded.pipe
    loaded.pipe = steered(plain, load_controlnet(loaded, controlnet_folder), loaded.family)
    try:
        yield loaded
    finally:
        loaded.pipe = plain


def steered(plain: Any, controlnet: Any, family: Family) -> Any:
    """Diffusers' pipeline that draws by a ControlNet, of the components of one that draws without.

    Args:
        plain: the pipeline.
        controlnet: on its device.
        family: one of `CONTROLLED`.
    """
    import diffusers

    options = dict(family.load_options)
    if family.name == "sd":
        options["requires_safety_checker"] = False
    else:
        options["force_zeros_for_empty_prompt"] = plain.config.force_zeros_for_empty_prompt
    with quiet_libraries():
        pipe = getattr(diffusers, CONTROLLED[family.name])(
            **plain.components, controlnet=controlnet, **options
        )
    pipe.set_progress_bar_config(disable=True)
    family.prepare(pipe)
    return pipe


def check_controllable(loaded: LoadedPipeline) -> None:
    """Refuse a pipeline that no ControlNet can steer.

    Raises:
        BadControlNet: its family has none, or a ControlNet already steers it.
    """
    if loaded.family.name not in CONTROLLED:
        raise BadControlNet(
            f"{loaded.folder.name} is a {loaded.family.pipeline_class}; ControlNets are for the families "
            f"{' and '.join(CONTROLLED)}."
        )
    if "controlnet" in loaded.pipe.components:
        raise BadControlNet(f"{loaded.folder.name} already has a ControlNet; remove that one first.")


def load_controlnet(loaded: LoadedPipeline, folder: str | os.PathLike[str]) -> Any:
    """Load a ControlNet onto a pipeline's device, in its precision, and check that it fits.

    Args:
        loaded: the pipeline.
        folder: see `controlled`.

    Raises:
        BadControlNet: the folder holds no ControlNet, or one of another architecture.
        UnsafeWeights: it holds pickled weights only.
    """
    import torch
    from diffusers import ControlNetModel

    root = Path(folder)
    try:
        config = json.loads((root / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadControlNet(f"{root} has no {CONFIG_FILE}; give a ControlNet's folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadControlNet(f"{root / CONFIG_FILE} cannot be read as JSON: {first_line(error)}") from None
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != ControlNetModel.__name__:
        raise BadControlNet(f"{root} holds a {kind}, not a {ControlNetModel.__name__}.")
    try:
        variant = weight_variant(root.parent, [root.name])
        check_weight_files(root, variant)
    except UnsafeWeights:
        raise
    except BadPipeline as error:
        raise BadControlNet(str(error)) from None
    try:
        with quiet_libraries():
            controlnet, found = ControlNetModel.from_pretrained(
                root,
                torch_dtype=getattr(torch, PRECISIONS[loaded.precision]),
                use_safetensors=True,
                local_files_only=True,
                variant=variant,
                output_loading_info=True,
            )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise BadControlNet(f"{root} cannot be loaded as a ControlNet: {first_line(error)}") from error
    if lost := [*found["missing_keys"], *found["unexpected_keys"]]:
        raise BadControlNet(f"{root}: its weights do not match its {CONFIG_FILE}, such as {lost[0]}.")
    _check_fit(loaded, controlnet, root)
    return controlnet.to(loaded.device).eval().requires_grad_(False)


def _check_fit(loaded: LoadedPipeline, controlnet: Any, root: Path) -> None:
    """Refuse a ControlNet whose residuals or inputs are not those of the pipeline's U-Net."""
    theirs, ours = loaded.family.denoiser(loaded.pipe).config, controlnet.config
    wrong = [
        f"{name} is {_even(ours.get(name))}, the U-Net's {_even(theirs.get(name))}"
        for name in SHARED
        if _even(ours.get(name)) != _even(theirs.get(name))
    ]
    if len(ours.down_block_types) != len(theirs.down_block_types):
        wrong.append(f"it has {len(ours.down_block_types)} levels, the U-Net {len(theirs.down_block_types)}")
    factor = 2 ** (len(ours.conditioning_embedding_out_channels) - 1)
    if factor != loaded.pipe.vae_scale_factor:
        wrong.append(f"it halves images to 1/{factor}, the VAE to 1/{loaded.pipe.vae_scale_factor}")
    if wrong:
        raise BadControlNet(
            f"{root} does not fit {loaded.folder.name}: {wrong[0]}. Was it made for another model?"
        )


def _even(value: Any) -> Any:
    """A list of one value over and over as that value, since configurations have both."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(set(value)) == 1 else list(value)
    return value
