"""Checkpoints: a run that was interrupted, however and wherever, ends as one that was not."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from matchgraph.training.config import FineTuneConfig
from matchgraph.training.errors import CheckpointMismatch, InvalidConfig, NonFiniteLoss
from matchgraph.training.pipelines.adapters import ADAPTER_FILE
from matchgraph.training.pipelines.cache import EncodingCache
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.tune import checkpoint as module
from matchgraph.training.tune.checkpoint import (
    CHECKPOINT_FILE,
    SUMMARY_FILE,
    Checkpoints,
    checkpoint_step,
    read_checkpoint,
)
from matchgraph.training.tune.finetune import FineTuneRecord, fine_tune
from matchgraph.training.tune.order import BucketedOrder

# Five images in batches of three, two batches a step: epochs end within steps and within batches.
STEPS = 7
PATIENCE_S = 300
CONFIG = {
    "steps": STEPS,
    "batch_size": 3,
    "gradient_accumulation": 2,
    "caption_dropout": 0.5,
    "learning_rate": 1e-2,
    "rank": 2,
    "alpha": 4,
    "resolution_px": 32,
    "device": "cpu",
}


def config(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**(CONFIG | changes))


class Pulled(BaseException):
    """The plug, pulled in the middle of a step; nothing that handles errors knows of it."""


@pytest.fixture(scope="module")
def pixart(tiny_folder):
    with LoadedPipeline(tiny_folder("pixart"), device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def uninterrupted(pixart, dataset, tmp_path_factory) -> FineTuneRecord:
    return fine_tune(pixart, dataset, config(), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def finished(pixart, dataset, tmp_path_factory) -> Path:
    """The checkpoint of a whole run, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    fine_tune(pixart, dataset, config(), folder, checkpoints=Checkpoints(folder, 100))
    return folder


@pytest.fixture
def pull(monkeypatch) -> Callable[[LoadedPipeline, int], None]:
    """Have the plug pulled within a step; steps count from the next one made in this process."""

    def at(loaded: LoadedPipeline, step: int, batches: int = 2) -> None:
        family = type(loaded.family)
        own_loss = family.loss
        calls = 0

        def loss(*arguments):
            nonlocal calls
            calls += 1
            if calls == step * batches:
                monkeypatch.setattr(family, "loss", own_loss)
                raise Pulled
            return own_loss(*arguments)

        monkeypatch.setattr(family, "loss", loss)

    return at


def same(record: FineTuneRecord, other: FineTuneRecord) -> bool:
    return (
        record.losses == other.losses
        and record.sha256 == other.sha256
        and record.adapter.read_bytes() == other.adapter.read_bytes()
    )


# Before the first checkpoint, right after one, and in the last step.
@pytest.mark.parametrize("step", [1, 3, STEPS])
def test_interrupted_equals_uninterrupted(pixart, dataset, uninterrupted, pull, tmp_path, step):
    pull(pixart, step)
    with pytest.raises(Pulled):
        fine_tune(pixart, dataset, config(), tmp_path / "a", checkpoints=Checkpoints(tmp_path / "a", 2))
    kept = (step - 1) // 2 * 2
    assert checkpoint_step(tmp_path / "a") == (kept or None)
    told: list[int] = []
    again = Checkpoints(tmp_path / "b", 2, resume_from=tmp_path / "a")
    record = fine_tune(
        pixart, dataset, config(), tmp_path / "b", lambda number, _: told.append(number), checkpoints=again
    )
    assert same(record, uninterrupted)
    assert told == list(range(kept + 1, STEPS + 1))
    assert record.happened["resumed_at"] == ([kept] if kept else [])
    assert record.happened["notes"] == []


# Before the first checkpoint, within an epoch of ten images in steps of six, and in the last step.
@pytest.mark.parametrize("step", [1, 3, STEPS])
def test_buckets_come_in_the_same_order_after_an_interruption(pixart, mixed, pull, tmp_path, step):
    asked = config(aspect_buckets=True)
    whole = fine_tune(pixart, mixed, asked, tmp_path / "whole")
    pull(pixart, step)
    with pytest.raises(Pulled):
        fine_tune(pixart, mixed, asked, tmp_path / "a", checkpoints=Checkpoints(tmp_path / "a", 2))
    # In other passes it is the same run, but for rounding; in these, to the last bit.
    again = Checkpoints(tmp_path / "b", 2, resume_from=tmp_path / "a")
    record = fine_tune(pixart, mixed, asked, tmp_path / "b", checkpoints=again)
    assert same(record, whole)
    kept = (step - 1) // 2 * 2
    assert record.happened["resumed_at"] == ([kept] if kept else [])
    assert record.happened["notes"] == []


