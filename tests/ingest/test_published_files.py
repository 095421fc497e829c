"""Files as people have them, from the file to a prediction: a checkpoint, a LoRA, and datasets in Parquet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.runs.adapters import score_adapters
from matchgraph.ingest.runs.config import RunConfig, Selection
from matchgraph.ingest.runs.worker import WorkerOptions
from matchgraph.ingest.runs.workflow import run_pairs
from matchgraph.ingest.workflow import ingest_datasets, ingest_models
from matchgraph.predictor.workflow import predict
from tests.ingest.test_adapters import KOHYA, lora_file
from tests.ingest.test_packed import parquet
from tests.training import tiny
from tests.training.hub import put_into_cache, use_cache
from tests.training.ldm import checkpoint

PLAIN, CHECKPOINT, FOLDER, CACHED = "tiny-unet", "dreamy_v8", "pets", "alice/animals"


@pytest.mark.slow
def test_published_files_go_from_ingest_over_a_run_or_an_adapter_to_a_prediction(
    graph: MatchingGraph,
    settings: Settings,
    pipelines: Path,
    probe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, options = tmp_path / "home", WorkerOptions(device="cpu")
    save_file(checkpoint(tiny.sd()), tmp_path / f"{CHECKPOINT}.safetensors")
    kohya = lora_file(tmp_path / "mine.safetensors", "kohya", header=KOHYA)
    use_cache(monkeypatch, tmp_path / "cache")
    put_into_cache(tmp_path / "cache", CACHED, parquet(tmp_path / "animals"), "datasets")
    sources = [parquet(tmp_path / FOLDER), Path(CACHED)]

    ingest_models(graph, pipelines / PLAIN)
    ingest_models(graph, tmp_path / f"{CHECKPOINT}.safetensors", config=PLAIN, home=home)
    ingest_datasets(graph, sources, home=home, probe=str(probe))
    config = RunConfig(steps=1, batch_size=2, samples=2, sampling_steps=1, resolution_px=32, rank=2)
    selection = Selection((CHECKPOINT,), (FOLDER,), probe=str(probe))
    assert run_pairs(graph, replace(settings, home=home), config, selection, options=options).done == 1
    given: dict[str, Any] = {"home": home, "probe": str(probe), "options": options}
    for dataset in (FOLDER, CACHED):
        scored = score_adapters(graph, kohya, model=PLAIN, dataset=dataset, **given)
        assert scored.adapters[0].recorded

    # The cached dataset is predicted from the other one's results, of the checkpoint's run and of the LoRA.
    answer = predict(graph, CACHED)
    assert {row.model for row in answer.ranking} == {PLAIN, CHECKPOINT}
    assert answer.measured.keys() == {PLAIN}
