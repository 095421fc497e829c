"""Fine-tuning and sampling beside the same work done by diffusers' own loop, in one run and turn by turn.

On the CPU, the pipelines of the small zoo, and tiny ones of the families that it lacks:

    python -m bench.training --family sdxl --family kolors --family sana --family flux

On a GPU, pipelines of full size with random weights, which need no download; `--zoo` takes any folder of
pipeline folders that hold configs:

    python -m bench.training --zoo zoo --shape sdxl-base --shape sd-3.5-medium --shape flux-1-dev \
        --device cuda --precision bf16 --resolution 512 --batch-size 8 --steps 40 --name training_gpu
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from bench import plain_loop
from bench.shapes import random_pipeline, tiny
from matchgraph.drawing import Drawing
from matchgraph.training.config import FineTuneConfig, SampleConfig
from matchgraph.training.images import list_captioned_images
from matchgraph.training.pipelines.cache import EncodingCache
from matchgraph.training.pipelines.loading import LoadedPipeline, quiet_libraries
from matchgraph.training.pipelines.memory import PeakMemory
from matchgraph.training.sampling.generate import image_generator, sample_images
from matchgraph.training.tune.finetune import fine_tune

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "torch", "diffusers", "transformers", "accelerate", "peft")
# As large as one run's encodings can get here.
CACHE_BYTES = 10 * 2**30
RANK = 16


@dataclass(frozen=True)
class Measured:
    """One side's turn."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    result: Any


def measure(device: torch.device, work: Callable[[], Any]) -> Measured:
    """Time some work, and the most memory it took beyond what was in use before it."""
    gc.collect()
    if sys.platform == "linux":
        # Else work would be given memory that the work before it freed, and take none.
        ctypes.CDLL(None).malloc_trim(0)
    memory = PeakMemory(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else memory.bytes()
    began, cpu_began = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return Measured(seconds, cpu_seconds, memory.bytes() - before, result)


def in_turn(
    sides: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, list[Measured]]:
    """Run each side once uncounted, then all of them `repeats` times, every other time in reverse order."""
    turns: dict[str, list[Measured]] = {name: [] for name in sides}
    # The libraries warn of each caption that is cut, which no side shall be timed for.
    with quiet_libraries():
        for work in sides.values():
            work()
        for number in range(repeats):
            names = list(sides) if number % 2 == 0 else list(sides)[::-1]
            for name in names:
                turns[name].append(measure(device, sides[name]))
    return turns


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def compared(turns: dict[str, list[Measured]], plain: str, amount: int) -> dict[str, Any]:
    """Each side's seconds, work per second, memory and ratio to the plain side, pair by pair."""
    return {
        name: {
            "seconds": spread([turn.seconds for turn in own]),
            "cpu_seconds": spread([turn.cpu_seconds for turn in own]),
            "per_second": spread([amount / turn.seconds for turn in own], 2),
            "added_peak_mb": round(statistics.median(turn.peak_bytes for turn in own) / 2**20, 1),
            "times_as_fast": spread(
                [other.seconds / turn.seconds for turn, other in zip(own, turns[plain], strict=True)], 2
            ),
            # On the CPU, where other processes wait for the same cores, this one is less disturbed by them.
            "times_as_fast_by_cpu_seconds": spread(
                [o.cpu_seconds / turn.cpu_seconds for turn, o in zip(own, turns[plain], strict=True)], 2
            ),
        }
        for name, own in turns.items()
    }


def training_turns(
    loaded: LoadedPipeline, dataset: Path, config: FineTuneConfig, scratch: Path, repeats: int
) -> dict[str, Any]:
    """Whole runs: from a dataset on disk to an adapter on disk, the pipeline loaded."""
    warm = EncodingCache(scratch / "warm", CACHE_BYTES)
    out = scratch / "out"
    records = []

    def cold() -> list[float]:
        shutil.rmtree(scratch / "cold", ignore_errors=True)
        cache = EncodingCache(scratch / "cold", CACHE_BYTES)
        record = fine_tune(loaded, dataset, config, out, cache=cache)
        records.append(record)
        return record.losses

    sides: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain_loop.train(loaded, dataset, config, out),
        "ours, nothing cached": cold,
        "ours, cached by an earlier run": lambda: fine_tune(loaded, dataset, config, out, cache=warm).losses,
    }
    turns = in_turn(sides, repeats, loaded.device)
    for own in turns.values():
        assert all(len(turn.result) == config.steps for turn in own)
    return {
        "unit": "steps",
        **compared(turns, "plain", config.steps),
        # Both sides train the same objective; which noise they draw differs.
        "mean_loss": {name: round(float(np.mean([t.result for t in own])), 4) for name, own in turns.items()},
        "encoding_share_of_a_cold_run": round(
            statistics.median(r.happened["encoding_seconds"] / r.seconds for r in records[1:]), 3
        ),
    }


