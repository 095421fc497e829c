"""The model card of a run's weights, as the Hugging Face hub and its tools read it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingest.pages import facts, score_rows, training_blocks, write_text
from training.adapters import ADAPTER_FILE

TEMPLATE = "card.md.jinja"
CARD_FILE = "README.md"
TAGS = ("text-to-image", "diffusers", "diffusers-training", "lora", "matchgraph")
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?")
TORCH_TYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16"}
# Folders of the training machine say nothing to a reader; losses and samples are on the run's page.
LEFT_OUT = ("_folder", "losses", "adapter_sha256")
# What Markdown, its tables, HTML and formulas would take for markup; an underscore within a word is none.
MARKUP = re.compile(r"[\\`*\[\]<>#|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def write_model_card(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write `README.md` into a run's folder: base model, how to load the weights, scores and training.

    The licence is left to the user, who alone can know it.

    Args:
        folder: the run's folder.
        record: the content of `record.json`.

    Returns:
        The card.

    Raises:
        OSError: it cannot be written.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData
    from jinja2 import Environment, PackageLoader, StrictUndefined

    asked, measured = record["asked"], record["measured"]
    happened, used = training_blocks(record)
    model, dataset = asked["model"], asked["dataset"]
    header = ModelCardData(
        # Anything else than the form of a name on the hub would have the whole card refused there.
        base_model=model if HUB_NAME.fullmatch(model) else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=list(TAGS),
        model_name=f"{model} fine-tuned on {dataset}",
        eval_results=[
            EvalResult(
                task_type="text-to-image",
                dataset_type="imagefolder",
                dataset_name=dataset,
                metric_type=score["metric"],
                metric_value=score["value"],
            )
            for score in measured["finetuned"]
        ],
    )
    # Jinja escapes nothing for Markdown: whatever is others' text goes through a filter.
    environment = Environment(
        loader=PackageLoader("ingest"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"text": as_text, "code": as_code}
    rows = score_rows(record)
    body = environment.get_template(TEMPLATE).render(
        model=model,
        dataset=dataset,
        pipeline_class=used.get("pipeline_class", ""),
        loading=loading_code(record),
        scores=rows,
        scored_before=any(row.before for row in rows),
        training=[
            (name, value)
            for name, value in facts({**asked, **happened, **used.get("versions", {})})
            if not name.endswith(LEFT_OUT)
        ],
    )
    return write_text(folder / CARD_FILE, str(ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}")))


def loading_code(record: Mapping[str, Any]) -> str:
    """Python that puts a run's weights on its base model with nothing but diffusers, and draws an image.

    Args:
        record: the content of `record.json`.

    Returns:
        The program, to be run in the folder of the weights; empty where the record does not name the family.
    """
    asked, used = record["asked"], training_blocks(record)[1]
    if "family" not in used:
        return ""
    import diffusers

    from training.families import family

    own = family(used["family"])
    prompts = record["with"].get("prompts") or [""]
    options = {
        "height": asked["resolution_px"],
        "width": asked["resolution_px"],
        "num_inference_steps": asked.get("sampling_steps"),
        "guidance_scale": asked.get("guidance"),
        **own.call_options,
    }
    arguments = "".join(f", {name}={literal(value)}" for name, value in options.items() if value is not None)
    half = TORCH_TYPES.get(asked.get("precision", ""))
    lines = [f"from diffusers import {own.pipeline_class}"]
    if half:
        lines.insert(0, "import torch")
    adaptable = hasattr(getattr(diffusers, own.pipeline_class), "load_lora_weights")
    if not adaptable:
        lines.append("from diffusers.loaders.peft import PeftAdapterMixin")
    loading = f"base, use_safetensors=True{f', torch_dtype={half}' if half else ''}"
    lines += [
        "",
        f"base = {literal(asked['model'])}  # its name on the hub, or its folder",
        f"pipe = {own.pipeline_class}.from_pretrained({loading})",
    ]
    if adaptable:
        lines.append(f'pipe.load_lora_weights(".", weight_name="{ADAPTER_FILE}")')
    else:
        lines += [
            f"# {own.pipeline_class} has no adapter methods of its own, and its denoiser borrows them.",
            f"denoiser = pipe.{own.denoiser_attribute}",
            'denoiser.__class__ = type("Adaptable", (type(denoiser), PeftAdapterMixin), {})',
            f'denoiser.load_lora_adapter(".", prefix=None, weight_name="{ADAPTER_FILE}")',
        ]
    lines.append(f"image = pipe({literal(prompts[0])}{arguments}).images[0]")
    return "\n".join(lines)


def literal(value: Any) -> str:
    """A value as Python source, texts in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def as_text(text: str) -> str:
    """Any text on one line of Markdown, also in a table, as what it says and never as markup."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def as_code(text: str) -> str:
    """Any text as a code span outside tables."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if fence != "`" else f"`{text}`"
