"""What a run's configuration refuses, and how it comes back from the ledger."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from matchgraph.errors import Error
from matchgraph.ingest.errors import ConfigChanged, IngestError
from matchgraph.ingest.runs.config import RunConfig
from tests.ingest.stub import CONFIG


def test_the_paper_s_recipe_is_the_default() -> None:
    config = RunConfig()
    assert (config.steps, config.batch_size, config.learning_rate, config.samples) == (
        10_000,
        8,
        1e-5,
        10_000,
    )


def test_bad_settings_are_refused() -> None:
    for change in ({"steps": 0}, {"learning_rate": float("nan")}, {"precision": "fp8"}, {"guidance": -1.0}):
        with pytest.raises(IngestError):
            replace(CONFIG, **change)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="samples must be a whole number of at least 2"):
        replace(CONFIG, samples=1)


@pytest.mark.parametrize("metrics", [(), ("kid", "kid"), ("KID",)])
def test_metrics_are_named_once(metrics: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match="metric") as refused:
        replace(CONFIG, metrics=metrics)
    assert isinstance(refused.value, Error)


def test_it_comes_back_from_the_ledger_as_it_was() -> None:
    config = replace(CONFIG, metrics=("clip_fid", "kid"), guidance=2.5, gradient_accumulation=2)
    stored = json.loads(json.dumps({**config.asked(), "extractor": "abc"}))
    assert RunConfig.from_asked(stored) == config


@pytest.mark.parametrize("change", [{"weight_decay": 0.5}, {"caption_dropout": None}])
def test_another_version_s_configuration_is_refused_by_name(change: dict) -> None:
    stored = {**CONFIG.asked(), **change}
    stored = {name: value for name, value in stored.items() if value is not None or name not in change}
    with pytest.raises(ConfigChanged, match=next(iter(change))):
        RunConfig.from_asked(stored)
