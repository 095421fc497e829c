"""What is dropped on the page: images and captions alone, under names that lead nowhere."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from matchgraph.training.images import list_captioned_images
from matchgraph.ui import uploads
from matchgraph.ui.uploads import MARK, Refused, Uploads, remove_abandoned


def png(side: int = 4) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def dropped(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path)


def test_images_and_captions_make_a_dataset_that_is_gone_unless_it_is_kept(dropped: Uploads, tmp_path: Path):
    dropped.add("../../a cat.PNG", png())
    dropped.add("C:\\pictures\\a cat.txt", b"a cat")
    dropped.rename("cats")
    assert dropped.folder is not None
    assert dropped.folder.is_relative_to(tmp_path / "uploads")
    [image] = list_captioned_images(dropped.folder)
    assert (image.path.name, image.caption, dropped.folder.name) == ("a_cat.png", "a cat", "cats")
    dropped.keep()
    with pytest.raises(Refused, match="dataset"):
        dropped.add("b.png", png())
    dropped.discard()
    remove_abandoned(tmp_path)
    assert image.path.exists()
    # No dataset was made of them after all, and the visit is over.
    dropped.release()
    assert list((tmp_path / "uploads").iterdir()) == []
    with pytest.raises(Refused, match="over"):
        dropped.add("b.png", png())


def test_files_that_come_at_once_lie_together(
    dropped: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make = uploads.tempfile.mkdtemp

    def slow(**where: Path) -> str:
        time.sleep(0.02)
        return make(**where)

    monkeypatch.setattr(uploads.tempfile, "mkdtemp", slow)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: dropped.add(f"{number}.png", png()), range(8)))
    assert dropped.folder is not None
    assert (dropped.images, len(list_captioned_images(dropped.folder))) == (8, 8)
    assert len(list((tmp_path / "uploads").iterdir())) == 1


def test_what_a_killed_server_left_is_removed_but_no_visit_that_goes_on(dropped: Uploads, tmp_path: Path):
    dropped.add("a.png", png())
    abandoned = tmp_path / "uploads" / "tmp" / "my-images"
    abandoned.mkdir(parents=True)
    (abandoned.parent / MARK).touch()
    remove_abandoned(tmp_path)
    assert not abandoned.parent.exists()
    assert dropped.folder is not None
    assert dropped.folder.is_dir()


def test_all_visits_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    visits: list[Uploads] = []
    for _ in range(2):
        visits.append(Uploads(tmp_path, lambda: sum(visit.bytes for visit in visits)))
    monkeypatch.setattr(uploads, "MAX_TOTAL_BYTES", len(png()))
    visits[0].add("a.png", png())
    with pytest.raises(Refused, match="all uploads together"):
        visits[1].add("a.png", png())
    visits[0].discard()
    visits[1].add("a.png", png())


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("page.html", b"<script>", "not an image"),
        ("image.svg", b"<svg/>", "not an image"),
        ("image.png", b"<script>alert(1)</script>", "not an image in one of the formats"),
        ("image.png", png(64)[:80], "cannot be decoded"),
        ("image.png", b"", "is empty"),
        ("image.txt", b"\xff\xfe", "not a caption"),
        ("image.txt", b"a" * 9_000, "not a caption"),
        ("large.png", bytes(2_000), "too large"),
        ("図" * 100 + ".png", png(), "cannot be saved: File name too long"),
    ],
)
def test_nothing_else_is_kept(
    dropped: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, why: str
):
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 1_000 if name == "large.png" else 10_000)
    with pytest.raises(Refused, match=why):
        dropped.add(name, content)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != MARK] == []
    assert dropped.folder is None


def test_a_name_is_taken_once_and_the_number_of_files_is_limited(
    dropped: Uploads, monkeypatch: pytest.MonkeyPatch
):
    dropped.add("a.png", png())
    with pytest.raises(Refused, match="already"):
        dropped.add("x/a.png", png())
    monkeypatch.setattr(uploads, "MAX_FILES", 1)
    with pytest.raises(Refused, match="More than 1"):
        dropped.add("b.png", png())


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "ä" * 3, "a" * 81])
def test_a_dataset_gets_no_name_that_is_a_path(dropped: Uploads, name: str):
    with pytest.raises(Refused, match="letters"):
        dropped.rename(name)
