"""What `pip install .` takes along."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Not installed: tests, and measurements that lean on them.
LEFT_OUT = {"tests", "bench"}


def test_every_folder_with_code_is_linked_into_the_namespace():
    with_code = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    links = {path.name: path.resolve() for path in (ROOT / "matchgraph").iterdir() if path.is_symlink()}
    assert links == {name: ROOT / name for name in with_code - {"matchgraph"} - LEFT_OUT}


def test_constraints_pin_every_dependency_without_an_address():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert all("==" in line or line.startswith("#") for line in lines)
    groups = settings["optional-dependencies"].values()
    extras = [item for group in groups for item in group if not item.startswith("matchgraph[")]
    for requirement in settings["dependencies"] + extras:
        name = requirement.split(">=")[0].split("==")[0].split("[")[0]
        assert name.lower().replace("_", "-") in pins, f"{name} has no pin in constraints.txt"
