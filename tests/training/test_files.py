"""Files are whole or not there, and hashes follow their content."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from matchgraph.training import files
from matchgraph.training.files import (
    file_hash,
    files_below,
    folders_hash,
    json_hash,
    write_json,
    write_tensors,
)


def test_a_write_that_fails_leaves_the_file_before(tmp_path, monkeypatch):
    target = tmp_path / "a.safetensors"
    write_tensors(target, {"x": torch.ones(3)}, {})

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(files, "publish", fail)
    for write in (
        lambda: write_tensors(target, {"x": torch.zeros(3)}, {}),
        lambda: write_json(tmp_path / "a.json", {}),
    ):
        with pytest.raises(OSError, match="broken"):
            write()
    assert load_file(target)["x"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk_is_told_as_one(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space left") as told:
        write_tensors(tmp_path / "a.safetensors", {}, {})
    assert told.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="odd"), files.failing_as_files_do(tmp_path / "a.safetensors"):
        raise SafetensorError("odd")


def test_others_may_read_what_is_written(tmp_path):
    before = os.umask(0o022)
    try:
        write_json(tmp_path / "a.json", {"a": 1})
        write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(3)}, {})
    finally:
        os.umask(before)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}


def test_json_has_no_number_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_hash_follows_the_content(tmp_path):
    file = tmp_path / "part" / "a"
    file.parent.mkdir()
    file.write_bytes(b"one")
    first, folder = file_hash(file), folders_hash(tmp_path, ["part", "missing"])
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert file_hash(file) != first
    assert folders_hash(tmp_path, ["part"]) != folder
    file.write_bytes(b"one")
    assert folders_hash(tmp_path, ["part"]) == folder
    file.rename(tmp_path / "part" / "b")
    assert folders_hash(tmp_path, ["part"]) != folder
    assert json_hash({"a": 1, "b": 2}) == json_hash({"b": 2, "a": 1}) != json_hash({"a": 2, "b": 1})


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    shared, folder = tmp_path / "shared", tmp_path / "model"
    (shared / "inner").mkdir(parents=True)
    (shared / "inner" / "weights").write_text("w")
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "config").write_text("c")
    for name in ("a", "z"):
        (folder / name).symlink_to(shared)
    (shared / "back").symlink_to(folder)
    (folder / "b" / "up").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "nothing")
    names = [file.relative_to(folder).as_posix() for file in files_below(folder)]
    assert [name for name in names if "back" not in name] == [
        "a/inner/weights",
        "b/config",
        "z/inner/weights",
    ]
    assert len(names) < 10
    before = folders_hash(folder, ["a"])
    (shared / "inner" / "weights").write_text("other")
    assert folders_hash(folder, ["a"]) != before
