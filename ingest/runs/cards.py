"""The model card of a run's weights, as the Hugging Face hub and its tools read it."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matchgraph.ingest.runs.pages import facts, score_rows, training_blocks
from matchgraph.training.files import write_text
from matchgraph.training.pipelines.adapters import ADAPTER_FILE
from matchgraph.training.pipelines.weights import DENOISER_FILE

TEMPLATE = "card.md.jinja"
CARD_FILE = "README.md"
TAGS = ("text-to-image", "diffusers", "diffusers-training", "matchgraph")
HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?")
# What says nothing to a reader elsewhere: folders and caches of the training machine. Losses and samples are
# on the run's page.
LEFT_OUT = re.compile(r".*_folder|losses|adapter_sha256|cache\..*")
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
        tags=[*TAGS, *([] if _is_full(record) else ["lora"])],
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
        loader=PackageLoader("matchgraph.ingest.runs"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": as_text, "code": as_code}
    rows = score_rows(record)
    body = environment.get_template(TEMPLATE).render(
        model=model,
        dataset=dataset,
        weights="All weights of the denoiser" if _is_full(record) else "LoRA weights",
        pipeline_class=used.get("pipeline_class", ""),
        loading=loading_code(record),
        scores=rows,
        scored_before=any(row.before for row in rows),
        training=[
            (name, value)
            for name, value in facts({**asked, **happened, **used.get("versions", {})})
            if not LEFT_OUT.fullmatch(name)
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

    from matchgraph.drawing import PRECISIONS
    from matchgraph.training.pipelines.families import family

    own, folder = family(used["family"]), Path(asked["model_folder"])
    pipeline = getattr(diffusers, own.pipeline_class)
    imports = ["import torch", f"from diffusers import {own.pipeline_class}"]
    # Said even where it is the usual one: some text encoders would come in the precision of their files.
    arguments = {"use_safetensors": "True", "torch_dtype": f"torch.{PRECISIONS[asked['precision']]}"}
    arguments |= {name: literal(value) for name, value in own.load_options.items()}
    # diffusers must be given each component that a pipeline does without.
    arguments |= dict.fromkeys(_absent_components(folder), "None")
    if _is_full(record):
        imports.append("from safetensors.torch import load_file")
        loading = [f'pipe.{own.denoiser_attribute}.load_state_dict(load_file("{DENOISER_FILE}"))']
    elif hasattr(pipeline, "load_lora_weights"):
        loading = [f'pipe.load_lora_weights(".", weight_name="{ADAPTER_FILE}")']
    else:
        imports.append("from diffusers.loaders.peft import PeftAdapterMixin")
        loading = [
            f"# {own.pipeline_class} has no adapter methods of its own, so its denoiser borrows them.",
            f"denoiser = pipe.{own.denoiser_attribute}",
            'denoiser.__class__ = type("Adaptable", (type(denoiser), PeftAdapterMixin), {})',
            f'denoiser.load_lora_adapter(".", prefix=None, weight_name="{ADAPTER_FILE}")',
        ]
    sampling = {
        "height": asked["resolution_px"],
        "width": asked["resolution_px"],
        "num_inference_steps": asked["sampling_steps"],
        own.guidance_argument: asked["guidance"],
        "negative_prompt": own.negative_prompt,
        "max_sequence_length": _shorter_prompts(pipeline, folder, own.prompt_limit(folder)),
        **own.call_options,
    }
    prompts = record["with"].get("prompts") or [""]
    # By name, as the first argument of some pipelines is a picture.
    call = [f"    prompt={literal(prompts[0])},"]
    call += [f"    {name}={literal(value)}," for name, value in sampling.items() if value is not None]
    given = ", ".join(["base", *(f"{name}={value}" for name, value in arguments.items())])
    return "\n".join(
        [
            *imports,
            "",
            f"base = {literal(asked['model'])}  # its name on the hub, or its folder",
            f"pipe = {own.pipeline_class}.from_pretrained({given})",
            *loading,
            "image = pipe(",
            *call,
            ").images[0]",
        ]
    )


def _is_full(record: Mapping[str, Any]) -> bool:
    """Whether all weights were trained, and not an adapter."""
    return record["asked"].get("method") == "full"


def _absent_components(folder: Path) -> list[str]:
    """The components that a pipeline's index names as absent; none where the folder is not here."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except OSError:
        return []
    return [name for name, value in index.items() if isinstance(value, list) and not any(value)]


def _shorter_prompts(pipeline: type, folder: Path, limit: float) -> int | None:
    """The length of prompts, where the pipeline's call would fill them up to more than its encoder takes."""
    usual = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    if usual is None:
        return None
    if tokenizers := sorted(folder.glob("tokenizer*/tokenizer_config.json")):
        said = json.loads(tokenizers[-1].read_text(encoding="utf-8")).get("model_max_length", math.inf)
        limit = min(limit, said)
    return int(limit) if limit < usual.default else None


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
