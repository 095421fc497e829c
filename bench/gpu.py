"""A check of one GPU in minutes: memory against its estimate, speed, precision, resuming, out of memory.

    python -m bench.gpu --device cuda

Needs torch, torchvision, diffusers, transformers, peft and safetensors, bitsandbytes for nf4; no graph and
no network. Pipelines have the shape of the published ones (FLUX.1 with few of its blocks) and random weights.
Prints one table, and writes JSON after each model, so that what was measured before an error stays.

On a CPU, memory is that of the tensors; `--tiny` takes pipelines of the smallest size.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench import plain_loop
from bench.gpu_memory import SAMPLING_STEPS, STEPS, Setting, memory_rows, plain_plan, way_rows
from bench.provenance import provenance
from bench.shapes import random_pipeline, tiny
from matchgraph.drawing import Drawing
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import OutOfMemory, first_line, memory_of
from matchgraph.training.memory.plan import GIB
from matchgraph.training.pipelines.encoding import encode_dataset
from matchgraph.training.pipelines.loading import LoadedPipeline
from matchgraph.training.pipelines.placement import placed
from matchgraph.training.sampling.generate import image_generator, sample_images
from matchgraph.training.tune.checkpoint import Checkpoints
from matchgraph.training.tune.finetune import fine_tune, method_of
from matchgraph.training.tune.loop import Training, attached

ZOO = Path(__file__).parents[1] / "zoo"
RESULTS = Path(__file__).parent / "results" / "gpu.json"
SHAPES = ("sd-1.5", "sdxl-base", "flux-1-dev")
# What is left of a transformer too large for most cards.
CUT = {"transformer": {"num_layers": 2, "num_single_layers": 4}, "text_encoder_2": {"num_layers": 2}}
# The longest part takes under a minute on a GPU, so that a check ends within six.
SECONDS = 290.0
PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors")


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds of some work."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def speeds(loaded: LoadedPipeline, dataset: Path, setting: Setting, out: Path) -> dict[str, float]:
    """Steps and images per second, and those of diffusers' own loop and call."""
    config, device = setting.training(), setting.device
    sampling = SampleConfig(
        n=setting.batch,
        drawing=Drawing(SAMPLING_STEPS, resolution_px=setting.side, precision=setting.precision),
        batch_size=setting.batch,
        device=str(device),
    )
    generators = [image_generator(0, number) for number in range(setting.batch)]
    prompts = ["a cat"] * setting.batch
    call: dict[str, Any] = {
        "batch_size": setting.batch,
        "steps": SAMPLING_STEPS,
        "guidance": loaded.family.default_guidance,
        "resolution_px": setting.side,
    }
    works: dict[str, tuple[int, Callable[[], Any]]] = {
        "steps_per_s": (STEPS, lambda: fine_tune(loaded, dataset, config, out / "ours")),
        "diffusers_steps_per_s": (STEPS, lambda: plain_loop.train(loaded, dataset, config, out / "plain")),
        "images_per_s": (setting.batch, lambda: sample_images(loaded, None, prompts, sampling)),
        "diffusers_images_per_s": (
            setting.batch,
            lambda: plain_loop.sample(loaded, prompts, generators, **call),
        ),
    }
    found = {}
    for name, (amount, work) in works.items():
        # Kernels are chosen in the first turn.
        timed(device, work)
        found[name] = amount / timed(device, work)
    return found


def resumed(loaded: LoadedPipeline, dataset: Path, setting: Setting, out: Path) -> dict[str, Any]:
    """A run that is stopped half-way and taken up again, beside one that is not."""
    config = setting.training()
    whole = fine_tune(loaded, dataset, config, out / "whole").losses

    def stop(step: int, _: float) -> None:
        if step == STEPS // 2:
            raise KeyboardInterrupt

    checkpoints = Checkpoints(out / "kept", 1, out / "kept")
    with suppress(KeyboardInterrupt):
        fine_tune(loaded, dataset, config, out / "parts", stop, checkpoints=checkpoints)
    parts = fine_tune(loaded, dataset, config, out / "parts", checkpoints=checkpoints)
    largest = max(abs(one - other) / abs(one) for one, other in zip(whole, parts.losses, strict=True))
    return {"resumed_at": parts.happened["resumed_at"], "largest_relative_difference": largest}


