"""Sentence models that read captions: Sentence-T5 and any other of sentence-transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

from matchgraph.training.errors import ExtractorUnavailable, MissingLibrary, TrainingError, first_line
from matchgraph.training.measure.extractors.base import (
    CaptionExtractor,
    instrument_hash,
    loading_errors,
)
from matchgraph.training.pipelines.hub import hub_folder
from matchgraph.training.pipelines.loading import choose_device
from matchgraph.training.pipelines.weight_files import PICKLED_SUFFIXES, check_weight_files, opened_weights

MODULES_FILE = "modules.json"
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
ADVICE = (
    "Give a local folder as sentence-transformers writes it, with safetensors weights, or a name on the hub, "
    "such as sentence-transformers/sentence-t5-base."
)
# Where such a model may name classes; anything else would be code in the folder itself.
TRUSTED_MODULES = "sentence_transformers."


def load(weights: str, device: str) -> CaptionExtractor:
    """Load a sentence model, with its pooling, projection and normalisation as its folder says.

    Args:
        weights: a folder as sentence-transformers writes it, or a name on the hub.
        device: `auto` or a torch device name.

    Raises:
        MissingLibrary: sentence-transformers is not installed.
        ExtractorUnavailable: the weights cannot be had, are pickled, or cannot be read.

    Source:
        Ni et al., "Sentence-T5: Scalable Sentence Encoders from Pretrained Text-to-Text Models" (2022): the
        encoder's mean over tokens, projected and normalised; Match & Choose, Table 6.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingLibrary(
            "Captions are read by sentence-transformers, which is not installed: pip install "
            "'matchgraph[probes]'."
        ) from None
    folder = Path(weights)
    if weights and folder.is_dir():
        name = folder.resolve().name
    else:
        folder, name = hub_folder(weights, [MODULES_FILE], PATTERNS, ADVICE, ExtractorUnavailable), weights
    target = choose_device(device)
    try:
        files = _checked_weights(folder)
        model = SentenceTransformer(
            str(folder),
            device=str(target),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        ).eval()
        configs = {path.relative_to(folder).as_posix(): _config(path) for path in folder.rglob("config.json")}
        layers = [type(layer).__name__ for layer in model]
        seen = {"configs": configs, "layers": layers, "tokens": model.max_seq_length}
        digest = instrument_hash(files, seen)
        dimension = int(model.get_embedding_dimension())
    except ExtractorUnavailable:
        raise
    except loading_errors(TrainingError) as error:
        reason = first_line(error).rstrip(".:")
        raise ExtractorUnavailable(f"{folder} cannot be loaded: {reason}. {ADVICE}") from error

    def encode(captions: list[str]) -> Any:
        return model.encode(
            captions, batch_size=len(captions), convert_to_numpy=True, show_progress_bar=False
        )

    def tokens(captions: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(captions, truncation=False, verbose=False)["input_ids"]]

    tokenizer, longest = model.tokenizer, model.max_seq_length
    # A static model reads all of a text, of a length that it calls infinite.
    limited = longest is not None and math.isfinite(longest) and callable(tokenizer)
    length = int(longest) if limited else None
    return CaptionExtractor(name, digest, dimension, encode, length=length, tokens=tokens)


def _checked_weights(folder: Path) -> list[Path]:
    """The safetensors of a folder's modules, unless one is opened from elsewhere or runs other code."""
    files: list[Path] = []
    for module in json.loads((folder / MODULES_FILE).read_text(encoding="utf-8")):
        if not str(module["type"]).startswith(TRUSTED_MODULES):
            raise ExtractorUnavailable(
                f"{folder / MODULES_FILE} names the class {module['type']!r}, which is not of "
                "sentence-transformers: code in a model's folder is not run."
            )
        part = PurePosixPath(module["path"])
        if part.is_absolute() or ".." in part.parts:
            raise ExtractorUnavailable(
                f"{folder / MODULES_FILE} names {module['path']!r}, which is outside the folder."
            )
        names = [path.name for path in (folder / part).glob("*") if path.is_file()]
        # Pooling and normalisation have no weights.
        if any(Path(name).suffix in PICKLED_SUFFIXES | {".safetensors"} for name in names):
            check_weight_files(folder / part)
            opened = opened_weights(names)
            files += [folder / part / name for name in opened if name.endswith(".safetensors")]
    if not files:
        raise ExtractorUnavailable(f"{folder} has no safetensors weights. {ADVICE}")
    return sorted(files)


def _config(path: Path) -> Any:
    config = json.loads(path.read_text(encoding="utf-8"))
    # These say who wrote the file, not what the model does.
    return {key: config[key] for key in config if key not in ("_name_or_path", "transformers_version")}
