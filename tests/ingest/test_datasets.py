"""Datasets from tables and from image folders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from matchgraph.graphdb.models import Dataset, Model, Result, Similar
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.comparison import Comparison, DatasetMeasurement
from matchgraph.ingest.tables.datasets import ingest_dataset_table, ingest_image_folders, read_dataset_table
from matchgraph.ingest.tables.image_folders import dataset_name, listed_hash, read_folders, source_of
from matchgraph.training.images import list_captioned_images
from tests.ingest.conftest import write_images
from tests.ingest.dump import dump


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "datasets.csv"


@pytest.fixture(scope="module")
def extractor(probe: Path):
    from matchgraph.training.measure.extractors import load_clip

    return load_clip(str(probe), device="cpu")


def test_table_with_embeddings(table: Path) -> None:
    # Columns are put in the order of their numbers: e10 comes after e2.
    names = [f"e{number}" for number in reversed(range(11))]
    cells = [str(number) for number in reversed(range(11))]
    table.write_text(f"dataset,images,{','.join(names)}\na,5,{','.join(cells)}\nb,,{',' * 10}\n")
    datasets, skipped = read_dataset_table(table)
    assert not skipped
    assert datasets[0].embedding == tuple(float(number) for number in range(11))
    assert datasets[0].properties["images"] == 5
    assert datasets[1].embedding is None
    assert dict(datasets[1].properties) == {"name": "b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dataset,e0,e2\na,1,2\n", "datasets.csv:1: the embedding ends at e2 but has no e1"),
        ("dataset,embedding\na,1\n", "datasets.csv:1: a column cannot be called 'embedding'"),
        (
            "dataset,e0,e1\nb,1,2\na,1,\n",
            "datasets.csv:3: embedding e1: no value; write all of the embedding",
        ),
        ("dataset,e0,e1\nb,1,2\na,1,nan\n", "datasets.csv:3: embedding e1: value 'nan' is not finite"),
        ("dataset,e0\nb,1\nb,2\n", "datasets.csv:3: dataset 'b' is in line 2 already"),
        ("name,e0\nb,1\n", "datasets.csv:1: no column 'dataset'"),
    ],
)
def test_bad_tables_write_nothing(
    graph: MatchingGraph, runner: Runner, table: Path, text: str, expected: str
) -> None:
    table.write_text(text)
    before = dump(runner)
    with pytest.raises(BadInput) as caught:
        ingest_dataset_table(graph, table)
    assert expected in str(caught.value)
    assert dump(runner) == before


def test_table_adds_to_what_is_known(graph: MatchingGraph, runner: Runner, table: Path) -> None:
    graph.save_datasets([Dataset("a", {"images": 5, "source": "s"}, (1.0, 2.0))])
    table.write_text("id,classes\na,3\nb,4\n,5\n")
    report = ingest_dataset_table(graph, table, skip_bad=True)
    assert (report.written, [problem.line for problem in report.skipped]) == (("a", "b"), [4])
    known = {dataset.id: dataset for dataset in graph.datasets()}
    assert known["a"] == Dataset("a", {"images": 5, "source": "s", "name": "a", "classes": 3}, (1.0, 2.0))
    before = dump(runner)
    ingest_dataset_table(graph, table, skip_bad=True)
    assert dump(runner) == before


def test_image_folders(graph: MatchingGraph, runner: Runner, image_folders: Path, extractor) -> None:
    from matchgraph.training.images import load_rgb
    from matchgraph.training.measure.frechet import frechet_distance

    report = ingest_image_folders(graph, image_folders, extractor)
    assert (report.written, report.unchanged, report.similarities) == (("cats", "dogs", "trees"), (), 3)
    cats = next(dataset for dataset in graph.datasets() if dataset.id == "cats")
    expected = {"images": 4, "captioned": 3, "n_real": 4, "probe": "tiny-clip", "extractor": extractor.hash}
    assert expected.items() <= dict(cats.properties).items()
    assert cats.properties["source"] == str((image_folders / "cats").resolve())
    # Against the features themselves, by NumPy's own formulas.
    features = {
        name: extractor.features([load_rgb(image_folders / name / f"{number}.png") for number in range(4)])
        for name in ("cats", "dogs")
    }
    np.testing.assert_allclose(cats.embedding, features["cats"].mean(axis=0), rtol=1e-9)
    moments = [part for value in features.values() for part in (value.mean(axis=0), np.cov(value.T))]
    similar = graph.snapshot().similar
    assert len(similar) == 3
    measured = similar[(similar.dataset == "cats") & (similar.other == "dogs")].value.item()
    assert measured == pytest.approx(frechet_distance(*moments), rel=1e-6)
    before = dump(runner)
    again = ingest_image_folders(graph, image_folders, extractor)
    assert (again.written, again.unchanged) == ((), ("cats", "dogs", "trees"))
    assert dump(runner) == before


def test_a_folder_that_was_moved_is_found_where_it_is(
    graph: MatchingGraph, runner: Runner, image_folders: Path, extractor, tmp_path: Path
) -> None:
    """Also one that came by a table of records, which knows no folders."""
    ingest_image_folders(graph, image_folders, extractor)
    before = dump(runner)
    elsewhere = shutil.copytree(image_folders, tmp_path / "elsewhere")
    assert len(ingest_image_folders(graph, elsewhere, extractor).unchanged) == 3
    sources = {dataset.id: dataset.properties["source"] for dataset in graph.datasets()}
    assert sources == {name: str((elsewhere / name).resolve()) for name in ("cats", "dogs", "trees")}
    runner.write("MATCH (d:Dataset) REMOVE d.source")
    ingest_image_folders(graph, image_folders, extractor)
    # Nothing else is another: distances and statistics stay.
    assert dump(runner) == before


def test_a_changed_folder_is_measured_again(graph: MatchingGraph, image_folders: Path, extractor) -> None:
    ingest_image_folders(graph, image_folders, extractor)
    first = graph.snapshot().similar
    write_images(image_folders / "dogs", 7, ["x", "y", "z"])
    (image_folders / "dogs" / "3.png").unlink()
    report = ingest_image_folders(graph, image_folders, extractor)
    assert (report.written, report.similarities) == (("dogs",), 2)
    second = graph.snapshot().similar
    changed = (first.value != second.value).tolist()
    pairs = list(first[["dataset", "other"]].itertuples(index=False, name=None))
    assert [pair for pair, differs in zip(pairs, changed, strict=True) if differs] == [
        ("cats", "dogs"),
        ("dogs", "trees"),
    ]
    assert next(d for d in graph.datasets() if d.id == "dogs").properties["images"] == 3


def test_datasets_added_at_once_are_compared_with_each_other(
    graph: MatchingGraph, image_folders: Path, extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [image_folders / "dogs"]
    measure = Comparison.measure

    def interrupted(self: Comparison, *arguments: Any, **options: Any) -> DatasetMeasurement:
        seen = measure(self, *arguments, **options)
        while others:
            ingest_image_folders(graph, others.pop(), extractor)
        return seen

    monkeypatch.setattr(Comparison, "measure", interrupted)
    report = ingest_image_folders(graph, image_folders / "cats", extractor)
    assert (report.written, report.similarities) == (("cats",), 1)
    assert set(similar_values(graph, "clip_fid")) == {("cats", "dogs")}


def test_one_folder_of_images_is_one_dataset(image_folders: Path) -> None:
    reading = read_folders(image_folders / "cats")
    assert [found.id for found in reading.folders] == ["cats"]


def test_the_hash_follows_images_and_captions(image_folders: Path) -> None:
    folder = image_folders / "cats"
    seen = {listed_hash(folder)}
    metadata = folder / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a cats", "a cat"))
    seen.add(listed_hash(folder))
    Image.new("RGB", (32, 32)).save(folder / "0.png")
    seen.add(listed_hash(folder))
    (folder / "notes.md").write_text("no part of the dataset")
    seen.add(listed_hash(folder))
    assert len(seen) == 3


def spoil(folder: Path, how: str) -> None:
    image = folder / "1.png"
    match how:
        case "truncated":
            image.write_bytes(image.read_bytes()[:60])
        case "empty":
            image.write_bytes(b"")
        case "no image":
            image.write_text("<html>not found</html>")
        case "animated":
            frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
            frames[0].save(image, save_all=True, append_images=frames[1:])
        case "missing":
            image.unlink()
        case "metadata":
            (folder / "metadata.jsonl").write_text('{"file_name": "0.png"}\n{"file_name": ')
        case "one image":
            for number in (1, 2, 3):
                (folder / f"{number}.png").unlink()
            (folder / "metadata.jsonl").unlink()
        case "no images":
            for file in folder.iterdir():
                file.unlink()


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("truncated", "dogs/1.png: "),
        ("empty", "dogs/1.png: is empty"),
        ("no image", "dogs/1.png: is not an image"),
        ("animated", "dogs/1.png: is animated"),
        ("missing", "dogs: "),
        ("metadata", "line 2"),
        ("one image", "dogs: holds 1 usable image; a dataset needs 2"),
        ("no images", "dogs: "),
    ],
)
def test_bad_images_are_named_and_nothing_is_written(
    graph: MatchingGraph, runner: Runner, image_folders: Path, extractor, how: str, place: str
) -> None:
    spoil(image_folders / "dogs", how)
    before = dump(runner)
    with pytest.raises(BadInput) as caught:
        ingest_image_folders(graph, image_folders, extractor)
    assert place in str(caught.value)
    assert str(caught.value).count(str(image_folders)) <= 2
    assert dump(runner) == before


def test_skipping_bad_images_writes_the_rest(graph: MatchingGraph, image_folders: Path, extractor) -> None:
    spoil(image_folders / "dogs", "truncated")
    spoil(image_folders / "cats", "no images")
    report = ingest_image_folders(graph, image_folders, extractor, skip_bad=True)
    assert report.written == ("dogs", "trees")
    assert len(report.skipped) == 2
    assert next(d for d in graph.datasets() if d.id == "dogs").properties["images"] == 3


def test_folder_names_that_cannot_be_ids(image_folders: Path) -> None:
    shutil.copytree(image_folders / "cats", image_folders / "bad\nname")
    reading = read_folders(image_folders)
    assert [found.id for found in reading.folders] == ["cats", "dogs", "trees"]
    assert "\n" not in str(reading.problems[0])
    assert "rename the folder" in str(reading.problems[0])


def test_neither_images_nor_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no images"):
        read_folders(tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        read_folders(tmp_path / "absent")


def test_metadata_may_point_into_subfolders(tmp_path: Path) -> None:
    folder = tmp_path / "nested"
    write_images(folder / "train", 1, ["a", "b"])
    (folder / "train" / "metadata.jsonl").unlink()
    rows = [{"file_name": f"train/{number}.png", "text": "x"} for number in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [found.id for found in read_folders(folder).folders] == ["nested"]


@pytest.fixture(scope="module")
def instruments(extractor, tmp_path_factory) -> dict:
    from matchgraph.training.measure.extractors import ExtractorSpec, load_extractor
    from tests.training import tiny

    folder = tmp_path_factory.mktemp("weights")
    dinov2 = ExtractorSpec("dinov2", "dinov2", str(tiny.save_vision(folder / "dinov2")))
    t5 = ExtractorSpec("t5", "t5", str(tiny.save_sentence_model(folder / "t5")))
    loaded = {spec.name: load_extractor(spec, device="cpu") for spec in (dinov2, t5)}
    return {"clip": extractor, **loaded}


def similar_values(graph: MatchingGraph, metric: str) -> dict[tuple[str, str], float]:
    frame = graph.snapshot(similarity=metric).similar
    return {(row.dataset, row.other): row.value for row in frame.itertuples()}


def edge(runner: Runner, one: str, other: str) -> dict:
    query = "MATCH (:Dataset {id: $one})-[e:SIMILAR]-(:Dataset {id: $other}) RETURN properties(e) AS p"
    return runner.read(query, one=one, other=other)[0]["p"]


METRICS = ("clip_fid", "cmmd", "dinov2_kid", "t5_fid")


def test_datasets_are_compared_by_every_metric(
    graph: MatchingGraph, runner: Runner, image_folders: Path, extractor, instruments, tmp_path: Path
) -> None:
    from matchgraph.training.images import load_rgb
    from matchgraph.training.measure.kernels import cmmd
    from matchgraph.training.measure.scoring import Scorer

    scorer = Scorer(METRICS, instruments, tmp_path / "cache")
    report = ingest_image_folders(graph, image_folders, extractor, scorer=scorer)
    assert (report.written, report.similarities) == (("cats", "dogs", "trees"), 12)
    for name in ("clip", "dinov2", "t5"):
        described = graph.statistics(instruments[name].hash)
        assert [statistics.dataset for statistics in described] == ["cats", "dogs", "trees"]
        assert {statistics.n for statistics in described} == {3 if name == "t5" else 4}
    found = edge(runner, "cats", "dogs")
    features = [
        extractor.features([load_rgb(path) for path in sorted((image_folders / name).glob("*.png"))])
        for name in ("cats", "dogs")
    ]
    assert found["cmmd"] == pytest.approx(cmmd(*features).value, rel=1e-4)
    assert found["cmmd__extractor"] == found["clip_fid__extractor"] == extractor.hash
    assert found["dinov2_kid__extractor"] == instruments["dinov2"].hash
    assert found["dinov2_kid__std"] >= 0
    assert (found["dinov2_kid__n_real"], found["t5_fid__n_real"], found["t5_fid__resize"]) == (
        4,
        3,
        "captions",
    )
    assert {found[f"{metric}__version"] for metric in METRICS} == {"1"}
    # Metrics that the graph did not know point the right way now.
    assert graph.metric("dinov2_kid").larger_is_better is False
    assert graph.metric("t5_fid").minimum == 0
    before = dump(runner)
    again = Scorer(METRICS, instruments, tmp_path / "cache")
    assert ingest_image_folders(graph, image_folders, extractor, scorer=again).unchanged == report.written
    assert dump(runner) == before


def test_a_metric_added_later_completes_the_pairs(
    graph: MatchingGraph, runner: Runner, image_folders: Path, extractor, instruments, tmp_path: Path
) -> None:
    from matchgraph.training.measure.scoring import Scorer

    at_once = Scorer(METRICS, instruments, tmp_path / "cache")
    ingest_image_folders(graph, image_folders, extractor, scorer=at_once)
    expected = {metric: similar_values(graph, metric) for metric in METRICS}
    graph.clear()
    ingest_image_folders(graph, image_folders, extractor)
    for metrics in (("clip_fid", "dinov2_fid"), ("clip_fid", "cmmd"), METRICS):
        scorer = Scorer(metrics, instruments, tmp_path / "cache")
        assert ingest_image_folders(graph, image_folders, extractor, scorer=scorer).written
        assert not ingest_image_folders(graph, image_folders, extractor, scorer=scorer).written
    for metric in METRICS:
        assert similar_values(graph, metric) == pytest.approx(expected[metric], rel=1e-5, abs=1e-9)
    assert "dinov2_fid" in edge(runner, "cats", "trees")


def test_kernel_distances_to_a_dataset_whose_images_are_gone_are_left_out_and_told(
    graph: MatchingGraph, runner: Runner, image_folders: Path, extractor, instruments, tmp_path: Path
) -> None:
    from matchgraph.training.measure.scoring import Scorer

    ingest_image_folders(graph, image_folders / "dogs", extractor)
    shutil.rmtree(image_folders / "dogs")
    scorer = Scorer(("clip_fid", "cmmd"), instruments, tmp_path / "cache")
    report = ingest_image_folders(graph, image_folders / "cats", extractor, scorer=scorer)
    assert report.similarities == 1
    assert report.notes[:1] == (
        "cmmd of 'cats' and 'dogs' was not measured: the images of 'dogs' are not here as they were "
        "ingested.",
    )
    assert "cmmd" not in edge(runner, "cats", "dogs")
    assert "clip_fid" in edge(runner, "cats", "dogs")


def test_captions_may_describe_the_datasets(
    graph: MatchingGraph, image_folders: Path, instruments, tmp_path: Path
) -> None:
    from matchgraph.training.measure.scoring import Scorer

    scorer = Scorer(("clip_fid",), instruments, tmp_path / "cache", also=["t5"])
    ingest_image_folders(graph, image_folders, instruments["t5"], scorer=scorer)
    cats = next(dataset for dataset in graph.datasets() if dataset.id == "cats")
    assert cats.properties["extractor"] == instruments["t5"].hash
    expected = instruments["t5"].features(["a cats", "a b", "c"]).mean(axis=0)
    np.testing.assert_allclose(cats.embedding, expected, atol=1e-6)
    assert len(similar_values(graph, "clip_fid")) == 3


def test_what_was_measured_on_other_images_is_forgotten(
    graph: MatchingGraph, runner: Runner, image_folders: Path, extractor, instruments, tmp_path: Path
) -> None:
    from matchgraph.training.measure.scoring import Scorer

    scorer = Scorer(("clip_fid", "dinov2_fid"), instruments, tmp_path / "cache")
    ingest_image_folders(graph, image_folders, extractor, scorer=scorer)
    # A recorded value is nobody's to remove.
    graph.save_similarities([Similar("cats", "dogs", "fid", 7.0)])
    write_images(image_folders / "dogs", 9, ["x", "y", "z", "a"])
    ingest_image_folders(graph, image_folders, extractor)
    assert [s.dataset for s in graph.statistics(instruments["dinov2"].hash)] == ["cats", "trees"]
    assert len(graph.statistics(extractor.hash)) == 3
    assert set(similar_values(graph, "dinov2_fid")) == {("cats", "trees")}
    assert set(similar_values(graph, "clip_fid")) == {("cats", "dogs"), ("cats", "trees"), ("dogs", "trees")}
    found = edge(runner, "cats", "dogs")
    assert found["fid"] == 7.0
    assert "clip_fid" in found
    assert not [name for name in found if name.startswith("dinov2")]
    # An edge stays with a recorded value, and goes when it has none.
    graph.save_datasets([d for d in graph.datasets() if d.id == "dogs"], changed=["dogs"])
    found = edge(runner, "cats", "dogs")
    assert {name.partition("__")[0] for name in found} == {"fid"}
    assert not runner.read("MATCH (:Dataset {id: 'dogs'})-[e:SIMILAR]-(:Dataset {id: 'trees'}) RETURN e")


def measured_on(graph: MatchingGraph, dataset: str) -> None:
    graph.save_models([Model("m", {"source": "/m", "content_hash": "x"})])
    graph.save_results([Result("m", dataset, "clip_fid", 7.0)])


def test_the_same_name_elsewhere_with_other_images_is_refused_and_can_be_told_apart(
    graph: MatchingGraph, runner: Runner, extractor, tmp_path: Path
) -> None:
    one = write_images(tmp_path / "mine" / "pets", 1, ["a", "b", "c"])
    two = write_images(tmp_path / "yours" / "pets", 2, ["a", "b"])
    ingest_image_folders(graph, one, extractor)
    measured_on(graph, "pets")
    before = dump(runner)
    with pytest.raises(BadInput) as caught:
        ingest_image_folders(graph, two, extractor)
    assert f"from {one}" in str(caught.value)
    assert f"{two} has different content" in str(caught.value)
    assert "--id" in str(caught.value)
    assert "--replace" in str(caught.value)
    assert dump(runner) == before
    assert ingest_image_folders(graph, two, extractor, dataset_id="yours").written == ("yours",)
    assert {d.id: d.properties["images"] for d in graph.datasets()} == {"pets": 3, "yours": 2}
    report = ingest_image_folders(graph, two, extractor, replace_content=True)
    assert report.written == ("pets",)
    assert "pets: replaced; what was measured on the former images (1) was removed." in report.notes
    assert graph.snapshot().performs.empty
    pets = next(dataset for dataset in graph.datasets() if dataset.id == "pets")
    assert (pets.properties["images"], pets.properties["source"]) == (2, str(two))


def test_results_do_not_pass_to_images_that_changed_in_their_place(
    graph: MatchingGraph, extractor, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "pets", 1, ["a", "b", "c"])
    ingest_image_folders(graph, folder, extractor)
    measured_on(graph, "pets")
    write_images(folder, 2, ["a", "b", "c"])
    with pytest.raises(BadInput, match="has changed since it was ingested"):
        ingest_image_folders(graph, folder, extractor)
    assert ingest_image_folders(graph, folder, extractor, replace_content=True).written == ("pets",)
    assert graph.snapshot().performs.empty


@pytest.mark.parametrize("skip_bad", [False, True])
def test_another_writer_takes_the_id_meanwhile(
    graph: MatchingGraph, extractor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip_bad: bool
) -> None:
    folder = write_images(tmp_path / "pets", 1, ["a", "b", "c"])
    theirs = Dataset("pets", {"content_hash": "of other images", "source": "/theirs"})
    measure = Comparison.measure

    def measure_slowly(*arguments: Any, **options: Any) -> Any:
        graph.save_datasets([theirs])
        return measure(*arguments, **options)

    monkeypatch.setattr(Comparison, "measure", measure_slowly)
    said = f"'pets' is in the graph already, from /theirs, and {folder} has different content"
    if skip_bad:
        report = ingest_image_folders(graph, folder, extractor, skip_bad=True)
        assert (report.written, said in str(report.skipped[0])) == ((), True)
    else:
        with pytest.raises(BadInput, match=re.escape(said)):
            ingest_image_folders(graph, folder, extractor)
    assert graph.datasets() == [theirs]


def test_names_of_split_folders_and_snapshots(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "datasets--alice--pokemon" / "snapshots" / commit
    for folder, name in (
        ("cats/train", "cats"),
        ("dogs/Validation", "dogs"),
        ("pets", "pets"),
        (str(snapshot), "alice/pokemon"),
        (str(snapshot / "train"), "alice/pokemon"),
    ):
        assert dataset_name(tmp_path / folder) == name


def test_splits_are_one_dataset_of_which_only_train_is_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "pokemon"
    for seed, split in enumerate(("train", "validation", "test")):
        write_images(folder / split, seed, ["a", "b", "c"][: 3 - seed])
    (found,) = read_folders(folder).folders
    assert (found.id, len(found.images), found.captioned) == ("pokemon", 6, 6)
    assert sum(not image.held_out for image in found.images) == 3
    write_images(folder / "more", 5, ["a", "b"])
    with pytest.raises(BadInput, match="holds the splits test, train, validation beside other folders, more"):
        read_folders(folder)


def test_captions_are_counted_and_other_files_named(graph: MatchingGraph, extractor, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "pets", 1, [None, None])
    (folder / "notes.docx").write_bytes(b"PK")
    report = ingest_image_folders(graph, folder, extractor)
    assert (report.images, report.captioned) == (2, 0)
    assert report.notes[:2] == (
        "pets: not read: notes.docx",
        "pets: none of its 2 images has a caption.",
    )
    dimension = extractor.dimension
    assert report.notes[2].startswith(f"pets (2): distances in {dimension} dimensions need more than")
    rows = [{"file_name": f"{n}.png", "words": "x", "prompt": "y", "caption": "z"} for n in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput, match="'caption' or 'prompt'; name one with --caption-column"):
        ingest_image_folders(graph, folder, extractor)
    report = ingest_image_folders(graph, folder, extractor, caption_column="words")
    assert report.captioned == 2
    (pets,) = graph.datasets()
    # Runs find the same captions.
    assert listed_hash(source_of(pets)) == pets.properties["content_hash"]
    assert {image.caption for image in list_captioned_images(source_of(pets))} == {"x"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.xlsx", b"PK\x03\x04", "is a spreadsheet, not a CSV file"),
        ("t.csv", b"PK\x03\x04..", "is an archive, not a CSV file or a folder of images; unpack it"),
        ("t.csv", b"\x89PNG\r\n\x1a\n", "is an image, .* give the folder that the image is in"),
        ("t.parquet", b"PAR1", "is a Parquet file, .* `matchgraph ingest datasets`"),
        ("t.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "is safetensors weights, not a CSV file"),
        ("t.jsonl", b'{"dataset": "d"}', "is a JSON Lines file, not a CSV file"),
        ("t.csv", b"<!DOCTYPE html><html>", "is a web page"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer, .* `git lfs pull`"),
    ],
)
def test_files_that_are_no_tables_are_named_for_what_they_are(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_dataset_table(tmp_path / name)


def test_pipelines_are_named_where_images_are_expected(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BadInput, match="is a pipeline, not images"):
        read_folders(tmp_path)


def test_numbered_features_under_another_name_and_names_alike_are_told(
    graph: MatchingGraph, tmp_path: Path
) -> None:
    numbers = ",".join(map(str, range(9)))
    table = tmp_path / "features.csv"
    table.write_text(f"dataset,size1,{','.join(f'f{n}' for n in range(9))}\ncats,5,{numbers}\n")
    assert ingest_dataset_table(graph, table).notes == (
        "features.csv: f0 to f8 are attributes: for an embedding, call them e0 to e8.",
    )
    for column, value in (("f", "true"), ("20", "7")):
        names = ",".join(f"{column}{n}" for n in range(10, 20))
        table.write_text(f"dataset,{names}\ncats{','.join(['', *[value] * 10])}\n")
        assert ingest_dataset_table(graph, table).notes == ()
    table.write_text("dataset,e0\nCats,5\n")
    assert ingest_dataset_table(graph, table).notes == (
        "features.csv: 'Cats' and 'cats' are different names here: rename one if both mean the same.",
    )
    table.write_text('dataset,embedding\ndogs,"[5, 1]"\n')
    with pytest.raises(BadInput, match="write its numbers into columns e0, e1 and so on"):
        ingest_dataset_table(graph, table)
