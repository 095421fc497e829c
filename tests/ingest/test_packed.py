"""Datasets in Parquet, Arrow and tar files, in the hub's cache, and in folders as for kohya's scripts."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.image_folders import images_hash, read_folders
from matchgraph.ingest.tables.new_dataset import target
from matchgraph.ingest.workflow import ingest_datasets
from matchgraph.training.errors import BadDataset
from tests.ingest.conftest import write_images
from tests.training.hub import put_into_cache, use_cache

SEEN = {"a red": ("train", False), "a blue": ("train", False), "a green": ("test", True)}


def picture(colour: str, form: str = "png") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(content, form)
    return content.getvalue()


def rows(*colours: str, column: str = "image", text: str = "text"):
    import datasets

    kind = {column: datasets.Image(), text: datasets.Value("string"), "label": datasets.Value("int64")}
    images = [{"bytes": picture(colour), "path": None} for colour in colours]
    columns = {column: images, text: [f"a {colour}" for colour in colours], "label": [0] * len(colours)}
    return datasets.Dataset.from_dict(columns, datasets.Features(kind))


def parquet(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    rows("red", "blue").to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    rows("green").to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\nconfigs: nonsense\n---\n")
    return folder


def saved(folder: Path) -> Path:
    import datasets

    datasets.DatasetDict({"train": rows("red", "blue"), "test": rows("green")}).save_to_disk(str(folder))
    return folder


def webdataset(folder: Path, text: str = "txt") -> Path:
    folder.mkdir()
    for split, colours in (("train", ("red", "blue")), ("test", ("green",))):
        with tarfile.open(folder / f"{split}-0000.tar", "w") as tar:
            for number, colour in enumerate(colours):
                for suffix, content in (("jpg", picture(colour, "jpeg")), (text, f"a {colour}".encode())):
                    entry = tarfile.TarInfo(f"{number}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return folder


@pytest.mark.parametrize("packed", [parquet, saved, webdataset, partial(webdataset, text="caption")])
def test_packed_datasets_are_unpacked_once_with_splits_and_captions(tmp_path: Path, packed) -> None:
    folder, home = packed(tmp_path / "pets"), tmp_path / "home"
    (found,) = read_folders(folder, home=home).folders
    seen = {image.caption: (image.path.parent.name, image.held_out) for image in found.images}
    assert seen == SEEN
    assert found.id == "pets"
    assert found.folder.parent == home / "datasets"
    assert "were unpacked into" in found.notes[0]
    (green,) = (image.path for image in found.images if image.held_out)
    assert Image.open(green).convert("RGB").getpixel((9, 9))[1] in range(126, 131)
    before = found.images[0].path.stat().st_mtime_ns
    (again,) = read_folders(folder, home=home).folders
    assert images_hash(again) == images_hash(found)
    assert again.images[0].path.stat().st_mtime_ns == before


def test_a_file_and_a_folder_of_packed_datasets(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    for name in ("cats", "dogs"):
        parquet(tmp_path / "zoo" / name)
    home = tmp_path / "home"
    assert [found.id for found in read_folders(tmp_path / "zoo", home=home).folders] == ["cats", "dogs"]
    rows("red", "blue", column="picture", text="title").to_parquet(tmp_path / "birds.parquet")
    (found,) = read_folders(tmp_path / "birds.parquet", caption_column="title", home=home).folders
    assert (found.id, [image.caption for image in found.images]) == ("birds", ["a red", "a blue"])
    assert not isinstance(target(tmp_path / "birds.parquet", "probe"), str)


def test_what_cannot_be_unpacked_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.parquet").write_bytes(b"PAR1")
    saved(tmp_path / "half")
    next((tmp_path / "half").rglob("state.json")).unlink()
    datasets.Dataset.from_dict({"x": [1, 2]}).to_parquet(tmp_path / "numbers.parquet")
    # A path in place of an image could be that of any file.
    kind = datasets.Features({"image": datasets.Image()})
    outside = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": "/etc/hostname"}]}, kind)
    outside.to_parquet(tmp_path / "paths.parquet")
    home = tmp_path / "home"
    for name, said in (
        ("broken", "broken: cannot be read as Parquet: .*; fetch or save it again"),
        ("half", "half: cannot be read as Arrow: .*; fetch or save it again"),
        ("numbers.parquet", "has no column of images; its columns are x"),
        ("paths.parquet", "row 0 of train holds no bytes of an image"),
    ):
        (problem,) = read_folders(tmp_path / name, home=home).problems
        with pytest.raises(BadInput, match=said):
            raise BadInput([problem])
    assert not list((home / "datasets").iterdir())
    rows("red").to_parquet(tmp_path / "single.parquet")
    (problem,) = read_folders(tmp_path / "single.parquet", home=home).problems
    assert (problem.file, problem.reason) == (f"{tmp_path}/single.parquet (Parquet)", "holds 1 usable image")


def test_a_dataset_of_the_hubs_cache_goes_into_the_graph(
    graph: MatchingGraph, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    put_into_cache(tmp_path / "cache", "alice/pets", parquet(tmp_path / "pets"), "datasets")
    report = ingest_datasets(graph, [Path("alice/pets")], home=tmp_path / "home", probe=str(probe))
    assert (report.written, report.images, report.captioned) == (("alice/pets",), 3, 3)
    (dataset,) = graph.datasets()
    lines = Path(str(dataset.properties["source"]), "metadata.jsonl").read_text().splitlines()
    row = {"text": "a red", "file_name": "train/00000000.png", "split": "train"}
    assert row in [json.loads(line) for line in lines]
    with pytest.raises(BadDataset, match="hf download --repo-type dataset alice/dogs"):
        ingest_datasets(graph, [Path("alice/dogs")], home=tmp_path / "home", probe=str(probe))


def test_folders_as_for_kohyas_scripts_are_one_dataset(tmp_path: Path) -> None:
    for seed, name in enumerate(("10_sks dog", "1_dog")):
        folder = write_images(tmp_path / "mine" / name, seed, [None, None])
        (folder / "metadata.jsonl").unlink()
    (tmp_path / "mine" / "1_dog" / "0.txt").write_text("a dog at rest")
    (found,) = read_folders(tmp_path / "mine").folders
    captions = sorted(str(image.caption) for image in found.images)
    assert (found.id, captions) == ("mine", ["a dog at rest", "dog", "sks dog", "sks dog"])
    assert any("each image counts once" in note for note in found.notes)
    # Names of files, and of years, are not such.
    write_images(tmp_path / "years" / "2024_summer", 1, ["a", "b"])
    write_images(tmp_path / "years" / "2025_summer", 2, ["a", "b"])
    assert [each.id for each in read_folders(tmp_path / "years").folders] == ["2024_summer", "2025_summer"]
