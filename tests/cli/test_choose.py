"""`matchgraph choose` from folders and prompts to images, on a real graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click import BadParameter
from click.testing import CliRunner

from matchgraph.cli.choose import adapters_of
from matchgraph.cli.main import matchgraph
from matchgraph.collaboration import calibration
from matchgraph.minizoo import ROOT


def test_adapters_are_named_with_their_models(tmp_path: Path) -> None:
    file = tmp_path / "a=b.safetensors"
    file.touch()
    assert adapters_of([f"big={file}"]) == {"big": file}
    for wrong, message in (
        (["big"], "MODEL=FILE"),
        ([f"={file}"], "MODEL=FILE"),
        (["big=nowhere"], "nowhere, does not exist"),
        ([f"big={file}"] * 2, "two adapters"),
    ):
        with pytest.raises(BadParameter, match=message):
            adapters_of(wrong)


def some_images(name: str, into: Path) -> Path:
    """A dataset of the small zoo with a few of its images."""
    (into / name).mkdir()
    for image in sorted((ROOT / "datasets" / name).glob("[!.]*.png"))[:6]:
        (into / name / image.name).symlink_to(image)
    return into / name


@pytest.mark.slow
@pytest.mark.usefixtures("graph")
def test_all_three_levels_draw_and_say_what_each_was_worth(
    environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "FEWEST_PROMPTS", 1)
    clip = str(ROOT / "probes" / "clip")

    def invoke(*arguments: str) -> str:
        own = {**environment, "MATCHGRAPH_PROBE": clip}
        result = CliRunner().invoke(matchgraph, arguments, env=own, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return str(result.stdout)

    for folder in ("students/tiny-sdxl-lcm", "models/tiny-sdxl", "models/tiny-sd3"):
        invoke("ingest", "models", str(ROOT / folder), "--no-throughput")
    datasets = [some_images(name, tmp_path) for name in ("noto-food", "openmoji-symbols")]
    invoke("ingest", "datasets", *map(str, datasets))
    rows = [
        f"{model},{dataset.name},clip_fid,{value + number}"
        for model, value in (("tiny-sdxl", 20), ("tiny-sd3", 30))
        for number, dataset in enumerate(datasets)
    ]
    Path("results.csv").write_text("\n".join(["model,dataset,metric,value", *rows]), encoding="utf-8")
    invoke("ingest", "results", "results.csv")
    lines = (ROOT / "prompts.txt").read_text(encoding="utf-8").splitlines()[:6]
    Path("prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    invoke("route", "prompts", "prompts.txt", "--largest-similarity", "1.01")
    for model, guidance in (("tiny-sdxl-lcm", "1"), ("tiny-sdxl", "2")):
        invoke("route", "variants", "--model", model, "--steps", "2", "--guidance", guidance)
    invoke("route", "score", "--metric", "clip_score", "--metric", "sharpness", "--samples", "1")
    invoke("route", "fit", "--kind", "gaussian")
    pair = ("tiny-sdxl-lcm", "tiny-sdxl")
    shown = ("--steps", "2", "--guidance", "1", "--resolution", "32", "--prompts", "prompts.txt")
    invoke("collaborate", "calibrate", *pair, *shown)
    tried = ("--teacher-steps", "3", "--refine-steps", "2", "--rollbacks", "0.9", "--prompts", "prompts.txt")
    invoke("collaborate", "tune", pair[0], "--budget-tflop", "1", *tried)

    Path("asked.txt").write_text("\n".join(lines[:2]), encoding="utf-8")
    asked = ("choose", "--images", str(datasets[0]), "--prompts", "asked.txt", "--budget-tflop", "0.001")
    # By one measure, drawn once, unless levels are to be compared.
    alone = json.loads(invoke(*asked, "--json"))
    assert [(level["name"], level["over_one_choice"]) for level in alone["levels"]] == [
        ("model + prompt + image", None)
    ]
    # A mixture is a measure as well.
    invoke("route", "mix", "both", "--of", "clip_score=4", "--of", "sharpness=1")
    invoke("route", "fit", "--metric", "both")
    [mixed] = json.loads(invoke(*asked, "--metric", "both", "--json"))["levels"]
    assert -3 < mixed["quality"] < 3
    found = json.loads(invoke(*asked, "--compare", "--out", "out", "--json"))
    assert found["models"] == alone["models"]
    assert {*found["models"]} < {*pair}
    levels = {level["name"]: level for level in found["levels"]}
    assert list(levels) == [
        "one choice",
        "prompt",
        "prompt + image",
        "model",
        "model + prompt",
        "model + prompt + image",
    ]
    assert len(list(Path("out").glob("*.png"))) == 2
    for level in levels.values():
        assert len(level["candidates"]) == 2
        assert level["distance"] > 0
        assert 0 < level["tflop"] < 0.002
    # One choice is the same for all, and its own measure.
    assert len(set(levels["one choice"]["candidates"])) == 1
    assert levels["one choice"]["over_one_choice"] == [0, 0, 0]
    whole, part = levels["model + prompt + image"], levels["model + prompt"]
    assert whole["over_fewer"][0] == pytest.approx(whole["quality"] - part["quality"])
    assert levels["model"]["candidates"] == levels["one choice"]["candidates"]
    for level in ("model", "model + prompt"):
        assert {name.partition("@")[0] for name in levels[level]["candidates"]} <= {*pair}
        assert levels[level]["tflop"] == pytest.approx(levels[level]["expected_tflop"])
