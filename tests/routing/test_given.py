"""Images that candidates drew elsewhere are scored as those drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.routing import given
from matchgraph.routing.score_files import read_score_file


class Brightness:
    """Scores an image by how bright it is, twice for a cat."""

    metric, hash = "brightness", "0123456789abcdef"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        self.batches.append(len(images))
        bright = np.array([float(np.asarray(image).mean()) for image in images])
        return bright * np.array([2.0 if "cat" in prompt else 1.0 for prompt in prompts])


def test_images_of_a_prompt_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "BATCH", 2)
    for grey in (10, 20, 30):
        Image.new("RGB", (4, 4), (grey,) * 3).save(tmp_path / f"{grey}.png")
    rows = ["a cat,A,10.png", "a cat,B,20.png", "a cat,A,30.png", "a dog,A,30.png"]
    (tmp_path / "drawn.csv").write_text("\n".join(["prompt,model,image", *rows]), encoding="utf-8")
    scorer = Brightness()
    found = given.scored(read_score_file(tmp_path / "drawn.csv"), scorer).scores
    assert scorer.batches == [2, 2]
    own = found["brightness"]
    assert {at: (each.mean, each.std) for at, each in own.items()} == {
        ("A", "a cat"): (40.0, pytest.approx(40 / 2**0.5)),
        ("B", "a cat"): (40.0, None),
        ("A", "a dog"): (30.0, None),
    }
