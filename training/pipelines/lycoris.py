"""LoHa, LoKr and DoRA adapters as LyCORIS, kohya's scripts, ai-toolkit and OneTrainer write them, and LoRAs
under names that diffusers' loader does not know.

peft's layers of these kinds hold the file's own factors, whatever shapes peft's configuration would choose.
What has no factors for a layer of diffusers (a third of a fused projection, a magnitude for each input) is
one whole update, held as a Kronecker product with 1.

Source:
    Yeh et al., "Navigating text-to-image customization: from LyCORIS fine-tuning to model evaluation" (2024),
    section 3; Liu et al., "DoRA: weight-decomposed low-rank adaptation" (2024), equation 5. Names and scales
    of LyCORIS' `lycoris/modules`: alpha / rank, and 1 for a LoKr that has no low-rank factors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadAdapter

if TYPE_CHECKING:
    import torch

    Factors = dict[str, torch.Tensor]

LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
LORA = DOWN, MID, UP = ("lora_down.weight", "lora_mid.weight", "lora_up.weight")
ALPHA, MAGNITUDE = "alpha", "dora_scale"
LEAF = re.compile(
    rf"(?P<layer>.+)\.(?P<leaf>{'|'.join(map(re.escape, (*LOHA, *LOKR, *LORA, ALPHA, MAGNITUDE)))})"
)
# What only tensors of such a kind have in their names.
KINDS = {".hada_w1": "LoHa", ".lokr_w": "LoKr", f".{MAGNITUDE}": "DoRA", f".{MID}": "LoCon"}
# Factors with as many rows as the rank.
RANKED = ("hada_w1_b", "lokr_w2_b", "lokr_w1_b", DOWN)
# What peft and diffusers call the factors of a LoRA: the last two of text encoders, in older files.
PEFT = re.compile(r"\.lora(?:_linear_layer)?[_.](?P<factor>A|B|down|up)\.")
OLDER = re.compile(r"\.to_(q|k|v|out)_lora\.(down|up)\.")
DOWN_OR_UP = {"A": ".lora_down.", "down": ".lora_down.", "B": ".lora_up.", "up": ".lora_up."}
# What trainers write before the name of a denoiser's layer.
PREFIX = re.compile(r"lora_unet_|lora_transformer_|lycoris_|unet\.|transformer\.|(model\.)?diffusion_model\.")


def kind_of(names: Sequence[str]) -> str | None:
    """The kind of a file's adapter, by its tensors; None for a plain LoRA."""
    return next((kind for mark, kind in KINDS.items() if any(mark in name for name in names)), None)


def load_lycoris(
    pipe: Any, denoiser: Any, path: Path, tensors: Mapping[str, torch.Tensor], adapter_name: str
) -> None:
    """Put an adapter of one of these kinds on a denoiser.

    Args:
        pipe: the pipeline; its loader knows what the model's authors call the layers. None for a text
            encoder, whose layers have one name.
        denoiser: takes adapters as diffusers' `PeftAdapterMixin` does; or a text encoder.
        path: the file, for errors.
        tensors: of the denoiser, by name.
        adapter_name: what the adapter is called on it.

    Raises:
        BadAdapter: a tensor's name is not known, or belongs to no layer or to one of another shape.
    """
    placed = _factors(pipe, denoiser, path, tensors)
    decomposed = {MAGNITUDE in factors for factors in placed.values()}
    takes_lora = hasattr(denoiser, "load_lora_adapter")
    if takes_lora and len(decomposed) == 1 and all(_is_lora(factors) for factors in placed.values()):
        denoiser.load_lora_adapter(_lora(denoiser, placed), prefix=None, adapter_name=adapter_name)
        return
    loha = all(LOHA[0] in factors and MAGNITUDE not in factors for factors in placed.values())
    for name, factors in placed.items():
        if not loha and (MAGNITUDE in factors or not factors.keys() & set(LOKR)):
            placed[name] = _whole(path, name, denoiser.get_submodule(name), factors)
    _attach(denoiser, LOHA if loha else LOKR, placed, adapter_name)


def _factors(pipe: Any, denoiser: Any, path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Factors]:
    """The factors of each of the denoiser's layers, by its name, under LyCORIS' names."""
    layers: dict[str, Factors] = {}
    for name, tensor in tensors.items():
        plain = OLDER.sub(r".\1_proj.lora_\2.", name)
        plain = PEFT.sub(lambda found: DOWN_OR_UP[found["factor"]], plain)
        if (found := LEAF.fullmatch(plain)) is None:
            raise BadAdapter(f"{path} holds {name}, which is not part of a LoRA, LoHa, LoKr or DoRA.")
        layers.setdefault(found["layer"], {})[found["leaf"]] = tensor
    for layer, factors in layers.items():
        try:
            _update(factors, "meta")
        except (LookupError, RuntimeError) as error:
            raise BadAdapter(f"{path}: parts of {layer} are missing or do not fit each other.") from error
    return _placed(pipe, denoiser, path, layers)


