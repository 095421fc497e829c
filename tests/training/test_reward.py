"""ImageReward against what its authors' own code says of the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from matchgraph.training.errors import ScorerUnavailable
from matchgraph.training.measure.reward import TEXT_CONFIG, VOCABULARY, WEIGHTS, ImageReward
from tests.training.data.make_image_reward import HERE, MED, PROMPTS, WORDS, images, weights
from tests.training.hub import put_into_cache, use_cache

SAID = json.loads((HERE / "image_reward.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(weights(SAID["shapes"]), tmp_path / WEIGHTS)
    (tmp_path / TEXT_CONFIG).write_text(json.dumps(MED), encoding="utf-8")
    (tmp_path / VOCABULARY).write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


def test_it_says_what_its_authors_code_says(folder: Path) -> None:
    scorer = ImageReward(folder, device="cpu")
    assert scorer.score(PROMPTS, images()) == pytest.approx(SAID["rewards"], abs=1e-5)
    assert scorer.score(PROMPTS[1:2], images()[1:2]) == pytest.approx(SAID["rewards"][1:2], abs=1e-5)


def test_it_is_found_by_its_name_on_the_hub(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    use_cache(monkeypatch, cache)
    with pytest.raises(ScorerUnavailable, match="weights of owner/reward are not on this machine"):
        ImageReward("owner/reward", device="cpu")
    put_into_cache(cache, "owner/reward", folder)
    assert ImageReward("owner/reward", device="cpu").hash == ImageReward(folder, device="cpu").hash


def test_other_weights_have_another_hash(folder: Path) -> None:
    before = ImageReward(folder, device="cpu").hash
    tensors = load_file(folder / WEIGHTS)
    tensors["mlp.layers.0.bias"] += 1
    save_file(tensors, folder / WEIGHTS)
    assert ImageReward(folder, device="cpu").hash != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (WEIGHTS, None, "cannot be read as safetensors"),
        (WEIGHTS, b"\x80\x04pickled", "cannot be read as safetensors"),
        (TEXT_CONFIG, None, "med_config.json cannot be read"),
        (TEXT_CONFIG, b"[]", "not a JSON object"),
        (TEXT_CONFIG, b"{}", "does not hold ImageReward's network"),
        (VOCABULARY, None, "vocab.txt is missing"),
    ],
)
def test_what_is_missing_is_named(folder: Path, name: str, content: bytes | None, message: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ScorerUnavailable, match=message):
        ImageReward(folder, device="cpu")


@pytest.mark.parametrize(
    "lost", ["blip.text_encoder.encoder.layer.1.output.dense.bias", "blip.visual_encoder.norm.bias"]
)
def test_weights_that_lack_a_layer_are_refused(folder: Path, lost: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors[lost]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ScorerUnavailable, match="does not hold"):
        ImageReward(folder, device="cpu")
