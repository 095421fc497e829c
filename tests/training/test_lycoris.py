"""LoHa, LoKr and DoRA: what a loaded layer computes is what the published formula says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from matchgraph.training.errors import BadAdapter
from matchgraph.training.pipelines.adapters import detach_adapter, load_adapter
from matchgraph.training.pipelines.families import family
from tests.training import tiny

Tensors = dict[str, torch.Tensor]
# (128, 16) and (32, 16, 3, 3).
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
CONV = "down_blocks.1.resnets.0.conv1"
EINSUM = "ijhw,io,jr->orhw"


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def tensors(**shapes: tuple[int, ...]) -> Tensors:
    return {name: randn(*shape, seed=number) for number, (name, shape) in enumerate(shapes.items())}


def kron(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Block by block."""
    blocks = np.empty((len(left) * len(right), left.shape[1] * right.shape[1], *right.shape[2:]))
    for i, row in enumerate(left.numpy()):
        for j, value in enumerate(row):
            blocks[i * len(right) : (i + 1) * len(right), j * right.shape[1] : (j + 1) * right.shape[1]] = (
                value * right.numpy()
            )
    return torch.from_numpy(blocks).float()


def loha(rows: int, columns: int) -> tuple[Tensors, torch.Tensor]:
    of = tensors(hada_w1_a=(rows, 4), hada_w1_b=(4, columns), hada_w2_a=(rows, 4), hada_w2_b=(4, columns))
    update = (of["hada_w1_a"] @ of["hada_w1_b"]) * (of["hada_w2_a"] @ of["hada_w2_b"])
    return of | {"alpha": torch.tensor(2.0)}, update * 2 / 4


def loha_tucker() -> tuple[Tensors, torch.Tensor]:
    of = tensors(hada_t1=(4, 4, 3, 3), hada_w1_a=(4, 32), hada_w1_b=(4, 16))
    of |= tensors(hada_t2=(4, 4, 3, 3), hada_w2_a=(4, 32), hada_w2_b=(4, 16))
    of["hada_t2"] = of["hada_t2"] + 1
    first, second = (
        torch.einsum(EINSUM, of[f"hada_t{n}"], of[f"hada_w{n}_a"], of[f"hada_w{n}_b"]) for n in "12"
    )
    return of | {"alpha": torch.tensor(1.0)}, first * second / 4


def lokr() -> tuple[Tensors, torch.Tensor]:
    of = tensors(lokr_w1=(8, 2), lokr_w2_a=(16, 2), lokr_w2_b=(2, 8))
    return of | {"alpha": torch.tensor(3.0)}, kron(of["lokr_w1"], of["lokr_w2_a"] @ of["lokr_w2_b"]) * 3 / 2


def lokr_full() -> tuple[Tensors, torch.Tensor]:
    """Without low-rank factors alpha counts for nothing."""
    of = tensors(lokr_w1=(4, 4), lokr_w2=(32, 4))
    return of | {"alpha": torch.tensor(7.0)}, kron(of["lokr_w1"], of["lokr_w2"])


def lokr_both() -> tuple[Tensors, torch.Tensor]:
    of = tensors(lokr_w1_a=(8, 2), lokr_w1_b=(2, 4), lokr_w2_a=(16, 2), lokr_w2_b=(2, 4))
    left, right = of["lokr_w1_a"] @ of["lokr_w1_b"], of["lokr_w2_a"] @ of["lokr_w2_b"]
    return of | {"alpha": torch.tensor(1.0)}, kron(left, right) / 2


def lokr_conv() -> tuple[Tensors, torch.Tensor]:
    of = tensors(lokr_w1=(8, 4), lokr_w2=(4, 4, 3, 3))
    return of, kron(of["lokr_w1"], of["lokr_w2"])


def lokr_conv_rank() -> tuple[Tensors, torch.Tensor]:
    of = tensors(lokr_w1=(8, 4), lokr_w2_a=(4, 2), lokr_w2_b=(2, 4 * 9))
    right = (of["lokr_w2_a"] @ of["lokr_w2_b"]).reshape(4, 4, 3, 3)
    return of | {"alpha": torch.tensor(1.0)}, kron(of["lokr_w1"], right) / 2


