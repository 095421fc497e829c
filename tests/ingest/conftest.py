"""Image folders, and a tiny probe and tiny pipelines with random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from matchgraph.graphdb.connection import HOME_VARIABLE, Settings
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.runs.ledger import Ledger

ROOT = Path(__file__).parents[2]
Invoke = Callable[..., Result]


def answer(result: Result) -> dict:
    """What a command printed as JSON."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write_images(folder: Path, seed: int, captions: Sequence[str | None]) -> Path:
    """Write one small image per caption, with the captions in metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number, caption in enumerate(captions):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32)).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": caption})
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def ingested(graph: MatchingGraph, model: Path, dataset: Path, probe: Path) -> MatchingGraph:
    """The graph with a pipeline and an image folder that the probe looked at."""
    from matchgraph.ingest.tables.datasets import ingest_image_folders
    from matchgraph.ingest.tables.models import ingest_models
    from matchgraph.training.measure.extractors import load_clip

    ingest_models(graph, model)
    ingest_image_folders(graph, dataset, load_clip(str(probe), device="cpu"))
    return graph


def edge(runner: Runner) -> dict[str, Any]:
    """The properties of the graph's one result."""
    return runner.read("MATCH (:Model)-[e:PERFORMS]->(:Dataset) RETURN properties(e) AS p")[0]["p"]


@pytest.fixture
def zoo(graph: MatchingGraph, image_folders: Path) -> MatchingGraph:
    """The graph with the models and datasets of `tests.ingest.stub`."""
    from tests.ingest.stub import fill

    fill(graph, image_folders)
    return graph


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The data folder of a worker."""
    return tmp_path / "home"


@pytest.fixture
def ledger(runner: Runner) -> Ledger:
    """The ledger of the graph."""
    return Ledger(runner)


@pytest.fixture
def image_folders(tmp_path: Path) -> Path:
    """A folder of three datasets."""
    for seed, name in enumerate(("cats", "dogs", "trees")):
        write_images(tmp_path / "images" / name, seed, [f"a {name}", None, "a b", "c"])
    return tmp_path / "images"


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and equal bytes need an equal number of them."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:  # noqa: ARG001
    """The folder of a tiny CLIP."""
    from tests.training import tiny

    return tiny.save_clip(tmp_path_factory.mktemp("probe") / "tiny-clip")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:  # noqa: ARG001
    """A folder of two tiny pipelines."""
    from tests.training import tiny

    zoo = tmp_path_factory.mktemp("zoo")
    tiny.save("sd", zoo / "tiny-unet")
    tiny.save("sd3", zoo / "tiny-sd3")
    return zoo


@pytest.fixture
def start(settings: Settings) -> Callable[..., subprocess.Popen[str]]:
    """Start `matchgraph` with these arguments as a process of its own, on the test server."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, HOME_VARIABLE: str(settings.home), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from matchgraph.cli.main import main; main()", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture
def invoke(environment: Mapping[str, str]) -> Invoke:
    """Run `matchgraph ingest` with these arguments in process, on the test server."""
    from matchgraph.cli.main import matchgraph

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(matchgraph, ["ingest", *map(str, arguments)], env=dict(environment))

    return invoke
