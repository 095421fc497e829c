"""`matchgraph control`: an edge image, and a ControlNet that a stopped command goes on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from matchgraph.cli.control import control
from matchgraph.cli.main import run
from matchgraph.minizoo import ROOT
from matchgraph.training.tune import controlnet
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache

SMALL = ("--steps", "3", "--batch-size", "2", "--resolution", "32", "--device", "cpu")


@pytest.fixture
def invoke() -> Callable[..., Result]:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(control, arguments, catch_exceptions=False)

    return invoke


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six icons of one dataset with their captions."""
    folder = tmp_path_factory.mktemp("images")
    dataset = ROOT / "datasets" / "twemoji-food"
    lines = (dataset / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    for line in lines:
        row = json.loads(line)
        shutil.copyfile(dataset / row["file_name"], folder / row["file_name"])
    rows = [json.dumps({**json.loads(line), "split": "train"}) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Stable Diffusion at the smallest size."""
    return str(tiny.save("sd", tmp_path_factory.mktemp("model")))


def picture(path: Path) -> Path:
    pixels = np.zeros((40, 48, 3), dtype=np.uint8)
    pixels[10:30, 10:30] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_an_image_becomes_its_edges(invoke, tmp_path):
    source, output = picture(tmp_path / "in.png"), tmp_path / "out.png"
    told = invoke("image", str(source), "--output", str(output), "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == {
        "output": str(output),
        "kind": "canny",
        "width_px": 48,
        "height_px": 40,
    }
    with Image.open(output) as edges:
        pixels = np.asarray(edges)
    assert set(np.unique(pixels)) == {0, 255}
    assert not pixels[13:27, 13:27].any()
    told = invoke("image", str(source), "--output", str(output), "--resolution", "32")
    assert "canny image of 32x32 pixels" in told.stdout
    with Image.open(output) as edges:
        assert edges.size == (32, 32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


def test_thresholds_reach_canny(invoke, tmp_path):
    source, output = picture(tmp_path / "in.png"), tmp_path / "out.png"
    Image.open(source).point(lambda value: value // 10).save(source)
    for thresholds, found in ((("--low", "100"), False), (("--low", "10", "--high", "20"), True)):
        assert invoke("image", str(source), "--output", str(output), *thresholds).exit_code == 0
        assert np.asarray(Image.open(output)).any() == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "segmentation"), "--segmenter goes with"),
        (("--low", "300"), "0 <= low <= high"),
        (("--kind", "depth"), "depth"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, arguments, message):
    source = picture(tmp_path / "in.png")
    code = run(["control", "image", str(source), "--output", str(tmp_path / "out.png"), *arguments])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    source = picture(tmp_path / "in.png")
    assert run(["control", "image", str(source), "--output", str(tmp_path / "no" / "out.png")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_training_goes_on_where_it_was_stopped(invoke, model, images, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    told = invoke("train", model, "--images", str(images), "--output", str(whole), *SMALL, "--json")
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert facts["happened"]["images"] == 6
    assert facts["asked"]["config"]["steps"] == 3
    assert "step 3/3" in told.stderr
    names = ["config.json", "control.json", "diffusion_pytorch_model.safetensors"]
    assert sorted(path.name for path in whole.iterdir()) == names

    output = tmp_path / "part"
    command = ["train", model, "--images", str(images), "--output", str(output), *SMALL]
    step, made = controlnet.Training.step, []

    def stopping(self, number):
        if number == 3:
            raise KeyboardInterrupt
        made.append(number)
        return step(self, number)

    monkeypatch.setattr(controlnet.Training, "step", stopping)
    assert run(["control", *command, "--checkpoint-every", "2"]) == 130
    assert not (output / "config.json").exists()
    monkeypatch.setattr(controlnet.Training, "step", step)
    told = invoke(*command, "--checkpoint-every", "2")
    assert "trained on 6 images" in told.stdout
    assert made == [1, 2]
    assert json.loads((output / "control.json").read_text())["happened"]["resumed_at"] == [2]
    assert (output / names[2]).read_bytes() == (whole / names[2]).read_bytes()
    assert sorted(path.name for path in output.iterdir()) == names


def test_the_model_may_be_named_as_on_the_hub(invoke, model, images, tmp_path, monkeypatch, capsys):
    use_cache(monkeypatch, tmp_path / "cache")
    put_into_cache(tmp_path / "cache", "someone/sd-tiny", Path(model))
    asked = ["--images", str(images), "--output", str(tmp_path / "out"), *SMALL]
    told = invoke("train", "someone/sd-tiny", *asked, "--json")
    assert json.loads(told.stdout)["asked"]["model"] == "sd-tiny"
    assert run(["control", "train", "no-such-model", *asked]) == 2
    assert "no-such-model is no folder here, and no name on the hub" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "maps"), "--maps goes with"),
        (("--kind", "segmentation"), "--segmenter goes with"),
        (("--steps", "0"), "--steps"),
    ],
)
def test_wrong_training_options_are_refused(model, images, tmp_path, capsys, arguments, message):
    command = ["control", "train", model, "--images", str(images), "--output", str(tmp_path / "out")]
    assert run([*command, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_unet_is_refused(images, tmp_path, capsys):
    model = str(ROOT / "models" / "tiny-sana-small")
    command = ["control", "train", model, "--images", str(images), "--output", str(tmp_path / "out")]
    assert run([*command, *SMALL]) == 2
    assert "ControlNets are for the families sd and sdxl" in capsys.readouterr().err
