"""Scores made elsewhere are added or refused as a whole; images that candidates drew elsewhere are scored as
those drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.errors import Error
from matchgraph.graphdb.models import Metric
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.routing import given
from matchgraph.routing.errors import BadScoreFile
from matchgraph.routing.score_files import read_score_file


class Brightness:
    """Scores an image by how bright it is, twice for a cat."""

    metric, hash = "brightness", "0123456789abcdef"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        self.batches.append(len(images))
        bright = np.array([float(np.asarray(image).mean()) for image in images])
        return bright * np.array([2.0 if "cat" in prompt else 1.0 for prompt in prompts])


def test_images_of_a_prompt_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "BATCH", 2)
    for grey in (10, 20, 30):
        Image.new("RGB", (4, 4), (grey,) * 3).save(tmp_path / f"{grey}.png")
    rows = ["a cat,A,10.png", "a cat,B,20.png", "a cat,A,30.png", "a dog,A,30.png"]
    (tmp_path / "drawn.csv").write_text("\n".join(["prompt,model,image", *rows]), encoding="utf-8")
    scorer = Brightness()
    found = given.scored(read_score_file(tmp_path / "drawn.csv"), scorer).scores
    assert scorer.batches == [2, 2]
    own = found["brightness"]
    assert {at: (each.mean, each.std) for at, each in own.items()} == {
        ("A", "a cat"): (40.0, pytest.approx(40 / 2**0.5)),
        ("B", "a cat"): (40.0, None),
        ("A", "a dog"): (30.0, None),
    }


def table(folder: Path, text: str) -> tuple[Path, str]:
    """A table of scores, and the embeddings of its prompts."""
    (folder / "vectors.jsonl").write_text(
        "\n".join(f'{{"prompt": "{text}", "vector": [{x}, 1]}}' for x, text in enumerate("xyz"))
    )
    (folder / "scores.csv").write_text(text)
    return folder / "scores.csv", str(folder / "vectors.jsonl")


@pytest.mark.parametrize(
    ("text", "costs", "message"),
    [
        # A router takes what is larger.
        ("prompt,model,value,metric\nx,A,1,beauty\nx,A,1,lpips\n", {"A": 1}, "of lpips, smaller is better"),
        ("prompt,model,value,metric\nx,A,1,own_error\n", {"A": 1}, "of own_error, smaller is better"),
        (
            "prompt,A,B,level\nx,1,2,3\n",
            {"A": 1},
            "the cost of B, level is missing: give each with --cost CANDIDATE=COST. In a",
        ),
        (
            "prompt,model,value\nx,A,1\n",
            {},
            r"the cost of A is missing: add a column cost \(tflop, seconds, usd\), or give each with --cost",
        ),
        ("prompt,model,value,usd\nx,A,1,0\n", {}, "cost is 0: it must be above 0"),
        ("prompt,model,value\nx,A,1e308\nx,A,-1e308\n", {"A": 1}, "std is inf"),
        ("prompt,model,value\nunheard,A,1\n", {"A": 1}, "no embedding of 'unheard'"),
    ],
)
def test_what_is_refused_leaves_nothing(
    graph: MatchingGraph, tmp_path: Path, text: str, costs: dict[str, float], message: str
) -> None:
    graph.save_metric(Metric("own_error", larger_is_better=False))
    file, probe = table(tmp_path, text)
    with pytest.raises(Error, match=message):
        given.add_scores(graph.runner, file, probe, costs=costs, unit="USD")
    prompts = PromptGraph(graph.runner)
    assert (graph.models(), list(prompts.prompts()), list(prompts.variants())) == ([], [], [])


def test_a_cost_that_is_given_stands_for_those_of_the_file(graph: MatchingGraph, tmp_path: Path) -> None:
    file, probe = table(tmp_path, "prompt,model,score,usd\nx,A,1,0.1\ny,A,0,0.3\nx,B,1,1\n")
    with pytest.raises(BadScoreFile, match=r"on average it is 0\.2"):
        given.add_scores(graph.runner, file, probe)
    added = given.add_scores(graph.runner, file, probe, costs={"A": 0.2})
    costs = {variant.id: (variant.cost, variant.unit) for variant in PromptGraph(graph.runner).variants()}
    assert (added.values, costs) == ({"score": 3}, {"A": (0.2, "USD"), "B": (1.0, "USD")})
