"""The three models as folders that diffusers loads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from minizoo.clip import CLIP
from minizoo.pretrain import MODELS, PRETRAININGS, new_denoiser, new_scheduler
from minizoo.tokenizer import TOKENIZER, TOKENIZER_FILES
from training.families import FAMILIES, family

CALL = {
    "sd": {},
    "pixart": {"max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False},
    "sd3": {"max_sequence_length": 16},
}
each_model = pytest.mark.parametrize("which", PRETRAININGS.values(), ids=lambda which: which.model)


def load(which):
    from diffusers import DiffusionPipeline

    absent = {"text_encoder_3": None, "tokenizer_3": None} if which.family == "sd3" else {}
    pipe = DiffusionPipeline.from_pretrained(MODELS / which.model, local_files_only=True, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@each_model
def test_diffusers_loads_the_folder_and_draws_repeatably_from_a_caption(which) -> None:
    pipe = load(which)
    assert type(pipe).__name__ == FAMILIES[which.family][0]

    def draw(seed: int, caption: str) -> np.ndarray:
        image = pipe(
            caption,
            num_inference_steps=4,
            guidance_scale=3.0,
            height=32,
            width=32,
            generator=torch.Generator().manual_seed(seed),
            **CALL[which.family],
        ).images[0]
        return np.asarray(image)

    first = draw(0, "1st place medal, activity")
    assert first.shape == (32, 32, 3)
    assert first.std() > 5
    assert np.array_equal(first, draw(0, "1st place medal, activity"))
    assert not np.array_equal(first, draw(1, "1st place medal, activity"))
    assert not np.array_equal(first, draw(0, "violin, object"))


@each_model
def test_a_model_has_learnt_its_styles(which) -> None:
    """Its loss on images of its main style is far below that of untrained weights, which is about one."""
    pipe, kind = load(which), family(which.family)
    images = {"sd": "noto-animals", "pixart": "twemoji-food", "sd3": "openmoji-animals"}[which.family]
    pixels, captions = read_dataset(images)
    with torch.no_grad():
        latents = kind.encode_images(pipe, pixels)
        rows = kind.encode_prompts(pipe, captions)
        trained, fresh = (
            float(kind.loss(pipe, denoiser, latents, rows, torch.Generator().manual_seed(0)))
            for denoiser in (kind.denoiser(pipe).eval(), new_denoiser(which.family, 0).eval())
        )
    assert 0.7 < float(latents.std()) < 1.4  # the scaling factor does its work
    assert trained < 0.6 * fresh


def read_dataset(name: str) -> tuple[torch.Tensor, list[str]]:
    from PIL import Image

    from minizoo.datasets import DATASETS
    from minizoo.vae import pixels_to_tensor

    lines = (DATASETS / name / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    images = [Image.open(DATASETS / name / row["file_name"]).convert("RGB").resize((32, 32)) for row in rows]
    return pixels_to_tensor(np.stack([np.asarray(image) for image in images])), [row["text"] for row in rows]


@each_model
def test_a_folder_holds_what_a_released_pipeline_holds(which) -> None:
    folder = MODELS / which.model
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    for component, (library, _) in ((k, v) for k, v in index.items() if isinstance(v, list)):
        assert (library is None) != (folder / component).is_dir(), component
    for name in TOKENIZER_FILES:
        assert (folder / "tokenizer" / name).read_bytes() == (TOKENIZER / name).read_bytes()
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert scheduler["_class_name"] == type(new_scheduler(which.family)).__name__
    for config in folder.glob("*/config.json"):
        assert "_name_or_path" not in json.loads(config.read_text(encoding="utf-8")), config
    assert which.model in (folder / "README.md").read_text(encoding="utf-8")


def test_weights_are_small_and_safetensors_only() -> None:
    files = [path for root in (MODELS, CLIP) for path in root.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".txt", ".gz", ".md", ".safetensors"}
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert max(path.stat().st_size for path in weights) < 8 * 2**20
    assert sum(path.stat().st_size for path in weights if MODELS in path.parents) < 25 * 2**20
    assert sorted(path.name for path in MODELS.iterdir()) == sorted(PRETRAININGS)


def test_no_two_models_saw_the_same_styles_most() -> None:
    main = [max(which.styles, key=which.styles.__getitem__) for which in PRETRAININGS.values()]
    assert len(set(main)) == len(main)
    for which in PRETRAININGS.values():
        assert sum(which.styles.values()) == pytest.approx(1.0)
