"""Compute what configurations say of the models of `ingest published`, and write it into its table.

    python -m bench.published [MODEL...]

The stated facts in the table are left alone. Configurations are those of `zoo/` and of
`tests/training/published.py`, with the changes that the entries name.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from matchgraph.graphdb.models import Model
from matchgraph.ingest.runs.config import Execution, RunConfig
from matchgraph.ingest.runs.memory import plan_of
from matchgraph.ingest.tables.facts import profile_facts
from matchgraph.ingest.tables.published import CARDS_GIB, TABLE
from matchgraph.training.memory.plan import GIB
from matchgraph.training.pipelines.families import FAMILIES
from tests.training import published

ROOT = Path(__file__).parents[1]
T5_LAYERS = {"num_layers": 24}
# Of the text encoders, where the tests are content with less.
DEEPER: dict[str, dict[str, Any]] = {
    "chroma": T5_LAYERS,
    "pixart_alpha": T5_LAYERS,
    "flux2_klein": {"num_hidden_layers": 36},
}


def main(names: list[str]) -> None:
    """Compute the entries named, or all, and write the table after each."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    for entry in table["models"]:
        configured = entry.get("configuration")
        if configured is None or (names and entry["id"] not in names):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            entry["computed"] = computed(write(configured, Path(scratch) / entry["id"].rpartition("/")[2]))
        TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(entry["id"], entry["computed"], flush=True)


def write(configured: dict[str, Any], folder: Path) -> Path:
    """Write a model's configurations, in full depth."""
    if "zoo" in configured:
        shutil.copytree(ROOT / "zoo" / configured["zoo"], folder)
    else:
        name = configured["family"]
        model = published.MODELS[name]
        for part in model.index:
            config = dict(model.configs.get(part, {}))
            if part == "transformer":
                config |= model.depths
            if part == "text_encoder":
                config |= DEEPER.get(name, {})
            (folder / part).mkdir(parents=True)
            file = "scheduler_config.json" if part == "scheduler" else "config.json"
            (folder / part / file).write_text(json.dumps(config))
        index = {"_class_name": FAMILIES[name][0], **model.index}
        (folder / "model_index.json").write_text(json.dumps(index))
    for file, changes in configured.get("changes", {}).items():
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def computed(folder: Path) -> dict[str, Any]:
    """Parameters and operations, and the memory plans of a run with the default settings in bfloat16."""
    facts, _ = profile_facts(Model("model", {"source": str(folder)}), {})
    if (side := made_for(folder)) is not None:
        facts["resolution_px"] = side
    config = RunConfig(precision="bf16")
    for card in CARDS_GIB:
        plan = plan_of(folder, config, Execution(), card * GIB, kept=folder.parent / "kept")
        if plan is None:
            continue
        if plan.too_large:
            words = f"too small for {', '.join(plan.too_large)}"
        else:
            words = "fits" + "".join(f"; {choice}" for choice in plan.choices())
        facts[f"memory_{card}_gib"] = words
    return facts


def made_for(folder: Path) -> int | None:
    """Side of the images that a denoiser was made for, where its configuration says so."""
    (denoiser,) = (path for name in ("unet", "transformer") for path in folder.glob(f"{name}/config.json"))
    vae = json.loads((folder / "vae" / "config.json").read_text())
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    size = json.loads(denoiser.read_text()).get("sample_size")
    return size * 2 ** (len(levels) - 1) if size and levels else None


if __name__ == "__main__":
    main(sys.argv[1:])
