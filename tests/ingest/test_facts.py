"""Facts that are measured when a pipeline folder is ingested, and not measured again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.facts import CPU_LIMIT_SECONDS, FactsConfig
from matchgraph.ingest.tables.models import ModelsReport, ingest_models
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.pipelines import profile, throughput
from matchgraph.training.pipelines.profile import PipelineProfiler
from tests.ingest.dump import dump

ZOO = Path(__file__).parents[2] / "zoo"
QUICK = FactsConfig(device="cpu", steps=1)
Ingest = Callable[..., ModelsReport]


@pytest.fixture
def folder(pipelines: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(next(pipelines.iterdir()), tmp_path / "tiny"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the expensive functions ran."""
    names: list[str] = []

    def follow(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def followed(*args: object, **kwargs: object) -> object:
            names.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, followed)

    follow(profile, "PipelineProfiler")
    follow(throughput, "measure_throughput")
    return names


def properties(graph: MatchingGraph, model_id: str = "tiny") -> dict:
    return dict(next(model for model in graph.models() if model.id == model_id).properties)


def test_a_folder_with_weights_gives_all_facts(graph: MatchingGraph, folder: Path) -> None:
    report = ingest_models(graph, folder, facts=QUICK)
    stored, profile = properties(graph), PipelineProfiler(folder).price()
    assert not report.notes
    assert stored["params"] == profile.params
    assert stored["tflop"] == pytest.approx(profile.tflop)
    assert report.measured == {"tiny": {name: stored[name] for name in ("params", "tflop", "throughput")}}
    assert stored["throughput"] > 0
    assert (stored["throughput_steps"], stored["throughput_precision"]) == (1, "fp32")
    # What is stored prices calls of other lengths without the folder.
    forwards = stored["tflop_calls"] * stored["tflop_rows"]
    total = stored["tflop_text"] + stored["tflop_decoding"] + forwards * stored["tflop_forward"]
    assert total == pytest.approx(stored["tflop"])


@pytest.mark.slow
def test_what_is_known_is_not_measured_again(
    graph: MatchingGraph, runner: Runner, folder: Path, calls: list[str]
) -> None:
    ingest_models(graph, folder, facts=QUICK)
    assert calls == ["PipelineProfiler", "measure_throughput"]
    before = dump(runner)
    ingest_models(graph, folder, facts=QUICK)
    ingest_models(graph, folder, facts=FactsConfig(throughput=False))
    ingest_models(graph, folder)
    assert dump(runner) == before
    assert len(calls) == 2
    # Another length of call is another figure, the default one too, and so is one from another machine.
    ingest_models(graph, folder, facts=FactsConfig(device="cpu"))
    assert properties(graph)["throughput_steps"] == properties(graph)["tflop_steps"] > 1
    ingest_models(graph, folder, facts=FactsConfig(device="cpu"))
    runner.write("MATCH (m:Model) SET m.throughput_device = 'elsewhere'")
    ingest_models(graph, folder, facts=QUICK)
    assert calls[2:] == ["measure_throughput"] * 2


def test_a_changed_folder_is_measured_again_and_loses_its_old_facts(
    graph: MatchingGraph, folder: Path, calls: list[str]
) -> None:
    ingest_models(graph, folder, facts=QUICK)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"changed": 1}))
    ingest_models(graph, folder, facts=FactsConfig(throughput=False))
    assert calls == ["PipelineProfiler", "measure_throughput", "PipelineProfiler"]
    assert not any(name.startswith("throughput") for name in properties(graph))
    (folder / "model_index.json").write_text(json.dumps(index | {"changed": 2}))
    ingest_models(graph, folder)
    assert "tflop" not in properties(graph)
    assert "params" in properties(graph)


def test_a_table_adds_to_measured_facts(graph: MatchingGraph, folder: Path, tmp_path: Path) -> None:
    ingest_models(graph, folder, facts=QUICK)
    before = properties(graph)
    (tmp_path / "facts.csv").write_text("model,released\ntiny,2022\n")
    ingest_models(graph, tmp_path / "facts.csv", facts=QUICK)
    assert properties(graph) == before | {"released": 2022}


def test_configs_alone_give_parameters_and_operations(graph: MatchingGraph) -> None:
    report = ingest_models(graph, ZOO / "sd-1.5", model_id="sd15", facts=FactsConfig())
    stored = properties(graph, "sd15")
    assert stored["params"] == 859_520_964
    assert stored["tflop"] == pytest.approx(71.59, rel=0.01)
    assert "throughput" not in stored
    assert not report.notes
    report = ingest_models(graph, ZOO / "sd-1.5", model_id="sd15", facts=FactsConfig(throughput=True))
    assert report.notes == ("sd15: throughput is left out: text_encoder, unet, vae has no weights here",)


def test_a_cpu_is_not_kept_busy_for_hours_unasked(
    graph: MatchingGraph, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matchgraph.ingest.tables.facts.CPU_TFLOP_PER_SECOND", 1e-9)
    report = ingest_models(graph, folder, facts=QUICK)
    assert len(report.notes) == 1
    assert "would keep a CPU busy for some" in report.notes[0]
    assert "throughput" not in properties(graph)
    assert CPU_LIMIT_SECONDS == 60
    asked = FactsConfig(throughput=True, device="cpu", steps=1)
    assert not ingest_models(graph, folder, facts=asked).notes
    assert properties(graph)["throughput"] > 0


def test_a_pipeline_that_nobody_can_build_is_ingested_with_a_note(graph: MatchingGraph, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "UnheardOfPipeline"}))
    report = ingest_models(graph, folder, facts=QUICK)
    assert report.written == ("tiny",)
    assert "tflop is left out" in report.notes[0]
    assert "has no pipeline 'UnheardOfPipeline'" in report.notes[0]
    assert "params" in properties(graph)
    assert "tflop" not in properties(graph)


def test_an_id_for_a_table_and_an_unknown_device_are_refused(
    graph: MatchingGraph, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "facts.csv").write_text("model\ntiny\n")
    with pytest.raises(BadInput, match="is not a pipeline folder"):
        ingest_models(graph, tmp_path / "facts.csv", model_id="x")
    with pytest.raises(InvalidConfig, match="warp"):
        ingest_models(graph, folder, facts=FactsConfig(device="warp"))
    assert not graph.models()
