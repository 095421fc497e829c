"""The Python API: every public function has an example, and every example runs on a real graph."""

from __future__ import annotations

import doctest
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import matchgraph
from matchgraph import api
from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.minizoo import ROOT

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
    ],
    "runs": ["Runs.plan", "Runs.run", "Runs.status", "Runs.retry", "Runs.cancel"],
    "records": ["Graph.ingest_minizoo"],
    "zoo": [
        "Graph.predict",
        "Graph.decide",
        "Graph.query",
        "Graph.cypher",
        "Graph.evaluate",
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
    with matchgraph.connect(probe=PROBE) as connected:
        yield connected


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


def test_examples_with_runs(opened: api.Graph, tmp_path: Path):
    shutil.copytree(ROOT / "datasets" / "noto-food", tmp_path / "icons")
    opened.ingest_models(ROOT / "models" / "tiny-sd15")
    opened.ingest_datasets(tmp_path / "icons")
    run("runs", opened)
    assert opened.runs.status().counts["DONE"] == 1
    assert opened.query("best-models", dataset="icons")["model"].tolist() == ["tiny-sd15"]


def test_examples_with_the_small_zoo(opened: api.Graph):
    run("records", opened)
    opened.ingest_minizoo()
    run("zoo", opened)
    steps: list[str] = []
    with matchgraph.connect(progress=lambda step, *_: steps.append(step)) as other:
        answer = other.predict("noto-food")
    assert "ranking models" in steps
    assert answer.to_frame()["model"].tolist() == [model.model for model in answer.ranking] == [*answer.costs]
    assert "<table" in answer._repr_html_()
    drawn_with = opened.router().decide(["a red apple"])[0].model
    opened.ingest_models(ROOT / "models" / drawn_with)
    run("routed", opened)


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


def test_the_quickstart_notebook_runs(opened: api.Graph):  # noqa: ARG001
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    frames = [
        output["data"]["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    assert len(frames) == 5
    assert "expected_rank" in frames[0]
    assert not any(cell.get("outputs") for cell in nbformat.read(EXAMPLES / "quickstart.ipynb", 4).cells)
