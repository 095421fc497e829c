"""What is published of models: sourced, joined with their folders, and where an empty graph starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from matchgraph.cli.main import matchgraph
from matchgraph.graphdb.models import Dataset, Model, Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest.errors import IngestError
from matchgraph.ingest.tables.models import ingest_models
from matchgraph.ingest.tables.pipelines import FAMILIES
from matchgraph.ingest.tables.published import CARDS_GIB, TABLE, ingest_published, published_models
from matchgraph.predictor.errors import PredictorError
from matchgraph.predictor.features import model_features
from matchgraph.predictor.starting import StartingPoint
from matchgraph.predictor.workflow import predict_or_start
from tests.ingest.dump import dump

ZOO = Path(__file__).parents[2] / "zoo"
SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
VEGA = "segmind/Segmind-Vega"
# Of the paper's ten, best first.
RANKING = ("sdxl-base", "sd-3.5-medium", "juggernaut-x", "sana-1.6b", "kolors", "sd-1.5", "pixart-sigma")
RANKING += ("segmind-vega", "flux-1-dev", "sana-1.5-4.8b")


def properties(graph: MatchingGraph) -> dict[str, dict]:
    return {model.id: dict(model.properties) for model in graph.models()}


def test_each_stated_fact_has_a_source_and_each_computed_one_its_configuration() -> None:
    entries = {entry["id"]: entry for entry in json.loads(TABLE.read_text(encoding="utf-8"))["models"]}
    models = published_models()
    assert len({model.id for model in models}) == len(entries) == len(models)
    for model in models:
        for fact in entries[model.id]["stated"]:
            assert len(model.properties[f"published_{fact}_source"]) > 10
        # As a folder's would be.
        assert FAMILIES[model.properties["pipeline"]] == model.properties["family"]
        computed = "params" in model.properties
        assert computed == ("published_computed_from" in model.properties)
        assert computed == all(f"published_memory_{card}_gib" in model.properties for card in CARDS_GIB)
        stated = model.properties.get("published_parameters_billions")
        if computed and stated:
            assert model.properties["params"] / 1e9 == pytest.approx(stated, rel=0.05)
    ranked = {e["rank"]: e["also"][0] for e in entries.values() if "rank" in e}
    assert tuple(ranked[place] for place in sorted(ranked)) == RANKING


def test_the_folder_of_a_published_model_joins_its_node_and_facts_join_a_folders(
    graph: MatchingGraph, tmp_path: Path
) -> None:
    ingest_published(graph, [SD, VEGA])
    facts = properties(graph)[SD]
    ingest_models(graph, ZOO / "sd-1.5", model_id=SD)
    joined = properties(graph)
    assert set(joined) == {SD, VEGA}
    kept = {name: value for name, value in facts.items() if name.startswith("published_")}
    assert kept.items() <= joined[SD].items()
    assert "content_hash" in joined[SD]
    assert "unet_block_out_channels_0" in joined[SD]
    # Once more: what the folder said stays, and what no folder said is not put back from elsewhere.
    before = dump(graph.runner)
    ingest_published(graph, [SD])
    assert dump(graph.runner) == before
    # The folder of a model by the last part of its name is pointed to the node.
    folder = Path(shutil.copytree(ZOO / "segmind-vega", tmp_path / "segmind-vega"))
    (note,) = (note for note in ingest_models(graph, folder).notes if "--id" in note)
    assert f"--id {VEGA}" in note


def test_a_folder_that_is_there_gets_the_facts_and_keeps_its_own(graph: MatchingGraph) -> None:
    ingest_models(graph, ZOO / "sd-1.5")
    own = properties(graph)["sd-1.5"]
    graph.save_models([Model("sdxl-base", {"pipeline": "FluxPipeline"})])
    report = ingest_published(graph, [SD, SDXL])
    assert report.models == {SD: "sd-1.5", SDXL: SDXL}
    assert report.notes == (f"sd-1.5 of the graph is taken for {SD}.",)
    now = properties(graph)["sd-1.5"]
    assert own.items() <= now.items()
    assert {name for name in now if name not in own} == {name for name in now if name.startswith("published")}
    assert (now["published_id"], now["published_rank"]) == (SD, 6)
    with pytest.raises(IngestError, match=r"of nobody/model; known: .*FLUX\.2-dev"):
        ingest_published(graph, ["nobody/model"])


def test_an_empty_graph_starts_from_published_ranks_and_says_so(graph: MatchingGraph) -> None:
    graph.save_models([Model("mine", {})])
    with pytest.raises(PredictorError, match="no results yet"):
        predict_or_start(graph, "cats")
    ingest_published(graph)
    start = predict_or_start(graph, "cats")
    assert isinstance(start, StartingPoint)
    names = [model.model for model in start.models]
    assert [model.rank for model in start.models[:11]] == [*range(1, 11), None]
    assert (names[0], names[-1]) == (SDXL, "stabilityai/stable-diffusion-3.5-large-turbo")
    costs = [model.tflop for model in start.models[10:] if model.tflop is not None]
    assert costs == sorted(costs)
    assert "not a prediction" in start.notes[0]
    assert "section 5.1" in start.notes[1]
    assert start.to_frame().loc[1, "license"] == "CreativeML Open RAIL++-M"
    sizes = {model.model: (model.fits_gib, model.resolution_px) for model in start.models}
    assert sizes[SDXL] == (12, 1024)
    assert sizes["black-forest-labs/FLUX.2-dev"] == (24, None)
    # None of it is an input of predictions.
    assert not [name for name in model_features(graph.models()).attributes if name.startswith("published")]
    graph.save_datasets([Dataset("cats", {})])
    graph.save_results([Result("mine", "cats", "clip_fid", 3.0)])
    with pytest.raises(PredictorError, match="no ranking to learn from"):
        predict_or_start(graph, "cats")


def test_the_commands_add_facts_and_start_from_them(
    graph: MatchingGraph,  # noqa: ARG001
    environment: Mapping[str, str],
) -> None:
    def run(*arguments: str) -> str:
        return CliRunner().invoke(matchgraph, arguments, env=dict(environment)).stdout

    assert run("ingest", "published", SDXL, VEGA) == "Added published facts of 2 models.\n"
    shown = run("predict", "cats")
    assert "not a prediction" in shown
    assert shown.index("segmind/Segmind-Vega") > shown.index("stabilityai")
    found = json.loads(run("predict", "cats", "--json"))
    assert [row["rank"] for row in found["starting_point"]] == [1, 8]
