"""A run's record as `ingest run` writes it, for the tests of what is made from it."""

from __future__ import annotations

from typing import Any

# Everything that could break out of HTML, Markdown, YAML, Python or a path, and is not a control character.
HOSTILE = (
    "<script>alert(1)</script>\"'```` | {{ 7*7 }} {% x %} --- [a](javascript:b) //../&amp; \\ $x$ __é\u200b"
)


def score(metric: str = "clip_fid", value: float = 12.5, **changes: Any) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": value,
        "std": None,
        "n_real": 1110,
        "n_gen": 96,
        "extractor": "78f51468e0451540",
        "extractor_name": "clip",
        "resize": "clean-bicubic",
        "version": "1",
        **changes,
    }


def record(model: str = "tiny", dataset: str = "cats", **happened: Any) -> dict[str, Any]:
    return {
        "run": "0123456789abcdef",
        "asked": {
            "model": model,
            "model_folder": "/zoo/tiny",
            "dataset": dataset,
            "dataset_folder": "/images/cats",
            "steps": 3,
            "resolution_px": 32,
            "precision": "fp32",
            "sampling_steps": 2,
            "guidance": None,
        },
        "measured": {
            "finetuned": [
                score(value=12.5),
                score("kid", 0.012, standard_error=0.0021, extractor_name="inception"),
            ],
            "initial": [score(value=25.0)],
            "training_seconds": 7.5,
            "seconds_per_image": 0.5,
        },
        "with": {
            "adapter_sha256": "ab" * 32,
            "attempt": 1,
            "prompts": ["a cat", ""],
            "happened": {"losses": [3.0, 2.0, 1.0], "captions_truncated": 4, **happened},
            "used": {"device": "cpu", "versions": {"torch": "2.15.0"}},
        },
    }
