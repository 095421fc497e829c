"""The Python API: every public function has an example, and every example runs on a real graph."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import matchgraph
from matchgraph import api
from matchgraph.collaboration import calibration
from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.ingest import workflow
from matchgraph.ingest.tables.prompt_records import PromptRecords
from matchgraph.ingest.tables.records import Records, read_records
from matchgraph.minizoo import ROOT
from matchgraph.routing import encoders

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROBE = ROOT / "probes" / "clip"
CLASSES = (api.Graph, api.Runs, api.Router, api.Collaboration)
# In each scene the examples run one after another on one graph.
SCENES = {
    "tables": [
        "connect",
        "Graph.ingest_models",
        "Graph.ingest_datasets",
        "Graph.ingest_results",
        "Graph.export",
        "Graph.ingest_records",
        "Graph.gds",
        "Graph.py2neo",
        "Graph.ingest_published",
    ],
    "runs": ["Runs.plan", "Runs.run", "Runs.adapter", "Runs.status", "Runs.retry", "Runs.cancel"],
    "records": ["Graph.ingest_minizoo"],
    "zoo": [
        "Graph.predict",
        "Graph.decide",
        "Graph.query",
        "Graph.cypher",
        "Graph.evaluate",
        "Graph.evaluate_new_models",
        "Graph.router",
        "Router.fit",
        "Router.calibrate",
        "Router.decide",
    ],
    "routed": ["Router.generate"],
    "pipelines": [
        "Graph.collaborate",
        "Collaboration.calibrate",
        "Collaboration.generate",
    ],
}


def public() -> set[str]:
    """Names of the functions and methods that a user calls."""
    names = {"connect"}
    for cls in CLASSES:
        for name, value in vars(cls).items():
            function = value.fget if isinstance(value, property) else value
            if not name.startswith("_") and inspect.isfunction(function):
                names.add(f"{cls.__name__}.{name}")
    # They only lead to what has examples.
    return names - {"Graph.runs", "Graph.close"}


def example(name: str) -> doctest.Example:
    owner: Any = api
    for part in name.split("."):
        owner = getattr(owner, part)
    found = doctest.DocTestParser().get_examples(inspect.getdoc(owner) or "")
    assert found, f"{name} has no example"
    return found


def run(scene: str, graph: api.Graph) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for name in SCENES[scene]:
        test = doctest.DocTest(example(name), {"matchgraph": matchgraph, "graph": graph}, name, None, 0, None)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.fixture
def opened(
    graph: MatchingGraph,  # noqa: ARG001
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[api.Graph]:
    """A connection by the API to the run's server, with an empty graph, in a folder of its own."""
    for name in ("URI", "USER", "PASSWORD", "DATABASE"):
        monkeypatch.delenv(f"MATCHGRAPH_NEO4J_{name}", raising=False)
    monkeypatch.setenv("MATCHGRAPH_HOME", str(settings.home))
    monkeypatch.chdir(tmp_path)
    # As many prompts as the examples show.
    monkeypatch.setattr(calibration, "FEWEST_PROMPTS", 2)
    monkeypatch.setattr(encoders, "FEWEST_VALIDATION", 1)
    with matchgraph.connect(probe=PROBE) as connected:
        yield connected


@cache
def few_records(folder: Path) -> Records:
    """Six datasets of the small zoo by one metric, and the variants of two models on 31 prompts."""
    found = read_records(folder, KNOWN_METRICS.__getitem__)
    datasets = re.compile("(noto|openmoji|twemoji)-(food|animals)")
    found = found.without([one.id for one in found.datasets if not datasets.fullmatch(one.id)])
    level = found.prompt_level
    prompts = level.prompts[::40]
    variants = tuple(one for one in level.variants if one.model in ("tiny-sd15", "tiny-vega"))
    kept = {one.id for one in (*prompts, *variants)}
    return replace(
        found,
        results=tuple(one for one in found.results if one.metric == "clip_fid"),
        similar=tuple(one for one in found.similar if one.metric == "clip_fid"),
        prompt_level=PromptRecords(
            prompts, variants, tuple(one for one in level.scores if {one.prompt, one.variant} <= kept)
        ),
    )


