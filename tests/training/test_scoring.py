"""Metrics by name: the right features, the right distance, one pass, and a cache that notices damage."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.training.errors import BadDataset, ShapeMismatch, TooFewSamples, UnknownMeasure
from matchgraph.training.images import load_rgb
from matchgraph.training.measure.extractors import ExtractorSpec, load_clip, load_extractor
from matchgraph.training.measure.frechet import frechet_distance, gaussian_statistics
from matchgraph.training.measure.kernels import cmmd, kid
from matchgraph.training.measure.names import Measure, needed_extractors, parse_metric
from matchgraph.training.measure.scoring import Reference, Sample, Scorer
from tests.training import tiny

METRICS = ("clip_fid", "cmmd", "dinov2_fid", "dinov2_kid")


@pytest.fixture(scope="module")
def extractors(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "clip": load_clip(tiny.save_clip(folder / "clip"), device="cpu"),
        "dinov2": load_extractor(
            ExtractorSpec("dinov2", "dinov2", str(tiny.save_vision(folder / "dinov2"))), device="cpu"
        ),
        "t5": load_extractor(
            ExtractorSpec("t5", "t5", str(tiny.save_sentence_model(folder / "t5"))), device="cpu"
        ),
    }


def images(seed: int, n: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("dataset")
    captions = ["a cat", "the sea", "a dog of trees", None, "b"]
    rows = []
    for number, image in enumerate(images(0, 30)):
        image.save(place / f"{number:02}.png")
        rows.append({"file_name": f"{number:02}.png", "text": captions[number % 5]})
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def test_each_metric_is_its_distance_of_its_extractors_features(extractors, folder, tmp_path):
    scorer = Scorer(METRICS, extractors, tmp_path)
    real = [load_rgb(path) for path in sorted(folder.glob("*.png"))]
    made = [image.point(lambda level: level // 3) for image in images(1, 20)]
    scores = {score.metric: score for score in scorer.score(iter(made), scorer.reference(folder, "c0"))}
    assert tuple(scores) == METRICS
    for name in ("clip", "dinov2"):
        one, two = (extractors[name].features(shown) for shown in (made, real))
        fitted = [gaussian_statistics(features) for features in (one, two)]
        expected = frechet_distance(*(part for fit in fitted for part in (fit.mean, fit.covariance)))
        score = scores[f"{name}_fid"]
        assert score.value == pytest.approx(expected, rel=1e-4)
        assert (score.n_real, score.n_gen, score.std, score.version) == (30, 20, None, "1")
        assert (score.extractor, score.extractor_name) == (extractors[name].hash, name)
        assert score.resize == "clean-bicubic"
        if name == "clip":
            assert scores["cmmd"].value == pytest.approx(cmmd(one, two).value, rel=1e-4)
        else:
            both = kid(one.astype(np.float32), two.astype(np.float32))
            assert scores["dinov2_kid"].value == pytest.approx(both.value, rel=1e-3, abs=1e-9)
            assert scores["dinov2_kid"].std == pytest.approx(both.std, rel=1e-3)
    # In batches of another size, and of the dataset itself.
    again = scorer.score(made, scorer.reference(folder, "c0"), batch_size=7)
    assert [s.value for s in again] == pytest.approx([s.value for s in scores.values()], rel=1e-3)
    itself = {s.metric: s.value for s in scorer.score(real, scorer.reference(folder, "c0"))}
    assert itself["clip_fid"] == pytest.approx(0, abs=1e-6 * scores["clip_fid"].value)
    assert abs(itself["cmmd"]) < scores["cmmd"].value


def test_one_pass_with_no_more_than_a_batch_of_images_alive(extractors, folder, tmp_path):
    scorer = Scorer(METRICS, extractors, tmp_path)
    reference = scorer.reference(folder, "c1")
    alive: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
    most = 0

    def watched():
        nonlocal most
        for seed in range(40):
            (image,) = images(seed, 1)
            alive[seed] = image
            most = max(most, len(alive))
            yield image
            del image

    scores = scorer.score(watched(), reference, batch_size=8)
    assert {score.n_gen for score in scores} == {40}
    assert most <= 9
    # What was spooled to disk goes with the scores.
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 2


def test_datasets_are_looked_at_once(extractors, folder, tmp_path, monkeypatch):
    first = Scorer(METRICS, extractors, tmp_path / "cache").reference(folder, "c0")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(
        f"c0-{extractors[name].hash}.safetensors" for name in ("clip", "dinov2")
    )
    looks = []
    monkeypatch.setattr(
        "matchgraph.training.measure.scoring.load_rgb", lambda path: looks.append(path) or load_rgb(path)
    )
    again = Scorer(METRICS, extractors, tmp_path / "cache").reference(folder, "c0")
    assert not looks
    for name in ("clip", "dinov2"):
        np.testing.assert_array_equal(again.samples[name].features.rows, first.samples[name].features.rows)
    # Other images have another hash; of a damaged file only what it held is looked at again.
    Scorer(METRICS, extractors, tmp_path / "cache").reference(folder, "other")
    assert len(looks) == 30
    damaged = tmp_path / "cache" / f"c0-{extractors['clip'].hash}.safetensors"
    raw, rows = damaged.read_bytes(), np.array(first.samples["clip"].features.rows)
    damaged.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    third = Scorer(METRICS, extractors, tmp_path / "cache").reference(folder, "c0")
    assert len(looks) == 60
    np.testing.assert_array_equal(third.samples["clip"].features.rows, rows)
    assert damaged.read_bytes() == raw


def test_known_statistics_spare_the_pass_where_they_are_enough(extractors, tmp_path):
    known = {extractors["clip"].hash: gaussian_statistics(np.random.default_rng(5).normal(size=(30, 24)))}
    nowhere = tmp_path / "gone"
    scorer = Scorer(("clip_fid",), extractors)
    score = scorer.score(images(1, 5), scorer.reference(nowhere, "c0", known=known))[0]
    assert score.n_real == 30
    # A kernel distance is of the features themselves.
    with pytest.raises(BadDataset):
        Scorer(("clip_fid", "cmmd"), extractors).reference(nowhere, "c0", known=known)


def test_captions_are_compared_between_datasets_only(extractors, folder, tmp_path):
    scorer = Scorer(("t5_fid", "clip_fid"), extractors, tmp_path)
    reference = scorer.reference(folder, "c0")
    captions = ["a cat", "the sea", "a dog of trees", "b"] * 6
    expected = gaussian_statistics(extractors["t5"].features(captions))
    assert reference.samples["t5"].n == 24
    np.testing.assert_allclose(reference.samples["t5"].statistics.mean, expected.mean, atol=1e-6)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    rows = [json.loads(line) for line in (other / "metadata.jsonl").read_text().splitlines()]
    (other / "metadata.jsonl").write_text("\n".join(json.dumps({**row, "text": "a"}) for row in rows))
    far = scorer.reference(other, "c1").samples["t5"].distance(reference.samples["t5"], "fid")
    assert far.value > 0.1
    with pytest.raises(UnknownMeasure, match="compares captions"):
        scorer.score(images(1, 5), reference)
    (other / "metadata.jsonl").write_text("\n".join(json.dumps({**row, "text": None}) for row in rows))
    with pytest.raises(BadDataset, match="has 0 captions"):
        scorer.reference(other, "c2")


def test_what_cannot_be_scored(extractors, folder):
    scorer = Scorer(("clip_fid",), extractors)
    reference = scorer.reference(folder, "c0")
    with pytest.raises(TooFewSamples):
        scorer.score(images(1, 1), reference)
    with pytest.raises(TooFewSamples):
        scorer.score([], reference)
    wrong = Reference(
        "c0", {"clip": Sample(gaussian_statistics(np.random.default_rng(0).normal(size=(9, 5))))}
    )
    with pytest.raises(ShapeMismatch):
        scorer.score(images(1, 5), wrong)
    with pytest.raises(UnknownMeasure, match="--extractor inception=WEIGHTS"):
        Scorer(("fid",), extractors)
    with pytest.raises(UnknownMeasure, match="--probe SPEC"):
        Scorer(("clip_fid",), {})


def test_metrics_are_extractor_and_distance():
    assert parse_metric("clip_fid") == Measure("clip_fid", "clip", "fid")
    assert parse_metric("fid") == Measure("fid", "inception", "fid")
    assert parse_metric("kid") == Measure("kid", "inception", "kid")
    assert parse_metric("cmmd") == Measure("cmmd", "clip", "cmmd")
    assert parse_metric("my_own_kid") == Measure("my_own_kid", "my_own", "kid")
    assert needed_extractors(["fid", "clip_fid", "kid", "cmmd"]) == ("inception", "clip")
    for metric in ("clip_score", "accuracy", "_fid", ""):
        with pytest.raises(UnknownMeasure, match="cannot be measured"):
            parse_metric(metric)
    with pytest.raises(UnknownMeasure, match="is called 'fid'"):
        parse_metric("inception_fid")
