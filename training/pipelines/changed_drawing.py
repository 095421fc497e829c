"""Default drawings of models that earlier versions drew otherwise, for the identity of runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from matchgraph.training.files import folder_name
from matchgraph.training.pipelines.families import FAMILIES, family
from matchgraph.training.pipelines.few_steps import MANY_STEPS, STEPS_ENTRY, STUDENT_SCHEDULERS


def identity_of_drawing(folder: Path) -> dict[str, float]:
    """What the identity of a run must say of its model's default drawing.

    Runs recorded no default. Earlier versions drew these models by the defaults of their pipelines'
    classes, so their runs are told apart by what differs; those of all other models keep their ids.

    Args:
        folder: the model's; nothing is said of one that is not here.

    Returns:
        Of `default_steps`, `default_guidance` and `prompt_tokens` those that differ from earlier versions.
    """
    index = _content(folder / "model_index.json")
    names = [name for name, (pipeline, _) in FAMILIES.items() if pipeline == index.get("_class_name")]
    if not names:
        return {}
    own, found = family(names[0]), {}
    if own.prompt_limit(folder) < math.inf:
        found["prompt_tokens"] = own.prompt_limit(folder)
    scheduler = _content(folder / "scheduler" / "scheduler_config.json")
    if STEPS_ENTRY in scheduler or scheduler.get("_class_name") in STUDENT_SCHEDULERS:
        return found
    for pattern, steps, guidance in MANY_STEPS:
        if pattern.search(folder_name(folder)):
            drawn = {"default_steps": steps, "default_guidance": guidance}
            found |= {name: value for name, value in drawn.items() if value != getattr(own, name)}
    return found


def _content(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
