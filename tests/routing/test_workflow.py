"""The services of routing, on a graph in memory: what they load, and how often."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from matchgraph.graphdb.prompt_models import Prompt
from matchgraph.routing import serving, workflow
from matchgraph.routing.errors import (
    BudgetTooSmall,
    InvalidScores,
    NoPrompts,
    NotEnoughScores,
    NotFitted,
)
from matchgraph.routing.store import Kind, RouterStore
from tests.routing import circle

LOAD = "matchgraph.training.measure.prompts.load_prompt_encoder"


class Loader:
    """Counts how often a CLIP is loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(self, probe: str, **_: object) -> circle.Encoder:
        self.loaded.append(probe)
        return circle.Encoder()


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader = Loader()
    monkeypatch.setattr(LOAD, loader)
    monkeypatch.setattr(workflow, "PromptGraph", lambda graph: graph)
    return loader


@pytest.fixture
def graph() -> circle.Graph:
    return circle.Graph(circle.table(100, spread=0.05))


@pytest.fixture
def store(tmp_path: Path, graph: circle.Graph, loader: Loader) -> RouterStore:
    store = RouterStore(tmp_path)
    path, candidates = workflow.fit(graph, store, "clip_score", "clip")
    assert (path.exists(), candidates) == (True, 3)
    loader.loaded.clear()
    return store


def test_only_a_prompt_to_decide_for_is_read(graph: circle.Graph, store: RouterStore, loader: Loader) -> None:
    [within] = workflow.decide(graph, store, ["3.0"], "clip_score", "clip", budget=workflow.Budget(1.0))
    assert loader.loaded == ["clip"]
    assert (within.steps, within.cost, within.unit) == (1, 1.0, "TFLOP")
    [best] = workflow.decide(graph, store, ["3.0"], "clip_score", "clip", lam=0.0)
    assert best.steps == 20
    with pytest.raises(BudgetTooSmall):
        workflow.decide(graph, store, ["3.0"], "clip_score", "clip", budget=workflow.Budget(0.5))
    with pytest.raises(InvalidScores, match="in USD, but the candidates for clip_score cost TFLOP"):
        workflow.decide(graph, store, ["3.0"], "clip_score", "clip", budget=workflow.Budget(1.0, "USD"))


@pytest.mark.parametrize(("kind", "loaded"), [("gaussian", []), ("network", ["clip"] * 2)])
def test_a_calibrated_router_keeps_its_budget(
    kind: Kind, loaded: list[str], graph: circle.Graph, store: RouterStore, loader: Loader
) -> None:
    """The known prompts are embedded in the graph: only the network has to read them."""
    workflow.fit(graph, store, "clip_score", "clip", kind=kind, neighbours=8)
    found = workflow.calibrate(graph, store, "clip_score", workflow.Budget(5.0), "clip")
    assert loader.loaded == loaded
    assert found.validation_cost <= 5.0
    kept = store.load("clip_score")
    assert (kept.lam, kept.budget) == (found.lam, 5.0)
    [decision] = workflow.decide(graph, store, ["3.0"], "clip_score", "clip")
    assert decision.lam == found.lam


def test_a_handful_of_validation_prompts_sets_no_lambda(store: RouterStore, graph: circle.Graph) -> None:
    graph.scores = circle.table(60)
    with pytest.raises(NotEnoughScores, match="6 validation prompts are too few"):
        workflow.calibrate(graph, store, "clip_score", workflow.Budget(5.0))
    with pytest.raises(NotEnoughScores, match="or give lambda"):
        serving.load_served(store, graph, "clip")["clip_score"].lambda_for(5.0)


def test_prompts_that_are_left_out_are_named(
    loader: Loader,  # noqa: ARG001 - stands in for a CLIP
    tmp_path: Path,
) -> None:
    saved: list[Prompt] = []
    graph = SimpleNamespace(save_prompts=saved.extend)
    file = tmp_path / "prompts.txt"
    file.write_text("0.0\n3.0\n0.1\n1.5\n", encoding="utf-8")
    added = workflow.add_prompts(graph, file, "clip")
    assert (added.read, added.kept, [prompt.text for prompt in saved]) == (4, 3, ["0.0", "3.0", "1.5"])
    assert added.left_out == (("0.1", pytest.approx(np.cos(0.1), abs=1e-6)),)


def test_serving_loads_the_clip_once_for_all_routers(
    graph: circle.Graph, store: RouterStore, loader: Loader
) -> None:
    served = serving.load_served(store, graph, "clip")
    assert loader.loaded == ["clip"]
    assert list(served) == ["clip_score"]
    own = served["clip_score"]
    assert own.validation.shape == (10, 3)
    lam = own.lambda_for(5.0)
    assert lam == own.router.lambda_for(circle.Encoder().encode(graph.texts("validation")), 5.0)


def test_what_is_missing_is_named(graph: circle.Graph, store: RouterStore, tmp_path: Path) -> None:
    with pytest.raises(NotFitted, match="sharpness"):
        serving.load_served(store, graph, "clip", ["sharpness"])
    with pytest.raises(NotFitted, match="No router"):
        serving.load_served(RouterStore(tmp_path / "empty"), graph, "clip")
    graph.prompts = list
    with pytest.raises(NoPrompts):
        serving.load_served(store, graph, "clip")
    with pytest.raises(NoPrompts):
        workflow.calibrate(graph, store, "clip_score", workflow.Budget(5.0))