def sampling_turns(
    loaded: LoadedPipeline, dataset: Path, config: SampleConfig, scratch: Path, repeats: int
) -> dict[str, Any]:
    """A picture for each caption, from text to picture, the pipeline loaded."""
    captions = [image.caption or "" for image in list_captioned_images(dataset)]
    prompts = [captions[number % len(captions)] for number in range(config.n)]
    cache = EncodingCache(scratch / "prompts", CACHE_BYTES)
    family = loaded.family
    call = {
        "steps": config.drawing.steps or family.default_steps,
        "guidance": family.default_guidance if config.drawing.guidance is None else config.drawing.guidance,
        "resolution_px": config.drawing.resolution_px,
    }

    def plain(batch_size: int) -> list[Any]:
        generators = [image_generator(config.seed, number) for number in range(config.n)]
        return plain_loop.sample(loaded, prompts, generators, batch_size=batch_size, **call)

    turns = in_turn(
        {
            "plain, one at a time": lambda: plain(1),
            "plain, in batches": lambda: plain(config.batch_size),
            "ours": lambda: sample_images(loaded, None, captions, config),
            "ours, prompts cached": lambda: sample_images(loaded, None, captions, config, cache=cache),
        },
        repeats,
        loaded.device,
    )
    drawn = {
        name: np.stack([np.asarray(image, int) for image in own[0].result]) for name, own in turns.items()
    }
    apart = max(float(np.abs(images - drawn["plain, one at a time"]).mean()) for images in drawn.values())
    return {
        "unit": "images",
        **compared(turns, "plain, one at a time", config.n),
        "mean_difference_of_the_pictures_in_levels_of_255": round(apart, 3),
    }


@contextmanager
def pipelines(
    models: Path | None,
    zoo: Path | None,
    shapes: Sequence[str],
    families: Sequence[str],
    device: str,
    precision: str,
) -> Iterator[dict[str, Callable[[], LoadedPipeline]]]:
    """What is measured, by name, each to be loaded when its turn comes."""
    with tempfile.TemporaryDirectory() as scratch:
        found: dict[str, Callable[[], LoadedPipeline]] = {}

        def load(folder: Path) -> Callable[[], LoadedPipeline]:
            return lambda: LoadedPipeline(folder, device=device, precision=precision)

        if shapes:
            assert zoo is not None
            for shape in shapes:
                found[f"{shape}, random weights"] = lambda shape=shape: random_pipeline(
                    zoo / shape, device=device, precision=precision
                )
        else:
            for folder in sorted(path for path in models.iterdir() if path.is_dir()) if models else []:
                found[f"minizoo {folder.name}"] = load(folder)
            for name in families:
                found[f"tiny {name}, random weights"] = load(tiny.save(name, Path(scratch) / name))
        yield found


