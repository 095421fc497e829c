"""Importing any module of the package loads none of the heavy libraries."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import matchgraph.training

HEAVY = {"cv2", "torch", "diffusers", "transformers", "peft", "open_clip", "cleanfid", "safetensors", "PIL"}


def test_importing_every_module_loads_nothing_heavy():
    modules = [
        module.name for module in pkgutil.walk_packages(matchgraph.training.__path__, "matchgraph.training.")
    ]
    assert {"matchgraph.training.tune.finetune", "matchgraph.training.pipelines.families.sd3"} <= set(modules)
    code = f"import sys\nfor m in {modules}: __import__(m)\nprint(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
