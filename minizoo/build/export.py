"""Write the trained zoo as pipeline folders: the parts that models share once, and each model beside them.

`minizoo/probes` holds what looks at images: the CLIP, a DINOv2 and a SigLIP. `minizoo/shared` holds the
autoencoders, text encoders and tokenizers; a model's folder holds its denoiser, its scheduler and its index,
and links to what it shares. So ten pipelines that each load as any other take the room of ten denoisers.
`python -m matchgraph.minizoo.build.export` writes all models that have a checkpoint."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.autoencoders import CONFIGS as AUTOENCODERS
from matchgraph.minizoo.build.autoencoders import SHARED
from matchgraph.minizoo.build.clip import load_open_clip, text_towers
from matchgraph.minizoo.build.corpus import FURTHER_STYLES
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.icons import PACKAGE_VERSIONS, TRAINING_RESOLUTION_PX, WORK
from matchgraph.minizoo.build.loop import averaged_weights, checkpoint_path
from matchgraph.minizoo.build.probes import CONFIGS as PROBE_CONFIGS
from matchgraph.minizoo.build.tokenizer import CONTEXT_LENGTH, TOKENIZER_FILES
from matchgraph.minizoo.build.towers import CLIP_CONFIG, CLIP_FOLDER
from matchgraph.minizoo.build.towers import CONFIGS as TOWER_CONFIGS
from matchgraph.minizoo.build.zoo import ZOO, ZooModel, assemble, trained_denoiser

logger = logging.getLogger(__name__)

SHARED_FOLDER = "shared"
MODELS_FOLDER = "models"
PROBES_FOLDER = "probes"
MEASURED_FILE = "measured.json"
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "safetensors", "pillow", "resvg-py")
# Trained folder -> name among the probes.
PROBES = {CLIP_FOLDER.name: "clip"} | {config.name: name for name, config in PROBE_CONFIGS.items()}


def shared_parts(model: ZooModel) -> dict[str, str]:
    """Which of the shared folders each component of a model's pipeline is.

    Args:
        model: one of the zoo.
    """
    parts = {"vae": AUTOENCODERS[model.autoencoder].name}
    clip = {"text_encoder": "text-clip", "tokenizer": "tokenizer-clip"}
    projected = {"text_encoder_2": "text-clip-projected", "tokenizer_2": "tokenizer-clip"}
    if model.family == "sd":
        return parts | clip
    if model.family == "sdxl":
        return parts | clip | projected
    if model.family == "sd3":
        return parts | clip | {"text_encoder": "text-clip-projected"} | projected
    if model.family == "flux":
        return parts | clip | {"text_encoder_2": "text-t5", "tokenizer_2": "tokenizer-t5"}
    tower = {"kolors": "glm", "pixart": "t5", "sana": "gemma"}[model.family]
    return parts | {"text_encoder": f"text-{tower}", "tokenizer": f"tokenizer-{tower}"}


def _tidy(folder: Path) -> None:
    """Take out of configurations what is of the machine that wrote them, and of the precision of storage."""
    for file in folder.rglob("config.json"):
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)
        if "dtype" in settings:
            # transformers loads in the recorded precision; single precision is what a CPU wants.
            settings["dtype"] = "float32"
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def export_shared(root: Path, source: Path = SHARED) -> list[str]:
    """Write the parts that models share.

    Args:
        root: gets a folder `shared`; what is there is replaced.
        source: the trained parts.

    Returns:
        The names of the parts; those not trained yet are not among them.

    Raises:
        StageNotReady: the CLIP is not trained yet.
    """
    import torch

    target = root / SHARED_FOLDER
    partial = _begun(target)
    plain, projected = text_towers(load_open_clip(source / CLIP_FOLDER.name))
    plain.to(torch.float16).save_pretrained(partial / "text-clip", safe_serialization=True)
    projected.to(torch.float16).save_pretrained(partial / "text-clip-projected", safe_serialization=True)
    (partial / "tokenizer-clip").mkdir()
    for name in TOKENIZER_FILES:
        # The plain files, which every release of transformers reads.
        shutil.copyfile(source / CLIP_FOLDER.name / name, partial / "tokenizer-clip" / name)
    for part in sorted(source.iterdir()):
        if part.is_dir() and part.name not in PROBES:
            shutil.copytree(part, partial / part.name)
    _put(partial, target)
    return sorted(part.name for part in target.iterdir())


def export_probes(root: Path, source: Path = SHARED) -> list[str]:
    """Write what looks at images, each as `training.measure.extractors` loads it.

    Args:
        root: gets a folder `probes`; what is there is replaced.
        source: the trained parts.

    Returns:
        The names of the probes; those not trained yet are not among them.
    """
    target = root / PROBES_FOLDER
    partial = _begun(target)
    for part, name in PROBES.items():
        if (source / part).is_dir():
            shutil.copytree(source / part, partial / name)
    _put(partial, target)
    return sorted(probe.name for probe in target.iterdir())


def _begun(target: Path) -> Path:
    """An empty folder beside the one it is to replace."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _put(partial: Path, target: Path) -> None:
    _tidy(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def export_model(model: ZooModel, root: Path, source: Path = SHARED) -> dict[str, object]:
    """Write a model's pipeline folder from its newest checkpoint, finished or not.

    Args:
        model: which one.
        root: gets `models/<name>`, which links to the parts in `shared` beside it.
        source: the trained parts.

    Returns:
        Steps, seconds and parameters.

    Raises:
        StageNotReady: the model, or a part of it, is not trained yet.
    """
    import torch

    denoiser = trained_denoiser(model)
    parts = shared_parts(model)
    lacking = sorted(set(parts.values()) - {part.name for part in (root / SHARED_FOLDER).glob("*")})
    if lacking:
        raise StageNotReady(f"{model.name} shares {lacking[0]}, which is not in {root / SHARED_FOLDER}")
    step, seconds, _ = averaged_weights(model.loop.name)
    pipe = assemble(model, denoiser, source)
    folder = root / MODELS_FOLDER / model.name
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(partial, safe_serialization=True)
    for component, part in parts.items():
        shutil.rmtree(partial / component)
        os.symlink(Path("..", "..", SHARED_FOLDER, part), partial / component, target_is_directory=True)
    for component in partial.iterdir():
        if component.is_dir() and not component.is_symlink():
            _tidy(component)
    size = sum(p.numel() for p in denoiser.parameters())
    (partial / "README.md").write_text(_card(model, step, size), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return {"steps": step, "of": model.loop.steps, "seconds": seconds, "parameters": size}


def _mix(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.0%} {style}" for style, share in shares.items())


def _card(model: ZooModel, step: int, size: int) -> str:
    origin = f"- Started from the weights of {model.parent}.\n" if model.parent else ""
    if model.lesson is not None:
        scale = f" at guidance {model.lesson.guidance:g}" if model.lesson.guidance != 1 else ""
        origin += (
            f"- {model.lesson.share:.0%} of its loss is the distance to {model.lesson.teacher}{scale}.\n"
        )
    if model.categories:
        more = ", ".join(f"{name} x {weight:g}" for name, weight in model.categories.items())
        origin += f"- Categories it saw more of: {more}.\n"
    run = model.loop
    absent = " Loading it with diffusers needs `text_encoder_3=None, tokenizer_3=None`."
    return f"""# {model.name}

What {model.real} is among real models, made tiny: a pipeline of the `{model.family}` family for images
of {TRAINING_RESOLUTION_PX} pixels, with {size / 1e6:.2f} million denoiser parameters. It is one of ten models
that `matchgraph` measures itself on, and of no use beyond that.{absent if model.family == "sd3" else ""}

- Pretrained on {_mix(model.styles)}: icons of `minizoo/corpus.csv`, which holds no concept
  of any dataset and nothing that looks like one of their icons.
{origin}- {step} steps of batch {run.batch_size}, learning rate {run.learning_rate:g}, seed {run.seed}.
- Prompts hold at most {CONTEXT_LENGTH} tokens.
- Licences of the icons it learnt from: `minizoo/LICENCES.md`.
"""


def measurements(models: Mapping[str, Mapping[str, object]], work: Path = WORK) -> dict[str, object]:
    """What training told of every part, and what it was trained with.

    Args:
        models: of each model, what `export_model` gave.
        work: where the shared parts and probes left theirs.
    """
    names = [config.name for config in AUTOENCODERS.values()]
    names += [CLIP_CONFIG.name, *(config.name for config in TOWER_CONFIGS.values())]
    names += [config.name for config in PROBE_CONFIGS.values()]
    parts = {name: work / f"{name}.json" for name in names}
    return {
        "models": dict(models),
        "parts": {n: json.loads(file.read_text("utf-8")) for n, file in parts.items() if file.is_file()},
        "versions": {"python": platform.python_version()} | {n: metadata.version(n) for n in LIBRARIES},
        "icon_packages": {**PACKAGE_VERSIONS, **FURTHER_STYLES},
    }


def main() -> None:
    """Write the shared parts, the probes and every model that has a checkpoint, and what was measured."""
    parser = argparse.ArgumentParser(description="Write the trained zoo as pipeline folders.")
    parser.add_argument("--root", type=Path, default=ROOT, help="gets the folders (default: minizoo)")
    root = parser.parse_args().root
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logger.info("shared: %s", ", ".join(export_shared(root)))
    logger.info("probes: %s", ", ".join(export_probes(root)))
    models = {}
    for model in ZOO.values():
        if model.shipped and checkpoint_path(model.loop.name).is_file():
            models[model.name] = export_model(model, root)
            logger.info("%s: %s", model.name, models[model.name])
    text = json.dumps(measurements(models), indent=2) + "\n"
    (root / MEASURED_FILE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
