"""The shipped scores of prompts: of the shipped zoo and its CLIP, and what comes out when drawn again."""

from __future__ import annotations

import random

import pytest

from matchgraph.ingest.tables.prompt_records import PromptRecords, read_prompt_records
from matchgraph.minizoo import ROOT
from matchgraph.routing.prompts import split, unlike
from matchgraph.routing.scoring import SAMPLES, image_number, scores_of
from matchgraph.training.config import SampleConfig
from matchgraph.training.measure.extractors import load_clip
from matchgraph.training.measure.prompts import PromptEncoder, load_prompt_encoder
from matchgraph.training.measure.quality import ClipScore, Sharpness
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.prompt_files import read_prompt_file
from matchgraph.training.sampling.generate import stream_images

CLIP = str(ROOT / "probes" / "clip")
MODELS = sorted(folder.name for folder in (ROOT / "models").iterdir())
# As for the records of fine-tunings: another processor rounds in another order.
TOLERANCE = {"clip_score": 0.01, "sharpness": 0.001}


@pytest.fixture(scope="module")
def records() -> PromptRecords:
    return read_prompt_records(ROOT / "records", MODELS)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return load_prompt_encoder(CLIP)


@pytest.mark.slow
def test_prompts_are_those_of_the_file_that_are_unlike(
    records: PromptRecords, encoder: PromptEncoder
) -> None:
    texts = read_prompt_file(ROOT / "prompts.txt").texts
    embeddings = encoder.encode(texts).embeddings
    kept = unlike(embeddings)
    names = split(len(kept))
    expected = {texts[row]: (name, embeddings[row]) for row, name in zip(kept, names, strict=True)}
    assert len(records.prompts) == len(expected) == 1204
    for prompt in records.prompts:
        name, embedding = expected[prompt.text]
        assert (prompt.split, prompt.probe) == (name, encoder.hash)
        assert prompt.embedding == pytest.approx(embedding, abs=1e-5)


def test_every_candidate_is_scored_on_every_prompt(records: PromptRecords) -> None:
    assert {variant.model for variant in records.variants} == set(MODELS)
    assert {variant.drawing.steps for variant in records.variants} == {1, 2, 4, 10, 25, 50}
    pairs = {(score.variant, score.prompt, score.metric) for score in records.scores}
    assert len(pairs) == len(records.scores) == len(records.variants) * 1204 * 2
    assert {score.samples for score in records.scores} == {SAMPLES}


def test_scores_come_out_again(records: PromptRecords, encoder: PromptEncoder) -> None:
    chance = random.Random(7)
    scorers = [ClipScore(load_clip(CLIP), encoder), Sharpness()]
    known = {(score.variant, score.prompt, score.metric): score for score in records.scores}
    cheap = [variant for variant in records.variants if variant.drawing.steps <= 2]
    for variant in chance.sample(cheap, 3):
        chosen = chance.sample(records.prompts, 2)
        texts = [prompt.text for prompt in chosen for _ in range(SAMPLES)]
        config = SampleConfig(len(texts), variant.drawing, 0, 32)
        numbers = [image_number(prompt, place) for prompt in chosen for place in range(SAMPLES)]
        with LoadedPipeline(ROOT / "models" / variant.model, device="cpu") as loaded:
            images = list(stream_images(loaded, None, texts, config, numbers=numbers))
        for score in scores_of(variant, chosen, texts, images, scorers):
            shipped = known[variant.id, score.prompt, score.metric]
            assert score.scorer == shipped.scorer
            assert score.value == pytest.approx(shipped.value, abs=TOLERANCE[score.metric])
            assert score.std == pytest.approx(shipped.std, abs=TOLERANCE[score.metric])
