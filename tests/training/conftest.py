"""Tiny pipelines of every family and a small captioned dataset, written once per session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training import tiny


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny tensors gain nothing from threads, and a busy machine loses much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Callable[..., Path]:
    """Folder of a tiny pipeline by family name; tests must not change it."""
    written: dict[str, Path] = {}

    def folder(name: str, **options: object) -> Path:
        key = json.dumps([name, options])
        if key not in written:
            written[key] = tiny.save(name, tmp_path_factory.mktemp(name), **options)
        return written[key]

    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Five captioned images of different sizes; one caption is longer than the text encoder's 16 tokens."""
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(4)
    rows = []
    for number, caption in enumerate(["a cat", "a dog", "", "an extraordinarily long caption", "a cat"]):
        name = f"{number}.png"
        coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((36 + number, 45)).save(folder / name)
        rows.append({"file_name": name, "text": caption})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Path:
    """Ten captioned images: squares, wide ones and a panorama, and one that is upright by its metadata."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(5)
    sizes = [
        (40, 40),
        (60, 40),
        (32, 32),
        (70, 40),
        (300, 30),
        (50, 50),
        (64, 40),
        (60, 30),
        (40, 44),
        (33, 30),
    ]
    rows = []
    for number, (width, height) in enumerate(sizes):
        image = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
        name, exif = f"{number}.png", Image.Exif()
        if number == 7:
            exif[274] = 6
            image.save(folder / name, exif=exif)
        else:
            image.save(folder / name)
        rows.append({"file_name": name, "text": f"a cat {number}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
