"""`matchgraph collaborate student` in process, on a tiny pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from matchgraph.cli.main import run
from matchgraph.training.pipelines.loading import load_pipeline
from matchgraph.training.tune.student_folder import RECORD_FILE
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA of one layer, as latent-consistency/lcm-lora-sdv1-5 is published."""
    folder = tmp_path / "lora"
    folder.mkdir()
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(2, 32, 1, 1),
        f"{layer}.lora_up.weight": torch.ones(32, 2, 1, 1),
        f"{layer}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


def test_a_student_of_names_on_the_hub(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cache(monkeypatch, tmp_path / "cache")
    teacher = tiny.save("sd", tmp_path / "teacher")
    put_into_cache(tmp_path / "cache", "someone/sd-tiny", teacher)
    put_into_cache(tmp_path / "cache", "someone/lcm-lora", lora)
    output = tmp_path / "student"
    asked = ["collaborate", "student", "someone/sd-tiny", "someone/lcm-lora", "--out", str(output)]
    assert run([*asked, "--solver-steps", "20", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.pop("folder") == str(output)
    assert record == json.loads((output / RECORD_FILE).read_text())
    assert record["weights"]["name"] == "someone/lcm-lora"
    pipe, _ = load_pipeline(output, device="cpu")
    plain, _ = load_pipeline(teacher, device="cpu")
    assert pipe.scheduler.config.original_inference_steps == 20
    moved = (
        pipe.unet.mid_block.attentions[0].proj_in.weight - plain.unet.mid_block.attentions[0].proj_in.weight
    )
    # Rank 2 of ones, scaled by alpha over rank.
    torch.testing.assert_close(moved, torch.ones_like(moved))
    assert run(asked) == 2
    assert "exists already" in capsys.readouterr().err


def test_paths_are_described_in_a_line(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, output = tiny.save("sd", tmp_path / "teacher"), tmp_path / "student"
    assert run(["collaborate", "student", str(teacher), str(lora), "--out", str(output)]) == 0
    line = (
        f"{output}: a student of teacher with the lora lora, drawn in 4 steps with guidance 1 by default.\n"
    )
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(
    ("teacher", "weights", "message"),
    [
        ("nowhere", "lora", "nowhere is neither a folder here"),
        ("lora", "lora", "no model_index.json"),
        ("teacher", "nowhere", "nowhere is neither a file or folder here"),
        ("teacher", "lora/readme.txt", "not a .safetensors file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    teacher: str,
    weights: str,
    message: str,
    lora: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(lora.parent)
    (lora / "readme.txt").write_text("x")
    tiny.save("sd", Path("teacher"))
    assert run(["collaborate", "student", teacher, weights, "--out", "student"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not Path("student").exists()
