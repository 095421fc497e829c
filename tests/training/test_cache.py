"""The encoding cache: bounded, shared, and never the reason for another result."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.files import SCRATCH_PREFIX
from matchgraph.training.pipelines import cache as module
from matchgraph.training.pipelines.cache import CacheUse, EncodingCache
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.sampling.generate import sample_images
from matchgraph.training.tune.finetune import fine_tune

KILOBYTES = 4


def entry(value: float = 0.0) -> dict[str, torch.Tensor]:
    """An entry of 4 KB and its header."""
    return {"x": torch.full((KILOBYTES * 256,), float(value))}


def room_for(entries: int) -> int:
    return entries * (KILOBYTES * 1024 + module.HEADER_BYTES_PER_TENSOR)


def test_what_is_stored_is_found_by_another_run(tmp_path):
    cache = EncodingCache(tmp_path / "new" / "cache", room_for(10))
    use = CacheUse(cache)
    assert use.fetch({"a": 1}) is None
    stored = use.store({"a": 1}, entry(3.0) | {"n": torch.arange(3, dtype=torch.int32)})
    other = CacheUse(EncodingCache(cache.folder, cache.limit_bytes))
    found = other.fetch({"a": 1})
    for tensors in (stored, found):
        assert torch.equal(tensors["x"], entry(3.0)["x"])
        assert tensors["n"].tolist() == [0, 1, 2]
        assert tensors["n"].dtype == torch.int32
    assert other.fetch({"a": 2}) is None
    assert use.counts() == {"hits": 0, "misses": 1, "unstored": 0}
    assert other.counts() == {"hits": 1, "misses": 1, "unstored": 0}


def test_without_a_cache_nothing_is_kept_or_counted():
    use = CacheUse(None)
    assert use.fetch({}) is None
    assert torch.equal(use.store({}, entry(1.0))["x"], entry(1.0)["x"])
    assert use.counts() is None
    assert not use.active


def test_the_least_recently_used_give_way(tmp_path):
    cache = EncodingCache(tmp_path, room_for(3))
    for number in range(3):
        CacheUse(cache).store({"number": number}, entry(number))
    assert CacheUse(cache).fetch({"number": 0}) is not None
    CacheUse(cache).store({"number": 3}, entry(3))
    use = CacheUse(cache)
    assert [number for number in range(4) if use.fetch({"number": number})] == [0, 2, 3]


def test_a_run_does_not_push_out_what_it_uses_itself(tmp_path):
    cache = EncodingCache(tmp_path, room_for(2))
    CacheUse(cache).store({"older": 1}, entry())
    use = CacheUse(cache)
    kept = [use.store({"number": number}, entry(number)) for number in range(4)]
    assert use.unstored == 2
    assert all(torch.equal(tensors["x"], entry(number)["x"]) for number, tensors in enumerate(kept))
    assert cache.size_bytes() <= cache.limit_bytes
    assert [number for number in range(4) if use.fetch({"number": number})] == [0, 1]
    assert use.fetch({"older": 1}) is None


def test_what_finds_no_room_and_is_too_much_for_memory_is_mapped_from_a_file_without_a_name(
    tmp_path, monkeypatch
):
    mapped = []
    own = module._mapped
    monkeypatch.setattr(module, "_mapped", lambda path: mapped.append(path.name) or own(path))
    monkeypatch.setattr(module, "HELD_BYTES", room_for(1))
    use = CacheUse(EncodingCache(tmp_path, 1))
    kept = [use.store({"number": number}, entry(number)) for number in range(3)]
    assert use.unstored == 3
    assert all(torch.equal(tensors["x"], entry(number)["x"]) for number, tensors in enumerate(kept))
    assert [name.startswith(".scratch-") for name in mapped] == [True, True]
    assert not list(tmp_path.glob("*scratch*"))


def test_an_entry_above_the_limit_costs_no_other_its_place(tmp_path):
    cache = EncodingCache(tmp_path, room_for(1))
    CacheUse(cache).store({"small": 1}, entry())
    use = CacheUse(cache)
    use.store({"large": 1}, {"x": torch.zeros(10_000)})
    assert use.unstored == 1
    assert use.fetch({"small": 1}) is not None


def test_what_was_fetched_stays_when_its_file_goes(tmp_path):
    cache = EncodingCache(tmp_path, room_for(1))
    CacheUse(cache).store({"a": 1}, entry(5.0))
    found = CacheUse(cache).fetch({"a": 1})
    CacheUse(cache).store({"a": 2}, entry(6.0))
    assert CacheUse(cache).fetch({"a": 1}) is None
    assert torch.equal(found["x"], entry(5.0)["x"])


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_a_damaged_entry_is_a_missing_one(tmp_path, content):
    cache = EncodingCache(tmp_path, room_for(4))
    CacheUse(cache).store({"a": 1}, entry(5.0))
    [file] = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10] if content is None else content)
    use = CacheUse(cache)
    assert use.fetch({"a": 1}) is None
    use.store({"a": 1}, entry(5.0))
    assert torch.equal(use.fetch({"a": 1})["x"], entry(5.0)["x"])


def test_what_killed_writers_left_is_cleared_away(tmp_path):
    cache = EncodingCache(tmp_path, room_for(2))
    left = tmp_path / f"{SCRATCH_PREFIX}1-abc"
    left.write_bytes(bytes(room_for(2)))
    assert cache.size_bytes() == room_for(2)
    CacheUse(cache).store({"a": 1}, entry())
    assert not left.exists()
    assert CacheUse(cache).fetch({"a": 1}) is not None


def test_a_full_disk_costs_time_only(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_tensors", full)
    use = CacheUse(EncodingCache(tmp_path, room_for(2)))
    assert torch.equal(use.store({"a": 1}, entry(2.0))["x"], entry(2.0)["x"])
    assert use.counts() == {"hits": 0, "misses": 0, "unstored": 1}


def _crowd(folder: Path, seed: int) -> None:
    """Store and read entries, as runs of several processes do; ends with an error where one is wrong."""
    cache = EncodingCache(folder, room_for(5))
    for number in range(20):
        name = (number * 7 + seed) % 12
        found = CacheUse(cache).fetch({"name": name})
        if found is None:
            found = CacheUse(cache).store({"name": name}, entry(name))
        assert torch.equal(found["x"], entry(name)["x"])


def test_processes_share_it_within_the_limit(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_crowd, args=(tmp_path, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    cache = EncodingCache(tmp_path, room_for(5))
    while any(process.is_alive() for process in processes):
        # Between writes: a listing made while a file is renamed has it twice.
        with FileLock(tmp_path / module.LOCK_FILE):
            assert cache.size_bytes() <= cache.limit_bytes
        time.sleep(0.005)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 0 < cache.size_bytes() <= cache.limit_bytes


@pytest.mark.parametrize("limit", [0, -1, 1.5, True])
def test_impossible_limits_are_refused(tmp_path, limit):
    with pytest.raises(InvalidConfig, match="limit_bytes"):
        EncodingCache(tmp_path, limit)


SD = {"steps": 2, "batch_size": 4, "learning_rate": 1e-2, "rank": 2, "resolution_px": 32, "device": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize("limit", [10**7, 9_000], ids=["ample", "scarce"])
def test_runs_are_the_same_with_and_without(tiny_folder, dataset, tmp_path, monkeypatch, limit):
    cache = EncodingCache(tmp_path / "cache", limit)
    config = FineTuneConfig(**SD)
    sampling = SampleConfig(n=2, drawing=Drawing(2, resolution_px=32), device="cpu")
    with LoadedPipeline(tiny_folder("sd"), device="cpu") as loaded:

        def run(name: str, given: EncodingCache | None) -> tuple[Any, bytes]:
            record = fine_tune(loaded, dataset, config, tmp_path / name, cache=given)
            images = sample_images(loaded, tmp_path / name, ["a cat", "a dog"], sampling, cache=given)
            return record, b"".join(image.tobytes() for image in images)

        without, drawn = run("without", None)
        cold, drawn_cold = run("cold", cache)
        if limit == 10**7:
            # Nothing is encoded again, neither images nor captions.
            for part in ("encode_images", "encode_prompts"):
                monkeypatch.setattr(type(loaded.family), part, None)
        warm, drawn_warm = run("warm", cache)
    assert without.sha256 == cold.sha256 == warm.sha256
    assert without.losses == cold.losses == warm.losses
    assert drawn == drawn_cold == drawn_warm
    assert without.happened["cache"] is None
    for counts in (cold.happened["cache"], warm.happened["cache"]):
        assert sum((counts["hits"], counts["misses"])) == 2
    assert cold.happened["cache"]["hits"] == 0
    if limit == 10**7:
        assert warm.happened["cache"] == {"hits": 2, "misses": 0, "unstored": 0}
    else:
        assert cold.happened["cache"]["unstored"] > 0
    assert cache.size_bytes() <= limit
