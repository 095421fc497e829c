"""The check of a GPU runs through on a CPU, with pipelines of the smallest size."""

from __future__ import annotations

import json
import time

import pytest

from bench import gpu, gpu_memory
from bench.gpu import run, table


@pytest.mark.slow
def test_every_part_of_the_check_runs_without_a_gpu(monkeypatch):
    for module in (gpu, gpu_memory):
        monkeypatch.setattr(module, "STEPS", 2)
        monkeypatch.setattr(module, "SAMPLING_STEPS", 1)
    kept = []
    # The second is no pipeline's name, as a model may fail on some device.
    result = json.loads(json.dumps(run("cpu", smallest=True, shapes=("sd", "none"), keep=kept.append)))
    assert len(kept) == 2
    assert result["models"]["none"]["left_out"].startswith("KeyError: ")
    assert "none         left out: KeyError: " in table(result)
    model = result["models"]["sd"]
    assert model["failed"] == {}
    stages = [row["stage"] for row in model["memory"]]
    compared = ["loading", "encoding text", "encoding images", "training", "sampling", "decoding"]
    assert stages == [*compared, "scoring"]
    assert [row["stage"] for row in model["ways"]][:2] == ["checkpointing", "blocks in turn"]
    for row in (*model["memory"][:-1], model["ways"][0]):
        # At this size what is held for a moment counts for more than in real models.
        assert 0.8 < row["ratio"] < 1.5, row
    assert all(rate > 0 for rate in model["speed"].values())
    assert model["resume"] == {"resumed_at": [1], "largest_relative_difference": 0.0}
    assert model["out_of_memory"]["error"].startswith("Out of memory in training: ")
    assert model["bf16_to_fp32"] < 0.05
    assert "steps/s (diffusers" in table(result)


def test_a_part_that_fails_or_comes_too_late_costs_no_other():
    def fails():
        raise RuntimeError("CUDA error\nand more")

    result = {"plan": {}}
    gpu.attempted({"memory": fails, "ways": list}, result, ends=time.monotonic() + 60)
    gpu.attempted({"speed": fails}, result, ends=0)
    assert result["ways"] == []
    assert result["failed"] == {"memory": "RuntimeError: CUDA error", "speed": "no time was left"}
    whole = {"device": "cpu", "precision": "fp32", "side_px": 32, "batch": 2, "seconds": 1.0}
    text = table(whole | {"models": {"sd": result}})
    assert "no memory: RuntimeError: CUDA error" in text
    assert "no speed: no time was left" in text