def test_a_run_with_buckets_does_not_go_on_from_one_without(pixart, mixed, tmp_path):
    kept = Checkpoints(tmp_path / "kept", 1, tmp_path / "kept")
    fine_tune(pixart, mixed, config(steps=2), tmp_path / "a", checkpoints=kept)
    with pytest.raises(CheckpointMismatch, match="aspect_buckets"):
        fine_tune(pixart, mixed, config(steps=2, aspect_buckets=True), tmp_path / "b", checkpoints=kept)


def test_where_the_order_is_not_that_of_the_run_it_starts_again(pixart, mixed, tmp_path, monkeypatch):
    asked = config(steps=4, aspect_buckets=True)
    whole = fine_tune(pixart, mixed, asked, tmp_path / "whole")
    kept = Checkpoints(tmp_path / "kept", 2, tmp_path / "kept")

    def stop(step: int, _: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    # As another version of the program may have it.
    monkeypatch.setattr(BucketedOrder, "epoch_state", lambda _: torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(KeyboardInterrupt):
        fine_tune(pixart, mixed, asked, tmp_path / "a", stop, checkpoints=kept)
    monkeypatch.undo()
    record = fine_tune(pixart, mixed, asked, tmp_path / "b", checkpoints=kept)
    [note] = record.happened["notes"]
    assert "order of images" in note
    assert same(record, whole)


# Pixart is in all other tests here; the state to restore is that of the loop, whatever the family.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_other_families_go_on_where_it_stopped(tiny_folder, dataset, pull, tmp_path, name):
    with LoadedPipeline(tiny_folder(name), device="cpu") as loaded:
        short = config(steps=4, gradient_accumulation=1)
        whole = fine_tune(loaded, dataset, short, tmp_path / "whole")
        pull(loaded, 4, batches=1)
        with pytest.raises(Pulled):
            fine_tune(loaded, dataset, short, tmp_path, checkpoints=Checkpoints(tmp_path, 3))
        parts = fine_tune(loaded, dataset, short, tmp_path, checkpoints=Checkpoints(tmp_path, 3, tmp_path))
    assert parts.happened["resumed_at"] == [3]
    assert same(parts, whole)


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"precision": "fp16"}, {"method": "full"}, {"gradient_checkpointing": True}],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_way_of_training_goes_on_where_it_stopped(tiny_folder, dataset, pull, tmp_path, changes):
    with LoadedPipeline(
        tiny_folder("pixart"), device="cpu", precision=changes.get("precision", "fp32")
    ) as loaded:
        short = config(steps=4, **changes)
        whole = fine_tune(loaded, dataset, short, tmp_path / "whole")
        pull(loaded, 3)
        with pytest.raises(Pulled):
            fine_tune(loaded, dataset, short, tmp_path, checkpoints=Checkpoints(tmp_path, 2))
        parts = fine_tune(loaded, dataset, short, tmp_path, checkpoints=Checkpoints(tmp_path, 2, tmp_path))
    assert parts.happened["resumed_at"] == [2]
    assert same(parts, whole)


def test_a_run_may_be_interrupted_many_times(pixart, dataset, uninterrupted, pull, tmp_path):
    cache = EncodingCache(tmp_path / "cache", 10**7)
    before = None
    for number in range(3):
        pull(pixart, 3)
        places = Checkpoints(tmp_path / str(number), 2, resume_from=before)
        with pytest.raises(Pulled):
            fine_tune(pixart, dataset, config(), tmp_path / "out", checkpoints=places, cache=cache)
        before = tmp_path / str(number)
    record = fine_tune(
        pixart,
        dataset,
        config(),
        tmp_path / "out",
        checkpoints=Checkpoints(tmp_path / "last", 2, before),
        cache=cache,
    )
    assert same(record, uninterrupted)
    assert record.happened["resumed_at"] == [2, 4, 6]
    assert record.happened["cache"]["misses"] == 0


