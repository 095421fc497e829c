"""Models by name: what of the hub's cache counts, what is fetched, and what is said where neither helps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from matchgraph.training.errors import ModelUnavailable
from matchgraph.training.files import files_below, folder_name
from matchgraph.training.pipelines.hub import pipeline_folder, student_weights
from matchgraph.training.pipelines.loading import load_pipeline
from tests.training.hub import COMMIT, put_into_cache, served, use_cache

NAME = "someone/tiny-model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without a network."""
    use_cache(monkeypatch, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def repository(tiny_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A repository as people publish them: with pickles, code, a second precision and a single-file copy."""
    folder = tmp_path / "repository"
    shutil.copytree(tiny_folder("sd"), folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("unet/diffusion_pytorch_model.bin", "vae/model.pt", "model.ckpt", "run.py"):
        (folder / name).write_bytes(b"never")
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "whole.safetensors")
    shutil.copy(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        folder / "unet" / "diffusion_pytorch_model.fp16.safetensors",
    )
    (folder / "unet" / "model.onnx").write_bytes(b"never")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    return folder


def test_a_path_that_exists_is_meant(cache, tiny_folder, tmp_path, monkeypatch):
    put_into_cache(cache, NAME, tiny_folder("sd"))
    assert pipeline_folder(tiny_folder("sd")) == tiny_folder("sd")
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert pipeline_folder(NAME) == Path(NAME)


def test_what_is_whole_in_the_cache_is_taken_without_a_network(cache, tiny_folder):
    snapshot = put_into_cache(cache, NAME, tiny_folder("sd"))
    assert pipeline_folder(NAME) == snapshot
    assert pipeline_folder(Path(NAME)) == snapshot
    assert folder_name(snapshot) == NAME
    of_images = snapshot.parents[2] / "datasets--alice--pokemon" / "snapshots" / COMMIT
    assert folder_name(of_images) == "alice/pokemon"
    assert folder_name(tiny_folder("sd")) == tiny_folder("sd").name
    assert load_pipeline(snapshot, device="cpu")[1].name == "sd"


@pytest.mark.parametrize(
    "gone",
    [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "vae",
        "text_encoder/shard",
    ],
)
def test_a_part_in_the_cache_does_not_count(cache, tiny_folder, gone):
    snapshot = put_into_cache(cache, NAME, tiny_folder("sd"))
    if gone == "text_encoder/shard":
        (snapshot / "text_encoder" / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}})
        )
    elif (snapshot / gone).is_dir():
        shutil.rmtree(snapshot / gone)
    else:
        (snapshot / gone).unlink()
    with pytest.raises(ModelUnavailable, match=r"not on this machine and cannot be fetched \(") as refused:
        pipeline_folder(NAME)
    assert "\n" not in str(refused.value)
    assert "give the path of a pipeline folder" in str(refused.value)


def test_variants_that_do_not_go_together_do_not_count(cache, tiny_folder):
    snapshot = put_into_cache(cache, NAME, tiny_folder("sd"))
    for component, variant in (("unet", "fp16"), ("vae", "bf16")):
        file = snapshot / component / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    with pytest.raises(ModelUnavailable, match="cannot be fetched"):
        pipeline_folder(NAME)


@pytest.mark.parametrize("spec", ["", "no-such-folder", "./a/b", "a/b/c", "/a/b", "~/b", "a b/c", "../a"])
@pytest.mark.parametrize("find", [pipeline_folder, student_weights])
def test_what_is_no_name_is_said_to_be_none(find, spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"neither a .*folder here nor a name on the hub") as refused:
        find(spec)
    assert "\n" not in str(refused.value)


def test_only_what_is_loaded_is_fetched_and_then_found_again(cache, repository, monkeypatch):
    with served({NAME: repository}) as (address, fetched):
        use_cache(monkeypatch, cache, address)
        folder = pipeline_folder(NAME)
    expected = {
        path.relative_to(repository).as_posix()
        for path in files_below(repository)
        if path.suffix in (".json", ".txt", ".safetensors")
        and path.parent.name not in ("safety_checker", "repository")
        and "fp16" not in path.name
    } | {"model_index.json", "README.md"}
    assert "unet/diffusion_pytorch_model.safetensors" in expected
    assert set(fetched) == expected
    assert {path.relative_to(folder).as_posix() for path in files_below(folder)} == expected
    load_pipeline(folder, device="cpu")
    use_cache(monkeypatch, cache)
    assert pipeline_folder(NAME) == folder


def test_what_is_missing_in_the_cache_is_fetched(cache, repository, tiny_folder, monkeypatch):
    snapshot = put_into_cache(cache, NAME, tiny_folder("sd"))
    assert snapshot.name == COMMIT
    gone = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    gone.resolve().unlink()
    gone.unlink()
    with served({NAME: repository}) as (address, fetched):
        use_cache(monkeypatch, cache, address)
        assert pipeline_folder(NAME) == snapshot
    assert sorted(fetched) == ["README.md", "unet/diffusion_pytorch_model.safetensors"]


def test_a_repository_that_is_not_there_is_said_in_one_line(cache, repository, monkeypatch):
    with served({NAME: repository}) as (address, _):
        use_cache(monkeypatch, cache, address)
        with pytest.raises(ModelUnavailable, match="cannot be fetched") as refused:
            pipeline_folder("someone/else")
    assert "\n" not in str(refused.value)


def test_one_variant_is_fetched_where_a_component_has_no_plain_weights(cache, repository, monkeypatch):
    (repository / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with served({NAME: repository}) as (address, fetched):
        use_cache(monkeypatch, cache, address)
        load_pipeline(pipeline_folder(NAME), device="cpu")
    weights = {file for file in fetched if file.endswith(".safetensors")}
    assert weights == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("diffusion_pytorch_model.bin", "no safetensors of its unet; its pickled weights"),
        ("model.onnx", r"no safetensors of its unet\."),
        ("diffusion_pytorch_model.bf16.safetensors", "incompatible variants"),
    ],
)
def test_what_has_no_fitting_weights_is_refused_before_it_is_fetched(
    cache, repository, monkeypatch, weights, message
):
    for file in (repository / "unet").glob("diffusion_pytorch_model*"):
        file.unlink()
    (repository / "unet" / weights).write_bytes(b"never")
    encoder = repository / "text_encoder" / "model.safetensors"
    encoder.rename(encoder.with_name("model.fp16.safetensors"))
    with served({NAME: repository}) as (address, fetched):
        use_cache(monkeypatch, cache, address)
        with pytest.raises(ModelUnavailable, match=message) as refused:
            pipeline_folder(NAME)
    assert "\n" not in str(refused.value)
    assert sorted(fetched) == ["README.md", "model_index.json"]


def lora_repository(folder: Path) -> Path:
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, folder / "pytorch_lora_weights.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "pytorch_lora_weights.bin").write_bytes(b"never")
    return folder


def denoiser_repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("", ".fp16"):
        save_file({"a": torch.zeros(1)}, folder / f"diffusion_pytorch_model{name}.safetensors")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"never")
    return folder


@pytest.mark.parametrize(
    ("write", "found", "expected"),
    [
        (lora_repository, "pytorch_lora_weights.safetensors", ["pytorch_lora_weights.safetensors"]),
        (denoiser_repository, ".", ["config.json", "diffusion_pytorch_model.safetensors"]),
    ],
)
def test_weights_alone_are_fetched_and_found(cache, tmp_path, monkeypatch, write, found, expected):
    source = write(tmp_path / "source")
    assert student_weights(source) == source
    with pytest.raises(ModelUnavailable, match="cannot be fetched"):
        student_weights(NAME)
    with served({NAME: source}) as (address, fetched):
        use_cache(monkeypatch, cache, address)
        place = student_weights(NAME)
    assert sorted(fetched) == expected
    use_cache(monkeypatch, cache)
    assert student_weights(NAME) == place
    assert place.resolve().parent.name in ("blobs", "snapshots")
    assert place.parts[-1] == (found if found != "." else COMMIT)


def test_repositories_of_another_kind_say_what_they_are_for(cache, tmp_path, repository, monkeypatch):
    lora = lora_repository(tmp_path / "lora")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "weights.ckpt").write_bytes(b"never")
    with served({"a/lora": lora, "a/odd": odd, "a/whole": repository}) as (address, fetched):
        use_cache(monkeypatch, cache, address)
        with pytest.raises(ModelUnavailable, match="matchgraph collaborate student TEACHER a/lora"):
            pipeline_folder("a/lora")
        with pytest.raises(ModelUnavailable, match=r"neither .* nor .*; its pickled weights"):
            student_weights("a/odd")
        with pytest.raises(ModelUnavailable, match="neither"):
            student_weights("a/whole")
    assert not fetched
