"""Settings of runs from a YAML file: they are defaults, and some differ between families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from matchgraph.cli.run_file import family_settings
from matchgraph.cli.runs import _given, planning_options, run, run_config
from matchgraph.ingest.errors import IngestError
from matchgraph.ingest.runs.config import RunConfig
from matchgraph.ingest.runs.planning import of_family

ZOO = Path(__file__).parents[2] / "zoo"
FILE = """
steps: 400
learning-rate: 1e-4
metrics: [clip_fid, kid]
samples: auto
families:
  sdxl: {learning-rate: 5e-5, rank: 32}
  flux:
    quantisation: int8
"""


def read(folder: Path, content: str, *given: object) -> tuple[RunConfig, dict[str, dict[str, Any]], str]:
    """What a command makes of a file, and what it says where it refuses it."""
    path = folder / "runs.yaml"
    path.write_text(content)
    found: list[Any] = []

    @click.command()
    @planning_options
    def command(**options: Any) -> None:
        families = family_settings(options)
        found.extend([run_config(options), families])

    result = CliRunner().invoke(command, ["--run-file", str(path), *map(str, given)])
    return *(found or (RunConfig(), {})), result.output.splitlines()[-1] if result.output else ""


def test_a_file_has_the_settings_of_runs_and_those_of_families(tmp_path):
    config, families, output = read(tmp_path, FILE)
    assert output == ""
    assert (config.steps, config.learning_rate, config.metrics) == (400, 1e-4, ("clip_fid", "kid"))
    assert (config.samples, config.tolerance) == (10_000, 0.05)
    assert families == {"sdxl": {"learning_rate": 5e-5, "rank": 32}, "flux": {"quantisation": "int8"}}
    sdxl = of_family(ZOO / "sdxl-base", config, families)
    assert (sdxl.learning_rate, sdxl.rank, sdxl.steps) == (5e-5, 32, 400)
    assert of_family(ZOO / "flux-1-dev", config, families).quantisation == "int8"
    assert of_family(ZOO / "sd-1.5", config, families) == config


def test_a_single_value_of_a_repeatable_option_is_taken_as_one(tmp_path):
    assert read(tmp_path, "metric: kid\nmodel: sd15")[0].metrics == ("kid",)


@pytest.mark.parametrize(("value", "workers"), [("4", 4), ("auto", None)])
def test_the_number_of_workers_may_stand_in_a_file(tmp_path, value, workers):
    (tmp_path / "runs.yaml").write_text(f"workers: {value}")
    with run.make_context("run", ["--run-file", str(tmp_path / "runs.yaml")]) as ctx:
        assert (ctx.params["workers"], _given(ctx, "workers")) == (workers, True)


@pytest.mark.parametrize(
    ("config", "families", "words"),
    [
        (
            RunConfig(snr_gamma=5.0),
            {},
            "flux-1-dev is of the family flux, which has no min-SNR .*--snr-gamma",
        ),
        (RunConfig(), {"flux": {"snr_gamma": 5.0}}, "family flux, which has no min-SNR"),
        (RunConfig(), {"flux": {"steps": 3, "warmup_steps": 5}}, "^flux: warmup_steps must be at most steps"),
    ],
)
def test_settings_that_a_family_cannot_take_are_refused_before_a_run(config, families, words):
    with pytest.raises(IngestError, match=words):
        of_family(ZOO / "flux-1-dev", config, families)
    assert of_family(ZOO / "sd-1.5", config, families) == config


def test_buckets_that_a_model_has_no_positions_for_are_refused_before_a_run(tmp_path):
    large = RunConfig(resolution_px=5120, aspect_buckets=True)
    with pytest.raises(IngestError, match=r"sd3: sd-3\.5-medium has positions for sides of at most 6144"):
        of_family(ZOO / "sd-3.5-medium", large, {})
    assert of_family(ZOO / "sd-3.5-medium", replace(large, resolution_px=1024), {}).aspect_buckets
    assert of_family(ZOO / "flux-1-dev", large, {}) == large
    assert read(tmp_path, "", "--aspect-buckets")[0].aspect_buckets
    config, families, _ = read(tmp_path, "aspect-buckets: true\nfamilies: {flux: {aspect-buckets: false}}")
    assert config.aspect_buckets
    assert not of_family(ZOO / "flux-1-dev", config, families).aspect_buckets
    assert of_family(ZOO / "sd-1.5", config, families).aspect_buckets


def test_options_that_are_given_win(tmp_path):
    config, families, _ = read(tmp_path, FILE, "--learning-rate", 2e-4, "--steps", 7)
    assert (config.steps, config.learning_rate) == (7, 2e-4)
    assert families["sdxl"] == {"rank": 32}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("stepz: 3", "'stepz' is not an option of this command"),
        ("run-file: x.yaml", "'run-file' is not an option of this command"),
        ("- steps", "expected settings as NAME: VALUE."),
        ("steps: [", "cannot be read as YAML"),
        ("steps: 0", "0 is not in the range x>=1"),
        ("families: {vae: {rank: 3}}", "there is no family 'vae'; known: aura_flow, "),
        ("families: {sd: {metrics: [kid]}}", "'metrics' cannot differ between families."),
        ("families: {sd: {rank: many}}", "'many' is not a valid integer"),
        ("families: {sd: 3}", "sd: expected settings"),
        ("steps: 1.9", "runs.yaml: steps: 1.9 is not a value of this option."),
        ("rank: yes", "rank: True is not a value"),
        ("steps: [1, 2]", "steps: [1, 2] is not a value"),
        ("precision: yes", "precision: True is not a value"),
        ("replicate: 3", "replicate: 3 is not a value"),
        ("families: {sdxl: {steps: null}}", "runs.yaml: sdxl: steps: None is not a value"),
        ("families: {sdxl: {rank: 0}}", "runs.yaml: sdxl: rank: 0 is not in the range x>=1."),
        ("learning-rate: 1\nlearning_rate: 2", "'learning-rate' and 'learning_rate' are the same option."),
        ("steps: 3\nrank: ]", "runs.yaml:2 cannot be read as YAML"),
    ],
)
def test_a_file_with_errors_is_refused(tmp_path, content, words):
    assert words in read(tmp_path, content)[2]