def _killed(work: Callable[[], None]) -> None:
    """Do some work in a process that kills itself in the middle of it."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("where", ["step", "writing", "renaming", "saving"])
def test_kill_minus_nine_loses_no_more_than_the_steps_since(
    pixart, dataset, uninterrupted, tmp_path, monkeypatch, where
):
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        # Only in the process that dies, after one checkpoint is there.
        def on_step(step: int, _: float) -> None:
            if step == 3:
                if where == "step":
                    die()
                elif where == "writing":
                    monkeypatch.setattr("matchgraph.training.files.publish", die)
                elif where == "renaming":
                    monkeypatch.setattr("os.replace", die)
            elif step == STEPS and where == "saving":
                monkeypatch.setattr("matchgraph.training.pipelines.adapters.publish", die)

        fine_tune(pixart, dataset, config(), tmp_path, on_step, checkpoints=Checkpoints(tmp_path, 2))

    _killed(work)
    assert not (tmp_path / ADAPTER_FILE).exists()
    assert checkpoint_step(tmp_path) == (STEPS if where == "saving" else 2)
    record = fine_tune(pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path, 2, tmp_path))
    assert same(record, uninterrupted)
    assert record.happened["resumed_at"] == [STEPS if where == "saving" else 2]


def test_a_stop_that_was_asked_for_loses_no_step(pixart, dataset, uninterrupted, tmp_path):
    def stop(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(pixart, dataset, config(), tmp_path, stop, checkpoints=Checkpoints(tmp_path, 1000))
    assert checkpoint_step(tmp_path) == 3
    assert not (tmp_path / ADAPTER_FILE).exists()
    record = fine_tune(pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path, 1000, tmp_path))
    assert same(record, uninterrupted)


def test_a_finished_run_is_finished_at_once_when_taken_up(pixart, dataset, uninterrupted, finished, tmp_path):
    assert checkpoint_step(finished) == STEPS
    steps: list[int] = []
    record = fine_tune(
        pixart,
        dataset,
        config(),
        tmp_path / "again",
        lambda step, _: steps.append(step),
        checkpoints=Checkpoints(tmp_path / "again", 1000, finished),
    )
    assert steps == []
    assert same(record, uninterrupted)


def test_times_add_up_over_the_parts(pixart, dataset, pull, tmp_path):
    pull(pixart, 3)
    with pytest.raises(Pulled):
        fine_tune(pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path, 2))
    summary = json.loads((tmp_path / SUMMARY_FILE).read_text())["progress"]
    record = fine_tune(pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path, 2, tmp_path))
    assert record.seconds > summary["seconds"] > 0
    assert record.happened["peak_memory_bytes"] >= summary["peak_memory_bytes"] > 0
    assert summary["losses"] == record.losses[:2]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("learning_rate", {"learning_rate": 1e-3}),
        ("steps", {"steps": STEPS + 1}),
        ("batch_size", {"gradient_accumulation": 1}),
        ("seed", {"seed": 7}),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_the_field(
    pixart, dataset, finished, tmp_path, field, changes
):
    with pytest.raises(CheckpointMismatch, match=rf"its {field} is "):
        fine_tune(
            pixart,
            dataset,
            config(**changes),
            tmp_path / "new",
            checkpoints=Checkpoints(tmp_path / "new", 100, finished),
        )
    # Told before anything is done, and the checkpoint is as good as before.
    assert checkpoint_step(finished) == STEPS
    assert list((tmp_path / "new").glob("*")) == []


def test_a_checkpoint_of_another_model_or_dataset_is_refused(pixart, dataset, tiny_folder, tmp_path):
    short = config(steps=1)
    fine_tune(pixart, dataset, short, tmp_path, checkpoints=Checkpoints(tmp_path, 100))
    places = Checkpoints(tmp_path / "new", 100, tmp_path)
    other = tiny_folder("pixart", learned_sigma=False)
    with pytest.raises(CheckpointMismatch, match="its model is"):
        fine_tune(other, dataset, short, tmp_path / "new", checkpoints=places)
    shutil.copytree(dataset, tmp_path / "images")
    metadata = tmp_path / "images" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a dog", "a hog"))
    with pytest.raises(CheckpointMismatch, match="its dataset is"):
        fine_tune(pixart, tmp_path / "images", short, tmp_path / "new", checkpoints=places)
    # The same content elsewhere is the same dataset.
    metadata.write_text(metadata.read_text().replace("a hog", "a dog"))
    moved = fine_tune(pixart, tmp_path / "images", short, tmp_path / "new", checkpoints=places)
    assert moved.happened["resumed_at"] == [1]


@pytest.mark.parametrize("fault", ["truncated", "flipped", "empty", "foreign", "format", "unfitting"])
def test_a_damaged_checkpoint_is_left_aside(pixart, dataset, uninterrupted, finished, tmp_path, fault):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    file = tmp_path / CHECKPOINT_FILE
    content = bytearray(file.read_bytes())
    if fault == "truncated":
        file.write_bytes(content[:-100])
    elif fault == "flipped":
        content[-100] ^= 1
        file.write_bytes(content)
    elif fault == "empty":
        file.write_bytes(b"")
    elif fault == "foreign":
        save_file({"a": torch.zeros(3)}, file)
    elif fault == "format":
        file.write_bytes(content.replace(b'{\\"format\\": 1', b'{\\"format\\": 9'))
    else:
        identity = json.loads((tmp_path / SUMMARY_FILE).read_text())["identity"]
        progress, tensors = read_checkpoint(tmp_path, identity)
        tensors.pop(next(name for name in tensors if name.startswith("parameter/")))
        module.write_checkpoint(tmp_path, identity, progress, tensors)
    places = Checkpoints(tmp_path / "new", 100, tmp_path)
    record = fine_tune(pixart, dataset, config(), tmp_path / "new", checkpoints=places)
    assert same(record, uninterrupted)
    assert record.happened["resumed_at"] == []
    assert len(record.happened["notes"]) == 1
    assert "damaged checkpoint" in record.happened["notes"][0]


def test_a_folder_by_another_name_is_the_same_folder(pixart, dataset, pull, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    pull(pixart, 4)
    with pytest.raises(Pulled):
        fine_tune(pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path / "a", 3))
    pull(pixart, 1)
    with pytest.raises(Pulled):
        fine_tune(
            pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path / "a", 3, tmp_path / "link")
        )
    assert checkpoint_step(tmp_path / "a") == 3


def test_nothing_to_go_on_from_is_no_fault(pixart, dataset, uninterrupted, tmp_path):
    fine_tune(pixart, dataset, config(seed=3), tmp_path, checkpoints=Checkpoints(tmp_path, 100))
    # What another run left in the folder is not taken up unasked.
    places = Checkpoints(tmp_path, 100, tmp_path / "nowhere")
    record = fine_tune(pixart, dataset, config(), tmp_path, checkpoints=places)
    assert same(record, uninterrupted)
    assert record.happened["resumed_at"] == record.happened["notes"] == []


@pytest.mark.parametrize("fault", ["loss", "weights"])
def test_a_loss_that_is_no_number_leaves_no_checkpoint(pixart, dataset, pull, tmp_path, monkeypatch, fault):
    pull(pixart, 3)
    with pytest.raises(Pulled):
        fine_tune(pixart, dataset, config(), tmp_path / "a", checkpoints=Checkpoints(tmp_path / "a", 2))
    if fault == "loss":
        own_loss = type(pixart.family).loss
        monkeypatch.setattr(type(pixart.family), "loss", lambda *given: own_loss(*given) * float("nan"))
    else:
        own_step = torch.optim.AdamW.step

        def spoilt(optimiser, *given):
            own_step(optimiser, *given)
            optimiser.param_groups[0]["params"][0].data.fill_(float("inf"))

        # The weights of step 4 would be kept before any loss tells of them.
        monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)
        own_loss = type(pixart.family).loss
        monkeypatch.setattr(type(pixart.family), "loss", lambda *given: own_loss(*given).nan_to_num(1.0))
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(1.0))
    places = Checkpoints(tmp_path / "b", 2, tmp_path / "a")
    # Weights are looked at before they are kept, not when a loss tells of them in the step after.
    with pytest.raises(NonFiniteLoss, match="At step 3" if fault == "loss" else "After step 4"):
        fine_tune(pixart, dataset, config(), tmp_path / "b", checkpoints=places)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_runs_own_checkpoints_go_with_a_loss_that_is_no_number(pixart, dataset, tmp_path, monkeypatch):
    own_loss, calls = type(pixart.family).loss, []

    def failing(*given: Any) -> torch.Tensor:
        calls.append(1)
        # Two forward passes a step.
        return own_loss(*given) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(type(pixart.family), "loss", failing)
    kept: list[int | None] = []
    with pytest.raises(NonFiniteLoss, match="At step 3"):
        fine_tune(
            pixart,
            dataset,
            config(),
            tmp_path,
            lambda *_: kept.append(checkpoint_step(tmp_path)),
            checkpoints=Checkpoints(tmp_path, 1),
        )
    assert kept == [1, 2]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_leaves_the_checkpoint_before(pixart, dataset, uninterrupted, tmp_path, monkeypatch):
    own_write = module.write_tensors
    writes: list[Path] = []

    def full(target: Path, *given: Any) -> None:
        writes.append(target)
        if len(writes) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        own_write(target, *given)

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        fine_tune(pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path, 2))
    assert checkpoint_step(tmp_path) == 2
    record = fine_tune(pixart, dataset, config(), tmp_path, checkpoints=Checkpoints(tmp_path, 2, tmp_path))
    assert same(record, uninterrupted)


def test_the_step_of_a_checkpoint_is_told_without_loading_it(tmp_path):
    assert checkpoint_step(tmp_path) is None
    (tmp_path / SUMMARY_FILE).write_text('{"progress": {"step": 4}}')
    assert checkpoint_step(tmp_path) is None
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"anything")
    assert checkpoint_step(tmp_path) == 4
    (tmp_path / SUMMARY_FILE).write_text('{"progress": ')
    assert checkpoint_step(tmp_path) is None


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_impossible_distances_between_checkpoints_are_refused(tmp_path, every):
    with pytest.raises(InvalidConfig, match="every_steps"):
        Checkpoints(tmp_path, every)
