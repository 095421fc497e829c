"""Scorers against their formulas."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from matchgraph.minizoo import ROOT
from matchgraph.training.errors import ScorerUnavailable
from matchgraph.training.measure.extractors import load_clip
from matchgraph.training.measure.prompts import load_prompt_encoder
from matchgraph.training.measure.quality import AestheticScore, ClipScore, Nearness, Sharpness, sharpness
from matchgraph.training.measure.scorers import load_scorers
from tests.training.hub import put_into_cache, use_cache

CLIP = ROOT / "probes" / "clip"
NOTO_ANIMALS = ROOT / "datasets" / "noto-animals"


def blurred_by_hand(intensities: np.ndarray) -> np.ndarray:
    """A Gaussian of standard deviation 1, cut off at 4, the image mirrored at its border."""
    at = np.arange(-4, 5)
    kernel = np.exp(-(at**2) / 2)
    kernel /= kernel.sum()
    padded = np.pad(intensities, 4, mode="symmetric")
    window = np.lib.stride_tricks.sliding_window_view(padded, (9, 9))
    return np.einsum("ijkl,k,l->ij", window, kernel, kernel)


def test_sharpness_is_the_papers_formula() -> None:
    image = np.random.default_rng(0).uniform(size=(12, 17))
    expected = ((image - blurred_by_hand(image)) ** 2).sum() / (image**2).sum()
    assert sharpness(image) == pytest.approx(expected, rel=1e-12)
    assert sharpness(255 * image) == pytest.approx(expected, rel=1e-12)


def test_flat_images_are_not_sharp_and_blurring_lowers_sharpness() -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
    images = [Image.new("RGB", (32, 32), colour) for colour in ("black", "grey")] + [Image.fromarray(noise)]
    black, grey, sharp = Sharpness().score([""] * 3, images)
    assert (black, grey) == (0.0, pytest.approx(0, abs=1e-20))
    assert sharpness(blurred_by_hand(noise.mean(axis=2))) < 0.2 * sharp


def icons(names: list[str]) -> list[Image.Image]:
    return [Image.open(NOTO_ANIMALS / name).convert("RGB") for name in names]


def test_clip_score_is_the_cosine_and_knows_a_caption() -> None:
    scorer = ClipScore(load_clip(CLIP), load_prompt_encoder(CLIP))
    lines = (NOTO_ANIMALS / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    names, captions = [row["file_name"] for row in rows], [row["text"] for row in rows]
    images = icons(names)
    own = scorer.score(captions, images)
    assert (np.abs(own) <= 1).all()
    food = (NOTO_ANIMALS.parent / "noto-food" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    others = scorer.score([json.loads(line)["text"] for line in food], images[: len(food)])
    assert own.mean() > others.mean() + 0.05
    one = load_clip(CLIP).features(images[:1])[0]
    text = load_prompt_encoder(CLIP).encode(captions[:1]).embeddings[0]
    assert own[0] == pytest.approx(one @ text / np.linalg.norm(one), abs=1e-5)


def test_a_clip_says_which_prompts_it_cuts() -> None:
    encoder = load_prompt_encoder(CLIP)
    length = encoder.encode(["a"]).length
    assert length is not None
    # Two tokens mark the ends; a prompt that just fits is not cut.
    words = ["cat", "cat " * (length - 2), "cat " * (length - 1), "cat " * 200]
    found = encoder.encode(words)
    assert found.cut is not None
    assert found.cut.tolist() == [False, False, True, True]
    assert found.notes() == [
        f"longer than the {length} tokens that the encoder reads: 2 of 4 prompts; their ends do not count"
    ]


def test_a_clip_whose_padding_is_the_end_of_text_says_which_prompts_it_cuts() -> None:
    encoder = load_prompt_encoder(CLIP)
    own = encoder._tokenizer
    end = own([""], context_length=3)[0, 1]
    encoder._tokenizer = lambda *texts, **options: own(*texts, **options).masked_fill_(
        own(*texts, **options) == 0, end
    )
    length = encoder.encode(["a"]).length
    words = ["cat", "cat " * (length - 2), "cat " * (length - 1), "cat " * 200]
    assert encoder.encode(words).cut.tolist() == [False, False, True, True]
    # A tokenizer that fills all with one number tells nothing.
    encoder._tokenizer = lambda *texts, **options: own(*texts, **options).fill_(end)
    found = encoder.encode(words)
    assert (found.cut, found.notes()) == (None, [])


def layers(path: Path, widths: list[int]) -> Path:
    generator = np.random.default_rng(0)
    path.parent.mkdir(exist_ok=True)
    tensors = {}
    for number, (width, out) in enumerate(pairwise(widths)):
        tensors[f"layers.{2 * number}.weight"] = generator.normal(size=(out, width)).astype(np.float32)
        tensors[f"layers.{2 * number}.bias"] = generator.normal(size=out).astype(np.float32)
    save_file(tensors, path)
    return path


def test_the_aesthetic_score_is_its_layers_on_the_normalised_embedding(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    extractor, path = load_clip(CLIP), layers(tmp_path / "aesthetic.safetensors", [64, 16, 8, 1])
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 16),
        torch.nn.Dropout(),
        torch.nn.Linear(16, 8),
        torch.nn.Dropout(),
        torch.nn.Linear(8, 1),
    )
    network.load_state_dict(
        {name.removeprefix("layers."): tensor for name, tensor in load_file(path).items()}
    )
    images = icons(["ant.png", "beaver.png"])
    seen = torch.nn.functional.normalize(torch.from_numpy(extractor.features(images)).float())
    with torch.no_grad():
        expected = network.eval()(seen)[:, 0].numpy()
    scorer = AestheticScore(extractor, path)
    assert scorer.score(["", ""], images) == pytest.approx(expected, rel=1e-4)
    assert scorer.hash != AestheticScore(extractor, layers(tmp_path / "other.safetensors", [64, 1])).hash


@pytest.mark.parametrize(
    ("widths", "message"), [([32, 1], "takes 32 numbers and gets 64"), ([64, 2], "gives 2 numbers")]
)
def test_aesthetic_weights_of_another_clip_are_refused(widths, message, tmp_path: Path) -> None:
    with pytest.raises(ScorerUnavailable, match=message):
        AestheticScore(load_clip(CLIP), layers(tmp_path / "weights.safetensors", widths))


def test_aesthetic_weights_are_found_by_their_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    extractor = load_clip(CLIP)
    with pytest.raises(ScorerUnavailable, match="weights of owner/aesthetic are not on this machine"):
        AestheticScore(extractor, Path("owner/aesthetic"))
    own = layers(tmp_path / "repository" / "model.safetensors", [64, 1])
    put_into_cache(tmp_path / "cache", "owner/aesthetic", own.parent)
    assert AestheticScore(extractor, Path("owner/aesthetic")).hash == AestheticScore(extractor, own).hash


def test_aesthetic_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScorerUnavailable, match=r"none\.safetensors is not a safetensors file"):
        AestheticScore(load_clip(CLIP), tmp_path / "none.safetensors")
    # A path within the working folder is not a name on the hub.
    with pytest.raises(ScorerUnavailable, match=r"weights/none\.safetensors is not a safetensors file"):
        AestheticScore(load_clip(CLIP), Path("weights/none.safetensors"))
    (tmp_path / "pickled.pth").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ScorerUnavailable, match=r"pickled\.pth is not a safetensors file"):
        AestheticScore(load_clip(CLIP), tmp_path / "pickled.pth")


def test_nearness_is_the_cosine_to_the_mean_of_the_images():
    eyes = SimpleNamespace(
        hash="eyes",
        features=lambda images: np.array(list(images), dtype=float),
        statistics=lambda images: SimpleNamespace(mean=np.mean(list(images), axis=0)),
    )
    near = Nearness(eyes, iter([[2.0, 0.0], [0.0, 2.0]]), "set")
    assert near.score(["", ""], [[3.0, 3.0], [1.0, -1.0]]).tolist() == pytest.approx([1.0, 0.0])
    # Another machine gives other features of the same images.
    assert near.hash == Nearness(eyes, [[2.001, 0.0], [0.0, 2.0]], "set").hash
    assert near.hash != Nearness(eyes, [[2.0, 0.0], [0.0, 2.0]], "other").hash
    with pytest.raises(ScorerUnavailable, match="--images"):
        load_scorers(["nearness"], CLIP)
