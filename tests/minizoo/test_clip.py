"""The CLIP as open_clip loads it, and its text tower as transformers has it."""

from __future__ import annotations

import pytest
import torch

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.clip import load_open_clip, new_clip, shift_and_flip, text_towers
from matchgraph.minizoo.build.datasets import DATASETS
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.tokenizer import open_clip_tokenizer

CLIP = ROOT / "probes" / "clip"
CAPTIONS = [
    "red apple, food and drink",
    "noto style, cat face, animal or plant",
    "",
    "airplane, travel and places",
]


@pytest.fixture(scope="module")
def clip():
    return load_open_clip(CLIP)


def test_the_text_tower_converts_exactly(clip) -> None:
    tokens = open_clip_tokenizer(CLIP)(CAPTIONS)
    plain, projected = text_towers(clip)
    with torch.no_grad():
        states = clip.ln_final(
            clip.transformer(
                clip.token_embedding(tokens) + clip.positional_embedding, attn_mask=clip.attn_mask
            )
        )
        torch.testing.assert_close(plain(input_ids=tokens).last_hidden_state, states, rtol=1e-5, atol=1e-5)
        embedded = projected(input_ids=tokens).text_embeds
        torch.testing.assert_close(embedded, clip.encode_text(tokens), rtol=1e-5, atol=1e-5)
    assert len({tuple(row.tolist()) for row in embedded}) == len(CAPTIONS)


def test_open_clips_own_loader_gives_the_model_its_transform_and_its_tokenizer() -> None:
    import open_clip
    from PIL import Image

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{CLIP}")
    image = transform(Image.open(next((DATASETS / "noto-food").glob("*.png"))).convert("RGB"))
    assert image.shape == (3, 32, 32)
    assert -1.05 <= float(image.min()) < float(image.max()) <= 1.05
    with torch.no_grad():
        assert model.encode_image(image[None].float()).shape == (1, 64)


def test_images_of_a_style_are_closer_to_its_name(clip) -> None:
    from matchgraph.minizoo.build.icons import STYLE_WORDS

    folders = {"noto": "noto-animals", "openmoji": "openmoji-animals"}
    tokens = open_clip_tokenizer(CLIP)([f"{STYLE_WORDS[style]}, animal or plant" for style in folders])
    right = total = 0
    with torch.no_grad():
        texts = clip.encode_text(tokens, normalize=True)
        for index, folder in enumerate(folders.values()):
            nearest = (clip.encode_image(load_folder(folder), normalize=True) @ texts.T).argmax(1)
            right, total = right + int((nearest == index).sum()), total + len(nearest)
    assert right / total > 0.8


def load_folder(name: str) -> torch.Tensor:
    import numpy as np
    from PIL import Image

    from matchgraph.minizoo.build.corpus import pixels_to_tensor

    images = [Image.open(path).convert("RGB") for path in sorted((DATASETS / name).glob("*.png"))]
    return pixels_to_tensor(np.stack([np.asarray(image) for image in images]))


def test_shifting_and_flipping_keeps_what_may_not_be_mirrored() -> None:
    ramp = torch.linspace(-1, 0, 8).expand(64, 3, 8, 8).clone()
    may_flip = torch.arange(64) % 2 == 0
    moved = shift_and_flip(ramp, may_flip, torch.Generator().manual_seed(0))
    rising = moved[:, 0, 4, 5] > moved[:, 0, 4, 3]
    assert rising[~may_flip].all()
    assert 0 < int(rising[may_flip].sum()) < int(may_flip.sum())


def test_a_clip_that_is_not_there_is_asked_for_by_name(tmp_path) -> None:
    with pytest.raises(StageNotReady, match=r"python -m matchgraph\.minizoo\.build\.towers clip"):
        load_open_clip(tmp_path)


def test_initial_weights_follow_the_seed() -> None:
    one, same, other = new_clip(0), new_clip(0), new_clip(1)
    assert torch.equal(one.text_projection, same.text_projection)
    assert not torch.equal(one.text_projection, other.text_projection)