def lacking(loaded: LoadedPipeline, dataset: Path, setting: Setting) -> dict[str, Any]:
    """A step that finds no memory, and the step after it."""
    config = setting.training()
    data = encode_dataset(loaded, dataset, resolution_px=setting.side, seed=0)
    error = "none"
    with attached(loaded, method_of(config), config) as parameters, placed(loaded, "denoiser", training=True):
        training = Training(loaded, parameters, data, config)
        before = torch.cuda.memory_allocated(setting.device) if setting.device.type == "cuda" else 0
        try:
            with _no_memory(loaded, setting.device), memory_of("training"):
                training.step(1)
        except OutOfMemory as raised:
            error = str(raised)
        gc.collect()
        after = torch.cuda.memory_allocated(setting.device) if setting.device.type == "cuda" else 0
        for parameter in parameters.values():
            parameter.grad = None
        loss = training.step(1)
    return {"error": error, "held_bytes": after - before, "loss_after": loss}


@contextmanager
def _no_memory(loaded: LoadedPipeline, device: torch.device) -> Iterator[None]:
    """No more memory than is in use inside."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(device) / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    denoiser: Any = loaded.family.denoiser(loaded.pipe)

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    denoiser.forward, own = fail, denoiser.forward
    try:
        yield
    finally:
        denoiser.forward = own


def narrowed(build: Callable[[str], LoadedPipeline], dataset: Path, setting: Setting, out: Path) -> float:
    """The largest relative difference of bf16 losses from those of fp32."""
    losses = {}
    for precision in ("fp32", "bf16"):
        with build(precision) as loaded:
            config = replace(setting, precision=precision).training()
            losses[precision] = fine_tune(loaded, dataset, config, out / precision).losses
    pairs = zip(losses["fp32"], losses["bf16"], strict=True)
    return max(abs(one - other) / abs(one) for one, other in pairs)


def check(
    folder: Path,
    build: Callable[[str], LoadedPipeline],
    dataset: Path,
    setting: Setting,
    out: Path,
    ends: float,
) -> dict[str, Any]:
    """Everything about one model.

    Args:
        folder: its configs.
        build: makes the pipeline in a precision.
        dataset: captioned images.
        setting: how it is run.
        out: for what the runs write.
        ends: see `attempted`.
    """
    plan = plain_plan(folder, setting)
    # A small card takes fewer images, on both sides.
    setting = replace(setting, batch=min(plan.micro_batch, plan.sampling_batch))
    result: dict[str, Any] = {"plan": plan.to_dict(), "batch": setting.batch}
    if plan.too_large:
        return result | {"left_out": f"{plan.peaks[plan.heaviest] / GIB:.1f} GiB do not fit"}
    with build(setting.precision) as loaded:
        parts: dict[str, Callable[[], Any]] = {
            "memory": lambda: memory_rows(loaded, dataset, plan, setting),
            "speed": lambda: speeds(loaded, dataset, setting, out),
            "resume": lambda: resumed(loaded, dataset, setting, out),
            "out_of_memory": lambda: lacking(loaded, dataset, setting),
            # Last, as weights are quantised in place.
            "ways": lambda: way_rows(loaded, folder, dataset, setting),
        }
        attempted(parts, result, ends)
    return result


def attempted(parts: dict[str, Callable[[], Any]], result: dict[str, Any], ends: float) -> None:
    """Put what parts of a check find into a result; what failed or came too late is under `failed`.

    Args:
        parts: by name.
        result: gets theirs.
        ends: `time.monotonic()` after which none begins.
    """
    failed: dict[str, str] = result.setdefault("failed", {})
    for name, part in parts.items():
        if time.monotonic() > ends:
            failed[name] = "no time was left"
            continue
        try:
            result[name] = part()
        except Exception as error:
            # What the others come to is worth having.
            failed[name] = f"{type(error).__name__}: {first_line(error)}"
            result.setdefault("tracebacks", {})[name] = traceback.format_exc()
        # Of a part that failed, its error may have held tensors; nothing where there is no GPU.
        gc.collect()
        torch.cuda.empty_cache()


def write_dataset(folder: Path, side: int, count: int) -> Path:
    """Write captioned noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": f"a cat {'ab'[number % 2]}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def cut(folder: Path, target: Path) -> Path:
    """A copy of a model's configs with the depths of `CUT`."""
    shutil.copytree(folder, target)
    for part, changes in CUT.items():
        path = target / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def whole_check(
    name: str, root: Path, dataset: Path, setting: Setting, smallest: bool, precisions: bool, ends: float
) -> dict[str, Any]:
    """Everything about one model, by its name, and if asked for what bf16 differs from fp32."""
    if smallest:
        folder = tiny.save(name, root / f"{name}-model")
    else:
        folder = cut(ZOO / name, root / f"{name}-cut") if name.startswith("flux") else ZOO / name

    def build(precision: str) -> LoadedPipeline:
        make = LoadedPipeline if smallest else random_pipeline
        return make(folder, device=str(setting.device), precision=precision)

    found = check(folder, build, dataset, setting, root / name, ends)
    if precisions and "left_out" not in found:
        # In fp32 a card may not hold what it does in bf16.
        same = replace(setting, batch=found["batch"])
        attempted({"bf16_to_fp32": lambda: narrowed(build, dataset, same, root / name)}, found, ends)
    return found