def lokr_tucker() -> tuple[Tensors, torch.Tensor]:
    of = tensors(lokr_w1=(8, 4), lokr_t2=(2, 2, 3, 3), lokr_w2_a=(2, 4), lokr_w2_b=(2, 4))
    right = torch.einsum(EINSUM, of["lokr_t2"], of["lokr_w2_a"], of["lokr_w2_b"])
    return of | {"alpha": torch.tensor(1.0)}, kron(of["lokr_w1"], right) / 2


def locon_tucker() -> tuple[Tensors, torch.Tensor]:
    of = {"lora_down.weight": randn(4, 16, 1, 1), "lora_mid.weight": randn(4, 4, 3, 3, seed=1)}
    of["lora_up.weight"] = randn(32, 4, 1, 1, seed=2)
    chain = torch.nn.functional.conv2d(torch.eye(16)[:, :, None, None], of["lora_down.weight"])
    inside = torch.einsum("iaxy,oahw->oihw", chain, of["lora_mid.weight"])
    update = torch.einsum("oihw,pozz->pihw", inside, of["lora_up.weight"])
    return of | {"alpha": torch.tensor(2.0)}, update * 2 / 4


def lora(*shape: int) -> tuple[Tensors, torch.Tensor]:
    of = {"lora_down.weight": randn(4, *shape[1:]), "lora_up.weight": randn(shape[0], 4, seed=1)}
    update = (of["lora_up.weight"] @ of["lora_down.weight"].flatten(1)).reshape(shape)
    if len(shape) == 4:
        of["lora_up.weight"] = of["lora_up.weight"][:, :, None, None]
    return of | {"alpha": torch.tensor(2.0)}, update * 2 / 4


