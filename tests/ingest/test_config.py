"""What a run's configuration refuses, and how it comes back from the ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from matchgraph.errors import Error
from matchgraph.ingest.errors import ConfigChanged, IngestError
from matchgraph.ingest.runs import config as config_module
from matchgraph.ingest.runs.config import Execution, RunConfig
from matchgraph.settings import identity, setting, settings_of
from matchgraph.training.config import FineTuneConfig
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
    config = replace(CONFIG, metrics=("clip_fid", "kid"), guidance=2.5, batch_size=12)
    stored = json.loads(json.dumps({**config.asked(), "extractors": {"clip": "abc"}, "default_steps": 40}))
    assert RunConfig.from_asked(stored) == replace(config, precision="fp32")


def test_how_a_run_is_carried_out_is_no_part_of_the_question() -> None:
    """Also a setting of training that is added later, unless it is marked as one of the question."""
    settings = {**settings_of(Execution), **settings_of(FineTuneConfig)}
    known = {name: one.about.identity for name, one in settings.items()}
    asked = RunConfig().asked()
    assert set(settings_of(Execution)) == {name for name, part in known.items() if part == "never"}
    assert not asked.keys() & set(settings_of(Execution))
    later = {name for name, part in known.items() if part == "changed"}
    left_out = {name for name in known if name not in asked}
    assert left_out == {*settings_of(Execution), "gradient_accumulation", *later}
    carried_out = Execution(micro_batch=5, gradient_checkpointing=True, sampling_batch=3)
    trained = RunConfig(batch_size=12).fine_tuning(carried_out)
    # Equal passes, of at most as many images as were asked for.
    assert (trained.batch_size, trained.gradient_accumulation) == (4, 3)
    assert trained.gradient_checkpointing
    assert RunConfig().sampling(carried_out).batch_size == 3


@pytest.mark.parametrize(("side", "batch"), [(32, 128), (256, 32), (512, 8), (1024, 2), (4096, 1)])
def test_small_images_are_sampled_many_at_a_time(side: int, batch: int) -> None:
    assert Execution().sampled_together(side) == batch


@dataclass(frozen=True)
class Extended:
    steps: int = setting(3, "As ever.")
    schedule: str = setting("constant", "Added later.", identity="changed")


def test_a_setting_added_later_leaves_questions_at_its_default_what_they_were() -> None:
    assert identity(Extended()) == {"steps": 3}
    assert identity(Extended(schedule="cosine")) == {"steps": 3, "schedule": "cosine"}


# Of the first release that had a ledger; a setting that is added must not touch it.
FIRST = {
    "alpha": 16, "batch_size": 8, "caption_dropout": 0.1, "guidance": None, "initial": True,
    "learning_rate": 1e-05, "max_gradient_norm": 1.0, "method": "lora", "metrics": ["clip_fid"],
    "precision": "fp32", "rank": 16, "resolution_px": 512, "samples": 10000, "sampling_steps": None,
    "seed": 0, "steps": 10000, "weight_decay": 0.01,
}  # fmt: skip


def test_the_default_question_is_what_it_was() -> None:
    assert RunConfig().asked() == FIRST
    # What is said of a default asks nothing else.
    assert RunConfig(quantisation="none").asked() == FIRST
    assert json.dumps(RunConfig(alpha=16.0).asked()["alpha"]) == "16"
    changed = {
        "quantisation": "int8", "optimiser": "adamw8bit", "schedule": "cosine", "warmup_steps": 5,
        "alpha": 8.0, "caption_dropout": 0.5, "snr_gamma": 5.0, "ema": 0.9,
        "aspect_buckets": True,
    }  # fmt: skip
    for name, value in changed.items():
        config = RunConfig(**{name: value})
        assert config.asked() == {**FIRST, name: value}
        kept = RunConfig.from_asked(json.loads(json.dumps(config.asked())))
        assert kept == replace(config, precision="fp32")
        assert getattr(config.fine_tuning(Execution()), name) == value
    assert RunConfig(quantisation="int8").sampling(Execution()).quantisation == "int8"
    # Samples are squares whatever was trained on, so those of a pretrained model are shared.
    assert RunConfig(aspect_buckets=True).sampling(Execution()) == RunConfig().sampling(Execution())
    with pytest.raises(IngestError, match="--method lora"):
        RunConfig(quantisation="nf4", method="full")


def test_what_a_run_says_of_its_drawing_is_not_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {"default_steps": 40, "default_guidance": 4.5, "prompt_tokens": 256}
    monkeypatch.setattr(config_module, "identity_of_drawing", lambda _: drawn)
    assert RunConfig().drawn_by_default(Path()) == drawn
    given = RunConfig(sampling_steps=40, guidance=0.0).drawn_by_default(Path())
    assert given == {"prompt_tokens": 256}


@pytest.mark.parametrize("change", [{"weight_decay": 0.5}, {"caption_dropout": None}])
def test_another_version_s_configuration_is_refused_by_name(change: dict) -> None:
    stored = {**CONFIG.asked(), **change}
    stored = {name: value for name, value in stored.items() if value is not None or name not in change}
    with pytest.raises(ConfigChanged, match=next(iter(change))):
        RunConfig.from_asked(stored)


def test_a_setting_of_a_later_version_is_not_left_out_in_silence() -> None:
    with pytest.raises(ConfigChanged, match="mirrored was True there and is 'not known' here"):
        RunConfig.from_asked({**CONFIG.asked(), "mirrored": True})