def run(
    device: str,
    *,
    smallest: bool = False,
    shapes: Sequence[str] = SHAPES,
    seconds: float = SECONDS,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Check a device with several models.

    Args:
        device: a torch device name.
        smallest: take pipelines of the smallest size, in float32.
        shapes: names of folders in the zoo, or of tiny pipelines.
        seconds: after which no further part begins.
        keep: called with what is known after each model.
    """
    target = torch.device(device)
    side, batch = (tiny.RESOLUTION_PX, 2) if smallest else (512, 8)
    setting = Setting(target, "fp32" if smallest else "bf16", side, batch)
    models: dict[str, Any] = {}
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else device
    result = {
        "device": name,
        "seconds": 0.0,
        "precision": setting.precision,
        "side_px": side,
        "batch": batch,
        "models": models,
        **provenance(PACKAGES),
    }
    began, ends = time.perf_counter(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        dataset = write_dataset(root / "dataset", side, batch)
        for name in shapes:
            try:
                first = name == shapes[0]
                models[name] = whole_check(name, root, dataset, setting, smallest, first, ends)
            except Exception as error:
                # What the others come to is worth having.
                models[name] = {"left_out": f"{type(error).__name__}: {first_line(error)}"}
                models[name]["traceback"] = traceback.format_exc()
            # Of a model that failed, its error may have held the weights.
            gc.collect()
            if target.type == "cuda":
                torch.cuda.empty_cache()
            result["seconds"] = time.perf_counter() - began
            keep(result)
    return result


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{result['device']}, {result['precision']}, {result['side_px']} px, batch {result['batch']}",
        "",
    ]
    for name, model in result["models"].items():
        if "left_out" in model:
            lines += [f"{name:12} left out: {model['left_out']}", ""]
            continue
        lines.append(f"{name:12} {'stage':16} {'estimated GiB':>14} {'measured GiB':>13} {'ratio':>6}")
        lines += [
            f"{'':12} {row['stage']:16} {row['estimated'] / GIB:14.3f} {row['measured'] / GIB:13.3f} "
            f"{row['ratio']:6.2f}"
            for row in [*model.get("memory", []), *model.get("ways", [])]
        ]
        if speed := model.get("speed"):
            lines.append(
                f"{'':12} {speed['steps_per_s']:.2f} steps/s (diffusers "
                f"{speed['diffusers_steps_per_s']:.2f}), {speed['images_per_s']:.2f} images/s of "
                f"{SAMPLING_STEPS} steps (diffusers {speed['diffusers_images_per_s']:.2f})"
            )
        if resume := model.get("resume"):
            lines.append(f"{'':12} resumed: losses differ by {resume['largest_relative_difference']:.1e}")
        if lack := model.get("out_of_memory"):
            lines.append(
                f"{'':12} out of memory: {lack['error']}, {lack['held_bytes'] / GIB:.3f} GiB held after it"
            )
        if "bf16_to_fp32" in model:
            lines.append(f"{'':12} bf16 losses differ from fp32 by {model['bf16_to_fp32']:.1e}")
        lines += [f"{'':12} no {part}: {why}" for part, why in model["failed"].items()]
        lines.append("")
    return "\n".join([*lines, f"{result['seconds']:.0f} s"])


def main() -> None:
    """Check, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="pipelines of the smallest size")
    parser.add_argument("--shape", action="append", help="one of the models; all by default")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which no further part begins")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    shapes = asked.shape or (("sd", "sdxl", "flux") if asked.tiny else SHAPES)

    def keep(result: dict[str, Any]) -> None:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")

    print(table(run(asked.device, smallest=asked.tiny, shapes=shapes, seconds=asked.seconds, keep=keep)))


if __name__ == "__main__":
    main()
