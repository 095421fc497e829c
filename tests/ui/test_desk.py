"""What a page may do is decided by the server, whatever the page shows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.models import Dataset, Model
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs import local
from matchgraph.ingest.runs.entries import RunRequest
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.tables.image_folders import listed_hash
from matchgraph.shortlist import NothingMeasured
from matchgraph.ui import desk as services
from matchgraph.ui.desk import Asked, Desk, NotAllowed
from matchgraph.ui.work import Work

# Of an answer only what it was about is needed here.
ASKED = Asked("new", None, {}, "clip_fid")  # type: ignore[arg-type]
WRITING: dict[str, Callable[[Desk], Any]] = {
    "queue": lambda desk: desk.queue(ASKED, ["good"]),
    "cancel": lambda desk: desk.cancel("0" * 16),
    "retry": lambda desk: desk.retry("0" * 16),
    "work": lambda desk: desk.work(threading.Event()),
    "draw": lambda desk: desk.draw("a cat", "clip_score"),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of eight small images."""
    folder = tmp_path / "cats"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (30 * number, 90, 90)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("what", WRITING)
def test_a_read_only_desk_writes_and_draws_nothing(desk: Desk, what: str):
    desk.read_only = True
    with pytest.raises(NotAllowed, match="--read-only"):
        WRITING[what](desk)


def test_runs_are_cancelled_and_queued_again(desk: Desk):
    request = RunRequest("good", "new", {"metrics": ["clip_fid"]}, "m", "d")
    Ledger(desk.runner).enqueue([request])
    assert desk.cancel(request.id).changed == (request.id,)
    assert desk.retry(request.id).changed == (request.id,)
    assert desk.runs().counts["QUEUED"] == 1


def test_folders_of_the_machine_are_named_only_where_that_is_allowed(desk: Desk, images: Path):
    assert desk.named(str(images)).folder == images
    with pytest.raises(NotAllowed, match="no folder"):
        desk.named(str(images / "dogs"))
    desk.names_folders = False
    with pytest.raises(NotAllowed, match="no other machine"):
        desk.named(str(images))


def test_only_pictures_that_the_graph_knows_are_shown(desk: Desk, images: Path):
    known = Dataset("cats", {"source": str(images), "content_hash": listed_hash(images)})
    # A graph of others may name any folder of this machine.
    foreign = Dataset("private", {"source": str(images), "content_hash": "0" * 16})
    desk.graph.save_datasets([known, foreign, Dataset("gone", {"source": "/nowhere", "content_hash": "1"})])
    shown = desk.pictures("cats")
    assert len(shown) == 6
    assert all(picture.uri.startswith("data:image/jpeg;base64,") for picture in shown)
    assert desk.pictures("private") == desk.pictures("gone") == desk.pictures("unknown") == ()
    # A folder that was away is found once it is back.
    desk.graph.save_datasets([replace(known, id="moved")])
    away = images.rename(images.with_name("away"))
    assert desk.pictures("moved") == ()
    away.rename(images)
    assert len(desk.pictures("moved")) == 6


def test_losses_are_those_written_and_those_heard_of_since(desk: Desk):
    from matchgraph.ingest.runs.entries import RunProgress
    from matchgraph.ingest.runs.owner import Owner

    ledger = Ledger(desk.runner)
    [run] = ledger.enqueue([RunRequest("good", "new", {"metrics": ["clip_fid"]}, "m", "d")])
    held = ledger.claim(run, Owner.here())
    assert held is not None
    ledger.heartbeat(held, RunProgress("training", 7, 10, 0.25))
    [running] = desk.runs().runs
    files = desk.run_files(running)
    assert files.folder is None
    assert desk.losses(running, files) == [(7, 0.25)]
    assert desk.losses(running, replace(files, losses=(0.5, 0.4))) == [(1, 0.5), (2, 0.4), (7, 0.25)]


def test_models_without_a_folder_cannot_be_measured(desk: Desk):
    with pytest.raises(NothingMeasured, match="good"):
        desk.queue(ASKED, ["good"])
    assert desk.runs().runs == ()


@pytest.mark.parametrize("saved", [True, False])
def test_dropped_images_outlive_the_visit_only_as_a_dataset(
    desk: Desk, images: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
):
    visit = desk.uploads()
    for image in images.iterdir():
        visit.add(image.name, image.read_bytes())
    folder = visit.folder
    assert folder is not None

    def fails(graph: MatchingGraph, *_: Any, **__: Any) -> None:
        # The page is closed meanwhile.
        desk.leave(visit)
        assert len(list(folder.iterdir())) == 8
        if saved:
            graph.save_datasets([Dataset("my-images", {"source": str(folder.resolve())})])
        raise NothingMeasured("No disk space.")

    monkeypatch.setattr(services, "queue_models", fails)
    asked = Asked(desk.dropped(folder), None, {}, "clip_fid")  # type: ignore[arg-type]
    with pytest.raises(NothingMeasured):
        desk.queue(asked, ["good"])
    assert folder.exists() == saved


def test_the_answer_names_what_does_not_fit_the_card(graph: MatchingGraph, tmp_path: Path):
    graph.save_models(
        [Model("small", {"published_id": "small", "published_memory_24_gib": "fits"}), Model("other")]
    )
    graph.save_datasets([Dataset("new")])
    answer = Desk(graph.runner, Settings(home=tmp_path)).ask("new", fits_gib=24).answer
    assert answer.notes[-1] == "left out: other (the memory that fine-tuning takes is not known)."


def test_work_goes_on_with_what_is_queued_meanwhile_and_says_what_cannot_be_done_here(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    ledger = Ledger(desk.runner)
    requests = [RunRequest(name, "new", {"metrics": ["clip_fid"]}, "m", "d") for name in ("good", "fair")]
    rounds: list[list[str]] = []

    def not_here(_: Settings, __: Ledger, ids: list[str], *___: Any) -> dict[str, str]:
        rounds.append(ids)
        ledger.enqueue(requests[1:])
        return dict.fromkeys(ids, "its folder is gone")

    ledger.enqueue(requests[:1])
    monkeypatch.setattr(local, "work_locally", not_here)
    monkeypatch.setattr(local, "visible_gpus", lambda _: [])
    work = Work(desk)
    work.begin()
    work.end()
    assert rounds == [[request.id] for request in requests]
    assert [line.split()[1] for line in work.failure.splitlines()] == [run.id[:8] for run in requests]
    assert work.failure.endswith("cannot be carried out here: its folder is gone")