@click.command()
@click.option("--models", default="minizoo/models", type=click.Path(path_type=Path), help="Small pipelines.")
@click.option("--family", "families", multiple=True, help="Add a tiny pipeline of this family.")
@click.option("--zoo", type=click.Path(path_type=Path), help="Folder of pipeline folders with configs.")
@click.option("--shape", "shapes", multiple=True, help="Folder in --zoo to build with random weights.")
@click.option("--dataset", default="minizoo/datasets/noto-food", type=click.Path(path_type=Path))
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--resolution", default=32, show_default=True, help="Side of the images in pixels.")
@click.option("--batch-size", default=8, show_default=True)
@click.option("--steps", default=100, show_default=True, help="Training steps of a run.")
@click.option("--images", default=24, show_default=True, help="Pictures drawn in a turn.")
@click.option("--sampling-steps", default=10, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Counted turns of each side.")
@click.option("--seed", default=42, show_default=True)
@click.option("--name", default="training", show_default=True, help="Of the file in bench/results.")
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(
    models: Path,
    families: tuple[str, ...],
    zoo: Path | None,
    shapes: tuple[str, ...],
    dataset: Path,
    device: str,
    precision: str,
    resolution: int,
    batch_size: int,
    steps: int,
    images: int,
    sampling_steps: int,
    repeats: int,
    seed: int,
    name: str,
    note: str,
) -> None:
    """Print what each side did in a second, and write it to bench/results/NAME.json."""
    if bool(shapes) != bool(zoo):
        raise click.UsageError("--zoo and --shape go together.")
    if device == "cpu":
        # Tensors this small gain nothing from threads, and a shared machine loses by them.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    training = FineTuneConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-4,
        rank=RANK,
        alpha=RANK,
        resolution_px=resolution,
        seed=seed,
        precision=precision,
        device=device,
    )
    sampling = SampleConfig(
        n=images,
        drawing=Drawing(sampling_steps, resolution_px=resolution, precision=precision),
        seed=seed,
        batch_size=batch_size,
        device=device,
    )
    given = (
        f"--zoo ZOO {' '.join(f'--shape {shape}' for shape in shapes)}"
        if shapes
        else " ".join(f"--family {family}" for family in families)
    )
    rows: list[dict[str, Any]] = []
    result = {
        "command": f"python -m bench.training {given} --device {device} --precision {precision} "
        f"--resolution {resolution} --batch-size {batch_size} --steps {steps} --images {images} "
        f"--sampling-steps {sampling_steps} --repeats {repeats} --seed {seed}",
        "machine": {
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
            "threads": torch.get_num_threads(),
            "system": platform.system(),
            "python": platform.python_version(),
            "note": note,
        },
        "versions": {package: version(package) for package in PACKAGES},
        "dataset": {"name": dataset.name, "images": len(list_captioned_images(dataset))},
        "training": training.to_dict(),
        "sampling": sampling.to_dict(),
        "ratios": "seconds of the plain side by this side's, turn by turn; median, minimum and maximum",
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    with pipelines(models, zoo, shapes, families, device, precision) as found:
        for title, load in found.items():
            with load() as loaded, tempfile.TemporaryDirectory() as scratch:
                parameters = loaded.family.denoiser(loaded.pipe).parameters()
                row = {
                    "model": title,
                    "family": loaded.family.name,
                    "denoiser_parameters": sum(parameter.numel() for parameter in parameters),
                    "training": training_turns(loaded, dataset, training, Path(scratch), repeats),
                    "sampling": sampling_turns(loaded, dataset, sampling, Path(scratch), repeats),
                }
            rows.append(row)
            show(row)
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")


def show(row: dict[str, Any]) -> None:
    """Print one pipeline's figures."""
    click.echo(row["model"])
    for work in ("training", "sampling"):
        for side, own in row[work].items():
            if isinstance(own, dict) and "times_as_fast" in own:
                speed, ratio = own["per_second"], own["times_as_fast"]
                by_cpu = own["times_as_fast_by_cpu_seconds"]
                click.echo(
                    f"  {side:32} {speed['median']:8.2f} {row[work]['unit']}/s  {ratio['median']:5.2f}x "
                    f"({ratio['min']:.2f} to {ratio['max']:.2f}), by CPU time {by_cpu['median']:5.2f}x  "
                    f"{own['added_peak_mb']:7.1f} MB"
                )


if __name__ == "__main__":
    main()
