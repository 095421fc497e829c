"""The picture of what models draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.minizoo.build import loop
from matchgraph.minizoo.build.denoisers import new_denoiser
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.sheets import draw, shown_rows, write_sheet
from matchgraph.minizoo.build.zoo import ZOO


def test_a_sheet_shows_icons_above_what_a_model_draws_for_them(
    small_pool, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    monkeypatch.setattr(loop, "WORK", tmp_path)
    model = ZOO["tiny-pixart"]
    with pytest.raises(StageNotReady, match="no checkpoint yet"):
        draw(model, ["tiger"], root=shared)
    path = loop.checkpoint_path(model.loop.name)
    path.parent.mkdir()
    weights = new_denoiser(model.shape, 0).named_parameters()
    save_file({f"ema.{k}": v.detach().contiguous() for k, v in weights}, path, {"step": "1", "seconds": "1"})
    write_sheet([model], small_pool, tmp_path / "sheet.png", columns=3, root=shared)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    assert sheet.size == (3 * 34 * 2, 2 * 34 * 2)
    rows = shown_rows(model, small_pool, 3)
    assert {small_pool.icons[row].style for row in rows} == {"fluent-emoji-flat"}
    upper = np.asarray(sheet.resize((3 * 34, 2 * 34), Image.Resampling.NEAREST), dtype=int)[:32, :32]
    assert np.abs(upper - small_pool.pixels[rows[0]]).mean() < 8  # a palette moves shades
