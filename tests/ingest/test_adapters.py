"""Adapters trained elsewhere: scored as the graph's runs are, and recorded with what their files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput, IngestError
from matchgraph.ingest.runs.adapters import sampled_as, score_adapters
from matchgraph.ingest.runs.config import RunConfig
from matchgraph.ingest.runs.worker import WorkerOptions
from matchgraph.ingest.runs.workflow import runs_status
from matchgraph.training.pipelines.trainers import training_facts
from tests.ingest.conftest import Invoke, answer, edge, ingested
from tests.training import tiny
from tests.training.ldm import checkpoint
from tests.training.test_students import lora

KOHYA = {"ss_steps": "1200", "ss_unet_lr": "0.0001", "ss_network_alpha": "1.5", "ss_sd_model_name": "sd15"}
CHANGES = {"samples": 4, "sampling_steps": 2, "resolution_px": 32, "metrics": ("clip_fid",)}
HERE = WorkerOptions(device="cpu")


def lora_file(path: Path, form: str, scale: float = 1.0, header: dict[str, str] | None = None) -> Path:
    """One LoRA with a text encoder's part, in kohya's form or in diffusers'."""
    tensors = lora(tiny.sd().unet, form)
    for name in tensors:
        if name.endswith(("lora_up.weight", "lora_B.weight")):
            # kohya's files scale by alpha / rank, the others by 1.
            tensors[name] = tensors[name] * scale * (1 if form == "kohya" else 0.5)
    if form == "kohya":
        layer, down, up = "lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_down", "lora_up"
    else:
        layer, down, up = "text_encoder.text_model.encoder.layers.0.mlp.fc1", "lora_A", "lora_B"
    tensors |= {f"{layer}.{down}.weight": torch.ones(3, 32), f"{layer}.{up}.weight": torch.ones(64, 3)}
    save_file(tensors, path, metadata=header)
    return path


@pytest.fixture
def zoo(graph: MatchingGraph, pipelines: Path, image_folders: Path, probe: Path) -> MatchingGraph:
    return ingested(graph, pipelines / "tiny-unet", image_folders / "cats", probe)


@pytest.mark.slow
def test_a_folder_of_adapters_is_scored_and_the_best_recorded_with_its_training(
    zoo: MatchingGraph, runner: Runner, probe: Path, tmp_path: Path
) -> None:
    folder, home = tmp_path / "epochs", tmp_path / "home"
    folder.mkdir()
    lora_file(folder / "a.safetensors", "kohya", header=KOHYA)
    lora_file(folder / "b.safetensors", "diffusers")
    lora_file(folder / "c.safetensors", "diffusers", scale=30)
    given: dict[str, Any] = {"model": "tiny-unet", "dataset": "cats", "home": home, "probe": str(probe)}
    given |= {"changes": CHANGES, "options": HERE}
    report = score_adapters(zoo, folder, **given)
    a, b, c = report.adapters
    # The same update in two trainers' forms, and another one.
    assert a.values["clip_fid"] == pytest.approx(b.values["clip_fid"], rel=1e-3)
    assert c.values["clip_fid"] != pytest.approx(b.values["clip_fid"], rel=1e-3)
    assert "no finished run" in report.notes[0]
    (best,) = (one for one in report.adapters if one.recorded)
    found = edge(runner)
    assert found["clip_fid"] == min(one.values["clip_fid"] for one in report.adapters)
    assert (found["clip_fid__adapter"], found["clip_fid__best_of"]) == (best.file.name, 3)
    assert "clip_fid__training_seconds" not in found
    assert found["initial_clip_fid__n_gen"] == 4
    assert "initial_clip_fid__adapter" not in found
    # Only what is known of a file's training is said.
    report = score_adapters(zoo, folder / "a.safetensors", replace_result=True, **given)
    found = edge(runner)
    assert found["clip_fid"] == pytest.approx(report.adapters[0].values["clip_fid"])
    facts = {
        name: found[f"clip_fid__trained_{name}"] for name in ("by", "steps", "learning_rate", "rank", "from")
    }
    assert list(facts.values()) == ["kohya sd-scripts", 1200, 0.0001, 3, "sd15"]
    assert (report.adapters[0].folder / "samples.png").is_file()
    assert (report.adapters[0].folder / "real.png").is_file()
    # Again it is the same question; another adapter's result is not overwritten unasked.
    score_adapters(zoo, folder / "a.safetensors", **given)
    with pytest.raises(IngestError, match=r"already has a clip_fid, of .*--replace"):
        score_adapters(zoo, folder / "b.safetensors", **given)


def test_a_model_fine_tuned_in_full_is_scored_as_its_base_with_other_weights(
    zoo: MatchingGraph, runner: Runner, probe: Path, tmp_path: Path
) -> None:
    pipe = tiny.sd()
    with torch.no_grad():
        for value in pipe.unet.parameters():
            value.mul_(1.5)
    pipe.save_pretrained(tmp_path / "epoch-3")
    save_file(checkpoint(pipe), tmp_path / "whole.safetensors", metadata={"ss_steps": "900"})
    given: dict[str, Any] = {"model": "tiny-unet", "dataset": "cats", "home": tmp_path, "probe": str(probe)}
    given |= {"changes": CHANGES, "options": HERE, "replace_result": True}
    (folder,) = (report := score_adapters(zoo, tmp_path / "epoch-3", **given)).adapters
    found = edge(runner)
    assert "epoch-3 was fine-tuned in full: its denoiser was loaded" in report.notes[0]
    assert "4 generated images" in report.notes[-1]
    assert found["clip_fid"] == folder.values["clip_fid"] != pytest.approx(found["initial_clip_fid"])
    assert (found["clip_fid__adapter"], found["clip_fid__trained_kind"]) == ("epoch-3", "full")
    (file,) = score_adapters(zoo, tmp_path / "whole.safetensors", **given).adapters
    assert file.values == pytest.approx(folder.values, rel=1e-4)
    assert file.facts == {"trained_by": "kohya sd-scripts", "trained_kind": "full", "trained_steps": 900}
    (shown,) = runs_status(zoo).adapters
    assert (shown.adapter, shown.model, shown.dataset) == ("whole.safetensors", "tiny-unet", "cats")
    assert shown.values == file.values
    assert {**shown.facts, **file.facts} == shown.facts
    assert runs_status(zoo, models=["tiny-unet"], datasets=["cats"]).to_dict()["adapters"]