def _placed(pipe: Any, denoiser: Any, path: Path, layers: Mapping[str, Factors]) -> dict[str, Factors]:
    modules = dict(denoiser.named_modules())
    own = {name.replace(".", "_"): name for name in modules}
    # CLIP's layers had this before their names, as files still have it.
    own |= {f"text_model_{plain}": name for plain, name in own.items()}
    placed: dict[str, Factors] = {}
    foreign: dict[str, Factors] = {}
    for layer, factors in layers.items():
        name = own.get(PREFIX.sub("", layer, count=1).replace(".", "_"))
        if name is None:
            foreign[layer] = factors
        else:
            placed[name] = factors
    if foreign and pipe is None:
        raise BadAdapter(f"{path} has layers of unknown names, such as {min(foreign)}.")
    if foreign:
        placed |= _translated(pipe, path, foreign, modules)
    for name, factors in placed.items():
        update = _update(factors, "meta")
        size = (len(update), update.numel() // len(update))
        if size != _size(modules.get(name)):
            raise BadAdapter(
                f"{path} does not fit this {type(denoiser).__name__}: it has no layer {name} of {size[0]} x "
                f"{size[1]} weights. Was it made for another model?"
            )
    return placed


def _size(module: Any) -> tuple[int, int] | None:
    import torch

    if isinstance(module, torch.nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, torch.nn.Conv2d):
        return len(module.weight), module.weight.numel() // len(module.weight)
    return None


def _translated(
    pipe: Any, path: Path, layers: Mapping[str, Factors], own: Collection[str]
) -> dict[str, Factors]:
    """Factors under the denoiser's own names of layers that are called as by the model's authors.

    diffusers' loader translates a LoRA of rank 1 that has these layers, each with its number and those of its
    rows as weights, so that what comes back says which rows of which layer go where. Names with dots are also
    tried as kohya's scripts spell them, which more of diffusers' translators know.
    """
    unknown = set(layers)
    for spell in (str, lambda layer: f"lora_unet_{PREFIX.sub('', layer, count=1).replace('.', '_')}"):
        back = _translation(pipe, {spell(layer): layers[layer] for layer in layers})
        placed: dict[str, Factors] = {}
        numbered = list(layers)
        unknown = set(layers)
        for name, (number, rows) in back.items():
            if name in own:
                layer = numbered[number]
                placed[name] = _part(path, layer, layers[layer], rows)
                unknown.discard(layer)
        if not unknown:
            return placed
    raise BadAdapter(f"{path} has layers of unknown names, such as {min(unknown)}.")


def _translation(pipe: Any, layers: Mapping[str, Factors]) -> dict[str, tuple[int, torch.Tensor]]:
    """By the name in diffusers, the number of the layer that it is (part of), and its rows there."""
    import torch
    from diffusers.utils import convert_unet_state_dict_to_peft

    shown: dict[str, torch.Tensor] = {}
    for number, (layer, factors) in enumerate(layers.items()):
        rows = torch.arange(float(len(_update(factors, "meta"))))
        down, up = ("lora_A", "lora_B") if "." in layer else ("lora_down", "lora_up")
        shown[f"{layer}.{down}.weight"] = torch.full((1, 1), number + 1.0)
        shown[f"{layer}.{up}.weight"] = rows[:, None] + 1
        if down == "lora_down":
            shown[f"{layer}.{ALPHA}"] = torch.tensor(1.0)
    options = {"unet_config": pipe.unet.config} if hasattr(pipe, "unet") else {}
    try:
        back = pipe.lora_state_dict(shown, **options)
    except (ValueError, LookupError, RuntimeError, AttributeError, TypeError, AssertionError):
        return {}
    back = convert_unet_state_dict_to_peft(back[0] if isinstance(back, tuple) else back)
    return {
        key.removesuffix(".lora_A.weight").partition(".")[2]: (
            int(down.flatten()[0]) - 1,
            back[key.replace(".lora_A.", ".lora_B.")].flatten().long() - 1,
        )
        for key, down in back.items()
        if key.endswith(".lora_A.weight")
    }


def _part(path: Path, layer: str, factors: Factors, rows: torch.Tensor) -> Factors:
    """The factors of some rows of a layer."""
    import torch

    update = _update(factors, "meta")
    if torch.equal(rows, torch.arange(len(update))):
        return factors
    part = dict(factors)
    if MAGNITUDE in factors:
        if len(factors[MAGNITUDE]) != len(update):
            raise BadAdapter(
                f"{path}: {layer}.{MAGNITUDE} has a magnitude for each input of several layers of diffusers, "
                "which one of them cannot have."
            )
        part[MAGNITUDE] = factors[MAGNITUDE][rows]
    if UP in factors:
        return part | {UP: factors[UP][rows]}
    if LOHA[0] in factors and "hada_t1" not in factors:
        return part | {name: factors[name][rows] for name in ("hada_w1_a", "hada_w2_a")}
    whole = {"lokr_w1": torch.ones(1, 1), "lokr_w2": (_update(factors) * _scale(factors))[rows]}
    return whole | {name: part[name] for name in (MAGNITUDE,) if name in part}


def _update(factors: Factors, device: str = "cpu") -> torch.Tensor:
    """The update before its scale, (outputs, inputs) or, of convolutions, also (outputs, inputs, *kernel)."""
    import torch

    of = {name: tensor.to(device, torch.float32) for name, tensor in factors.items()}
    if LOHA[0] in of:
        first, second = (
            _product(*(of.get(f"hada_{name}") for name in side))
            for side in (("w1_a", "w1_b", "t1"), ("w2_a", "w2_b", "t2"))
        )
        return first * second
    if UP in of:
        if MID in of:
            up, down = of[UP].flatten(1), of[DOWN].flatten(1)
            return torch.einsum("oa,abhw,bi->oihw", up, of[MID], down)
        return of[UP].flatten(1) @ of[DOWN].flatten(1)
    left = of["lokr_w1"] if "lokr_w1" in of else of["lokr_w1_a"] @ of["lokr_w1_b"]
    right = of.get("lokr_w2")
    if right is None:
        right = _product(of["lokr_w2_a"], of["lokr_w2_b"], of.get("lokr_t2"))
    return torch.kron(left[(...,) + (None,) * (right.ndim - 2)], right.contiguous())


def _product(a: Any, b: Any, core: Any = None) -> torch.Tensor:
    """A product of two factors, or with a core of Tucker's decomposition (rank, rank, *kernel)."""
    import torch

    if a is None or b is None:
        raise LookupError("a factor is missing")
    return a @ b if core is None else torch.einsum("ijhw,io,jr->orhw", core, a, b)


def _scale(factors: Factors) -> float:
    ranked = next((factors[name] for name in RANKED if name in factors), None)
    if ranked is None or ALPHA not in factors:
        return 1.0
    return float(factors[ALPHA]) / len(ranked)


def _is_lora(factors: Factors) -> bool:
    """Whether these are what peft's LoRA layers hold, which take a magnitude for each output."""
    magnitude = factors.get(MAGNITUDE)
    plain = UP in factors and MID not in factors
    return plain and (magnitude is None or len(magnitude) == len(factors[UP]))


def _lora(denoiser: Any, placed: Mapping[str, Factors]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name, factors in placed.items():
        tensors[f"{name}.lora_A.weight"] = factors[DOWN].float()
        tensors[f"{name}.lora_B.weight"] = factors[UP].float() * _scale(factors)
        if (magnitude := factors.get(MAGNITUDE)) is not None:
            flat, is_conv = magnitude.flatten(), denoiser.get_submodule(name).weight.ndim == 4
            tensors[f"{name}.lora_magnitude_vector"] = flat[None, :, None, None] if is_conv else flat
    return tensors


def _whole(path: Path, name: str, module: Any, factors: Factors) -> Factors:
    """The update of a layer, with DoRA's change of magnitudes, as the factors of a LoKr."""
    import torch

    weight = module.weight.detach()
    update = (_update(factors) * _scale(factors)).reshape(weight.shape if weight.ndim == 4 else _size(module))
    if (magnitude := factors.get(MAGNITUDE)) is not None:
        if not weight.is_floating_point():
            raise BadAdapter(f"{path}: {MAGNITUDE} of {name} needs the model without quantisation.")
        plain = weight.to("cpu", torch.float32)
        moved = plain + update
        kept = 0 if len(magnitude) == len(moved) else 1
        others = [axis for axis in range(moved.ndim) if axis != kept]
        norm = moved.square().sum(others, keepdim=True).sqrt() + torch.finfo(moved.dtype).eps
        update = moved * (magnitude.float() / norm) - plain
    return {"lokr_w1": torch.ones(1, 1), "lokr_w2": update}


def _attach(denoiser: Any, kind: tuple[str, ...], placed: Mapping[str, Factors], adapter_name: str) -> None:
    import torch
    from peft import LoHaConfig, LoKrConfig, inject_adapter_in_model

    names = "|".join(map(re.escape, placed))
    config = (LoHaConfig if kind is LOHA else LoKrConfig)(r=1, alpha=1, target_modules=names)
    # peft draws start values from the global generator; they are replaced, and its state given back.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, denoiser, adapter_name)
    for name, factors in placed.items():
        layer = denoiser.get_submodule(name)
        for factor in kind:
            values = getattr(layer, factor)
            if adapter_name in values:
                del values[adapter_name]
            if factor in factors:
                tensor = factors[factor].to(layer.get_base_layer().weight.device, denoiser.dtype)
                values[adapter_name] = torch.nn.Parameter(tensor, requires_grad=False)
        layer.alpha[adapter_name] = layer.scaling[adapter_name] = _scale(factors)
