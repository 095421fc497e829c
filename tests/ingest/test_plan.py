"""Which runs there are: selections, folders that changed, and what the ledger has already."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from matchgraph.graphdb.models import Dataset, Model
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.errors import BadInput, ConfigChanged, ExtractorMismatch, NothingToDo, SourceChanged
from matchgraph.ingest.runs import memory
from matchgraph.ingest.runs.candidates import missing_runs
from matchgraph.ingest.runs.choices import check_unfinished, chosen
from matchgraph.ingest.runs.config import Execution, RunConfig, Selection
from matchgraph.ingest.runs.entries import CANCELLED, DONE, FAILED, QUEUED, RUNNING, RunRequest
from matchgraph.ingest.runs.jobs import make_job
from matchgraph.ingest.runs.memory import narrowed, quantised_to_fit
from matchgraph.ingest.runs.plan import make_plan
from matchgraph.ingest.runs.sampling import drawing_hash
from matchgraph.ingest.runs.sources import Sources
from matchgraph.ingest.tables.models import ingest_models
from tests.ingest.stub import CONFIG, EXTRACTOR, ZOO, elsewhere, plan


def test_all_models_and_datasets_with_a_folder_grouped_by_model(zoo: MatchingGraph) -> None:
    requests = list(plan(zoo).requests.values())
    assert [(request.model, request.dataset) for request in requests] == [
        ("kolors", "cats"),
        ("kolors", "dogs"),
        ("sd-1.5", "cats"),
        ("sd-1.5", "dogs"),
    ]
    assert {"steps", "extractors", "alpha", "caption_dropout", "samples"} <= set(requests[0].config)
    assert "device" not in requests[0].config


def test_selections(zoo: MatchingGraph, tmp_path: Path) -> None:
    assert len(plan(zoo, models=["kolors"], datasets=["cats"]).requests) == 1
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("model,dataset\nsd-1.5,dogs\nkolors,cats\nsd-1.5,dogs\n")
    wanted = plan(zoo, pairs=pairs).requests.values()
    assert [(request.model, request.dataset) for request in wanted] == [
        ("kolors", "cats"),
        ("sd-1.5", "dogs"),
    ]
    pairs.write_text("model,dataset\nsd-1.5,birds\n")
    with pytest.raises(BadInput, match="dataset 'birds' is not in the graph"):
        plan(zoo, pairs=pairs)
    with pytest.raises(NothingToDo, match="no model 'absent'"):
        plan(zoo, models=["absent"])
    with pytest.raises(SourceChanged, match="'from-a-table' has no folder"):
        plan(zoo, models=["from-a-table"])


def test_an_empty_graph_has_nothing_to_do(graph: MatchingGraph) -> None:
    with pytest.raises(NothingToDo, match="ingest models FOLDER"):
        plan(graph)


def test_changed_or_missing_folders_are_refused(
    zoo: MatchingGraph, image_folders: Path, tmp_path: Path
) -> None:
    (image_folders / "cats" / "metadata.jsonl").unlink()
    with pytest.raises(SourceChanged, match="'cats' has changed since it was ingested"):
        plan(zoo)
    shutil.rmtree(elsewhere(zoo, "kolors", tmp_path))
    with pytest.raises(SourceChanged, match=r"'kolors', .* does not exist"):
        plan(zoo)


def test_another_probe_is_refused(zoo: MatchingGraph) -> None:
    probe: Any = SimpleNamespace(hash="xyz", name="other", resize="clean")
    with pytest.raises(ExtractorMismatch, match="'other'"):
        make_plan(zoo, CONFIG, {"clip": probe}, Selection())


def test_missing_captions_and_few_samples_are_named_before_the_work(zoo: MatchingGraph) -> None:
    assert plan(zoo).notes == ()
    few = SimpleNamespace(hash="abc", name="probe", resize="clean", dimension=4)
    dataset = next(found for found in zoo.datasets() if found.properties.get("source"))
    zoo.save_datasets([Dataset(dataset.id, {**dataset.properties, "captioned": 0}, dataset.embedding)])
    notes = make_plan(zoo, CONFIG, {"clip": few}, Selection()).notes
    assert notes[0] == f"{dataset.id}: no image has a caption, so training and sampling use the empty prompt."
    assert "clip_fid is measured on 4 generated images, and features of 4 dimensions need more" in notes[1]


@pytest.mark.parametrize(
    ("fitting", "asked", "found"),
    [
        (["none", "int8", "nf4"], None, "none"),
        (["int8", "nf4"], None, "int8"),
        (["nf4"], None, "nf4"),
        ([], None, None),
        (["nf4"], "none", "none"),
        (["none"], "int8", "int8"),
    ],
)
def test_weights_are_quantised_only_where_nothing_exact_fits(
    monkeypatch: pytest.MonkeyPatch, fitting: list[str], asked: str | None, found: str | None
) -> None:
    def plan_of(_: Path, config: RunConfig, *__: Any, **___: Any) -> Any:
        return SimpleNamespace(too_large=[] if config.kept_in in fitting else ["training"])

    monkeypatch.setattr(memory, "plan_of", plan_of)
    config = replace(CONFIG, quantisation=asked)
    assert quantised_to_fit(Path(), config, Execution(gpu_memory=8)).quantisation == found
    # Of a device whose memory nobody knows, nothing is decided, nor where all weights are trained.
    assert quantised_to_fit(Path(), config, Execution("cpu")) == config
    whole = replace(CONFIG, method="full")
    assert quantised_to_fit(Path(), whole, Execution(gpu_memory=8)) == whole


@pytest.mark.parametrize(
    ("gpu", "has_it", "device", "asked", "found"),
    [
        (True, True, "auto", "auto", "bf16"),
        (True, True, "auto", "fp32", "fp32"),
        (True, True, "cpu", "auto", "auto"),
        (True, False, "auto", "auto", "auto"),
        (False, True, "auto", "auto", "auto"),
    ],
)
def test_a_gpu_with_bf16_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, has_it: bool, device: str, asked: str, found: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: has_it)
    config = narrowed(replace(CONFIG, precision=asked), Execution(device))
    assert config.precision == found
    # Until then, as a run was before there was a choice.
    assert config.asked()["precision"] == found.replace("auto", "fp32")


def of(request: RunRequest, status: str = DONE) -> Any:
    """A run of the ledger, as far as a plan looks at it."""
    own = vars(request) | {"id": request.id, "average": request.average}
    return SimpleNamespace(**own, status=status, properties={"ended_at": 1})


@pytest.mark.parametrize(
    ("made_in", "status", "device", "retry", "found"),
    [
        # Measured on a GPU and planned without one, and the reverse.
        ("bf16", DONE, "auto", False, "bf16"),
        ("bf16", QUEUED, "auto", False, "bf16"),
        ("fp32", RUNNING, "bf16", False, "fp32"),
        # A failed one is retried as it was, with its checkpoint.
        ("fp32", FAILED, "bf16", True, "fp32"),
        ("bf16", FAILED, "auto", True, "bf16"),
        ("fp32", FAILED, "bf16", False, "bf16"),
        ("fp32", CANCELLED, "bf16", True, "bf16"),
    ],
)
def test_a_pair_keeps_the_precision_of_its_run(
    zoo: MatchingGraph, made_in: str, status: str, device: str, retry: bool, found: str
) -> None:
    selection = Selection(("kolors",), ("cats",))

    def requested(config: RunConfig, selection: Selection, **given: Any) -> tuple[RunRequest, RunConfig]:
        made = make_plan(
            zoo,
            config,
            {"clip": EXTRACTOR},
            selection,
            fitted=lambda _, config: (
                replace(config, precision=device) if config.precision == "auto" else config
            ),
            **given,
        )
        (request,) = made.requests.values()
        return request, made.configs["kolors"]

    run, _ = requested(replace(CONFIG, precision=made_in), selection)
    request, config = requested(CONFIG, selection, runs=[of(run, status)], retry_failed=retry)
    assert (request.config["precision"], config.computed_in) == (found, found)
    assert (request.id == run.id) == (made_in == found)
    check_unfinished([of(run, status)], [request])
    # Its noise is that of what was measured.
    again, seeded = replace(selection, replicate=True), replace(CONFIG, seed=5, initial=False)
    repeated, _ = requested(seeded, again, runs=[of(run, status)])
    assert repeated.config["precision"] == (made_in if status == DONE else device.replace("auto", "fp32"))


def test_of_runs_in_both_precisions_the_one_that_is_further_goes_on() -> None:
    def ask(config: RunConfig) -> Any:
        return SimpleNamespace(id=config.precision)

    for statuses, found in (
        ({"auto": FAILED, "bf16": DONE}, "bf16"),
        ({"auto": QUEUED, "bf16": FAILED}, "auto"),
        ({"auto": FAILED, "bf16": FAILED}, "bf16"),
        ({}, "bf16"),
    ):
        assert chosen(CONFIG, ask, lambda: replace(CONFIG, precision="bf16"), statuses).precision == found


def test_a_choice_of_bf16_is_said(zoo: MatchingGraph) -> None:
    def fitted(_: Path, config: RunConfig) -> RunConfig:
        return replace(config, precision="bf16")

    made = make_plan(zoo, CONFIG, {"clip": EXTRACTOR}, Selection(), fitted=fitted)
    assert {request.config["precision"] for request in made.requests.values()} == {"bf16"}
    assert made.notes == ("The runs compute in bf16; --precision fp32 is slower and rounds less.",)
    other = [of(next(iter(plan(zoo).requests.values())))]
    made = make_plan(zoo, CONFIG, {"clip": EXTRACTOR}, Selection(), fitted=fitted, runs=other)
    (note,) = made.notes
    assert note.startswith(
        "3 of 4 runs compute in bf16; pairs with a run in fp32 or bf16 keep its precision."
    )
    asked = replace(CONFIG, precision="bf16")
    assert make_plan(zoo, asked, {"clip": EXTRACTOR}, Selection(), fitted=fitted).notes == ()


def test_a_model_that_is_quantised_to_fit_is_named_and_asks_another_question(zoo: MatchingGraph) -> None:
    def fitted(folder: Path, config: RunConfig) -> RunConfig:
        return replace(config, quantisation="nf4") if folder.name == "kolors" else config

    made = make_plan(zoo, CONFIG, {"clip": EXTRACTOR}, Selection(), fitted=fitted)
    kept = {request.model: request.config.get("quantisation") for request in made.requests.values()}
    assert kept == {"kolors": "nf4", "sd-1.5": None}
    (note,) = made.notes
    assert note.startswith("kolors fits the GPU's memory only with its denoiser's weights in nf4, ")
    assert {run for run, request in made.requests.items() if request.model == "sd-1.5"} < set(
        plan(zoo).requests
    )
    # A run as it was asked for, done or unfinished, is not asked in fewer bits by another device.
    exact = plan(zoo).requests
    pair = next(run for run, request in exact.items() if request.model == "kolors")
    made = make_plan(zoo, CONFIG, {"clip": EXTRACTOR}, Selection(), fitted=fitted, runs=[of(exact[pair])])
    assert len(set(made.requests) & set(exact)) == 3
    assert pair in made.requests
    made = make_plan(
        zoo, CONFIG, {"clip": EXTRACTOR}, Selection(), fitted=fitted, runs=list(map(of, exact.values()))
    )
    assert (set(made.requests), made.notes) == (set(exact), ())

    # Asked for by a family's settings, it is no choice of the plan.
    def own(_: Path, config: RunConfig) -> RunConfig:
        return replace(config, quantisation="int8")

    assert make_plan(zoo, CONFIG, {"clip": EXTRACTOR}, Selection(), own=own).notes == ()


def test_what_missing_runs_take_goes_by_their_familys_settings(zoo: MatchingGraph) -> None:
    zoo.save_models([Model(name, {"params": 10**9, "family": name}) for name in ("sd", "sdxl")])
    usual, longer = (
        missing_runs(zoo, CONFIG, Selection(), families=families).hours
        for families in ({}, {"sd": {"steps": 300}})
    )
    assert longer["sd"] > usual["sd"] == usual["sdxl"] == longer["sdxl"]
    # Under further seeds the pretrained model is not scored again.
    further = missing_runs(zoo, replace(CONFIG, initial=False), Selection()).hours["sd"]
    repeated = missing_runs(zoo, CONFIG, Selection(repeats=3)).hours["sd"]
    assert repeated == pytest.approx(usual["sd"] + 2 * further) != pytest.approx(3 * usual["sd"])


def test_a_model_that_is_drawn_otherwise_than_before_asks_another_question(
    zoo: MatchingGraph, tmp_path: Path
) -> None:
    folder = shutil.copytree(ZOO / "sdxl-base", tmp_path / "playground-v2.5-1024px-aesthetic")
    ingest_models(zoo, folder)
    (request, _) = plan(zoo, models=[folder.name]).requests.values()
    assert request.config["default_guidance"] == 3.0
    values: dict[str, Any] = {
        "config": request.config,
        "extractors": {},
        "id": "0" * 16,
        "model": folder.name,
    }
    values |= {"dataset": "cats", "properties": {"model_fingerprint": "1", "dataset_fingerprint": "2"}}
    run: Any = SimpleNamespace(**values)
    job = make_job(run, folder, Path(), [], None, tmp_path / "out")
    other = replace(job, model_folder=ZOO / "sdxl-base")
    assert drawing_hash(job, None) != drawing_hash(other, None)
    # As an earlier version queued it.
    run.config = {name: value for name, value in request.config.items() if name != "default_guidance"}
    with pytest.raises(ConfigChanged, match="default_guidance is 3 here"):
        make_job(run, folder, Path(), [], None, tmp_path / "out")


def test_the_command_that_ingests_a_folder_again_has_its_path_in_quotes(tmp_path: Path) -> None:
    folder = tmp_path / "my cats"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    with pytest.raises(SourceChanged, match=f"`matchgraph ingest datasets '{folder}'` again"):
        Sources().images(Dataset("cats", properties={"source": str(folder), "content_hash": "0"}))