def test_the_command_scores_and_status_shows_it(
    zoo: MatchingGraph, invoke: Invoke, probe: Path, tmp_path: Path
) -> None:
    file = lora_file(tmp_path / "mine.safetensors", "kohya", header=KOHYA)
    options = [
        "--model",
        "tiny-unet",
        "--dataset",
        "cats",
        "--probe",
        probe,
        "--samples",
        4,
        "--device",
        "cpu",
    ]
    options += ["--sampling-steps", 2, "--resolution", 32]
    (scored,) = answer(invoke("adapter", file, *options, "--json"))["adapters"]
    assert (scored["recorded"], scored["facts"]["trained_by"]) == (True, "kohya sd-scripts")
    shown = invoke("status").output
    assert "ADAPTER   mine.safetensors  tiny-unet x cats  clip_fid" in shown
    assert "by kohya sd-scripts" in shown
    assert zoo.snapshot("clip_fid").performs["value"].tolist() == [scored["values"]["clip_fid"]]


def test_what_is_no_adapter_is_refused_before_anything_is_loaded(
    graph: MatchingGraph, tmp_path: Path
) -> None:
    save_file({"lora_unet_x.oft_blocks": torch.zeros(1)}, tmp_path / "oft.safetensors")
    for name, said in (
        ("oft.safetensors", "holds lora_unet_x.oft_blocks: OFT adapters are not supported"),
        ("absent", "is neither a .safetensors file"),
    ):
        with pytest.raises(BadInput, match=said):
            score_adapters(graph, tmp_path / name, model="m", dataset="d", home=tmp_path)


@pytest.mark.parametrize(
    ("header", "facts"),
    [
        ({}, {"trained_by": "unknown"}),
        (KOHYA | {"ss_epoch": "None"}, {"trained_by": "kohya sd-scripts", "trained_steps": 1200}),
        (
            {"software": json.dumps({"name": "ai-toolkit"}), "training_info": json.dumps({"step": 500})},
            {"trained_by": "ai-toolkit", "trained_steps": 500},
        ),
        ({"ot_branch": "master"}, {"trained_by": "OneTrainer"}),
        ({"lora_adapter_metadata": "{}"}, {"trained_by": "diffusers"}),
    ],
)
def test_headers_of_trainers(tmp_path: Path, header: dict[str, str], facts: dict[str, Any]) -> None:
    save_file({"unet.x.lora_A.weight": torch.zeros(3, 4)}, tmp_path / "a.safetensors", metadata=header)
    found = training_facts(tmp_path / "a.safetensors")
    assert {**found, **facts, "trained_rank": 3, "trained_kind": "LoRA"} == found
    assert "trained_epochs" not in found


def test_adapters_are_sampled_as_the_newest_run_of_their_dataset() -> None:
    from types import SimpleNamespace

    def run(name: str, dataset: str, ended: int, samples: int, **own: Any) -> Any:
        facts = {
            "status": "DONE",
            "replicate": False,
            "properties": {"ended_at": ended},
            "average": None,
        } | own
        config = RunConfig(samples=samples, guidance=2.0, seed=facts.pop("seed", 0)).asked()
        return SimpleNamespace(id=name, dataset=dataset, config=config, **facts)

    runs = [run("old", "cats", 1, 10), run("new", "cats", 2, 20), run("other", "dogs", 3, 30)]
    runs.append(run("failed", "cats", 4, 40, status="FAILED"))
    runs.append(run("again", "cats", 5, 50, replicate=True))
    # Of a mean, that under the first seed.
    runs += [run("other", "dogs", 6, 30, average="m"), run("repeat", "dogs", 7, 30, average="m", seed=1)]
    assert sampled_as(runs, "dogs", {})[0].seed == 0
    config, words = sampled_as(runs, "cats", {"guidance": 3.0})
    assert (config.samples, config.guidance, words) == (20, 3.0, "as run new was")
    assert sampled_as(runs, "trees", {})[0].samples == 30


def test_a_dora_in_diffusers_form_changes_directions_and_magnitudes(tmp_path: Path) -> None:
    from matchgraph.training.pipelines.adapters import load_adapter
    from matchgraph.training.pipelines.families import family

    pipe = tiny.sd()
    name, layer = next(
        (name, part) for name, part in pipe.unet.named_modules() if name.endswith("attn1.to_q")
    )
    down, up = torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2)
    magnitude = torch.rand(layer.out_features)
    key = f"unet.{name}.lora_"
    tensors = {f"{key}A.weight": down, f"{key}B.weight": up, f"{key}magnitude_vector": magnitude}
    save_file(tensors, tmp_path / "dora.safetensors")
    moved = layer.weight.detach() + up @ down
    expected = magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)
    load_adapter(pipe, family("sd"), tmp_path / "dora.safetensors")
    shown = torch.randn(3, layer.in_features)
    with torch.no_grad():
        torch.testing.assert_close(pipe.unet.get_submodule(name)(shown), shown @ expected.T)
