"""The text encoders that are no CLIP: their tokenizers, and that training teaches them the CLIP's meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from matchgraph.minizoo.build import loop, towers
from matchgraph.minizoo.build.tokenizer import CONTEXT_LENGTH
from matchgraph.minizoo.build.towers import CONFIGS, load_tower, new_tokenizer, sana_instruction, train_tower

each_tower = pytest.mark.parametrize("name", sorted(CONFIGS))
CAPTIONS = ["red apple, food and drink", "green apple, food and drink", "sailing boat, travel and places"]


@each_tower
def test_a_tokenizer_learns_words_and_saves_what_it_learnt(name, tmp_path: Path) -> None:
    words = new_tokenizer(name, CAPTIONS * 20, tmp_path / "pieces")
    rows = [words(caption).input_ids for caption in CAPTIONS]
    assert all(len(row) <= CONTEXT_LENGTH for row in rows)
    assert len({tuple(row) for row in rows}) == len(CAPTIONS)
    letters = len(CAPTIONS[0].replace(" ", ""))
    assert len(rows[0]) < letters / 2  # pieces, not letters
    words.save_pretrained(tmp_path / "saved")
    again = type(words).from_pretrained(tmp_path / "saved", local_files_only=True)
    assert [again(caption).input_ids for caption in CAPTIONS] == rows
    assert new_tokenizer(name, CAPTIONS * 20, tmp_path / "twice")(CAPTIONS[0]).input_ids == rows[0]


def test_a_line_of_sanas_instruction_is_one_token(tmp_path: Path) -> None:
    words = new_tokenizer("gemma", CAPTIONS * 20, tmp_path)
    lines = sana_instruction()
    assert len(lines) > 3
    alone = words.encode("\n".join(lines))
    assert len(alone) == 2 * len(lines)  # the start, the lines, and what parts them
    assert words.encode("\n".join(lines) + CAPTIONS[0])[: len(alone)] == alone


@each_tower
def test_training_draws_a_caption_to_its_embedding(
    name, small_pool, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WORK", tmp_path)
    monkeypatch.setattr(loop, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(towers, "WORK", tmp_path)
    monkeypatch.setattr(towers, "CLIP_FOLDER", shared / "clip")
    quick = replace(CONFIGS[name], steps=30, batch_size=8, warmup_steps=1, log_every=5, checkpoint_every=30)
    monkeypatch.setitem(towers.CONFIGS, name, quick)
    train_tower(name, small_pool)
    rows = (tmp_path / "logs" / f"{quick.name}.csv").read_text(encoding="utf-8").splitlines()
    alignment = [float(row.split(",")[rows[0].split(",").index("alignment")]) for row in rows[1:]]
    assert alignment[-1] < 0.7 * alignment[0]
    measured = towers.save_tower(name, small_pool, tmp_path / "saved")
    assert measured["steps"] == 30
    tower, words = load_tower(name, tmp_path / "saved")
    assert next(tower.parameters()).dtype == torch.float32
    assert len(words("tiger").input_ids) > 0
