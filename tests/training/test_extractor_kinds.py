"""Every kind of extractor against its model written out, with random weights of the real classes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from matchgraph.training.errors import ExtractorUnavailable, InvalidConfig, MissingLibrary
from matchgraph.training.measure.extractors import (
    KINDS,
    CaptionExtractor,
    ExtractorSpec,
    clean_resize,
    load_extractor,
    parse_extractors,
    require_images,
)
from matchgraph.training.measure.extractors.inception import build, convert, main
from matchgraph.training.measure.prompts import load_prompt_encoder
from tests.training import tiny

CAPTIONS = ["a cat", "the sea of trees", "dog"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    save_file(tiny.imagebind_tensors(), folder / "imagebind.safetensors")
    return {
        "clip": tiny.save_clip(folder / "clip"),
        "inception": tiny.save_inception(folder / "inception.safetensors"),
        "dinov2": tiny.save_vision(folder / "dinov2"),
        "siglip": tiny.save_vision(folder / "siglip", "siglip"),
        "imagebind": folder / "imagebind.safetensors",
        "t5": tiny.save_sentence_model(folder / "t5"),
    }


def load(name: str, path: Path):
    return load_extractor(ExtractorSpec(name, name, str(path)), device="cpu")


def images(n: int = 3, px: int = 40) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (px, px + 4, 3), dtype=np.uint8)) for _ in range(n)]


def pixels(shown: list[Image.Image], px: int, mean, std) -> torch.Tensor:
    resized = np.stack([clean_resize(image, px) for image in shown]) / 255
    return torch.tensor((resized - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_streams_finite_features_that_tell_items_apart(weights, kind):
    extractor = load(kind, weights[kind])
    items = CAPTIONS if kind == "t5" else images()
    features = extractor.features(iter(items))
    assert features.shape == (3, extractor.dimension)
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 1e-3
    np.testing.assert_allclose(extractor.features(items, batch_size=2), features, rtol=1e-4, atol=1e-5)
    assert extractor.statistics(items).n == 3
    assert re.fullmatch("[0-9a-f]{16}", extractor.hash)
    assert extractor.hash == load(kind, weights[kind]).hash
    assert (extractor.resize == "captions") == (kind == "t5")


def test_inception_has_the_features_of_torch_fidelity(weights, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save(load_file(weights["inception"]), tmp_path / "inception.pth")
    theirs = FeatureExtractorInceptionV3(
        "tiny", ["2048"], feature_extractor_weights_path=str(tmp_path / "inception.pth")
    )
    # At the network's own size neither resizes.
    shown = [image.resize((299, 299)) for image in images(2)]
    batch = torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in shown])
    with torch.no_grad():
        expected = theirs(batch)[0].numpy()
    extractor = load("inception", weights["inception"])
    np.testing.assert_allclose(extractor.features(shown), expected, rtol=1e-3, atol=1e-4 * expected.max())
    assert extractor.image_px == 299


@pytest.mark.slow
def test_published_inception_weights_are_converted_without_running_code(
    weights, tmp_path, monkeypatch, capsys
):
    source, target = tmp_path / "published.pth", tmp_path / "converted" / "inception.safetensors"
    target.parent.mkdir()
    torch.save(load_file(weights["inception"]), source)
    monkeypatch.setattr(sys, "argv", ["inception", str(source), str(target)])
    main()
    assert capsys.readouterr().out.strip() == str(target)
    # A folder with the file is as good as the file.
    assert load("inception", target.parent).hash == load("inception", weights["inception"]).hash

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-run"), "w"))

    torch.save({"weights": Hostile()}, source)
    with pytest.raises(ExtractorUnavailable, match="does not hold the weights"):
        convert(source, target)
    assert not (tmp_path / "was-run").exists()
    torch.save({"fc.weight": torch.zeros(2)}, source)
    with pytest.raises(ExtractorUnavailable, match="does not hold the weights"):
        convert(source, target)


def test_inception_without_weights_says_how_to_get_them(tmp_path):
    (tmp_path / "inception.pth").write_bytes(b"pickle")
    for place in ("no/such/folder", tmp_path, tmp_path / "inception.pth"):
        with pytest.raises(ExtractorUnavailable, match="torch-fidelity") as refused:
            load("inception", Path(place))
        assert "python -m matchgraph.training.measure.extractors.inception" in str(refused.value)
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "inception.safetensors")
    with pytest.raises(ExtractorUnavailable, match=r"does not hold .*[^.:]\. Fetch"):
        load("inception", tmp_path)
    assert build().fc.out_features == 1008


def test_dinov2_gives_its_class_token_and_siglip_its_image_embedding(weights):
    from transformers import Dinov2Model, SiglipModel

    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    shown = images()
    with torch.no_grad():
        dinov2 = Dinov2Model.from_pretrained(weights["dinov2"]).eval()
        token = dinov2(pixels(shown, 28, mean, std)).last_hidden_state[:, 0]
        siglip = SiglipModel.from_pretrained(weights["siglip"]).eval()
        embedding = siglip.get_image_features(pixels(shown, 32, mean, std))
        embedding = getattr(embedding, "pooler_output", embedding)
    for kind, expected in (("dinov2", token), ("siglip", embedding)):
        features = load(kind, weights[kind]).features(shown)
        np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_imagebind_is_a_transformer_over_patches_of_two_equal_frames(weights):
    tensors = {
        name.replace(".vision.", "."): tensor
        for name, tensor in tiny.imagebind_tensors().items()
        if ".vision." in name
    }
    shown = images()
    extractor = load("imagebind", weights["imagebind"])
    assert extractor.image_px == 28
    frames = pixels(shown, 28, extractor.mean, extractor.std).unsqueeze(2).repeat(1, 1, 2, 1, 1)
    stem = tensors["modality_preprocessors.rgbt_stem.proj.1.weight"]
    patches = torch.nn.functional.conv3d(frames, stem, stride=(2, 14, 14)).flatten(2).transpose(1, 2)

    def norm(x, name):
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt() * weight + bias

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    x = torch.cat([tensors["modality_preprocessors.cls_token"].expand(len(shown), -1, -1), patches], 1)
    x = x + tensors["modality_preprocessors.pos_embedding_helper.pos_embed"]
    x = norm(x, "modality_trunks.pre_transformer_layer.0")
    for block in ("modality_trunks.blocks.0", "modality_trunks.blocks.1"):
        inner = norm(x, f"{block}.norm_1")
        mixed = (
            inner @ tensors[f"{block}.attn.in_proj_weight"].T + tensors[f"{block}.attn.in_proj_bias"]
        ).unflatten(-1, (3, 2, 80))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        weights_of = (query @ key.transpose(-1, -2) / 80**0.5).softmax(-1)
        x = x + linear((weights_of @ value).transpose(1, 2).flatten(2), f"{block}.attn.out_proj")
        hidden = torch.nn.functional.gelu(linear(norm(x, f"{block}.norm_2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    expected = norm(x[:, 0], "modality_heads.0") @ tensors["modality_heads.2.weight"].T
    np.testing.assert_allclose(extractor.features(shown), expected.numpy(), rtol=1e-3, atol=1e-3)


def test_sentence_t5_pools_projects_and_normalises(weights):
    from transformers import AutoTokenizer, T5EncoderModel

    folder = weights["t5"]
    tokens = AutoTokenizer.from_pretrained(folder)(CAPTIONS, padding=True, return_tensors="pt")
    encoder = T5EncoderModel.from_pretrained(folder).eval()
    projection = next(iter(load_file(next(folder.glob("2_*/model.safetensors"))).values()))
    mask = tokens["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        hidden = encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])[0]
    # The projection of sentence-transformers ends in a hyperbolic tangent unless its folder says otherwise.
    pooled = torch.tanh((hidden * mask).sum(1) / mask.sum(1) @ projection.T)
    expected = (pooled / pooled.norm(dim=1, keepdim=True)).numpy()
    extractor = load("t5", folder)
    np.testing.assert_allclose(extractor.features(CAPTIONS), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(extractor, CaptionExtractor)
    with pytest.raises(ExtractorUnavailable, match="reads captions"):
        require_images(extractor, "t5")


def test_a_sentence_model_reads_prompts(weights):
    encoder = load_prompt_encoder(weights["t5"])
    found = encoder.encode(CAPTIONS)
    expected = load("t5", weights["t5"]).features(CAPTIONS)
    np.testing.assert_allclose(found.embeddings, expected, rtol=1e-5, atol=1e-6)
    assert (encoder.hash, found.tokens) == (load("t5", weights["t5"]).hash, None)


def test_prompts_that_are_longer_than_what_is_read_are_told(weights):
    encoder = load_prompt_encoder(weights["t5"])
    length = encoder.encode(["a"]).length
    found = encoder.encode(["a cat", "a " * 2 * length, "cat"])
    assert found.cut.tolist() == [False, True, False]
    assert found.notes() == [
        f"longer than the {length} tokens that the encoder reads: 1 of 3 prompts; their ends do not count"
    ]
    assert found.part(np.array([0, 2])).notes() == []


def test_a_static_model_reads_texts_of_any_length(tmp_path):
    folder = tiny.save_static_model(tmp_path / "static")
    encoder = load_prompt_encoder(folder)
    found = encoder.encode(["a cat", "a " * 1000])
    assert found.embeddings.shape == (2, 16)
    assert (found.cut, found.length, found.notes()) == (None, None, [])


def test_a_sentence_model_without_its_library_says_what_to_install(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingLibrary, match=r"matchgraph\[probes\]"):
        load("t5", weights["t5"])


def test_hashes_follow_weights_and_not_who_wrote_them(weights, tmp_path):
    for kind, other in (
        ("dinov2", tiny.save_vision(tmp_path / "dinov2", seed=1)),
        ("t5", tiny.save_sentence_model(tmp_path / "t5", seed=1)),
        ("inception", tiny.save_inception(tmp_path / "inception.safetensors", seed=1)),
    ):
        assert load(kind, other).hash != load(kind, weights[kind]).hash
    same = tmp_path / "same"
    shutil.copytree(weights["dinov2"], same)
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps({**config, "transformers_version": "0"}))
    assert load("dinov2", same).hash == load("dinov2", weights["dinov2"]).hash


def damaged(folder: Path, how: str) -> None:
    model = next(path for path in sorted(folder.rglob("model.safetensors")))
    match how:
        case "pickle":
            model.rename(model.with_name("pytorch_model.bin"))
        case "truncated":
            model.write_bytes(model.read_bytes()[:-50])
        case "missing tensor":
            tensors = load_file(model)
            tensors.pop(max(tensors))
            save_file(tensors, model, metadata={"format": "pt"})
        case "no config":
            (folder / "config.json").unlink()


@pytest.mark.parametrize("how", ["pickle", "truncated", "missing tensor", "no config"])
@pytest.mark.parametrize("kind", ["dinov2", "siglip", "t5"])
def test_damaged_folders_are_refused_in_one_line(weights, tmp_path, kind, how):
    folder = tmp_path / kind
    shutil.copytree(weights[kind], folder)
    damaged(folder, how)
    with pytest.raises(ExtractorUnavailable) as refused:
        load(kind, folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)


def test_code_in_a_folder_is_refused(weights, tmp_path):
    folder = tmp_path / "t5"
    shutil.copytree(weights["t5"], folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "payload.Run"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ExtractorUnavailable, match=r"payload\.Run"):
        load("t5", folder)
    other = tiny.save_vision(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "resnet"}))
    with pytest.raises(ExtractorUnavailable, match="'resnet'"):
        load("dinov2", other)


@pytest.mark.parametrize(
    ("kind", "name"), [("dinov2", "facebook/dinov2-base"), ("imagebind", "a/b"), ("t5", "a/b")]
)
def test_weights_that_are_nowhere_say_how_to_get_them(kind, name, monkeypatch, tmp_path):
    import huggingface_hub

    # An address of this machine at which nothing answers stands for a missing network.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ExtractorUnavailable, match=r"cannot be fetched.*Give a") as refused:
        load(kind, Path(name))
    assert "\n" not in str(refused.value)


def test_names_that_are_no_place_at_all_are_refused():
    for kind in ("dinov2", "imagebind", "t5"):
        with pytest.raises(ExtractorUnavailable):
            load(kind, Path("no//such\nname/at all"))


def test_specs_are_read_as_users_write_them(tmp_path):
    found = parse_extractors(["dinov2=facebook/dinov2-base", "big=dinov2:C:/models/big", "inception=a=b"])
    assert found == {
        "dinov2": ExtractorSpec("dinov2", "dinov2", "facebook/dinov2-base"),
        "big": ExtractorSpec("big", "dinov2", "C:/models/big"),
        "inception": ExtractorSpec("inception", "inception", "a=b"),
    }
    assert parse_extractors(map(str, found.values())) == found
    assert ExtractorSpec("clip", "clip", str(tmp_path)).located().weights == str(tmp_path)
    assert found["dinov2"].located() == found["dinov2"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["dinov2"], "write NAME=WEIGHTS"),
        (["mine=/weights"], "of no known kind"),
        (["dinov2="], "has no weights"),
        (["big=dinov2:"], "has no weights"),
        (["Big=dinov2:x"], "cannot name an extractor"),
        (["a__b=dinov2:x"], "cannot name an extractor"),
        (["initial=clip:x"], "cannot name an extractor"),
        (["clip=a", "clip=b"], "Two extractors"),
    ],
)
def test_specs_that_cannot_be_read(specs, message):
    with pytest.raises(InvalidConfig, match=message):
        parse_extractors(specs)
