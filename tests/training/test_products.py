"""What a GPU multiplies as TF32, and what never: a CPU stands for it, whose setting is looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from matchgraph.drawing import Drawing
from matchgraph.training import products
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.measure.extractors.base import CaptionExtractor, Extractor
from matchgraph.training.measure.prompts import ClipPrompts
from matchgraph.training.measure.reward import ImageReward
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.finetune import fine_tune

IMAGES = [Image.new("RGB", (8, 8), "teal")]
WHOLE, ROUNDED = ("highest", False), ("high", True)


def setting() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def before() -> Iterator[tuple[str, bool]]:
    """A setting that is neither, so that it is seen to come back."""
    was = setting()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = False
    yield setting()
    torch.set_float32_matmul_precision(was[0])
    torch.backends.cudnn.allow_tf32 = was[1]


def bare(kind: type, **parts: Any) -> Any:
    """An instrument without its weights."""
    made = object.__new__(kind)
    vars(made).update(parts)
    return made


@pytest.mark.parametrize("kind", [Extractor, CaptionExtractor, ClipPrompts, ImageReward])
def test_who_measures_never_uses_tf32(kind: type, before: tuple[str, bool]) -> None:
    seen: list[tuple[str, bool]] = []
    cpu = torch.device("cpu")

    def network(*_: Any, **__: Any) -> torch.Tensor:
        seen.append(setting())
        return torch.zeros(1, 2)

    def part(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(last_hidden_state=network()[:, None])

    if kind is Extractor:
        Extractor("e", "0", 2, 8, (0.5,) * 3, (0.5,) * 3, network, cpu).features(IMAGES)
    elif kind is CaptionExtractor:
        CaptionExtractor("c", "0", 2, lambda _: network().numpy()).features(["a cat"])
    elif kind is ClipPrompts:
        bare(
            ClipPrompts,
            device=cpu,
            _tokenizer=lambda texts, context_length=2: torch.zeros(
                len(texts), context_length, dtype=torch.long
            ),
            _model=SimpleNamespace(encode_text=network),
            _seen=torch.zeros(1, 2, 3),
            _alone=threading.Lock(),
        ).encode(["a cat"])
    else:
        tokens = SimpleNamespace(input_ids=None, attention_mask=None)
        tokens.to = lambda _: tokens
        bare(
            ImageReward,
            _device=cpu,
            _side=8,
            _tokenizer=lambda *_, **__: tokens,
            _vision=part,
            _text=part,
            _head=network,
        ).score(["a cat"], IMAGES)
    assert set(seen) == {WHOLE}
    assert setting() == before


def test_a_gpu_uses_it_while_it_trains_and_draws_and_not_after(
    tiny_folder, dataset, tmp_path, monkeypatch, before
):
    # As if the device were a GPU.
    monkeypatch.setattr(products, "nullcontext", lambda: products._products(tf32=True))
    training = FineTuneConfig(
        steps=1, batch_size=2, learning_rate=1e-2, rank=2, alpha=2, resolution_px=32, device="cpu"
    )
    drawing = SampleConfig(n=1, drawing=Drawing(1, resolution_px=32), batch_size=1, device="cpu")
    seen = {}
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:
        kind = type(loaded.family)
        for name in ("loss", "sample"):
            own = getattr(kind, name)

            def called(*given: Any, own: Any = own, name: str = name, **named: Any) -> Any:
                seen[name] = setting()
                return own(*given, **named)

            monkeypatch.setattr(kind, name, called)
        fine_tune(loaded, dataset, training, tmp_path)
        assert setting() == before
        (image,) = sample_images(loaded, None, ["a cat"], drawing)
        assert setting() == before
    assert np.asarray(image).std() > 0
    assert seen == {"loss": ROUNDED, "sample": ROUNDED}
