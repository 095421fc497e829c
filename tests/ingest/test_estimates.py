"""Times of runs: from runs that are done, from their own pace, or from what a model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from matchgraph.graphdb.models import Model
from matchgraph.ingest.runs import estimates
from matchgraph.ingest.runs.entries import TRAINING, Pace, Run, RunProgress
from matchgraph.ingest.runs.estimates import (
    ASSUMED,
    ASSUMED_TFLOP_PER_S,
    UNMEASURED,
    Estimate,
    Estimator,
    bases,
)

CONFIG = {
    "steps": 100,
    "batch_size": 2,
    "resolution_px": 512,
    "precision": "fp32",
    "samples": 10,
    "sampling_steps": None,
    "guidance": None,
    "initial": True,
}
# 50 steps, two forwards in each: one forward is 1 TFLOP.
MODELS = {"m": Model("m", {"family": "sd", "tflop": 100.0}), "n": Model("n", {"family": "sd", "tflop": 50.0})}


def run(model: str = "m", status: str = "DONE", **changes: Any) -> Run:
    properties = {"training_seconds": 60.0, "seconds_per_image": 3.0} if status == "DONE" else {}
    properties |= changes.pop("properties", {})
    progress, pace = changes.pop("progress", None), changes.pop("pace", None)
    return Run(
        id="0" * 16,
        model=model,
        dataset="d",
        status=status,
        attempt=1,
        max_attempts=3,
        fence=1,
        expired=False,
        owner=None,
        config={**CONFIG, **changes},
        extractors={},
        replicate=False,
        average=None,
        progress=progress,
        pace=pace,
        error=None,
        properties=properties,
    )


def test_a_run_like_one_that_is_done_takes_as_long() -> None:
    estimator = Estimator([run(), run(status="QUEUED")], MODELS)
    estimate = estimator.whole("m", CONFIG)
    assert (estimate.seconds, estimate.basis) == (60 + 2 * 30, "runs of this model")
    assert estimator.whole("m", {**CONFIG, "initial": False}).seconds == 60 + 30
    assert estimator.whole("m", {**CONFIG, "steps": 1000}).seconds == pytest.approx(600 + 2 * 30)


def test_other_settings_are_scaled() -> None:
    estimator = Estimator([run()], MODELS)
    larger = estimator.whole("m", {**CONFIG, "resolution_px": 1024, "initial": False})
    assert larger.seconds == pytest.approx(4 * 90)
    assert larger.basis == "runs of this model with other settings"
    # A run with the same settings says more than one without.
    both = Estimator([run(), run(resolution_px=1024)], MODELS)
    assert both.whole("m", {**CONFIG, "resolution_px": 1024, "initial": False}).seconds == pytest.approx(90)
    # By default 50 scheduler steps.
    fewer = estimator.stage("sampling after", "m", {**CONFIG, "sampling_steps": 25})
    assert fewer.seconds == pytest.approx(15)


def test_another_model_s_runs_tell_the_machine_s_speed() -> None:
    estimate = Estimator([run()], MODELS).whole("n", CONFIG)
    # Half as much to compute.
    assert estimate.seconds == pytest.approx(60 / 2 + 2 * 30 / 2)
    assert estimate.basis == "runs of other models"


def test_a_gpu_is_never_judged_by_runs_on_a_cpu() -> None:
    # As the small zoo's are recorded, and one of a run on a GPU, a hundred times as fast.
    fast = {"device": "NVIDIA H200", "training_seconds": 0.6, "seconds_per_image": 0.03}
    runs = [run(), run("n", properties={"device": "cpu"})]
    assert Estimator(runs, MODELS, gpu=True).whole("m", CONFIG).basis == ASSUMED
    nothing = Estimator([run(properties=fast)], MODELS, gpu=False).whole("m", CONFIG)
    assert nothing == Estimate(None, UNMEASURED)
    assert Estimator(runs, MODELS, gpu=False).whole("m", CONFIG).seconds == 120
    both = [*runs, run(properties=fast)]
    assert Estimator(both, MODELS, gpu=True).whole("m", CONFIG).seconds == pytest.approx(1.2)
    assert Estimator(both, MODELS, gpu=False).whole("m", CONFIG).seconds == 120
    assert Estimator(both, MODELS).whole("m", CONFIG).seconds == pytest.approx((120 + 1.2) / 2)
    # Of a version that did not record the device.
    earlier = [run(properties={"machine": "abc"})]
    assert Estimator(earlier, MODELS, gpu=True).whole("m", CONFIG).seconds == 120
    assert Estimator(earlier, MODELS, gpu=False).whole("m", CONFIG).seconds == 120
    timed = {"t": Model("t", {"throughput": 2.0, "throughput_device": "A processor, 2 threads"})}
    assert Estimator([], timed, gpu=False).stage("sampling after", "t", CONFIG).seconds == pytest.approx(5)
    assert Estimator([], timed, gpu=True).stage("sampling after", "t", CONFIG).seconds is None


def test_this_machine_s_runs_set_the_scale_of_those_of_another() -> None:
    records, here = [run(), run("n")], {"host": "here"}
    basis = "runs of this model on another machine"
    before = Estimator(records, MODELS, host="here").whole("m", CONFIG)
    assert (before.seconds, before.basis) == (120, basis)
    assert Estimator(records, MODELS, host="here").whole("x", CONFIG).seconds is None
    slow = run("n", properties={"training_seconds": 180.0, "seconds_per_image": 6.0, **here})
    after = Estimator([*records, slow], MODELS, host="here")
    # Three times as slow in training and twice in sampling, as this machine was with the other model.
    assert after.whole("m", CONFIG).seconds == pytest.approx(3 * 60 + 2 * 2 * 30)
    assert after.whole("m", CONFIG).basis == f"{basis}, scaled to this machine's speed"
    assert after.whole("n", CONFIG).seconds == pytest.approx(180 + 2 * 60)
    assert after.whole("n", CONFIG).basis == "runs of this model"
    # No model ran on both: by what they compute, of which n has half.
    other = Estimator([run(), slow], MODELS, host="here")
    assert other.whole("m", CONFIG).seconds == pytest.approx(2 * 180 + 2 * 2 * 60)
    assert Estimator([run()], MODELS, host="here").whole("n", CONFIG).basis == (
        "runs of other models on another machine"
    )


def test_times_of_a_cpu_and_a_gpu_or_of_other_settings_are_no_ratio() -> None:
    here, quick = {"host": "here"}, {"training_seconds": 0.6, "seconds_per_image": 0.03}
    gpu = {"device": "NVIDIA H200", **quick}
    # Nobody says what the host has: its own run does, and runs on a CPU do not count.
    there = [run(model, properties={**gpu, "host": "there"}) for model in MODELS]
    runs = [run(), run("n"), *there, run("n", properties={**gpu, **here})]
    assert Estimator(runs, MODELS, host="here").whole("m", CONFIG).seconds == pytest.approx(1.2)
    # In another precision here: by what it computes, of which m has twice as much.
    half = run("n", precision="bf16", properties={**quick, **here})
    other = Estimator([run(), run("n"), half], MODELS, host="here").whole("m", CONFIG)
    assert (other.seconds, other.basis) == (pytest.approx(2 * 1.2), "runs of other models")


def test_a_long_ledger_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Mock(wraps=estimates._seconds)
    monkeypatch.setattr(estimates, "_seconds", seen)
    runs = [run(properties={"host": host}) for host in ("here", "there") for _ in range(30)]
    estimator = Estimator([*runs, run("n")], MODELS, host="here")
    assert not seen.called
    assert estimator.whole("n", CONFIG).seconds == pytest.approx(120)
    assert estimator.whole("n", CONFIG).seconds == pytest.approx(120)
    # Each of its 61 runs for training and for sampling, and n's for each stage.
    assert seen.call_count <= 2 * 61 + 6


def test_bases_of_several_models_are_in_the_plural() -> None:
    own = Estimate(1.0, "runs of this model with other settings")
    assert bases([own]) == own.basis
    several = [own, Estimate(1.0, "runs of other models"), own, Estimate(None, UNMEASURED)]
    assert bases(several) == "runs of these models with other settings; runs of other models"


def test_runs_of_other_models_count_first_in_the_same_precision() -> None:
    quick = run(precision="bf16", properties={"training_seconds": 6.0})
    estimator = Estimator([run(), quick], MODELS)
    assert estimator.stage(TRAINING, "n", CONFIG).seconds == pytest.approx(30)
    assert estimator.stage(TRAINING, "n", {**CONFIG, "precision": "bf16"}).seconds == pytest.approx(3)


def test_without_any_run_the_work_is_estimated() -> None:
    estimate = Estimator([], MODELS).stage("fine-tuning", "m", CONFIG)
    assert estimate.seconds == pytest.approx(3 * 100 * 2 / ASSUMED_TFLOP_PER_S)
    assert "assumed" in estimate.basis
    sampling = Estimator([], MODELS).stage("sampling after", "m", CONFIG)
    assert sampling.seconds == pytest.approx(100 * 10 / ASSUMED_TFLOP_PER_S)
    unguided = Estimator([], MODELS).stage("sampling after", "m", {**CONFIG, "guidance": 1.0})
    assert unguided.seconds == pytest.approx(50 * 10 / ASSUMED_TFLOP_PER_S)
    models = {"p": Model("p", {"params": 10**9}), "t": Model("t", {"throughput": 2.0, "family": "sd"})}
    # 2 operations for each parameter and each of 32 x 32 tokens.
    by_params = Estimator([], models).stage("fine-tuning", "p", CONFIG)
    assert by_params.seconds == pytest.approx(2e9 * 1024 / 1e12 * 3 * 200 / ASSUMED_TFLOP_PER_S)
    assert Estimator([], models).stage("sampling after", "t", CONFIG).seconds == pytest.approx(10 / 2)
    nothing = Estimator([], models).whole("t", CONFIG)
    assert (nothing.seconds, nothing.basis) == (None, "nothing known about this model")
    assert Estimator([], {}).whole("gone", CONFIG).seconds is None


def test_a_running_run_is_judged_by_its_own_pace() -> None:
    # 20 steps in 10 s, heard 1 s ago: 40 s to 30 s for the 60 that are left, whatever others took.
    pace = Pace(began=5_000, first=20, heard=15_000, now=16_000)
    running = run(status="RUNNING", progress=RunProgress("fine-tuning", 40, 100, 0.1), pace=pace)
    estimator = Estimator([run(), running], MODELS)
    assert estimator.left(running).seconds == pytest.approx(60 * 0.5 - 1 + 30)
    # Resumed in the middle and told once only: the share that is left of what others took.
    told_once = run(status="RUNNING", progress=RunProgress("fine-tuning", 40, 100), pace=Pace(5, 40, 5, 6))
    assert estimator.left(told_once).seconds == pytest.approx(60 * 0.6 + 30)
    assert estimator.left(run(status="RUNNING", progress=RunProgress("claimed"))).seconds == 120
    last = run(
        status="RUNNING", progress=RunProgress("sampling after", 5, 10), pace=Pace(0, 0, 10_000, 30_000)
    )
    assert estimator.left(last).seconds == 0
    assert estimator.left(run(status="RUNNING", progress=RunProgress("writing"))).basis == "nearly done"


def test_costs_are_scaled_from_the_size_that_was_counted() -> None:
    """SANA-1.5 draws 1024 px when its own call, which is what is counted, is asked for 512."""
    zoo = Path(__file__).parents[2] / "zoo"
    models = {
        "small": Model("small", {"family": "sd", "tflop": 100.0, "tflop_resolution_px": 32}),
        "sana": Model("sana", {"family": "sana", "tflop": 40.0, "source": str(zoo / "sana-1.5-4.8b")}),
        "sana at 512": Model(
            "sana at 512", {"family": "sana", "tflop": 40.0, "source": str(zoo / "sana-1.6b")}
        ),
        "unknown": Model("unknown", {"family": "sana", "tflop": 40.0, "source": "/nowhere"}),
    }
    seconds = {
        name: estimate.seconds
        for name in models
        if (estimate := Estimator([], models).stage(TRAINING, name, CONFIG)).seconds
    }
    forward = 1.0 * 3 * CONFIG["steps"] * CONFIG["batch_size"] / ASSUMED_TFLOP_PER_S
    assert seconds["small"] == pytest.approx(forward * (512 / 32) ** 2)
    assert seconds["sana"] == pytest.approx(forward / 4)
    assert seconds["sana at 512"] == pytest.approx(forward)
    assert seconds["unknown"] == pytest.approx(forward)
