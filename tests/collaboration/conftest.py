"""A student and a teacher of the small zoo, a scorer, and prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from matchgraph.collaboration import evaluation
from matchgraph.collaboration.evaluation import Study
from matchgraph.minizoo import ROOT
from matchgraph.training.measure.extractors import load_clip
from matchgraph.training.measure.extractors.base import Extractor
from matchgraph.training.measure.frechet import gaussian_statistics
from matchgraph.training.measure.prompts import load_prompt_encoder
from matchgraph.training.measure.quality import ClipScore
from matchgraph.training.pipelines.loading import LoadedPipeline
from tests.collaboration.madeup import DIMENSION, made

CLIP = str(ROOT / "probes" / "clip")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and a busy machine loses much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pipelines() -> dict[str, LoadedPipeline]:
    names = ("tiny-vega", "tiny-sdxl", "tiny-juggernaut", "tiny-sana-small", "tiny-flux")
    return {name: LoadedPipeline(ROOT / "models" / name, device="cpu") for name in names}


@pytest.fixture(scope="session")
def extractor() -> Extractor:
    return load_clip(CLIP)


@pytest.fixture(scope="session")
def scorer(extractor: Extractor) -> ClipScore:
    return ClipScore(extractor, load_prompt_encoder(CLIP))


@pytest.fixture(scope="session")
def informed() -> Study:
    """A study of an oracle that knows the student's bad images."""
    reference = gaussian_statistics(np.random.default_rng(9).normal(size=(1000, DIMENSION)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "bootstrap", partial(evaluation.bootstrap, resamples=200))
        return evaluation.evaluate(made(0, True), made(1, True), "clip_score", reference=reference)
