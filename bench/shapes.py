"""Pipelines of full size from their configs, with random weights: what speed needs, and nothing fetched."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from matchgraph.drawing import PRECISIONS
from matchgraph.training.pipelines.families import family_of
from matchgraph.training.pipelines.loading import (
    LoadedPipeline,
    choose_device,
    quiet_libraries,
    read_model_index,
)


def tiny_pipelines() -> ModuleType:
    """The tests' pipelines of the smallest size, `BUILDERS` and `save`.

    Loaded by their path, because an installed package has a `tests` of its own.
    """
    path = Path(__file__).parents[1] / "tests" / "training" / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny_pipelines", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = tiny_pipelines()
# How many tokens the released models' tokenizers hand on; those built here know letters only.
CLIP_TOKENS = 77
T5_TOKENS = 512
# Of the text encoders' vocabularies the letters' tokens are the first, but for CLIP's marks of the end.
TOKENIZERS = {
    "CLIPTokenizer": (tiny.tokenizer, CLIP_TOKENS),
    "T5Tokenizer": (tiny.t5_tokenizer, T5_TOKENS),
    "T5TokenizerFast": (tiny.t5_tokenizer, T5_TOKENS),
}


class RandomPipeline(LoadedPipeline):
    """A pipeline that was never on disk.

    Args:
        folder: where its configs are.
        device: a torch device name.
        precision: of all weights.
    """

    def __init__(self, folder: Path, *, device: str, precision: str) -> None:
        import diffusers

        self.folder, self.precision, self.device = folder, precision, choose_device(device)
        index = read_model_index(folder)
        self.family = family_of(index)
        torch.manual_seed(0)
        parts = {
            name: self._component(name, entry) for name, entry in index.items() if isinstance(entry, list)
        }
        options = {name: value for name, value in index.items() if name[0] != "_" and name not in parts}
        for missing in ("safety_checker", "feature_extractor", "image_encoder"):
            if parts.get(missing, options) is None or missing in index:
                parts[missing] = None
        if "safety_checker" in parts:
            options["requires_safety_checker"] = False
        with quiet_libraries():
            self.pipe: Any = getattr(diffusers, self.family.pipeline_class)(**parts, **options)
        self.family.prepare(self.pipe)
        self.pipe.set_progress_bar_config(disable=True)

    def _component(self, name: str, entry: list[str | None]) -> Any:
        import diffusers
        import transformers

        library, class_name = entry
        if class_name is None or name in ("safety_checker", "feature_extractor", "image_encoder"):
            return None
        if name.startswith("tokenizer"):
            build, length = TOKENIZERS[class_name]
            tokens = build()
            tokens.model_max_length = length
            return tokens
        found = getattr(diffusers if library == "diffusers" else transformers, class_name)
        if name == "scheduler":
            return found.from_config(found.load_config(self.folder / name))
        dtype = getattr(torch, PRECISIONS[self.precision])
        before = torch.get_default_dtype()
        # Made where and as they are needed: in float32 and on the CPU first, FLUX.1 would not fit in memory.
        torch.set_default_dtype(dtype)
        try:
            with torch.device(self.device):
                if library == "transformers":
                    config = found.config_class.from_pretrained(self.folder / name)
                    module = found(config)
                else:
                    module = found.from_config(found.load_config(self.folder / name))
        finally:
            torch.set_default_dtype(before)
        # The module's own method: diffusers' would warn of what is meant here.
        return torch.nn.Module.to(module, self.device, dtype).eval().requires_grad_(False)


def random_pipeline(folder: Path, *, device: str, precision: str) -> LoadedPipeline:
    """Build a pipeline from the configs in a folder; see `RandomPipeline`."""
    return RandomPipeline(folder, device=device, precision=precision)
