"""Whatever a graph holds, its records give it back, property by property."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from matchgraph.cli.main import matchgraph
from matchgraph.graphdb.checks import NEVER_NEGATIVE
from matchgraph.graphdb.distillation import DistillationGraph, Distilled
from matchgraph.graphdb.errors import ContentChanged
from matchgraph.graphdb.models import Dataset, Metric, Model, Result, Similar, Statistics
from matchgraph.graphdb.prompt_models import Prompt
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.queries import load
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput, IngestError
from matchgraph.ingest.tables.export import write_records
from matchgraph.ingest.tables.records import read_records, save_records
from matchgraph.ingest.tables.rest import REST
from tests.ingest.conftest import answer
from tests.ingest.dump import dump

letters = st.characters(exclude_categories=["Cs"])
scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(letters, max_size=6),
    st.sampled_from(
        ["true", "2024", "1.0", " padded ", "", "nan", "a,b", "line\nbreak\r", '"', "1_0", "\0", "-0"]
    ),
)
values = st.one_of(
    scalars,
    *(
        st.lists(of, max_size=3)
        for of in (st.booleans(), st.integers(-5, 5), st.floats(-1, 1), st.text(letters))
    ),
)
names = st.one_of(
    st.sampled_from(
        ["name", "source", "throughput", "model", "dataset", "prompt", "e0", "e7", "released", "a b", " c"]
    ),
    st.text(st.characters(categories=["L", "Nd", "P"]), min_size=1, max_size=4),
)
properties = st.dictionaries(names.filter(lambda name: name.strip()), values, max_size=5)
facts = st.sampled_from(
    [
        *("n_real", "n_gen", "extractor", "std", "run", "note", "training_seconds", "repeats", "version"),
        *("seeds", "standard_error", "bias"),
    ]
)
provenance = st.dictionaries(facts, values, max_size=4).map(
    lambda found: {
        name: value
        for name, value in found.items()
        if name not in NEVER_NEGATIVE or not isinstance(value, int | float) or value >= 0
    }
)
finite = st.floats(allow_nan=False, allow_infinity=False)
IDS = ("a", " padded ", "c,d")


@st.composite
def contents(draw: st.DrawFn) -> dict:
    """What is saved in a graph: models and datasets by id, values on their edges, runs."""
    embeddings = st.one_of(st.none(), st.lists(finite, min_size=1, max_size=3))
    return {
        "models": {name: draw(properties) for name in IDS},
        "datasets": {name: (draw(properties), draw(embeddings)) for name in IDS},
        "results": {
            (model, dataset, metric, stage): (draw(finite), draw(provenance))
            for model, dataset, metric, stage in draw(
                st.sets(
                    st.tuples(
                        st.sampled_from(IDS),
                        st.sampled_from(IDS),
                        st.sampled_from(["taste", "kid"]),
                        st.sampled_from(["initial", "finetuned"]),
                    ),
                    max_size=4,
                )
            )
        },
        "similar": {pair: (draw(finite), draw(provenance)) for pair in draw(st.sets(st.sampled_from(PAIRS)))},
        "run": draw(
            st.dictionaries(st.sampled_from(["error", "status", "adapter", "kid", "host"]), st.text(letters))
        ),
        "prompt": draw(properties.map(lambda own: {k: v for k, v in own.items() if k not in PROMPT_NAMES})),
    }


PAIRS = ((" padded ", "a"), ("a", "c,d"))
PROMPT_NAMES = ("id", "text", "split", "probe", "embedding")
PLAIN = {
    "models": {name: {"released": year} for name, year in zip(IDS, ("2024", "2023", "x"), strict=True)},
    "datasets": {
        name: ({"throughput": 1.5, "source": "mine"}, vector)
        for name, vector in zip(IDS, ([0.1], [0.1, -0.0], None), strict=True)
    },
    "results": {("a", "a", "kid", "initial"): (1.0, {"n_real": 1.5, "extractor": " e", "note": [1, 2]})},
    "similar": {PAIRS[0]: (0.1, {"std": 1, "n_real": 0})},
    "run": {"status": "FAILED", "error": "no\nroom", "adapter": "/here"},
    "prompt": {"category": ["a"], "words": 3},
}


def fill(graph: MatchingGraph, runner: Runner, held: dict) -> None:
    """Make the graph."""
    graph.clear()
    graph.save_metric(Metric("taste", True, minimum=None, maximum=None))
    graph.save_metric(Metric("kid"))
    graph.save_models([Model(name, own) for name, own in held["models"].items()])
    graph.save_datasets(
        [Dataset(name, own, vector) for name, (own, vector) in held["datasets"].items()],
        [
            Statistics(
                name,
                extractor,
                "clean",
                3,
                np.array([0.1, 1 / 3]),
                np.eye(2),
                (extractor, "kid")[: len(name) - 1],
            )
            for name, extractor in (("a", "e1"), ("a", "e2"), (" padded ", "e1"))
        ],
        [Similar(*pair, "taste", *found) for pair, found in held["similar"].items()],
    )
    graph.save_results(
        [
            Result(model, dataset, metric, value, stage, how)
            for (model, dataset, metric, stage), (value, how) in held["results"].items()
        ]
    )
    run = {
        "id": "r",
        "model": "a",
        "dataset": "c,d",
        "config": '{"metrics": ["kid"],  "b": 1}',
        "extractors": "{}",
    }
    run |= {"replicate": False, "model_fingerprint": "m", "dataset_fingerprint": "d", "max_attempts": 3}
    runner.write(load("ledger/enqueue"), rows=[run])
    extra = {name: text for name, text in held["run"].items() if name != "kid"}
    runner.write("MATCH (r:MatchGraphRun) SET r += $extra", extra=extra)
    DistillationGraph(runner).save(Distilled("a", "c,d"))
    PromptGraph(runner).save_prompts([Prompt("a cat", "train", "p", np.array([1.0]), held["prompt"])])


def whole(runner: Runner) -> tuple[list[str], list[dict]]:
    # The directions of sketches are those of the first datasets that are saved.
    return dump(runner, without=("sketch", "directions")), runner.read(load("read/metrics"))


@pytest.mark.slow
@given(contents())
@example(PLAIN)
@limits(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_records_give_the_graph_back(
    graph: MatchingGraph, runner: Runner, tmp_path: Path, held: dict
) -> None:
    fill(graph, runner, held)
    before, folder = whole(runner), tmp_path / "records"
    shutil.rmtree(folder, ignore_errors=True)
    write_records(graph, runner, folder)
    for empty in (True, False):
        if empty:
            graph.clear()
        save_records(graph, runner, read_records(folder, graph.metric))
        assert whole(runner) == before


def test_the_commands_keep_what_the_records_do_not_have(
    graph: MatchingGraph, runner: Runner, environment: dict[str, str], tmp_path: Path, invoke: Callable
) -> None:
    fill(graph, runner, PLAIN)
    here, shared = tmp_path / "here", tmp_path / "shared"
    for folder, options in ((here, []), (shared, ["--shareable"])):
        counts = answer(
            CliRunner().invoke(
                matchgraph, ["graph", "export", str(folder), *options, "--json"], env=environment
            )
        )
        assert counts["runs.csv"] == (1 if folder == here else 0)
    assert b"mine" in (here / "datasets.csv").read_bytes()
    assert b"mine" not in b"".join(file.read_bytes() for file in shared.iterdir())
    before = whole(runner)
    answer(invoke("records", shared, "--json"))
    assert whole(runner) == before


def test_records_of_other_images_are_refused(graph: MatchingGraph, runner: Runner, tmp_path: Path) -> None:
    graph.save_models([Model("m", {"content_hash": "1"})])
    graph.save_datasets([Dataset("d", {"content_hash": "1"})])
    graph.save_results([Result("m", "d", "fid", 1.0)])
    write_records(graph, runner, tmp_path)
    graph.save_datasets([Dataset("d", {"content_hash": "2"})])
    before, found = whole(runner), read_records(tmp_path, graph.metric)
    with pytest.raises(IngestError, match="has a dataset 'd' already, with content other than"):
        save_records(graph, runner, found)
    assert whole(runner) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "1: is not a row of records"),
        ('{"of": "model", "model": "m", "properties": {"x": [1, "a"]}}', "1: Model 'm': x mixes int, str"),
        ('{"of": "model", "model": "gone", "properties": {}}', "1: is of model gone, which no table lists"),
        (
            '{"of": "student", "student": "m", "teacher": "gone", "properties": {}}',
            "the student 'm' of 'gone'",
        ),
    ],
)
def test_damage_of_the_rest_is_named(
    graph: MatchingGraph, runner: Runner, tmp_path: Path, line: str, message: str
) -> None:
    graph.save_models([Model("m", {"lists": [1, 2]})])
    write_records(graph, runner, tmp_path)
    assert json.loads((tmp_path / REST).read_text())["properties"] == {"lists": [1, 2]}
    (tmp_path / REST).write_text(line)
    with pytest.raises(BadInput, match=message.replace("(", "[(]")):
        read_records(tmp_path, graph.metric)


def test_one_id_and_two_contents_at_once(graph: MatchingGraph) -> None:
    read = {dataset.id: dataset for dataset in graph.datasets()}
    one, other = (Dataset("d", {"content_hash": content}) for content in "12")
    graph.save_datasets([one], read=read)
    graph.save_datasets([one], read=read)  # the same content is the same dataset
    with pytest.raises(ContentChanged):
        graph.save_datasets([other], read=read)
    assert graph.datasets() == [one]
    graph.save_datasets([other], read={"d": one}, replaced=["d"])
    graph.save_models([Model("m", {"content_hash": "1"})], read={})
    with pytest.raises(ContentChanged):
        graph.save_models([Model("m", {"content_hash": "2"})], read={})
