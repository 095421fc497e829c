"""Footprints are traced once for the same configs and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from matchgraph.training.memory import kept


def test_a_footprint_is_traced_again_only_where_configs_or_options_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[int] = []

    def footprint(_folder: Path, **options: Any) -> tuple[int, int]:
        traced.append(options["rank"])
        return len(traced), options["rank"]

    monkeypatch.setattr(kept, "footprint", footprint)
    model, cache = tmp_path / "model", tmp_path / "cache"
    model.mkdir()
    config = model / "model_index.json"
    config.write_text("{}")

    def asked(rank: int, place: Path | None = cache, folder: Path = model) -> Any:
        options: dict[str, Any] = {"precision": "bf16", "resolution_px": 512, "method": "lora", "rank": rank}
        return kept.kept_footprint(folder, place, **options)

    assert [asked(4), asked(4), asked(8), asked(4)] == [(1, 4), (1, 4), (2, 8), (1, 4)]
    # The configs count, not where they lie.
    moved = model.rename(tmp_path / "moved")
    assert asked(4, folder=moved) == (1, 4)
    (moved / config.name).write_text('{"a": 1}')
    assert asked(4, folder=moved) == (3, 4)
    # Without a cache, or with one that cannot be written, all are traced.
    assert [asked(4, None, moved), asked(4, moved / config.name, moved)] == [(4, 4), (5, 4)]
