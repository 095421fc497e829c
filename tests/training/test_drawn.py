"""What is kept of images as they are drawn: whole batches, of one sample, without a gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matchgraph.training.measure.drawn import DrawnRows

FACTS = {"of": "a"}


def rows(first: int, n: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(first, first + n, dtype=np.float32)[:, None], "seconds": np.ones(n)}


def kept(folder: Path, name: str = "drawn") -> DrawnRows:
    return DrawnRows(folder, FACTS, name)


def test_a_sample_goes_on_after_its_last_whole_batch(tmp_path: Path) -> None:
    kept(tmp_path).add(0, rows(0, 3))
    kept(tmp_path).add(3, rows(3, 2))
    again = kept(tmp_path)
    assert again.count(["x", "seconds"]) == 5
    assert again.rows("x").ravel().tolist() == [0, 1, 2, 3, 4]
    assert again.rows("x", 4).ravel().tolist() == [0, 1, 2, 3]
    assert [len(batch) for batch in again.batches("x", 4)] == [3, 1]
    # In other batches, as after the batch size was changed.
    again.add(5, rows(5, 4))
    assert again.rows("x").ravel().tolist() == list(range(9))


def test_batches_that_cannot_be_used_are_drawn_again(tmp_path: Path) -> None:
    for first in (0, 2, 4):
        kept(tmp_path).add(first, rows(first, 2))
    middle = tmp_path / "drawn-00000002-00000004.safetensors"
    whole = middle.read_bytes()
    middle.write_bytes(whole[:-5])
    assert kept(tmp_path).count(["x"]) == 2
    middle.write_bytes(whole)
    assert kept(tmp_path).count(["x"]) == 6
    # Of another sample, or without what is needed.
    assert DrawnRows(tmp_path, {"of": "b"}).count(["x"]) == 0
    assert kept(tmp_path).count(["x", "y"]) == 0
    assert kept(tmp_path, "after").count(["x"]) == 0
    middle.unlink()
    assert kept(tmp_path).count(["x"]) == 2


def test_batches_of_a_run_by_fewer_extractors_hide_none_of_a_later_one(tmp_path: Path) -> None:
    # One that was stopped after its first image, and one that measures more, in larger batches.
    kept(tmp_path).add(0, rows(0, 1))
    later = kept(tmp_path)
    for first in (0, 4):
        later.add(first, {**rows(first, 4), "y": np.zeros(4)})
    assert later.count(["x", "y"]) == 8
    assert later.rows("x").ravel().tolist() == list(range(8))
    assert later.rows("x", 5).ravel().tolist() == list(range(5))


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert kept(tmp_path / "none").count(["x"]) == 0
