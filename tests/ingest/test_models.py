"""Models from tables and from the config files of real pipelines."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from matchgraph.graphdb.models import Dataset, Result
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput
from matchgraph.ingest.tables.fingerprints import pipeline_fingerprint
from matchgraph.ingest.tables.models import ingest_models, read_model_table
from matchgraph.ingest.tables.pipelines import read_pipelines
from tests.ingest.dump import dump

ZOO = Path(__file__).parents[2] / "zoo"


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ZOO / "sd-1.5", tmp_path / "zoo" / "sd-1.5"))


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def weights(file: Path, shapes: dict[str, list[int]], *, short: int = 0) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end - short))


def only_problem(folder: Path) -> str:
    reading = read_pipelines(folder)
    assert not reading.models
    assert len(reading.problems) == 1
    return str(reading.problems[0])


def test_table_of_attributes(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text("model,family,params,open\nA/b`c,x,10,true\nÄ,,20,false\n")
    models, skipped = read_model_table(path)
    assert not skipped
    assert [model.id for model in models] == ["A/b`c", "Ä"]
    assert dict(models[0].properties) == {"name": "A/b`c", "family": "x", "params": 10, "open": True}
    assert dict(models[1].properties) == {"name": "Ä", "params": 20, "open": False}


def test_table_with_bad_rows_is_refused_unless_they_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text("id,params\na,1\n,2\na,3\nb\nc,4\n")
    with pytest.raises(BadInput) as caught:
        read_model_table(path)
    assert [problem.line for problem in caught.value.problems] == [3, 4, 5]
    models, skipped = read_model_table(path, skip_bad=True)
    assert [model.id for model in models] == ["a", "c"]
    assert len(skipped) == 3


def test_text_option_must_name_a_column(tmp_path: Path) -> None:
    path = tmp_path / "models.csv"
    path.write_text("id,released\na,2024\nb,2025\n")
    models, _ = read_model_table(path, text=["released"])
    assert models[0].properties["released"] == "2024"
    with pytest.raises(BadInput, match="no column born for --text"):
        read_model_table(path, text=["born"])


def test_real_pipelines() -> None:
    reading = read_pipelines(ZOO)
    assert not reading.problems
    by_id = {model.id: model.properties for model in reading.models}
    assert len(by_id) == 10
    families = {"flux", "kolors", "pixart", "sana", "sd", "sd3", "sdxl"}
    assert {properties["family"] for properties in by_id.values()} == families
    for properties in by_id.values():
        assert len(properties) > 60
        assert {"vae_class", "text_encoder_class", "denoiser"} <= set(properties)
    sd = by_id["sd-1.5"]
    assert sd["family"] == "sd"
    assert sd["pipeline"] == "StableDiffusionPipeline"
    assert sd["denoiser"] == sd["unet_class"] == "UNet2DConditionModel"
    assert sd["scheduler_class"] == "PNDMScheduler"
    assert [sd[f"unet_block_out_channels_{position}"] for position in range(4)] == [320, 640, 1280, 1280]
    assert sd["scheduler_clip_sample"] is False
    assert sd["source"] == str((ZOO / "sd-1.5").resolve())
    assert "params" not in sd
    # Null values, private keys and what only loaders read are no attributes.
    kolors = by_id["kolors"]
    assert kolors["text_encoder_class"] == "ChatGLMModel"
    assert kolors["text_encoder_dtype"] == "float16"
    assert not {"unet_class_embed_type", "unet__diffusers_version", "text_encoder__name_or_path"} & set(
        kolors
    )
    assert not any("auto_map" in key or "tokenizer" in key or "safety" in key for key in [*kolors, *sd])
    # A list of lists, and a scheduler that the index does not name.
    assert by_id["sana-1.6b"]["vae_decoder_qkv_multiscales_3_0"] == 5
    assert by_id["sana-1.6b"]["denoiser"] == "SanaTransformer2DModel"
    assert by_id["juggernaut-x"]["scheduler_beta_end"] == 0.012
    assert "scheduler_class" not in by_id["juggernaut-x"]


def test_one_pipeline_folder_and_a_folder_of_them_are_the_same(pipeline: Path) -> None:
    assert read_pipelines(pipeline).models == read_pipelines(pipeline.parent).models


def test_reading_twice_gives_the_same(pipeline: Path) -> None:
    assert read_pipelines(pipeline).models == read_pipelines(pipeline).models


def test_parameters_are_counted_from_the_headers(pipeline: Path) -> None:
    unet = pipeline / "unet"
    weights(unet / "diffusion_pytorch_model.safetensors", {"a": [3, 4], "b": [5], "scalar": []})
    # The same weights in half precision are not counted on top.
    weights(unet / "diffusion_pytorch_model.fp16.safetensors", {"a": [3, 4], "b": [5], "scalar": []})
    assert read_pipelines(pipeline).models[0].properties["params"] == 18


@pytest.mark.parametrize(
    ("card", "licence", "note"),
    [
        ("---\nlicense: apache-2.0\n---\nA model.", "apache-2.0", None),
        ("---\nlicense: other\nlicense_name: flux-dev\n---\n", "flux-dev", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit or apache-2.0", None),
        ("No metadata.", None, None),
        ("---\nlicense: [\n---\n", None, "README.md: its licence is not read"),
    ],
)
def test_the_licence_is_that_of_the_model_card(
    pipeline: Path, card: str, licence: str | None, note: str | None
) -> None:
    before = read_pipelines(pipeline)
    (pipeline / "README.md").write_text(card)
    after = read_pipelines(pipeline)
    assert after.models[0].properties.get("license") == licence
    assert after.models[0].properties["content_hash"] == before.models[0].properties["content_hash"]
    assert [note in line for line in after.notes[len(before.notes) :]] == ([] if note is None else [True])


def test_parameters_of_shards_are_summed(pipeline: Path) -> None:
    unet = pipeline / "unet"
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    weights(unet / names[0], {"a": [3, 4]})
    weights(unet / names[1], {"b": [5]})
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    assert read_pipelines(pipeline).models[0].properties["params"] == 17
    index.write_text(json.dumps({"weight_map": {"a": "../../elsewhere.safetensors"}}))
    assert "names a shard outside its folder" in only_problem(pipeline)


def test_broken_weights_are_refused(pipeline: Path) -> None:
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights(file, {"a": [3, 4]}, short=1)
    assert "is cut short" in only_problem(pipeline)
    file.write_bytes(b"\xff" * 20)
    assert "not a whole safetensors file" in only_problem(pipeline)
    file.write_bytes(struct.pack("<Q", 4) + b"[1]x")
    assert "no safetensors header" in only_problem(pipeline)


def test_fingerprint_follows_configs_and_weights(pipeline: Path) -> None:
    before = pipeline_fingerprint(pipeline)
    (pipeline / "README.md").write_text("no part of the model")
    assert pipeline_fingerprint(pipeline) == before
    weights(pipeline / "unet" / "diffusion_pytorch_model.safetensors", {"a": [3, 4]})
    with_weights = pipeline_fingerprint(pipeline)
    edit(pipeline / "scheduler" / "scheduler_config.json", lambda config: config.update(beta_end=0.013))
    assert len({before, with_weights, pipeline_fingerprint(pipeline)}) == 3


def test_fingerprint_follows_a_component_that_is_a_link(pipeline: Path, tmp_path: Path) -> None:
    shared = (pipeline / "vae").rename(tmp_path / "shared-vae")
    (pipeline / "vae").symlink_to(shared)
    before = pipeline_fingerprint(pipeline)
    weights(shared / "diffusion_pytorch_model.safetensors", {"a": [3, 4]})
    assert pipeline_fingerprint(pipeline) != before


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("model_index.json", '{"_class_name": "X",\n "unet": [', "model_index.json:2: is not JSON"),
        ("model_index.json", "[1]", "model_index.json:1: is not a JSON object"),
        ("model_index.json", "{}", "has no pipeline class"),
        ("model_index.json", '{"_class_name": "XPipeline"}', "names no unet or transformer"),
        (
            "model_index.json",
            '{"_class_name": "X", "../../etc": ["diffusers", "Y"]}',
            "'../../etc' is not a plain name",
        ),
        ("model_index.json", '{"_class_name": "X", "unet": ["diffusers"]}', "'unet' is not [library, class]"),
        ("unet/config.json", b"\xff\xfe", "unet/config.json: is not UTF-8"),
        ("unet/config.json", f'{{"a": {10**400}}}', "unet_a is 1000"),
        ("unet/config.json", '{"a": [1], "a_0": 2}', "two values fall on the attribute 'unet_a_0'"),
        ("unet/config.json", '{"a": ' + "[" * 100_000, "unet/config.json: is not a config file"),
        ("unet/config.json", '{"a": ' + "[" * 900 + "]" * 900 + "}", None),
    ],
)
def test_hostile_and_corrupt_files_are_refused_by_name(
    pipeline: Path, file: str, content: str | bytes, expected: str | None
) -> None:
    (pipeline / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    if expected is None:
        assert len(read_pipelines(pipeline).models) + len(read_pipelines(pipeline).problems) == 1
    else:
        assert expected in only_problem(pipeline)


def test_a_bound_that_is_off_is_kept_as_a_word(pipeline: Path) -> None:
    (pipeline / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}'
    )
    assert read_pipelines(pipeline).models[0].properties["scheduler_lambda_min_clipped"] == "-inf"


def test_missing_parts(pipeline: Path) -> None:
    shutil.rmtree(pipeline / "scheduler")
    reading = read_pipelines(pipeline)
    assert reading.models[0].properties["scheduler_class"] == "PNDMScheduler"
    assert any("scheduler has no config" in note for note in reading.notes)
    shutil.rmtree(pipeline / "vae")
    assert "vae is in model_index.json but has no folder" in only_problem(pipeline)
    (pipeline / "model_index.json").unlink()
    assert "model_index.json: is missing" in only_problem(pipeline.parent)


def test_one_bad_pipeline_leaves_the_others_readable(pipeline: Path) -> None:
    bad = pipeline.parent / "bad\nname"
    shutil.copytree(pipeline, bad)
    reading = read_pipelines(pipeline.parent)
    assert [model.id for model in reading.models] == ["sd-1.5"]
    assert "\n" not in str(reading.problems[0])
    assert "; rename the folder" in str(reading.problems[0])


def test_a_link_keeps_its_own_name(pipeline: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "links"
    zoo.mkdir()
    (zoo / "my-sd").symlink_to(pipeline)
    model = read_pipelines(zoo).models[0]
    assert model.id == "my-sd"
    assert model.properties["source"] == str(pipeline.resolve())


def test_an_id_may_be_given_to_one_pipeline(pipeline: Path) -> None:
    model = read_pipelines(pipeline, model_id="a/`b`").models[0]
    assert (model.id, model.properties["name"]) == ("a/`b`", "a/`b`")
    with pytest.raises(BadInput, match="contains several pipelines"):
        read_pipelines(pipeline.parent, model_id="x")
    for wrong in ("", "a\nb"):
        with pytest.raises(BadInput, match="use an id of 1 to"):
            read_pipelines(pipeline, model_id=wrong)


def test_no_pipeline_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no model_index\.json"):
        read_pipelines(tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        read_pipelines(tmp_path / "absent")


def test_a_single_file_of_weights_is_named(tmp_path: Path) -> None:
    file = tmp_path / "realistic.safetensors"
    weights(file, {"a": [3]})
    with pytest.raises(
        BadInput, match=r"is safetensors weights, .* or a pipeline folder; give the file itself"
    ):
        read_model_table(file)
    with pytest.raises(BadInput, match=r"holds single files of weights \(realistic\.safetensors\)"):
        read_pipelines(tmp_path)


def test_other_weights_of_the_same_name_do_not_take_results_over(
    graph: MatchingGraph, runner: Runner, pipeline: Path, tmp_path: Path
) -> None:
    ingest_models(graph, pipeline, model_id="m")
    graph.save_datasets([Dataset("d", {})])
    graph.save_results([Result("m", "d", "clip_fid", 7.0)])
    other = Path(shutil.copytree(pipeline, tmp_path / "other" / pipeline.name))
    # The same content elsewhere is the same model.
    ingest_models(graph, other, model_id="m")
    assert graph.models()[0].properties["source"] == str(other)
    edit(pipeline / "unet" / "config.json", lambda config: config.update(layers_per_block=7))
    before = dump(runner)
    with pytest.raises(BadInput) as caught:
        ingest_models(graph, pipeline, model_id="m")
    assert f"'m' is in the graph already, from {other}, and {pipeline}" in str(caught.value)
    assert "(1) with --replace" in str(caught.value)
    assert dump(runner) == before
    report = ingest_models(graph, pipeline, model_id="m", replace_content=True)
    assert "m: replaced; what was measured with the former weights (1) was removed." in report.notes
    assert graph.snapshot().performs.empty
    assert graph.models()[0].properties["unet_layers_per_block"] == 7