@pytest.fixture
def small_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ingest_minizoo` loads some of the records, see `few_records`."""
    monkeypatch.setattr(workflow, "read_records", lambda folder, _: few_records(folder))


def test_every_public_function_has_an_example_that_runs():
    assert public() == {name for names in SCENES.values() for name in names}
    for name in public():
        example(name)


def test_importing_the_namespace_is_cheap_and_complete():
    heavy = "{'torch', 'pandas', 'click', 'neo4j', 'numpy', 'rich'} & set(sys.modules)"
    code = (
        f"import sys, matchgraph; print(sorted({heavy})); "
        "print(all(getattr(matchgraph, name) is not None for name in matchgraph.__all__)); "
        "print(sorted({'torch', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "True", "[]"]
    assert set(matchgraph.__all__) <= set(dir(matchgraph))
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        matchgraph.conect  # noqa: B018


def test_examples_with_tables(opened: api.Graph, tmp_path: Path):
    (tmp_path / "models.csv").write_text("model,params\nsd-1.5,860000000\nsdxl,2600000000\n")
    (tmp_path / "datasets.csv").write_text("dataset,e0,e1\ncats,0,1\ndogs,1,0\n")
    (tmp_path / "results.csv").write_text(
        "model,dataset,metric,value\nsd-1.5,cats,accuracy,0.8\nsdxl,cats,accuracy,0.9\n"
        "sd-1.5,dogs,accuracy,0.7\nsdxl,dogs,accuracy,0.6\n"
    )
    run("tables", opened)
    with pytest.raises(matchgraph.Error, match="write"):
        opened.cypher("MATCH (n) DETACH DELETE n")


@pytest.mark.slow
def test_examples_with_runs(opened: api.Graph, tmp_path: Path):
    source, icons = ROOT / "datasets" / "noto-food", tmp_path / "icons"
    icons.mkdir()
    captions = (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:8]
    (icons / "metadata.jsonl").write_text("".join(captions), encoding="utf-8")
    for line in captions:
        shutil.copy(source / json.loads(line)["file_name"], icons)
    opened.ingest_models(ROOT / "models" / "tiny-sd15")
    opened.ingest_datasets(tmp_path / "icons")
    run("runs", opened)
    assert opened.runs.status().counts["DONE"] == 1
    assert opened.query("best-models", dataset="icons")["model"].tolist() == ["tiny-sd15"]


@pytest.mark.slow
@pytest.mark.usefixtures("small_zoo")
def test_examples_with_the_small_zoo(opened: api.Graph):
    run("records", opened)
    opened.ingest_minizoo()
    run("zoo", opened)
    steps: list[str] = []
    with matchgraph.connect(progress=lambda step, *_: steps.append(step)) as other:
        answer = other.predict("noto-food", method=matchgraph.Method(recipe="gaussian"))
    assert "ranking models" in steps
    assert answer.to_frame()["model"].tolist() == [model.model for model in answer.ranking] == [*answer.costs]
    assert "<table" in answer._repr_html_()
    drawn_with = opened.router().decide(["a red apple"])[0].model
    opened.ingest_models(ROOT / "models" / drawn_with)
    run("routed", opened)


@pytest.mark.slow
def test_examples_with_pipelines(opened: api.Graph, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a red apple\na green pear\n")
    for folder in ("models/tiny-sdxl", "students/tiny-sdxl-lcm"):
        opened.ingest_models(ROOT / folder)
    run("pipelines", opened)


def test_a_probe_that_nobody_gave_is_asked_for(opened: api.Graph, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MATCHGRAPH_PROBE", raising=False)
    with matchgraph.connect() as bare, pytest.raises(matchgraph.Error, match="MATCHGRAPH_PROBE"):
        bare.router()
    assert opened.router().probe == str(PROBE)


@pytest.mark.slow
@pytest.mark.usefixtures("opened", "small_zoo")
def test_the_quickstart_notebook_runs():
    names: dict[str, Any] = {}
    tables = []
    for cell in json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            # As a kernel does: the value of the last line is shown.
            *lines, last = ast.parse("".join(cell["source"])).body
            assert isinstance(last, ast.Expr)
            exec(compile(ast.Module(lines, []), "cell", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            tables += [value._repr_html_()] if hasattr(value, "_repr_html_") else []
    assert len(tables) == 5
    assert "expected_rank" in tables[0]
