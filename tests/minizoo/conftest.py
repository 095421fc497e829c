"""A zoo of random weights with all shared parts, made once, to test what trains, assembles and exports it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from matchgraph.minizoo.build.icons import Icon, Pool

STYLES = ("noto", "twemoji", "openmoji", "fluent-emoji", "fluent-emoji-flat", "noto-v1", "emojione")
STYLES += ("emojione-v1", "fluent-emoji-high-contrast")
NAMES = (
    ("food", "red-apple"),
    ("food", "green-salad"),
    ("animals", "tiger"),
    ("symbols", "up-arrow"),
    ("people", "woman-artist"),
    ("objects", "yellow-lamp"),
    ("travel", "sailing-boat"),
    ("smileys", "happy-face"),
)


@pytest.fixture(scope="session")
def small_pool() -> Pool:
    """Eight concepts in nine styles, each a square of its own place and colour."""
    draws = np.random.default_rng(0)
    icons = tuple(Icon(style, category, name, "") for style in STYLES for category, name in NAMES)
    pixels = np.full((len(icons), 32, 32, 3), 255, dtype=np.uint8)
    for row in range(len(icons)):
        top, left = draws.integers(2, 14, size=2)
        pixels[row, top : top + 14, left : left + 14] = draws.integers(0, 200, size=3)
    return Pool(icons, pixels)


@pytest.fixture(scope="session")
def shared(small_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of every part that the models share, in the layout of the trained ones."""
    import torch
    from safetensors.torch import save_file

    from matchgraph.minizoo.build import autoencoders, clip, probes, tokenizer, towers

    root = tmp_path_factory.mktemp("shared")
    for kind in autoencoders.CONFIGS:
        model = autoencoders.new_autoencoder(kind, 0)
        if kind == "kl":
            model.register_to_config(shift_factor=0.0)
        model.half().save_pretrained(root / autoencoders.CONFIGS[kind].name, safe_serialization=True)
    folder = root / towers.CLIP_FOLDER.name
    # The vocabulary's size is part of the CLIP's shape, so the text must be rich enough for all merges.
    words = [f"{a}{b}{c} {b}{a}{c}{a}" for a in "abcdefghijkl" for b in "mnopqrstuv" for c in "wxyzaeiou"]
    captions = [*words, *(icon.styled_caption for icon in small_pool.icons)]
    tokenizer.write_tokenizer(tokenizer.train_merges(captions), folder)
    settings = {"model_cfg": clip.MODEL_CFG, "preprocess_cfg": clip.PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(settings), encoding="utf-8")
    state = {key: value.to(torch.float16) for key, value in clip.new_clip(0).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    for name, config in probes.CONFIGS.items():
        probes.write_probe(probes.new_probe(name, 0), root / config.name)
    for name, config in towers.CONFIGS.items():
        words_of = towers.new_tokenizer(name, captions, root.parent / f"pieces-{name}")
        tower = towers.new_tower(name, towers.vocabulary_size(name, words_of), 0)
        tower.half().save_pretrained(root / config.name, safe_serialization=True)
        words_of.save_pretrained(root / f"tokenizer-{name}")
    return root
