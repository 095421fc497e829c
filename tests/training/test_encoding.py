"""Encoding datasets: each image and caption once, in the right row, under a key that tells everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from matchgraph.training.errors import BadImage, NonFiniteEncoding
from matchgraph.training.files import file_hash
from matchgraph.training.images import covering, list_captioned_images, load_rgb
from matchgraph.training.pipelines import encoding
from matchgraph.training.pipelines.cache import CacheUse, EncodingCache
from matchgraph.training.pipelines.encoding import (
    PromptRows,
    Rows,
    dataset_hash,
    encode_dataset,
    encode_prompts,
    same_text_encoding,
)
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.seeds import seeded_generator


@pytest.fixture(scope="module")
def pixart(tiny_folder):
    with LoadedPipeline(tiny_folder("pixart"), device="cpu") as loaded:
        yield loaded


@pytest.fixture
def copy(dataset, tmp_path) -> Path:
    """The dataset, to be changed."""
    return Path(shutil.copytree(dataset, tmp_path / "images"))


def test_rows_are_picked_across_shards_in_the_order_asked():
    shards = [{"x": torch.arange(start, min(start + 3, 8)).view(-1, 1)} for start in (0, 3, 6)]
    rows = Rows(shards)
    assert len(rows) == 8
    assert rows.pick([7, 0, 3, 2, 3])["x"].tolist() == [[7], [0], [3], [2], [3]]


def test_batches_hold_images_with_their_own_captions(pixart, dataset):
    data = encode_dataset(pixart, dataset, resolution_px=32, seed=1)
    assert len(data) == 5
    latents, conditioning = data.batch([4, 1, 0], [True, False, True])
    captions = encode_prompts(pixart, ["a cat", "", "a cat"]).pick([0, 1, 2])
    assert latents.shape == (3, 4, 8, 8)
    for name, rows in conditioning.items():
        assert torch.allclose(rows, captions[name], atol=1e-5)
    assert torch.equal(latents[1], data.batch([1], [True])[0][0])
    assert (data.captioned, data.truncated) == (4, 1)


def test_images_held_out_are_not_trained_on(pixart, copy):
    whole = encode_dataset(pixart, copy, resolution_px=32, seed=1)
    before = dataset_hash(list_captioned_images(copy))
    rows = [json.loads(line) for line in (copy / "metadata.jsonl").read_text().splitlines()]
    rows[1]["split"] = "validation"
    (copy / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = encode_dataset(pixart, copy, resolution_px=32, seed=1)
    assert (len(whole), len(data)) == (5, 4)
    kept = whole.batch([0, 2, 3, 4], [True] * 4)[0]
    assert torch.allclose(data.batch([0, 1, 2, 3], [True] * 4)[0], kept, atol=1e-5)
    assert dataset_hash(list_captioned_images(copy)) != before


def test_what_is_told_of_an_image_stays_with_it(tiny_folder, dataset):
    with LoadedPipeline(tiny_folder("sdxl"), device="cpu") as loaded:
        data = encode_dataset(loaded, dataset, resolution_px=32, seed=1)
    _, conditioning = data.batch([3, 0], [True, True])
    [name] = data.image_conditioning
    # Original height and width, as the dataset's images have them.
    assert conditioning[name][:, :2].tolist() == [[45, 39], [45, 36]]


def test_batches_are_put_together_from_several_shards(pixart, dataset, monkeypatch):
    whole = encode_dataset(pixart, dataset, resolution_px=32, seed=1)
    monkeypatch.setattr(encoding, "LARGEST_IMAGE_BATCH", 2)
    monkeypatch.setattr(encoding, "PROMPT_BATCH", 2)
    parts = encode_dataset(pixart, dataset, resolution_px=32, seed=1)
    for one, other in zip(whole.batch(range(5), [True] * 5), parts.batch(range(5), [True] * 5), strict=True):
        for name, rows in one.items() if isinstance(one, dict) else [("", one)]:
            assert torch.allclose(rows, other[name] if name else other, atol=1e-4)


def test_an_images_draw_depends_on_it_and_the_seed_alone(pixart, copy):
    before = encode_dataset(pixart, copy, resolution_px=32, seed=1).batch(range(5), [True] * 5)[0]
    lines = (copy / "metadata.jsonl").read_text().splitlines()
    (copy / "metadata.jsonl").write_text("\n".join(reversed(lines)))
    after = encode_dataset(pixart, copy, resolution_px=32, seed=1).batch(range(5), [True] * 5)[0]
    assert torch.allclose(before, after.flip(0), atol=1e-4)
    other = encode_dataset(pixart, copy, resolution_px=32, seed=2).batch(range(5), [True] * 5)[0]
    # The posterior's own spread lies between draws of two seeds.
    assert not torch.allclose(after, other, atol=1e-2)


def test_cutting_is_reported(pixart, tmp_path):
    for name, size in {"square": (40, 40), "wide": (80, 40), "small": (16, 20)}.items():
        Image.new("RGB", size, "teal").save(tmp_path / f"{name}.png")
    aspect = encode_dataset(pixart, tmp_path, resolution_px=32, seed=1).aspect
    assert aspect["handling"] == encoding.ASPECT_HANDLING
    assert (aspect["cropped"], aspect["enlarged"]) == (2, 1)
    # Of the wide image half is lost, of the small one 4 rows of 20.
    assert aspect["pixels_cut"] == pytest.approx((0 + 0.5 + 0.2) / 3)


def misses(loaded: LoadedPipeline, folder: Path, cache: EncodingCache, **changes: Any) -> int:
    use = CacheUse(cache)
    encode_dataset(loaded, folder, **({"resolution_px": 32, "seed": 1} | changes), use=use)
    return use.misses


def test_a_key_tells_all_that_an_encoding_depends_on(pixart, copy, tiny_folder, tmp_path):
    cache = EncodingCache(tmp_path / "cache", 10**8)
    assert misses(pixart, copy, cache) == 2
    assert misses(pixart, copy, cache) == 0
    # Of images and captions, one entry each.
    assert misses(pixart, copy, cache, seed=2) == 1
    assert misses(pixart, copy, cache, resolution_px=48) == 1
    with LoadedPipeline(tiny_folder("pixart"), device="cpu", precision="bf16") as half:
        assert misses(half, copy, cache) == 2
    changed = Path(shutil.copytree(pixart.folder, tmp_path / "changed"))
    with LoadedPipeline(changed, device="cpu") as same:
        assert misses(same, copy, cache) == 0
    for part, lost in [("transformer", 0), ("scheduler", 0), ("vae", 1), ("text_encoder", 1)]:
        config = next((changed / part).glob("*config.json"))
        config.write_text(config.read_text() + " ")
        with LoadedPipeline(changed, device="cpu") as other:
            assert misses(other, copy, cache) == lost, part
    metadata = copy / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a dog", "a hog"))
    assert misses(pixart, copy, cache) == 1
    Image.new("RGB", (40, 40), "red").save(copy / "1.png")
    assert misses(pixart, copy, cache) == 1


def test_images_that_turned_bad_are_found_although_they_are_cached(pixart, copy, tmp_path):
    cache = EncodingCache(tmp_path / "cache", 10**8)
    misses(pixart, copy, cache)
    (copy / "2.png").write_bytes((copy / "2.png").read_bytes()[:60])
    with pytest.raises(BadImage, match=r"2\.png"):
        misses(pixart, copy, cache)


def test_images_get_the_shapes_of_their_buckets(pixart, mixed):
    data = encode_dataset(pixart, mixed, resolution_px=32, seed=1, aspect_buckets=True)
    square, wide, high = (32, 32), (40, 24), (24, 40)
    assert data.shapes == [square, wide, square, wide, wide, square, wide, high, square, square]
    images = list_captioned_images(mixed)
    for number, shape in enumerate(data.shapes):
        latents, conditioning = data.batch([number], [True])
        assert latents.shape[-2:] == (shape[1] // 4, shape[0] // 4)
        pixels = np.asarray(covering(load_rgb(images[number].path), shape))
        alone = pixart.family.encode_images(
            pixart.pipe,
            torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1,
            [seeded_generator("posterior", 1, file_hash(images[number].path))],
        )
        assert torch.allclose(latents, alone, atol=1e-4)
        caption = encode_prompts(pixart, [f"a cat {number}"]).pick([0])
        assert torch.allclose(conditioning["prompt_embeds"], caption["prompt_embeds"], atol=1e-5)
    together, _ = data.batch([6, 1, 4], [True] * 3)
    for row, number in zip(together, (6, 1, 4), strict=True):
        assert torch.equal(row, data.batch([number], [True])[0][0])


def test_parts_are_of_one_shape_and_make_the_whole(pixart, mixed):
    data = encode_dataset(pixart, mixed, resolution_px=32, seed=1, aspect_buckets=True)
    parts = [list(part) for part in data.parts(3)]
    assert parts == [[0, 2, 5], [8, 9], [1, 3, 4], [6], [7]]
    plain = encode_dataset(pixart, mixed, resolution_px=32, seed=1)
    assert plain.shapes is None
    assert [list(part) for part in plain.parts(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_buckets_cut_is_reported(pixart, mixed):
    aspect = encode_dataset(pixart, mixed, resolution_px=32, seed=1, aspect_buckets=True).aspect
    assert aspect["handling"] == encoding.BUCKET_HANDLING
    assert aspect["buckets"] == {"24x40": 1, "32x32": 5, "40x24": 4}
    # 60 x 40 keeps 36 of its rows, and so on; all but three squares lose something.
    whole = [
        1 - 36 / 40, 1 - (200 / 3) / 70, 1 - 50 / 300, 1 - 38.4 / 40, 1 - 50 / 60, 1 - 40 / 44, 1 - 30 / 33,
    ]  # fmt: skip
    assert aspect["cropped"] == 7
    assert aspect["pixels_cut"] == pytest.approx(sum(whole) / 10)
    # Of 33 x 30; what is left of the panorama, 50 x 30, and of the upright image, 30 x 50, is larger.
    assert aspect["enlarged"] == 1


def test_the_sizes_told_are_those_of_the_bucket(tiny_folder, mixed):
    with LoadedPipeline(tiny_folder("sdxl"), device="cpu") as loaded:
        data = encode_dataset(loaded, mixed, resolution_px=32, seed=1, aspect_buckets=True)
    [name] = data.image_conditioning
    # Height before width: original, corner of the cut, and target.
    told = [data.batch([number], [True])[1][name][0].tolist() for number in (2, 4, 7)]
    assert told[0] == [32, 32, 0, 0, 32, 32]
    assert told[1] == [30, 300, 0, 100, 24, 40]
    assert told[2] == [60, 30, 4, 0, 40, 24]


def test_what_a_key_of_squares_says_is_what_it_said_before_there_were_buckets(pixart, dataset, tmp_path):
    class Noted(CacheUse):
        def fetch(self, facts):
            asked.append(facts)
            return super().fetch(facts)

    asked: list[dict[str, Any]] = []
    use = Noted(EncodingCache(tmp_path, 10**8))
    encode_dataset(pixart, dataset, resolution_px=32, seed=1, use=use)
    images, _ = asked
    assert images.keys() == {
        "format", "what", "family", "weights", "index", "precision", "device", "versions", "resolution_px",
        "seed", "images",
    }  # fmt: skip
    assert (images["format"], images["what"], images["resolution_px"]) == (1, "images", 32)


def test_squares_keep_their_keys_and_buckets_have_their_own(pixart, mixed, tmp_path):
    folder = Path(shutil.copytree(mixed, tmp_path / "images"))
    cache = EncodingCache(tmp_path / "cache", 10**8)
    # Images and captions; then the sizes and three buckets.
    assert misses(pixart, folder, cache) == 2
    assert misses(pixart, folder, cache, aspect_buckets=True) == 4
    assert misses(pixart, folder, cache, aspect_buckets=True) == 0
    assert misses(pixart, folder, cache) == 0
    # At 40 pixels the shapes are others.
    assert misses(pixart, folder, cache, aspect_buckets=True, resolution_px=40) == 3
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(rows[number]) for number in (0, 2, 5)))
    for number in set(range(10)) - {0, 2, 5}:
        (folder / f"{number}.png").unlink()
    misses(pixart, folder, cache)
    # Of squares alone, only their sizes are new.
    assert misses(pixart, folder, cache, aspect_buckets=True) == 1


def test_a_vae_that_overflows_is_told_and_not_cached(pixart, dataset, tmp_path, monkeypatch):
    own = type(pixart.family).encode_images
    monkeypatch.setattr(type(pixart.family), "encode_images", lambda *given: own(*given) / 0)
    cache = EncodingCache(tmp_path, 10**8)
    with pytest.raises(NonFiniteEncoding, match="fp32"):
        misses(pixart, dataset, cache)
    assert cache.size_bytes() == 0


def test_the_hash_of_a_dataset_is_of_its_content(copy, tmp_path):
    before = dataset_hash(list_captioned_images(copy))
    moved = Path(shutil.copytree(copy, tmp_path / "elsewhere"))
    assert dataset_hash(list_captioned_images(moved)) == before
    rows = [json.loads(line) for line in (copy / "metadata.jsonl").read_text().splitlines()]

    def after(changed: list[dict[str, str]]) -> str:
        (copy / "metadata.jsonl").write_text("\n".join(map(json.dumps, changed)))
        return dataset_hash(list_captioned_images(copy))

    assert after(rows) == before
    assert after(rows[::-1]) != before
    assert after([rows[0] | {"text": "a hat"}, *rows[1:]]) != before
    pixels = np.asarray(Image.open(copy / "0.png")).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(copy / "0.png")
    assert after(rows) != before


def test_pipelines_encode_alike_if_all_that_counts_is_equal(tiny_folder, tmp_path):
    copy = Path(shutil.copytree(tiny_folder("sdxl"), tmp_path / "sdxl"))
    with (
        LoadedPipeline(tiny_folder("sdxl"), device="cpu") as one,
        LoadedPipeline(copy, device="cpu") as other,
    ):
        assert same_text_encoding(one, other)
        rows = [PromptRows(each, ["a cat"]).pick(["a cat", ""], each.device) for each in (one, other)]
        assert rows[0].keys() == rows[1].keys()
        assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])
        with LoadedPipeline(tiny_folder("sd"), device="cpu") as another_family:
            assert not same_text_encoding(one, another_family)
        other.pipe.register_to_config(force_zeros_for_empty_prompt=False)
        assert not same_text_encoding(one, other)
        other.pipe.register_to_config(force_zeros_for_empty_prompt=True)
        assert same_text_encoding(one, other)
        weight = other.pipe.text_encoder_2.text_projection.weight.data
        before = weight.clone()
        weight[0, 0] += 1
        assert not same_text_encoding(one, other)
        weight.copy_(before)
        assert same_text_encoding(one, other)
        vocabulary = copy / "tokenizer" / "tokenizer_config.json"
        vocabulary.write_text(vocabulary.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        assert not same_text_encoding(one, other)
