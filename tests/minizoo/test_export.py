"""The zoo as pipeline folders: links to shared parts, loaded by the product, and small enough for git."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from matchgraph.minizoo.build import loop
from matchgraph.minizoo.build.denoisers import new_denoiser, new_scheduler
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.export import export_model, export_probes, export_shared, shared_parts
from matchgraph.minizoo.build.zoo import ZOO
from matchgraph.training.files import folders_hash
from matchgraph.training.pipelines.families import FAMILIES
from matchgraph.training.pipelines.loading import load_pipeline

SHIPPED = [model for model in ZOO.values() if model.shipped]
each_model = pytest.mark.parametrize("model", SHIPPED, ids=lambda model: model.name)


@pytest.fixture(scope="module")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten models with random weights, exported as trained ones would be."""
    from safetensors.torch import save_file

    root, work = tmp_path_factory.mktemp("zoo"), tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "WORK", work)
        export_shared(root, shared)
        assert export_probes(root, shared) == ["clip", "dinov2", "siglip"]
        for model in SHIPPED:
            weights = new_denoiser(model.shape, model.loop.seed).named_parameters()
            path = loop.checkpoint_path(model.loop.name)
            path.parent.mkdir(exist_ok=True)
            tensors = {f"ema.{name}": value.detach().contiguous() for name, value in weights}
            save_file(tensors, path, metadata={"step": "7", "seconds": "1.0"})
            assert export_model(model, root, shared)["steps"] == 7
    return root


@pytest.mark.slow
@each_model
def test_the_product_loads_a_folder_of_links(model, exported: Path) -> None:
    folder = exported / "models" / model.name
    pipe, family = load_pipeline(folder, device="cpu")
    assert family.name == model.family
    assert type(pipe).__name__ == FAMILIES[model.family][0]
    assert {str(p.dtype) for p in family.denoiser(pipe).parameters()} == {"torch.float32"}
    fresh = new_denoiser(model.shape, model.loop.seed).state_dict()
    for name, value in family.denoiser(pipe).state_dict().items():
        torch.testing.assert_close(value, fresh[name].half().float(), msg=name)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert scheduler["_class_name"] == type(new_scheduler(model.shape)).__name__


@pytest.mark.slow
@each_model
def test_links_lead_to_the_shared_parts_and_nowhere_else(model, exported: Path) -> None:
    folder = exported / "models" / model.name
    links = {path.name: os.readlink(path) for path in folder.iterdir() if path.is_symlink()}
    assert links == {name: f"../../shared/{part}" for name, part in shared_parts(model).items()}
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    named = {name for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    assert named == {path.name for path in folder.iterdir() if path.is_dir()}
    # What identifies a model's text encoders in a cache must follow the links.
    assert folders_hash(folder, ["text_encoder"]) != folders_hash(folder, ["absent"])


def test_everything_fits_in_sixty_megabytes_and_is_safetensors(exported: Path) -> None:
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".txt", ".gz", ".md", ".safetensors", ".model"}
    weights = [path.stat().st_size for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 10 + 7 + 3  # denoisers, shared parts and probes
    assert sum(weights) < 60e6


def test_no_configuration_tells_of_the_machine_that_wrote_it(exported: Path) -> None:
    for path in exported.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text, path
        assert str(exported) not in text, path
    for model in SHIPPED:
        card = (exported / "models" / model.name / "README.md").read_text(encoding="utf-8")
        assert card.startswith(f"# {model.name}\n")
        assert model.real in card
        assert all(style in card for style in model.styles)


def test_a_model_without_a_checkpoint_or_without_its_parts_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WORK", tmp_path)
    with pytest.raises(StageNotReady, match="tiny-sd15 has no checkpoint yet"):
        export_model(ZOO["tiny-sd15"], tmp_path, shared)