def decomposed(
    made: tuple[Tensors, torch.Tensor], axis: int
) -> Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]:
    """DoRA: each output (axis 0) or each input (1) has a magnitude."""

    def change(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        of, update = made
        moved = weight + update.reshape(weight.shape)
        others = [number for number in range(weight.ndim) if number != axis]
        norm = moved.pow(2).sum(dim=others, keepdim=True).sqrt()
        magnitude = norm * torch.linspace(0.5, 2, norm.numel()).reshape(norm.shape)
        return of | {"dora_scale": magnitude}, moved * (magnitude / norm) - weight

    return change


CASES: dict[str, tuple[str, Any]] = {
    "loha": (LINEAR, loha(128, 16)),
    "loha conv": (CONV, loha(32, 16 * 9)),
    "loha tucker": (CONV, loha_tucker()),
    "lokr": (LINEAR, lokr()),
    "lokr full": (LINEAR, lokr_full()),
    "lokr both": (LINEAR, lokr_both()),
    "lokr conv": (CONV, lokr_conv()),
    "lokr conv of low rank": (CONV, lokr_conv_rank()),
    "lokr tucker": (CONV, lokr_tucker()),
    "locon tucker": (CONV, locon_tucker()),
    "dora": (LINEAR, decomposed(lora(128, 16), 0)),
    "dora conv": (CONV, decomposed(lora(32, 16, 3, 3), 0)),
    "dora by input": (LINEAR, decomposed(lora(128, 16), 1)),
    "dora by input conv": (CONV, decomposed(lora(32, 16, 3, 3), 1)),
    "lokr with magnitudes": (LINEAR, decomposed(lokr(), 0)),
    "loha tucker with magnitudes": (CONV, decomposed(loha_tucker(), 0)),
}


@pytest.fixture(scope="module")
def sd() -> Any:
    return tiny.sd()


def computes(layer: torch.nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Hold a layer against the weights that it should compute with."""
    x = randn(2, weight.shape[1], *([5, 5] if weight.ndim == 4 else []), seed=9)
    functional = torch.nn.functional
    with torch.no_grad():
        if weight.ndim == 4:
            expected = functional.conv2d(x, weight, bias, padding=1)
        else:
            expected = functional.linear(x, weight, bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("names", ["kohya", "ai-toolkit"])
def test_a_layer_computes_the_published_update(tmp_path: Path, sd: Any, case: str, names: str) -> None:
    where, made = CASES[case]
    plain = sd.unet.get_submodule(where)
    weight, bias = plain.weight.detach(), plain.bias.detach()
    of, update = made(weight) if callable(made) else made
    layer = f"lora_unet_{where.replace('.', '_')}" if names == "kohya" else f"diffusion_model.{where}"
    file = tmp_path / "own.safetensors"
    save_file({f"{layer}.{name}": value.contiguous() for name, value in of.items()}, file)
    load_adapter(sd, family("sd"), file)
    computes(sd.unet.get_submodule(where), weight + update.reshape(weight.shape), bias)
    detach_adapter(sd, family("sd"))
    assert sd.unet.get_submodule(where) is plain


@pytest.mark.parametrize(
    ("name", "layer", "targets", "made"),
    [
        (
            "sdxl",
            "lora_unet_input_blocks_3_1_transformer_blocks_0_ff_net_0_proj",
            ["down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj"],
            loha,
        ),
        (
            "flux",
            "lora_unet_double_blocks_0_img_attn_qkv",
            [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"],
            loha,
        ),
        (
            "flux",
            "diffusion_model.double_blocks.0.img_attn.qkv",
            [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"],
            loha,
        ),
        (
            "flux",
            "lora_unet_double_blocks_0_txt_attn_qkv",
            [f"transformer_blocks.0.attn.add_{part}_proj" for part in "qkv"],
            lambda rows, columns: (
                (of := tensors(lokr_w1=(2, 2), lokr_w2=(rows // 2, columns // 2))),
                kron(of["lokr_w1"], of["lokr_w2"]),
            ),
        ),
        ("flux", "lycoris_transformer_blocks_0_attn_to_q", ["transformer_blocks.0.attn.to_q"], loha),
    ],
)
def test_layers_under_their_authors_names(
    tmp_path: Path, name: str, layer: str, targets: list[str], made: Any
) -> None:
    pipe, own = tiny.BUILDERS[name](), family(name)
    parts = [own.denoiser(pipe).get_submodule(target) for target in targets]
    weights = [part.weight.detach() for part in parts]
    of, update = made(sum(map(len, weights)), weights[0].shape[1])
    save_file({f"{layer}.{key}": value for key, value in of.items()}, tmp_path / "own.safetensors")
    load_adapter(pipe, own, tmp_path / "own.safetensors")
    for target, part, weight, change in zip(
        targets, parts, weights, update.split([len(weight) for weight in weights]), strict=True
    ):
        computes(own.denoiser(pipe).get_submodule(target), weight + change, part.bias)


@pytest.mark.parametrize(
    "prefix",
    ["lora_te_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"],
)
def test_text_encoders_take_these_kinds_too(tmp_path: Path, sd: Any, prefix: str) -> None:
    (where, plain) = next(each for each in sd.text_encoder.named_modules() if each[0].endswith("0.mlp.fc1"))
    weight, bias = plain.weight.detach(), plain.bias.detach()
    of, update = loha(*weight.shape)
    own, _ = loha(128, 16)
    tensors = {f"{prefix}.{name}": value for name, value in of.items()}
    tensors |= {f"unet.{LINEAR}.{name}": value for name, value in own.items()}
    save_file(tensors, tmp_path / "own.safetensors")
    load_adapter(sd, family("sd"), tmp_path / "own.safetensors")
    computes(sd.text_encoder.get_submodule(where), weight + update, bias)
    detach_adapter(sd, family("sd"))
    assert sd.text_encoder.get_submodule(where) is plain
    lacking = {name.replace(prefix, "text_encoder_2.x"): value for name, value in tensors.items()}
    save_file(lacking, tmp_path / "other.safetensors")
    with pytest.raises(BadAdapter, match="changes text_encoder_2, which this StableDiffusionPipeline lacks"):
        load_adapter(sd, family("sd"), tmp_path / "other.safetensors")
    assert not any(hasattr(part, "base_layer") for part in sd.unet.modules())


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 2}, 2 / 4),
        ({"lora_alpha": 2, "alpha_pattern": {"mlp.fc2": 5, "mlp.fc1": 3}}, 3 / 4),
        ({"lora_alpha": 2, "use_rslora": True}, 2 / 4**0.5),
        # The ranks are those of the tensors.
        ({"lora_alpha": 2, "r": 8, "rank_pattern": {"mlp.fc1": 4}}, 2 / 4),
    ],
)
def test_the_header_scales_text_encoders_as_peft_does(
    tmp_path: Path, sd: Any, config: dict[str, Any], scale: float
) -> None:
    (where, plain) = next(each for each in sd.text_encoder.named_modules() if each[0].endswith("0.mlp.fc1"))
    of, _ = lora(*plain.weight.shape)
    layer = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    own, _ = loha(128, 16)
    content = {f"unet.{LINEAR}.{name}": value for name, value in own.items()}
    content |= {
        f"{layer}.lora_A.weight": of["lora_down.weight"],
        f"{layer}.lora_B.weight": of["lora_up.weight"],
    }
    header = {f"text_encoder.{name}": value for name, value in config.items()}
    save_file(content, tmp_path / "own.safetensors", {"lora_adapter_metadata": json.dumps(header)})
    load_adapter(sd, family("sd"), tmp_path / "own.safetensors")
    update = of["lora_up.weight"] @ of["lora_down.weight"]
    computes(sd.text_encoder.get_submodule(where), plain.weight.detach() + update * scale, plain.bias)
    detach_adapter(sd, family("sd"))


def test_kohyas_third_text_encoder_is_the_t5_of_flux(tmp_path: Path) -> None:
    pipe = tiny.BUILDERS["flux"]()
    where = "encoder.block.0.layer.0.SelfAttention.q"
    plain = pipe.text_encoder_2.get_submodule(where)
    of, update = lora(*plain.weight.shape)
    content = {f"lora_te3_{where.replace('.', '_')}.{name}": value for name, value in of.items()}
    denoisers, _ = lora(*pipe.transformer.transformer_blocks[0].attn.to_q.weight.shape)
    content |= {
        f"transformer.transformer_blocks.0.attn.to_q.{name}": value for name, value in denoisers.items()
    }
    save_file(content, tmp_path / "own.safetensors")
    load_adapter(pipe, family("flux"), tmp_path / "own.safetensors")
    computes(pipe.text_encoder_2.get_submodule(where), plain.weight.detach() + update, plain.bias)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"x.diff": (1,)}, "holds x.diff: full difference adapters are not supported"),
        ({"x.oft_blocks": (1,)}, "holds x.oft_blocks: OFT adapters"),
        ({"lora_unet_x.hada_w1_a": (2, 2), "y.z": (1,)}, "holds y.z, which is not part of a LoRA, LoHa"),
        ({f"{LINEAR}.hada_w1_a": (128, 4)}, f"parts of {LINEAR} are missing or do not fit each other"),
        ({f"{LINEAR}.lokr_w1": (4, 2), f"{LINEAR}.lokr_w2": (4, 4)}, f"no layer {LINEAR} of 16 x 8 weights"),
        (
            {"lora_unet_nowhere.lokr_w1": (4, 2), "lora_unet_nowhere.lokr_w2": (4, 4)},
            "layers of unknown names, such as lora_unet_nowhere",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(
    tmp_path: Path, sd: Any, content: dict[str, tuple[int, ...]], said: str
) -> None:
    file = tmp_path / "bad.safetensors"
    save_file({name: torch.ones(shape) for name, shape in content.items()}, file)
    with pytest.raises(BadAdapter, match=f"{re.escape(str(file))}.*{re.escape(said)}"):
        load_adapter(sd, family("sd"), file)
    assert not any(hasattr(part, "base_layer") for part in sd.unet.modules())
