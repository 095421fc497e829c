"""Carrying out a run with real extractors: every metric, loaded from what the run's node says."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import ExtractorMismatch
from matchgraph.ingest.runs.config import Execution
from matchgraph.ingest.runs.entries import DONE
from matchgraph.ingest.runs.estimates import AFTER, TRAINING
from matchgraph.ingest.runs.execution import LoraExecutor
from matchgraph.ingest.runs.ledger import Ledger
from matchgraph.ingest.runs.reporter import Reporter
from matchgraph.ingest.runs.worker import PRETRAINED_FOLDER, work
from tests.ingest.conftest import Invoke, answer, edge, ingested

METRICS = ("clip_fid", "cmmd", "mine_fid", "mine_kid")
OPTIONS = ["--steps", 2, "--batch-size", 2, "--rank", 2, "--resolution", 32, "--samples", 4]
OPTIONS += ["--sampling-steps", 2, "--device", "cpu", "--dataset", "cats", "--model", "tiny-sd3"]


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training import tiny

    return tiny.save_vision(tmp_path_factory.mktemp("weights") / "dinov2")


@pytest.fixture
def asked(dinov2: Path, probe: Path) -> list[Any]:
    """The options of a run that measures by two extractors."""
    metrics = [part for metric in METRICS for part in ("--metric", metric)]
    return [*OPTIONS, "--probe", probe, "--extractor", f"mine=dinov2:{dinov2}", *metrics]


@pytest.fixture
def zoo(graph: MatchingGraph, pipelines: Path, image_folders: Path, probe: Path) -> MatchingGraph:
    return ingested(graph, pipelines / "tiny-sd3", image_folders / "cats", probe)


@pytest.mark.slow
def test_a_run_measures_every_metric_and_a_worker_needs_only_the_ledger(
    zoo: MatchingGraph, runner: Runner, invoke: Invoke, asked: list[Any], probe: Path, dinov2: Path
) -> None:
    from matchgraph.training.measure.extractors import ExtractorSpec, load_clip, load_extractor

    answer(invoke("run", *asked, "--queue", "--json"))
    (queued,) = Ledger(runner).runs()
    hashes = {
        "clip": load_clip(str(probe), device="cpu").hash,
        "mine": load_extractor(ExtractorSpec("mine", "dinov2", str(dinov2)), device="cpu").hash,
    }
    assert queued.config["extractors"] == hashes
    assert queued.config["metrics"] == list(METRICS)
    assert queued.extractors == {"clip": f"clip:{probe}", "mine": f"dinov2:{dinov2}"}
    # The worker is told of neither metrics nor extractors.
    assert answer(invoke("worker", "--device", "cpu", "--json"))["done"] == 1
    (run,) = Ledger(runner).runs()
    assert run.status == DONE
    found = edge(runner)
    for metric in METRICS:
        for name in (metric, f"initial_{metric}"):
            assert isinstance(found[name], float)
            assert found[f"{name}__extractor"] == hashes["mine" if metric.startswith("mine") else "clip"]
            assert (found[f"{name}__n_real"], found[f"{name}__n_gen"]) == (4, 4)
            assert (found[f"{name}__version"], found[f"{name}__resize"]) == ("1", "clean-bicubic")
            assert (f"{name}__std" in found) == (metric == "mine_kid")
            assert found[f"{name}__seeds"] == [0]
            assert found[f"{name}__standard_error"] > 0
            assert found[f"{name}__standard_error"] == run.properties[f"{name}__standard_error"]
            assert (f"{name}__bias" in found) == metric.endswith("fid")
        assert run.properties[metric] == found[metric]
    # The graph did not know these two before.
    assert zoo.metric("mine_fid").minimum == 0
    assert zoo.snapshot("mine_kid").performs["value"].tolist() == [found["mine_kid"]]
    # In another order they are the same question.
    again = answer(invoke("run", *asked[:-4], "--metric", "mine_kid", "--metric", "mine_fid", "--json"))
    assert again["already_done"] == 1


@pytest.mark.slow
def test_a_pretrained_model_is_scored_once_for_all_ways_to_train_it(
    zoo: MatchingGraph,  # noqa: ARG001
    runner: Runner,
    invoke: Invoke,
    asked: list[Any],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matchgraph.training.pipelines.families.base import Family

    shutil.rmtree(settings.home / PRETRAINED_FOLDER, ignore_errors=True)
    drawn: list[int] = []
    own = Family.sample
    monkeypatch.setattr(
        Family,
        "sample",
        lambda *given, **named: drawn.append(len(named["generators"])) or own(*given, **named),
    )

    def images(*options: Any) -> tuple[int, dict[str, Any]]:
        drawn.clear()
        assert answer(invoke("run", *asked, *options, "--json"))["done"] == 1
        return sum(drawn), edge(runner)

    count, first = images("--rank", 2)
    assert count == 8
    count, second = images("--rank", 3)
    assert count == 4
    for metric in METRICS:
        assert second[f"initial_{metric}"] == first[f"initial_{metric}"]
        assert second[metric] != first[metric]
    # Another seed gives other images.
    assert images("--seed", 5)[0] == 8
    # How it is carried out is no other question.
    done = answer(invoke("run", *asked, "--seed", 5, "--micro-batch", 1, "--sampling-batch", 1, "--json"))
    assert done["already_done"] == 1


@pytest.mark.slow
def test_a_run_that_goes_on_tells_from_where(
    zoo: MatchingGraph, runner: Runner, invoke: Invoke, asked: list[Any], tmp_path: Path
) -> None:
    answer(invoke("run", *asked, "--queue", "--json"))
    stop, told = threading.Event(), []

    class Watching(Reporter):
        def step(self, stage: str, done: int, of: int, loss: float | None) -> None:  # noqa: ARG002
            if stage == TRAINING:
                told.append(done)
                # Seen at the next step, which is the last one.
                if done == 1:
                    stop.set()

    with pytest.raises(KeyboardInterrupt):
        work(zoo, Ledger(runner), LoraExecutor(Execution("cpu")), tmp_path, Watching(), stop=stop)
    assert told == [0, 1]
    told.clear()
    work(zoo, Ledger(runner), LoraExecutor(Execution("cpu")), tmp_path, Watching())
    assert told == [2]


def test_a_sample_goes_on_after_its_last_whole_batch(
    zoo: MatchingGraph,
    runner: Runner,
    invoke: Invoke,
    asked: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matchgraph.training.pipelines.families.base import Family

    answer(invoke("run", *asked, "--queue", "--json"))
    stop = threading.Event()
    drawn: list[int] = []
    own = Family.sample
    monkeypatch.setattr(
        Family,
        "sample",
        lambda *given, **named: drawn.append(len(named["generators"])) or own(*given, **named),
    )

    class Watching(Reporter):
        def step(self, stage: str, done: int, of: int, loss: float | None) -> None:  # noqa: ARG002
            if (stage, done) == (AFTER, 2):
                stop.set()

    one_by_one = Execution("cpu", sampling_batch=1)
    with pytest.raises(KeyboardInterrupt):
        work(zoo, Ledger(runner), LoraExecutor(one_by_one), tmp_path, Watching(), stop=stop)
    assert sum(drawn) == 4 + 3
    drawn.clear()
    assert work(zoo, Ledger(runner), LoraExecutor(Execution("cpu")), tmp_path, Reporter()).done == 1
    # Neither the pretrained model's images nor those that were kept.
    assert drawn == [1]
    found = edge(runner)
    assert found["clip_fid__n_gen"] == found["initial_clip_fid__n_gen"] == 4


def test_an_extractor_that_is_another_now_is_refused(
    zoo: MatchingGraph,  # noqa: ARG001
    runner: Runner,
    invoke: Invoke,
    asked: list[Any],
    dinov2: Path,
    tmp_path: Path,
) -> None:
    from tests.training import tiny

    other = tiny.save_vision(tmp_path / "other", seed=1)
    answer(invoke("run", *asked, "--queue", "--json"))
    (queued,) = Ledger(runner).runs()
    executor = LoraExecutor(Execution("cpu"))
    for extractors, message in (
        ({**queued.extractors, "mine": f"dinov2:{other}"}, "was planned with"),
        ({"clip": queued.extractors["clip"]}, "does not say where its extractor 'mine'"),
    ):
        job: Any = type("Job", (), {"run": "r", "asked": queued.config, "extractors": extractors})
        with pytest.raises(ExtractorMismatch, match=message):
            executor._extractors(job)
    assert str(dinov2) in queued.extractors["mine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric", "fid"], "--extractor inception=WEIGHTS"),
        (["--metric", "clip_score"], "cannot be measured"),
        (["--metric", "dinov2_fid", "--extractor", "dinov2=no/where"], "cannot be fetched"),
        (["--extractor", "clip=somewhere/else"], "both give the extractor 'clip'"),
        (["--metric", "clip_fid", "--metric", "clip_fid"], "each once"),
    ],
)
def test_metrics_that_cannot_be_had_are_refused_before_anything_runs(
    zoo: MatchingGraph,  # noqa: ARG001
    runner: Runner,
    invoke: Invoke,
    probe: Path,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    # An address of this machine at which nothing answers stands for a missing network.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    result = invoke("run", *OPTIONS, "--probe", probe, *options)
    assert message in str(result.exception or "") + result.output
    assert result.exit_code != 0
    assert not Ledger(runner).runs()


def test_datasets_by_several_metrics_from_the_command_line(
    graph: MatchingGraph, invoke: Invoke, image_folders: Path, probe: Path, dinov2: Path, settings: Any
) -> None:
    arguments = ["datasets", image_folders, "--probe", probe, "--extractor", f"mine=dinov2:{dinov2}"]
    metrics = ["--metric", "clip_fid", "--metric", "mine_fid", "--json"]
    found = answer(invoke(*arguments, *metrics))
    assert (found["datasets"], found["similarities"]) == (["cats", "dogs", "trees"], 6)
    assert answer(invoke(*arguments, *metrics))["unchanged"] == ["cats", "dogs", "trees"]
    assert len(graph.snapshot(similarity="mine_fid").similar) == 3
    assert list((settings.home / "features").glob("*.safetensors"))
    # Another extractor may describe the datasets.
    described = answer(invoke(*arguments, *metrics, "--embedding", "mine"))
    assert described["datasets"] == ["cats", "dogs", "trees"]
    assert {dataset.properties["probe"] for dataset in graph.datasets()} == {"dinov2"}


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True])
def test_a_lack_of_memory_is_followed_by_a_smaller_plan(
    zoo: MatchingGraph,  # noqa: ARG001
    runner: Runner,
    invoke: Invoke,
    asked: list[Any],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    lasting: bool,
) -> None:
    import torch

    from matchgraph.training.pipelines.families.base import Family

    tried: list[tuple[int, bool]] = []
    own = Family.loss

    def loss(
        family: Family, pipe: Any, denoiser: Any, latents: Any, rows: Any, noise: Any, some: slice
    ) -> Any:
        passed = some.stop - some.start, denoiser.is_gradient_checkpointing
        tried.append(passed)
        if lasting or passed == (2, False):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return own(family, pipe, denoiser, latents, rows, noise, some)

    monkeypatch.setattr(Family, "loss", loss)
    result = invoke("run", *asked, "--gpu-memory", 24, "--json")
    (run,) = Ledger(runner).runs()
    assert tried[:2] == [(2, False), (1, False)]
    if not lasting:
        assert answer(result)["done"] == 1
        assert tried[1:] == [(1, False)] * 4
        (written,) = (settings.home / "runs" / run.id).rglob("record.json")
        record = json.loads(written.read_text())
        assert record["with"]["memory"]["micro_batch"] == 1
        assert len(record["with"]["memory"]["ran_out"]) == 1
        assert record["with"]["happened"]["images_per_step"] == 2
        return
    assert (1, True) in tried
    assert result.exit_code == 1
    (message,) = json.loads(result.stdout)["failed"].values()
    assert message.startswith("Out of memory in training: CUDA out of memory.")
    assert "--precision bf16" in message
    assert "\n" not in message
