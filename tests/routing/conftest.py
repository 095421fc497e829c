"""Scored prompts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.graphdb.prompt_models import Prompt, ScoreTable
from matchgraph.routing.prompts import split
from matchgraph.training.measure.prompts import EncodedPrompts
from tests.routing import circle


@pytest.fixture
def scored() -> tuple[ScoreTable, EncodedPrompts]:
    """400 prompts with noisy scores."""
    angles, encoded = circle.points(400)
    mean = circle.truth(angles) + np.random.default_rng(5).normal(scale=0.1, size=(400, 3))
    names = split(400)
    prompts = tuple(
        Prompt(f"prompt {number}", names[number], "probe", encoded.embeddings[number])
        for number in range(400)
    )
    table = ScoreTable(
        "clip_score",
        "scorer",
        prompts,
        circle.VARIANTS,
        mean,
        np.full_like(mean, 0.1),
        np.full(mean.shape, 4),
    )
    return table, encoded
