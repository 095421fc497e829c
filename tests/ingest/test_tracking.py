"""Runs that TensorBoard and Weights & Biases follow: what their libraries get, and what if they fail."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from matchgraph.ingest.errors import TrackerUnavailable
from matchgraph.ingest.runs import tracking
from matchgraph.ingest.runs.config import Execution
from matchgraph.ingest.runs.entries import TRAINING
from matchgraph.ingest.runs.execution import LoraExecutor
from matchgraph.ingest.runs.tracking import Tracked, tracked
from matchgraph.training.tune import finetune
from tests.ingest.stub import CONFIG

PICTURES = [Image.new("RGB", (8, 8), "teal")]


def followed(folder: Path, done_steps: int = 0) -> Tracked:
    return Tracked("0123456789abcdef", "sd-1.5 on cats", {"steps": 3}, folder, done_steps)


@pytest.mark.slow
def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracked(["tensorboard"], followed(tmp_path)) as trackers:
        for step in (1, 2, 3):
            trackers.values(step, {"loss": step / 2})
    # The process that logged step 3 was killed before it was kept.
    with tracked(["tensorboard"], followed(tmp_path, done_steps=2)) as trackers:
        trackers.values(3, {"loss": 9.0, "validation loss": 4.0})
        trackers.pictures(3, PICTURES)
    found = EventAccumulator(str(tmp_path / "tensorboard" / followed(tmp_path).run))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert [event.value for event in found.Scalars("validation loss")] == [4.0]
    assert [(event.step, event.width) for event in found.Images("picture 0")] == [(3, 8)]


class Wandb(ModuleType):
    """Stands for W&B's library, and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = SimpleNamespace(origin="wandb/__init__.py")  # type: ignore[assignment]
        self.began: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.finished = 0
        self.refuses = False

    def Image(self, image: Image.Image) -> tuple[int, int]:
        return image.size

    def init(self, **options: Any) -> Wandb:
        if self.refuses:
            raise RuntimeError("no service\nand more")
        self.began = options
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        if "bad" in values:
            raise RuntimeError("the service died\nand more")
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_is_offline_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    library = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", library)
    with tracked(["wandb"], followed(tmp_path / "new")) as trackers:
        trackers.values(1, {"loss": 0.5})
        trackers.pictures(1, PICTURES)
    assert library.logged == [({"loss": 0.5}, 1), ({"pictures": [(8, 8)]}, 1)]
    assert library.finished == 1
    assert Path(library.began["dir"]).is_dir()
    wanted = {"mode": "offline", "resume": "allow", "id": "0123456789abcdef", "config": {"steps": 3}}
    assert wanted.items() <= library.began.items()
    monkeypatch.setenv("WANDB_MODE", "online")
    with tracked(["wandb"], followed(tmp_path)):
        assert library.began["mode"] == "online"


def test_a_tracker_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, notices = Wandb(), []
    monkeypatch.setitem(sys.modules, "wandb", library)
    with tracked(["wandb"], followed(tmp_path), notices.append) as trackers:
        for step, name in enumerate(("bad", "loss"), 1):
            trackers.values(step, {name: 1.0})
    assert notices == ["wandb failed, and the run goes on without it: the service died"]
    assert library.logged == []
    # Nor does one that cannot even begin cost the run, or the tracker beside it.
    library.refuses, other = True, Wandb()
    monkeypatch.setattr(tracking, "check_trackers", lambda _: None)
    trackers = {**tracking.TRACKERS, "other": lambda _: SimpleNamespace(close=other.finish)}
    monkeypatch.setattr(tracking, "TRACKERS", trackers)
    with tracked(["wandb", "other"], followed(tmp_path), notices.append):
        assert notices[1:] == ["wandb failed, and the run goes on without it: no service"]
    assert other.finished == 1


def test_losses_and_pictures_of_a_run_come_to_its_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", library)

    def trained(*_: Any, on_step: Any, validation: Any, **__: Any) -> str:
        for step in (1, 2):
            if step % validation.every_steps == 0:
                validation.on_look(step, 0.25, PICTURES * validation.pictures)
            on_step(step, step / 2)
        return "record"

    monkeypatch.setattr(finetune, "fine_tune", trained)
    run = followed(tmp_path)
    job: Any = SimpleNamespace(run=run.run, model="sd-1.5", dataset="cats", asked=run.settings, config=CONFIG)
    vars(job).update(out=tmp_path, checkpoint=tmp_path, resume_from=None, dataset_folder=tmp_path, images=[])
    execution = Execution("cpu", validate_steps=2, validation_pictures=1, track=("wandb",))
    executor, steps = LoraExecutor(execution, tracking=tmp_path / "kept"), []
    pipeline: Any = None
    made = executor._fine_tuned(job, pipeline, execution, lambda *step: steps.append(step))
    assert (made, steps) == ("record", [(TRAINING, 0, 3), (TRAINING, 1, 3, 0.5), (TRAINING, 2, 3, 1.0)])
    looks = [({"validation loss": 0.25}, 2), ({"pictures": [(8, 8)]}, 2)]
    assert library.logged == [({"loss": 0.5}, 1), *looks, ({"loss": 1.0}, 2)]
    assert (library.began["name"], library.began["dir"]) == (run.name, str(tmp_path / "kept"))
    assert library.finished == 1
    assert [path.name for path in tmp_path.glob("*.png")] == ["step-000002.png"]


def test_one_that_is_not_installed_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # W&B leaves folders of this name, which are no package.
    (tmp_path / "wandb").mkdir()
    paths: Sequence[str] = [str(tmp_path)]
    monkeypatch.setattr(sys, "path", paths)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(TrackerUnavailable, match=r"pip install 'matchgraph\[wandb\]'"):
        Execution(track=("wandb",))
