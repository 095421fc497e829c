"""Models in a single file, as Civitai has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.training.pipelines.loading import equal_weights, load_pipeline
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache
from tests.training.ldm import checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of the same architecture with other weights."""
    folder = tmp_path_factory.mktemp("base") / "sd"
    pipe = tiny.sd()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        for value in part.parameters():
            value.data.zero_()
    pipe.save_pretrained(folder)
    return folder


def converted(graph: MatchingGraph, file: Path, home: Path, **options):
    report = ingest_models(graph, file, home=home, **options)
    (model,) = (each for each in graph.models() if each.id in report.written)
    return model, load_pipeline(str(model.properties["source"]), device="cpu")[0]


def test_a_checkpoint_becomes_the_pipeline_that_it_was_made_of(
    graph: MatchingGraph, base: Path, tmp_path: Path
) -> None:
    pipe = tiny.sd().to(torch.float16)
    file, home = tmp_path / "dreamy_v8.safetensors", tmp_path / "home"
    save_file(checkpoint(pipe), file)
    model, loaded = converted(graph, file, home, config=str(base))
    assert (model.id, model.properties["params"]) == ("dreamy_v8", pipe.unet.num_parameters())
    for part in ("unet", "vae", "text_encoder"):
        assert equal_weights(getattr(loaded, part), getattr(pipe.to(torch.float32), part)), part
    # What is in the graph may be the base, under its id; and once is enough.
    written = Path(str(model.properties["source"]), "model_index.json").stat().st_mtime_ns
    again, _ = converted(graph, file, home, config=str(base))
    assert Path(str(again.properties["source"]), "model_index.json").stat().st_mtime_ns == written
    save_file({**checkpoint(pipe), "v_pred": torch.zeros(1)}, tmp_path / "velocity.safetensors")
    other, loaded = converted(graph, tmp_path / "velocity.safetensors", home, config="dreamy_v8")
    assert other.id == "velocity"
    assert loaded.scheduler.config.prediction_type == "v_prediction"


def test_parts_that_a_checkpoint_lacks_come_from_its_base_in_the_hubs_cache(
    graph: MatchingGraph, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny.sd()
    file = tmp_path / "unet.safetensors"
    save_file({name: value for name, value in checkpoint(pipe).items() if ".diffusion_model." in name}, file)
    use_cache(monkeypatch, tmp_path / "cache")
    with pytest.raises(BadInput, match=r"its base \(stable-diffusion-v1-5/.*\) is not here; give .*--config"):
        ingest_models(graph, file, home=tmp_path)
    put_into_cache(tmp_path / "cache", "stable-diffusion-v1-5/stable-diffusion-v1-5", base)
    _, loaded = converted(graph, file, tmp_path)
    assert equal_weights(loaded.unet, pipe.unet)
    assert not any(value.any() for value in loaded.vae.parameters())
    assert not any(value.any() for value in loaded.text_encoder.parameters())


def test_files_that_are_no_checkpoints_are_refused_by_name(
    graph: MatchingGraph, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"PK")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, tmp_path / "b.safetensors")
    save_file({"x": torch.zeros(1, dtype=torch.float8_e4m3fn)}, tmp_path / "c.safetensors")
    broken = checkpoint(tiny.sd())
    broken = {name: value for name, value in broken.items() if "middle_block" not in name}
    save_file(broken, tmp_path / "d.safetensors")
    for name, said in (
        ("a.ckpt", "holds pickled weights, .*safetensors"),
        ("b.safetensors", "is an adapter, .*`matchgraph ingest adapter`"),
        ("c.safetensors", "is quantised; give the checkpoint in fp16"),
        ("d.safetensors", "lacks weights of a StableDiffusionPipeline"),
    ):
        with pytest.raises(BadInput, match=said):
            ingest_models(graph, tmp_path / name, home=tmp_path, config=str(base))
    assert not graph.models()
    assert not list((tmp_path / "models").glob("*/*"))
