"""Folders of runs: checkpoints are carried on, what is over is removed, and nothing outside is touched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from matchgraph.ingest.errors import UnknownRun
from matchgraph.ingest.runs.artefacts import (
    carry_checkpoint,
    claim_folder,
    has_checkpoint,
    keep_checkpoint,
    remove_all_but,
    remove_run,
    run_folder,
    sweep,
)

RUN = "0123456789abcdef"


def put(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("run", ["", "..", "../../etc", "0123456789abcdeg", RUN + "/x", RUN + "\n"])
def test_a_path_is_made_of_nothing_but_an_id(tmp_path: Path, run: str) -> None:
    with pytest.raises(UnknownRun):
        run_folder(tmp_path, run)
    with pytest.raises(UnknownRun):
        remove_run(tmp_path, run)


def test_each_claim_begins_with_the_newest_checkpoint_before_it(tmp_path: Path) -> None:
    claims = {fence: claim_folder(tmp_path, RUN, fence) for fence in (2, 3, 9, 10, 11, 12)}
    put(claims[2] / "checkpoint", state="old")
    put(claims[9] / "checkpoint", state="new", initial="scores")
    put(claims[10] / "checkpoint")
    put(claims[10] / "checkpoint", **{".scratch-1": "half"})
    put(claims[12] / "checkpoint", state="later")
    brought = carry_checkpoint(claims[11])
    assert brought == claims[11] / "checkpoint"
    assert names(claims[11]) == ["checkpoint", "checkpoint/initial", "checkpoint/state"]
    assert (brought / "state").read_text() == "new"
    # Replacing a file here, as checkpoints are written, leaves the earlier claim's alone.
    put(tmp_path, scratch="newer").joinpath("scratch").replace(brought / "state")
    assert (claims[9] / "checkpoint" / "state").read_text() == "new"
    assert carry_checkpoint(claim_folder(tmp_path, "f" * 16, 1)) is None
    assert names(run_folder(tmp_path, "f" * 16)) == ["claim-1", "claim-1/checkpoint"]


def test_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert not has_checkpoint(tmp_path, RUN)
    put(claim_folder(tmp_path, RUN, 1) / "checkpoint", state="s")
    assert has_checkpoint(tmp_path, RUN)
    brought = carry_checkpoint(claim_folder(tmp_path, RUN, 2))
    assert brought is not None
    assert (brought / "state").read_text() == "s"


def test_of_an_attempt_only_its_checkpoint_is_kept(tmp_path: Path) -> None:
    out = put(claim_folder(tmp_path, RUN, 1), adapter="a")
    put(out / "samples", one="1")
    put(out / "checkpoint", state="s")
    keep_checkpoint(out)
    assert names(out) == ["checkpoint", "checkpoint/state"]
    (out / "checkpoint" / "state").unlink()
    keep_checkpoint(out)
    assert not out.exists()
    keep_checkpoint(out)


def test_what_is_over_is_removed(tmp_path: Path) -> None:
    done, cancelled, queued = ("a" * 16, "b" * 16, "c" * 16)
    for run in (done, cancelled, queued):
        for fence in (1, 2):
            put(claim_folder(tmp_path, run, fence), adapter="a")
            put(claim_folder(tmp_path, run, fence) / "checkpoint", state="s")
    runs: list[Any] = [
        SimpleNamespace(id=done, status="DONE", properties={"adapter": f"runs/{done}/claim-2/adapter"}),
        SimpleNamespace(id=cancelled, status="CANCELLED", properties={}),
        SimpleNamespace(id=queued, status="QUEUED", properties={}),
        SimpleNamespace(id="d" * 16, status="DONE", properties={"adapter": "runs/elsewhere/a"}),
    ]
    sweep(tmp_path, runs)
    assert names(run_folder(tmp_path, done)) == ["claim-2", "claim-2/adapter"]
    assert not run_folder(tmp_path, cancelled).exists()
    assert len(names(run_folder(tmp_path, queued))) == 8
    remove_all_but(claim_folder(tmp_path, queued, 2))
    assert names(run_folder(tmp_path, queued)) == ["claim-2", "claim-2/adapter"]
