"""Pipelines that draw without a model: an image is a colour that follows from its noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

OPENED = "matchgraph.training.memory.drawing.opened_to_draw"
STREAM_IMAGES = "matchgraph.training.sampling.generate.stream_images"


class Pipelines:
    """Stands for `opened_to_draw` and `stream_images`, and records how they were called.

    Args:
        monkeypatch: puts it in their place.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[Any] = []
        self.precisions: list[str] = []
        self.calls: list[dict[str, Any]] = []
        monkeypatch.setattr(OPENED, self._open)
        monkeypatch.setattr(STREAM_IMAGES, self._stream)

    @contextmanager
    def _open(self, folder: Any, *, precision: str, **_: Any) -> Iterator[Any]:
        self.opened.append(folder)
        self.precisions.append(precision)
        yield folder

    def _stream(
        self, loaded: Any, adapter: Any, prompts: Sequence[str], config: Any, *, numbers: Sequence[str]
    ) -> Iterator[Image.Image]:
        assert config.n == len(prompts) == len(numbers)
        own = {"model": loaded, "adapter": adapter, "prompts": list(prompts), "config": config}
        self.calls.append({**own, "numbers": list(numbers)})
        for number in numbers:
            yield Image.new("RGB", (8, 8), (hash(number) % 255, 0, 0))
