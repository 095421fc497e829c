"""Settings of runs from a YAML file: they are defaults, and some differ between families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from matchgraph.cli.run_file import family_settings
from matchgraph.cli.runs import planning_options, run_config
from matchgraph.ingest.runs.config import RunConfig
from matchgraph.ingest.runs.workflow import of_family

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


def test_options_that_are_given_win(tmp_path):
    config, families, _ = read(tmp_path, FILE, "--learning-rate", 2e-4, "--steps", 7)
    assert (config.steps, config.learning_rate) == (7, 2e-4)
    assert families["sdxl"] == {"rank": 32}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("stepz: 3", "'stepz' is no option of this command"),
        ("run-file: x.yaml", "'run-file' is no option of this command"),
        ("- steps", "settings are expected, as NAME: VALUE."),
        ("steps: [", "cannot be read as YAML"),
        ("steps: 0", "0 is not in the range x>=1"),
        ("families: {vae: {rank: 3}}", "there is no family 'vae'; known: aura_flow, "),
        ("families: {sd: {metrics: [kid]}}", "'metrics' cannot differ between families."),
        ("families: {sd: {rank: many}}", "'many' is not a valid integer"),
        ("families: {sd: 3}", "sd: settings are expected"),
    ],
)
def test_a_file_with_errors_is_refused(tmp_path, content, words):
    assert words in read(tmp_path, content)[2]
